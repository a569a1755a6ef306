package lab

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// partition is test 14: a destination that is cut off while the guest arrives there, and a source that lets its guest run after it has
// left. The explorer of migration (TestNoMischief, TestEveryMischiefOnce, TestTwins) goes through all of these on a model.
func (r *rig) partition(t *testing.T) {
	g := r.plug(t, GuestOptions{Name: "cut", Host: "h2", Pause: 300 * time.Millisecond})
	echoServer(t, r.Lab, "cut", ":7")
	stream := talk(t, r.Lab, address(g))
	before := holder(t, r.Lab, "cut")
	owners := watchOwners(t, r.Lab, "cut")
	m := startMove(t, r.Lab, g, "h3")
	reach(t, r.Lab, m, fabric.MoveSwitched)
	if err := r.Cut("h3"); err != nil {
		t.Fatal(err)
	}
	r.runsAt(t, "cut", "h3")
	if at := holder(t, r.Lab, "cut"); at.Host != "h2" {
		t.Errorf("a destination that is cut off holds the port: %+v", at)
	}
	if err := r.Heal("h3"); err != nil {
		t.Fatal(err)
	}
	m = reach(t, r.Lab, m, fabric.MoveSettled)
	if said, err := stream.Stop(); err != nil {
		t.Errorf("the TCP connection broke: %v", err)
	} else {
		t.Logf("the destination was cut off when the guest came: %+v; TCP: %+v", m.Status.Result, said)
	}
	owners(before, m, "h3")
	settled(t, r.Lab, "cut", "h3")
	t.Run("twin", r.twin)
}

// runsAt waits until a guest's machine runs at a host, by the machine's own word.
func (r *rig) runsAt(t *testing.T, guest string, host fabric.HostID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := poll(ctx, 10*time.Millisecond, func() (bool, error) {
		g, err := r.Guest(guest)
		if err != nil {
			return false, err
		}
		for _, i := range g.Instances {
			if i.Host == host {
				state, err := i.state(ctx)
				return err == nil && state == stateRunning, nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("%s does not run at %s: %v", guest, host, err)
	}
}

// twin makes a machine run again at the host that it has left, which speaks there: it is not heard, and somebody is told.
func (r *rig) twin(t *testing.T) {
	c := r.machine(t)
	if at := holder(t, r.Lab, c.Name).Host; at != "h2" {
		settled(t, r.Lab, c.Name, at)
		migrate(t, r.Lab, c.Name, "h2")
		settled(t, r.Lab, c.Name, "h2")
		c = r.machine(t)
	}
	p := probe(t, r.Lab, "a", address(c), 20*time.Millisecond)
	m := startMove(t, r.Lab, c, "h3")
	reach(t, r.Lab, m, fabric.MoveActive)
	monitor, err := qmp.Dial(t.Context(), filepath.Join(c.Instances[0].Dir, labMonitor), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.Cont(t.Context()); err != nil {
		t.Fatalf("the machine cannot be made to run where it was: %v", err)
	}
	if err := monitor.Execute(t.Context(), "announce-self", map[string]int{"initial": 10, "max": 10, "rounds": 5, "step": 0}, nil); err != nil {
		t.Fatal(err)
	}
	m = reach(t, r.Lab, m, fabric.MoveSettled)
	seen := p.end(t)
	t.Logf("with a twin at its old host: %s; %+v", seen, m.Status.Result)
	if seen.Duplicated > 0 {
		t.Errorf("%d probes were answered by both", seen.Duplicated)
	}
	if at := holder(t, r.Lab, c.Name); at.Host != "h3" || at.State != fabric.PortActive {
		t.Errorf("the port is %s at %s", at.State, at.Host)
	}
	r.alarmed(t, m)
	settled(t, r.Lab, c.Name, "h3")
}

// alarmed waits until an event says that a move needs a person.
func (r *rig) alarmed(t *testing.T, m *fabric.Move) {
	t.Helper()
	c, err := r.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = poll(ctx, 100*time.Millisecond, func() (found bool, err error) {
		err = c.Events(ctx, []fabric.HostID{m.Spec.From, m.Spec.To}, false, func(e fabric.Event) error {
			found = found || e.Type == "move.alarm" && strings.Contains(e.Object, m.Metadata.Name)
			return nil
		})
		return found, err
	})
	if err != nil {
		t.Errorf("nobody is told that %s runs twice: %v", m.Spec.VM, err)
	}
}
