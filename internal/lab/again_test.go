package lab

import (
	"context"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// begin moves a guest and returns as soon as it runs at its new host, while the old one still sends late packets on.
func begin(t *testing.T, l *Lab, guest string, to fabric.HostID) {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, err := c.Move(ctx, api.MoveRequest{VM: guest, To: to, RelaySeconds: 20})
	if err != nil {
		t.Fatal(err)
	}
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		o, err := c.Get(ctx, fabric.KindMove, m.Metadata.Name)
		if err == nil {
			m = o.(*fabric.Move)
		}
		return err != nil || m.Status.Phase == fabric.MoveActive || api.Over(m.Status.Phase), err
	})
	if err != nil || m.Status.Phase != fabric.MoveActive {
		t.Fatalf("the move of %s to %s is %s: %s (%v)", guest, to, m.Status.Phase, m.Status.Reason, err)
	}
}

// at waits until the lab says that the guest is on the host.
func at(t *testing.T, l *Lab, guest string, host fabric.HostID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		g, err := l.Guest(guest)
		return err == nil && g.Host() == host, err
	})
	if err != nil {
		t.Fatalf("the lab does not say that %s is on %s: %v", guest, host, err)
	}
}

func TestAGuestMovesOnWhileItsOldHostStillRelays(t *testing.T) {
	l := live(t, Options{Name: "again", Hosts: 3})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h2"})
	for _, to := range []fabric.HostID{"h3", "h2", "h1", "h3"} { // back to the host that relays, and away from it
		begin(t, l, "b", to)
		at(t, l, "b", to)
		run(t, l, "a", "ping", "-c", "3", "-i", "0.1", "-W", "5", first(b))
	}
	if err := l.RemoveGuest(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}
