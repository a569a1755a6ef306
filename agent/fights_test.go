package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

func TestAFightOverAProgramIsInTheStatusUntilItIsOver(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	off := datapath.Contest{Device: "tap-a", Program: "vp_in", Port: "a", Until: time.Now().Add(time.Hour), Shut: true}
	h.ground.contest(off)
	n.Agent.planeEvent(t.Context(), datapath.Event{Kind: datapath.Contested, Time: time.Now(), Port: "a", Device: "tap-a", Message: off.String()})
	n.until(t, "told", func() bool { return told(t, n, "datapath.contested") == 1 })
	n.until(t, "reported to the fabric", func() bool {
		all, err := n.store.Statuses(t.Context())
		s := all["h1"]
		return err == nil && !s.Ready && slices.Contains(s.Problems, off.String()) && len(s.Ports) == 1 && s.Ports[0].State == fabric.PortClosed
	})
	if err := n.Agent.Ready(t.Context()); err == nil || err.Error() != off.String() {
		t.Fatalf("ready: %v", err)
	}
	back := off
	back.Until, back.Shut = time.Time{}, false
	h.ground.contest(back)
	if s := n.Agent.Status(); !s.Ready || !slices.Contains(s.Problems, back.String()) || s.Ports[0].State != fabric.PortActive {
		t.Fatalf("watched: %+v", s)
	}
	h.ground.contest()
	if s := n.Agent.Status(); !s.Ready || len(s.Problems) != 0 {
		t.Fatalf("at peace: %+v", s)
	}
}

func TestAContestThatLeavesAPortOpenDoesNotCloseItInTheStatus(t *testing.T) {
	s := fabric.HostStatus{Ready: true, Ports: []fabric.PortStatus{{Name: "a", State: fabric.PortActive}}}
	before := s.Ports
	contested(&s, []datapath.Contest{{Device: "tap-a", Program: "sentinel_in", Port: "a", Until: time.Now()}, {Device: "weftvx0", Program: "vx_in", Until: time.Now(), Shut: true}})
	if s.Ready || len(s.Problems) != 2 || s.Ports[0].State != fabric.PortActive {
		t.Fatalf("%+v", s)
	}
	contested(&s, []datapath.Contest{{Device: "tap-a", Program: "vp_in", Port: "a", Until: time.Now(), Shut: true}})
	if s.Ports[0].State != fabric.PortClosed || before[0].State != fabric.PortActive {
		t.Fatalf("%+v, and the keeper's own %+v", s.Ports, before)
	}
}
