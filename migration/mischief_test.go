package migration

import (
	"errors"
	"fmt"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// sound is what must hold in every state of a world whose hypervisors keep their word.
func sound(o options) func(world, string) error {
	return func(w world, last string) error {
		src, dst := w.qemu[0], w.qemu[1]
		switch {
		case src.runs && dst.runs:
			return fmt.Errorf("the guest runs at both hosts")
		case w.gates[0] == open && src.runs && w.gates[1] == open:
			return fmt.Errorf("both hosts let the guest send")
		case o.gated && w.gates[0] == open && w.gates[1] == open:
			return fmt.Errorf("both gates are open")
		case w.wrong != "":
			return errors.New(w.wrong)
		case src.runs && w.ran:
			return fmt.Errorf("the guest runs at the source, as it was before it ran at the destination")
		case w.cut:
			return fmt.Errorf("the guest was ended or cut off by %q", last)
		}
		if !w.over() {
			return nil
		}
		switch w.move.Status.Phase {
		case fabric.MoveSettled:
			if w.loc.Host != "dst" || w.loc.Epoch != 2 || w.gates[0] == open || w.loc.From != "" {
				return fmt.Errorf("settled, but at %+v, gates %v", w.loc, w.gates)
			}
		default:
			if w.loc.Host != "src" || w.loc.Epoch != 3 || w.gates[0] != open || w.gates[1] != shut {
				return fmt.Errorf("%s, but at %+v, gates %v", w.move.Status.Phase, w.loc, w.gates)
			}
			if src.alive && !src.runs && !w.paused {
				return fmt.Errorf("%s, but the guest stands still at the source", w.move.Status.Phase)
			}
		}
		return nil
	}
}

func TestNoMischief(t *testing.T) {
	for _, gated := range []bool{true, false} {
		for _, earlier := range []qmp.Kind{qmp.Idle, qmp.Completed, qmp.Failed, qmp.Cancelled} {
			o := options{gated: gated, earlier: earlier}
			t.Run(fmt.Sprintf("gated %v after %s", gated, earlier), func(t *testing.T) {
				t.Parallel()
				explore(t, o, sound(o))
			})
		}
	}
}

func TestEveryMischiefOnce(t *testing.T) {
	for _, o := range []options{{gated: true, mischief: 1}, {gated: false, mischief: 1, earlier: qmp.Completed}} {
		t.Run(fmt.Sprintf("gated %v after %q", o.gated, o.earlier), func(t *testing.T) {
			t.Parallel()
			explore(t, o, sound(o))
		})
	}
}

// TestTwins lets the hypervisor at the source do what it must not: run on after everything was sent. Then the guest may
// run twice for a while (that is all the mischief; what else there is is in TestEveryMischiefOnce), but in the end exactly the host that the record names lets it send.
func TestTwins(t *testing.T) {
	t.Parallel()
	explore(t, options{gated: true, mischief: 1, earlier: qmp.Failed, twins: true, few: []string{"sent"}}, oneAtLast)
}

// oneAtLast: in the end exactly the host that the record names lets the guest send.
func oneAtLast(w world, _ string) error {
	if !w.over() {
		return nil
	}
	holder := 0
	if w.loc.Host == "dst" {
		holder = 1
	}
	if w.gates[1-holder] == open {
		return fmt.Errorf("host %s holds the port, but gates are %v", w.loc.Host, w.gates)
	}
	return nil
}
