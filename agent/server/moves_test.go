package server_test

import (
	"testing"
	"time"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

func TestAMoveThatRelaysShowsWhatItHasCostSoFar(t *testing.T) {
	m := newMemory()
	stopped := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	move := &fabric.Move{
		Metadata: fabric.Metadata{Name: "m-1"}, Spec: fabric.MoveSpec{VM: "a", Ports: []fabric.PortID{"a"}, From: "h1", To: "h2"},
		Status: fabric.MoveStatus{
			Phase: fabric.MoveActive, Result: fabric.MoveResult{Lost: 1, FabricGapMs: 0.5},
			At: map[fabric.Phase]time.Time{fabric.MoveSwitched: stopped, fabric.MoveActive: stopped.Add(40 * time.Millisecond)},
		},
	}
	away := *move
	away.Metadata.Name, away.Spec.From = "m-2", "h2" // which nobody answers for
	m.change(func(s *fabric.Snapshot) {
		s.Hosts["h1"] = &fabric.Host{Metadata: fabric.Metadata{Name: "h1"}}
		s.Moves["m-1"], s.Moves["m-2"] = move, &away
	})
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	want := fabric.MoveResult{GuestPauseMs: 40, FabricGapMs: 0.5, Relayed: 5, Lost: 3}
	o, err := c.Get(t.Context(), fabric.KindMove, "m-1")
	if err != nil || o.(*fabric.Move).Status.Result != want {
		t.Errorf("%+v, %v, want %+v", o, err, want)
	}
	want.Relayed, want.Lost = 0, 1
	o, err = c.Get(t.Context(), fabric.KindMove, "m-2")
	if err != nil || o.(*fabric.Move).Status.Result != want {
		t.Errorf("with a silent source: %+v, %v, want %+v", o, err, want)
	}
	if until, relays := move.RelayUntil(); !relays || !until.Equal(stopped.Add(40*time.Millisecond+fabric.DefaultRelay)) {
		t.Errorf("it relays until %s (%v)", until, relays)
	}
}
