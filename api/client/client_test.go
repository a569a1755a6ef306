package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/api"
)

func TestALookAtAFrozenAgentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe() // an agent that takes everything and says nothing
		go io.Copy(io.Discard, theirs)
		c, err := New(Options{Socket: "frozen.sock"})
		if err != nil {
			t.Fatal(err)
		}
		c.http.Transport.(*http.Transport).DialContext = dialed(ours)
		begun := time.Now()
		_, err = c.Status(t.Context())
		if !errors.Is(err, api.ErrUnavailable) || time.Since(begun) != patience(http.MethodGet, "/v1/status") {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
		theirs.Close()
		c.Close()
	})
}

func TestEachWayOfNotAnsweringHasItsNextStep(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for socket, want := range map[string]string{filepath.Join(dir, "none.sock"): NextStart, dead: NextLook} {
		c, err := New(Options{Socket: socket})
		if err != nil {
			t.Fatal(err)
		}
		var e *api.Error
		if _, err := c.Status(t.Context()); !errors.As(err, &e) || e.Code != api.CodeUnavailable || e.Next != want {
			t.Errorf("%s: %v", socket, err)
		}
	}
}

// dialed connects to what is there already.
func dialed(conn net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return conn, nil }
}
