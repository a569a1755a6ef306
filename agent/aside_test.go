package agent

import (
	"errors"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
)

func TestOnlyTheDestinationOfAMoveSaysHowItIsThere(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	other := &fabric.Host{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindHost}, Metadata: fabric.Metadata{Name: "h2"},
		Spec: fabric.HostSpec{VTEP: n.config.Underlay.Address.Next(), UnderlayMTU: 1500},
	}
	if err := n.reports.ReportHost(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	_, err := location.New(h.etcd.Open(t)).Grant(t.Context(), &fabric.Move{Metadata: fabric.Metadata{Name: "m1"}, Spec: fabric.MoveSpec{VM: "a", To: "h2"}})
	if err != nil {
		t.Fatal(err)
	}
	n.until(t, "heard", func() bool { return n.Latest().Moves["m1"] != nil })
	waits := fabric.MoveStatus{Incoming: "tcp:10.240.0.2:4444"}
	for _, c := range []struct {
		name string
		r    api.MoveReport
		is   error
	}{
		{"another host", api.MoveReport{Host: "h3", Move: "m1", Status: waits}, fabric.ErrInvalid},
		{"this host", api.MoveReport{Host: "h1", Move: "m1", Status: waits}, fabric.ErrInvalid},
		{"of a move that there is not", api.MoveReport{Host: "h2", Move: "m9", Status: waits}, fabric.ErrNotFound},
		{"nothing", api.MoveReport{Host: "h2", Move: "m1", Status: fabric.MoveStatus{Phase: fabric.MoveActive}}, fabric.ErrInvalid},
		{"the destination", api.MoveReport{Host: "h2", Move: "m1", Status: waits}, nil},
	} {
		if err := n.Agent.Aside(t.Context(), c.r); !errors.Is(err, c.is) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.is)
		}
	}
}

func TestWhatIsSaidAsideIsOnlyAheadOfTheRecord(t *testing.T) {
	record := func(p fabric.Phase, fault string) *fabric.Move {
		return &fabric.Move{Metadata: fabric.Metadata{Name: "m1"}, Status: fabric.MoveStatus{Phase: p, Fault: fault}}
	}
	for _, c := range []struct {
		name       string
		said       fabric.MoveStatus
		at         *fabric.Move
		phase      fabric.Phase
		fault, uri string
	}{
		{"nothing", fabric.MoveStatus{}, record(fabric.MoveGranted, ""), fabric.MoveGranted, "", ""},
		{"it waits, before that is recorded", fabric.MoveStatus{Incoming: "tcp:1"}, record(fabric.MoveGranted, ""), fabric.MoveStaged, "", "tcp:1"},
		{"it waits, long ago", fabric.MoveStatus{Incoming: "tcp:1"}, record(fabric.MoveSwitched, ""), fabric.MoveSwitched, "", ""},
		{"it gave up", fabric.MoveStatus{Fault: "gone"}, record(fabric.MoveSwitched, ""), fabric.MoveSwitched, "gone", ""},
		{"it gave up, and that is recorded", fabric.MoveStatus{Fault: "gone"}, record(fabric.MoveSwitched, "ended"), fabric.MoveSwitched, "ended", ""},
		{"it gave up, but the record says that the guest runs there", fabric.MoveStatus{Fault: "gone"}, record(fabric.MoveActive, ""), fabric.MoveActive, "", ""},
		{"anything of a move that is over", fabric.MoveStatus{Incoming: "tcp:1", Fault: "gone"}, record(fabric.MoveAborted, ""), fabric.MoveAborted, "", ""},
	} {
		a := newAsides()
		a.hear("m1", c.said, &fabric.Snapshot{Moves: map[fabric.MoveID]*fabric.Move{"m1": c.at}})
		before := *c.at
		got := a.with(c.at)
		if got.Status.Phase != c.phase || got.Status.Fault != c.fault || got.Status.Incoming != c.uri {
			t.Errorf("%s: %+v", c.name, got.Status)
		}
		if c.at.Status.Phase != before.Status.Phase || c.at.Status.Fault != before.Status.Fault {
			t.Errorf("%s: the record itself was changed", c.name)
		}
	}
}

// TestACopyThatWasBegunIsKnownToTheNextAgent: its record still says that nothing has begun.
func TestACopyThatWasBegunIsKnownToTheNextAgent(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), granted(10, "h1", "h2"))
	move := &fabric.Move{Metadata: fabric.Metadata{Name: "m1"}, Spec: fabric.MoveSpec{From: "h1", To: "h2"}, Status: fabric.MoveStatus{Phase: fabric.MoveGranted}}
	if got := b.begunAs(move); got != move {
		t.Fatalf("begun as %+v before it was", got.Status)
	}
	if err := b.change(t.Context(), func(l *local) error { l.Begun["m1"] = "tcp:1"; return nil }); err != nil {
		t.Fatal(err)
	}
	l, err := loadLocal(b.stateDir, noon)
	if err != nil {
		t.Fatal(err)
	}
	next := b.successor()
	if err := next.begin(t.Context(), l, false); err != nil {
		t.Fatal(err)
	}
	if got := next.begunAs(move); got.Status.Phase != fabric.MoveCopying || got.Status.Incoming != "tcp:1" {
		t.Fatalf("the next agent takes it as %+v", got.Status)
	}
	for phase, kept := range map[fabric.Phase]bool{fabric.MoveStaged: true, fabric.MoveSwitched: false} {
		at := granted(11, "h1", "h2")
		recorded := *move
		recorded.Status.Phase = phase
		at.Moves = map[fabric.MoveID]*fabric.Move{"m1": &recorded}
		next.local.Begun = map[fabric.MoveID]string{"m1": "tcp:1"}
		next.accept(t.Context(), at)
		next.check(t.Context())
		if _, there := next.local.Begun["m1"]; there != kept {
			t.Errorf("recorded as %s, it is kept: %v", phase, there)
		}
	}
}
