package qmp

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limit is how long anything in these tests may take; it ends a test that hangs and is no measurement.
const limit = 10 * time.Second

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestExecute(t *testing.T) {
	f := newFake(t, func(c string) []string {
		switch c {
		case "query-status":
			return []string{`{"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 1}}`, `{"return": {"running": true, "status": "running"}, "id": %d}`}
		case "migrate":
			return []string{`{"error": {"class": "GenericError", "desc": "no route"}, "id": %d}`}
		case "announce-self":
			return []string{`{"error": {"class": "CommandNotFound", "desc": "what?"}, "id": %d}`}
		}
		return nil
	})
	var notices []Notice
	c, err := Dial(limited(t), f.path, func(n Notice) { notices = append(notices, n) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Version().Major != 7 {
		t.Errorf("version %+v", c.Version())
	}
	s, err := c.Status(limited(t))
	if err != nil || !s.Running {
		t.Errorf("status %+v, %v", s, err)
	}
	if len(notices) != 1 || notices[0].Name != "STOP" {
		t.Errorf("the event before the answer came as %+v", notices)
	}
	err = c.Migrate(limited(t), "tcp:1")
	var refused *Error
	if !errors.As(err, &refused) || refused.Command != "migrate" || !strings.Contains(err.Error(), "no route") || Lost(err) {
		t.Errorf("refused migrate: %v", err)
	}
	if err := c.AnnounceSelf(limited(t)); !Unknown(err) {
		t.Errorf("unknown command: %v", err)
	}
}

func TestACallerMayGiveUp(t *testing.T) {
	f := newFake(t, func(c string) []string {
		if c == "stop" {
			return []string{}
		}
		return nil
	})
	c, err := Dial(limited(t), f.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Stop(ctx); !errors.Is(err, context.Canceled) || !Lost(err) {
		t.Errorf("stop: %v", err)
	}
	if err := c.Cont(limited(t)); err != nil {
		t.Errorf("the connection is still usable: %v", err)
	}
}

func TestDialNamesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(limited(t), filepath.Join(dir, "none"), nil); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "mute"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, filepath.Join(dir, "mute"), nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another client") {
		t.Errorf("a monitor that is held by another client: %v", err)
	}
}

func TestForeignBytesEndTheConnection(t *testing.T) {
	for _, line := range []string{"hello", greeting, `{"error": {"class": "GenericError", "desc": "JSON parse error"}}`, strings.Repeat(" ", MaxMessage)} {
		f := newFake(t, nil)
		c, err := Dial(limited(t), f.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.say(line)
		select {
		case <-c.Done():
		case <-limited(t).Done():
			t.Fatalf("the connection survived %.20q", line)
		}
		if !errors.Is(c.Err(), ErrProtocol) {
			t.Errorf("%.20q: %v", line, c.Err())
		}
		if err := c.Stop(limited(t)); !errors.Is(err, ErrProtocol) {
			t.Errorf("a command afterwards: %v", err)
		}
		c.Close()
	}
}

func TestQuitExpectsTheEnd(t *testing.T) {
	f := newFake(t, func(c string) []string {
		if c == "quit" {
			return []string{"hang up"}
		}
		return nil
	})
	c, err := Dial(limited(t), f.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Quit(limited(t)); err != nil {
		t.Error(err)
	}
}
