package agent

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSystemdIsToldThatTheAgentIsReadyAndAlive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	next := func() string {
		t.Helper()
		if err := socket.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		n, err := socket.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	n := notifier{log: slog.New(slog.DiscardHandler)}
	n.ready("All is well.")
	if got := next(); !strings.Contains(got, "READY=1") || !strings.Contains(got, "STATUS=All is well.") {
		t.Errorf("ready: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	alive := make(chan bool, 1)
	go func() { done <- n.watch(ctx, func(context.Context) bool { return <-alive }) }()
	alive <- false // an agent that is stuck says nothing,
	alive <- true
	if got := next(); got != "WATCHDOG=1" { // so that this is its first word
		t.Errorf("watchdog: %q", got)
	}
	cancel()
	alive <- false
	if err := <-done; err != nil {
		t.Error(err)
	}
	n.stopping()
	if got := next(); !strings.Contains(got, "STOPPING=1") {
		t.Errorf("stopping: %q", got)
	}
}
