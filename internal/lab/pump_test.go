package lab

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/migration/qmp"
)

// departure is a pump's guest on h1 with a destination that waits on h2, and a connection to the guest.
type departure struct {
	lab    *Lab
	conn   net.Conn
	source *qmp.Client
	there  Instance
	uri    string
}

func newDeparture(t *testing.T, name string, capabilities map[string]bool) departure {
	t.Helper()
	l := bare(t, Options{Name: name, Hosts: 2})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	g := guest(t, l, GuestOptions{Name: "b", Host: "h1", Address: addressB})
	echoServer(t, l, "b", ":7")
	d := departure{lab: l, conn: dial(t, l, "a", "10.10.0.2:7")}
	echo(t, d.conn, "before")
	var err error
	if d.source, err = qmp.Dial(t.Context(), filepath.Join(g.Instances[0].Dir, agentMonitor), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.source.Close() })
	if err := d.source.SetMigrationCapabilities(t.Context(), capabilities); err != nil {
		t.Fatal(err)
	}
	if d.there, d.uri, err = l.awaitPump(t.Context(), g, "h2"); err != nil {
		t.Fatal(err)
	}
	bridge(t, l, d.there)
	if err := d.source.Migrate(t.Context(), d.uri); err != nil {
		t.Fatal(err)
	}
	return d
}

// until waits for a migration state at the source.
func (d departure) until(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var have string
	err := poll(ctx, time.Millisecond, func() (bool, error) {
		s, err := d.source.Migration(ctx)
		have = s.Status
		return have == want, err
	})
	if err != nil {
		t.Fatalf("the migration is %s, not %s: %v", have, want, err)
	}
}

// silent checks that the guest stands still.
func (d departure) silent(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(d.conn, "x"); err != nil {
		t.Fatal(err)
	}
	d.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, _ := d.conn.Read(make([]byte, 1)); n != 0 {
		t.Fatal("a guest that stands still answered")
	}
}

// answers checks that what was sent meanwhile comes back, and that the guest goes on.
func (d departure) answers(t *testing.T) {
	t.Helper()
	d.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(d.conn, make([]byte, 1)); err != nil {
		t.Fatalf("what was sent while the guest stood still did not come back: %v", err)
	}
	echo(t, d.conn, "after")
}

var waiting = map[string]bool{"pause-before-switchover": true, "events": true}

func TestPumpWaitsBeforeItsSwitchover(t *testing.T) {
	d := newDeparture(t, "pre", waiting)
	d.until(t, "pre-switchover")
	d.silent(t)
	if err := d.source.MigrateContinue(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.until(t, "completed")
	d.answers(t)
	if state, err := d.there.state(t.Context()); err != nil || state != "running" {
		t.Errorf("the destination is %s (%v)", state, err)
	}
	if s, err := d.source.Status(t.Context()); err != nil || s.Status != "postmigrate" || s.Running {
		t.Errorf("the source is %+v (%v)", s, err)
	}
	if err := d.source.Cont(t.Context()); err == nil || !strings.Contains(err.Error(), "not here") {
		t.Errorf("the source went on with a guest it has given away: %v", err)
	}
	if err := d.there.Process.Kill(); err != nil {
		t.Error(err)
	}
}

func TestCancelledPumpGoesOnAtTheSource(t *testing.T) {
	d := newDeparture(t, "cancel", waiting)
	d.until(t, "pre-switchover")
	d.silent(t)
	if err := d.source.MigrateCancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.until(t, "cancelled")
	d.answers(t)
	gone(t, d.there)
}

func TestPumpGoesOnWhenItsDestinationDies(t *testing.T) {
	d := newDeparture(t, "dies", waiting)
	d.until(t, "pre-switchover")
	d.silent(t)
	if err := d.there.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.source.MigrateContinue(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.until(t, "failed")
	d.answers(t)
}

// gone waits until a pump has ended by itself.
func gone(t *testing.T, i Instance) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := poll(ctx, 5*time.Millisecond, func() (bool, error) { return !i.Process.Alive(), nil }); err != nil {
		t.Errorf("the destination that was not needed still runs: %v", err)
	}
}
