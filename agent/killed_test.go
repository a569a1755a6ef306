package agent_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

// move reads a move's record.
func move(ctx context.Context, t *testing.T, c *client.Client, name string) *fabric.Move {
	t.Helper()
	o, err := c.Get(ctx, fabric.KindMove, name)
	if err != nil {
		t.Fatal(err)
	}
	return o.(*fabric.Move)
}

func TestAMoveGoesOnWhenAnAgentIsKilledAtAnyOfItsPhases(t *testing.T) {
	l := newLab(t, "killed", build(t, "killed"), 3)
	put(t, l, blueSwitch())
	for name, host := range map[string]fabric.HostID{"a": "h3", "b": "h1"} {
		o := lab.GuestOptions{Name: name, Host: host, Switch: "blue", Pause: 300 * time.Millisecond}
		if _, err := l.AddGuest(t.Context(), o, t.Logf); err != nil {
			t.Fatal(err)
		}
	}
	b, err := l.Guest("b")
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Client("h3")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	from, to := fabric.HostID("h1"), fabric.HostID("h2")
	for _, at := range []struct {
		phase  fabric.Phase
		source bool
	}{
		{fabric.MoveGranted, true}, {fabric.MoveGranted, false}, {fabric.MoveStaged, true}, {fabric.MoveStaged, false},
		{fabric.MoveSwitched, true}, {fabric.MoveSwitched, false}, {fabric.MoveActive, true}, {fabric.MoveActive, false},
	} {
		victim := to
		if at.source {
			victim = from
		}
		m, err := c.Move(t.Context(), api.MoveRequest{VM: "b", To: to, RelaySeconds: 1})
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, "phase "+string(at.phase), 20*time.Second, func() bool {
			_, reached := move(t.Context(), t, c, m.Metadata.Name).Status.At[at.phase]
			return reached
		})
		if err := l.KillAgent(victim); err != nil {
			t.Fatal(err)
		}
		if err := l.StartAgent(victim); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the end of the move", 60*time.Second, func() bool {
			m = move(t.Context(), t, c, m.Metadata.Name)
			return api.Over(m.Status.Phase)
		})
		t.Logf("the agent of %s was killed once the move from %s to %s was %s; it is %s %s", victim, from, to, at.phase, m.Status.Phase, m.Status.Reason)
		var out bytes.Buffer
		argv := []string{"ping", "-c", "3", "-i", "0.2", "-W", "5", b.NIC.Addresses[0].Addr().String()}
		if err := l.Exec(t.Context(), "a", argv, lab.Streams{Out: &out, Err: &out}); err != nil {
			t.Fatalf("the guest does not answer: %v\n%s", err, &out)
		}
		if m.Status.Phase == fabric.MoveSettled {
			from, to = to, from
		} else if at.phase != fabric.MoveGranted {
			t.Errorf("the move did not go on, it is %s: %s", m.Status.Phase, m.Status.Reason)
		}
	}
}
