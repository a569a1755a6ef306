package lab

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// TestMovesThatGoWrong gives a guest every reason to stay, one after the other, each followed at once by the next try, and
// the last one succeeds.
func TestMovesThatGoWrong(t *testing.T) {
	l := live(t, Options{Name: "movefail", Hosts: 3})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h2", Pause: time.Second})
	c := plug(t, l, GuestOptions{Name: "c", Host: "h2", Kind: QEMU})
	echoServer(t, l, "b", ":7")
	t.Run("a person aborts while memory is copied", func(t *testing.T) {
		throttle(t, c, 1<<20)
		stays(t, l, c, fabric.MoveAborted, fabric.MoveCopying, func(m *fabric.Move) {
			client, err := l.Client("h1")
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if _, err := client.AbortMove(t.Context(), fabric.MoveID(m.Metadata.Name)); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("the destination's machine dies while memory is copied", func(t *testing.T) {
		stays(t, l, c, fabric.MoveAborted, fabric.MoveCopying, func(*fabric.Move) { killDestination(t, l, "c") })
	})
	t.Run("the destination's machine dies while the guest stands still", func(t *testing.T) {
		stays(t, l, b, fabric.MoveFailed, fabric.MoveSwitched, func(*fabric.Move) { killDestination(t, l, "b") })
	})
	t.Run("both agents die while memory is copied", func(t *testing.T) {
		stream := talk(t, l, c.NIC.Addresses[0].Addr())
		m := startMove(t, l, c, "h3")
		reach(t, l, m, fabric.MoveCopying)
		for _, host := range []fabric.HostID{"h2", "h3"} {
			if err := l.KillAgent(host); err != nil {
				t.Fatal(err)
			}
		}
		throttle(t, c, 1<<40)
		for _, host := range []fabric.HostID{"h2", "h3"} {
			if err := l.StartAgent(host); err != nil {
				t.Fatal(err)
			}
		}
		m = reach(t, l, m, fabric.MoveSettled)
		t.Logf("%+v", m.Status.Result)
		if _, err := stream.Stop(); err != nil {
			t.Errorf("the TCP connection broke: %v", err)
		}
		settled(t, l, "c", "h3")
	})
}

// stays begins a move that must not succeed, spoils it at the phase, and checks that the guest is served as before.
func stays(t *testing.T, l *Lab, g *Guest, outcome, at fabric.Phase, spoil func(*fabric.Move)) {
	t.Helper()
	before := holder(t, l, g.Name)
	address := g.NIC.Addresses[0].Addr()
	stream := talk(t, l, address)
	p := probe(t, l, "a", address, 20*time.Millisecond)
	m := startMove(t, l, g, "h3")
	reach(t, l, m, at)
	spoil(m)
	m = reach(t, l, m, outcome)
	seen := p.end(t)
	said, err := stream.Stop()
	t.Logf("%s: %s; %s; TCP: %+v", m.Status.Phase, m.Status.Reason, seen, said)
	if err != nil {
		t.Errorf("the TCP connection broke: %v", err)
	}
	if outcome == fabric.MoveAborted && seen.Lost != 0 {
		t.Errorf("%d probes were lost although the guest never stopped", seen.Lost)
	}
	if m.Status.Reason == "" {
		t.Error("nobody says why")
	}
	after := holder(t, l, g.Name)
	if after.Host != before.Host || after.State != fabric.PortActive || after.Epoch != before.Epoch+2 {
		t.Errorf("afterwards the port is %s at %s in epoch %d, want active at %s in epoch %d", after.State, after.Host, after.Epoch, before.Host, before.Epoch+2)
	}
	settled(t, l, g.Name, before.Host)
}

// startMove starts a move and does not wait for it.
func startMove(t *testing.T, l *Lab, g *Guest, to fabric.HostID) *fabric.Move {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := c.Move(t.Context(), api.MoveRequest{VM: g.Name, To: to, RelaySeconds: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reach waits until a move is at a phase; one that has ended otherwise is an error.
func reach(t *testing.T, l *Lab, m *fabric.Move, phase fabric.Phase) *fabric.Move {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		if o, err := c.Get(ctx, fabric.KindMove, m.Metadata.Name); err == nil {
			m = o.(*fabric.Move)
		}
		over := m.Status.Phase == fabric.MoveSettled || m.Status.Phase == fabric.MoveFailed || m.Status.Phase == fabric.MoveAborted
		return over || m.Status.Phase == phase, nil
	})
	if err != nil || m.Status.Phase != phase {
		t.Fatalf("the move is %s (%s), want %s: %v", m.Status.Phase, m.Status.Reason, phase, err)
	}
	return m
}

// killDestination ends the machine that waits for a guest.
func killDestination(t *testing.T, l *Lab, guest string) {
	t.Helper()
	g, err := l.Guest(guest)
	if err != nil || len(g.Instances) != 2 {
		t.Fatalf("guest %s has the instances %+v (%v), want two", guest, g.Instances, err)
	}
	if err := g.Instances[1].Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// throttle sets how many bytes in a second a machine sends when it migrates.
func throttle(t *testing.T, g *Guest, bytes int) {
	t.Helper()
	m, err := qmp.Dial(t.Context(), filepath.Join(g.Instances[0].Dir, labMonitor), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Execute(t.Context(), "migrate-set-parameters", map[string]int{"max-bandwidth": bytes}, nil); err != nil {
		t.Fatal(err)
	}
}
