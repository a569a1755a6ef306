package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// moved writes the record of a move that entered its phase at a time.
func moved(tb testing.TB, s *store.Store, name string, phase fabric.Phase, at time.Time) {
	tb.Helper()
	m := &fabric.Move{
		TypeMeta: head(fabric.KindMove), Metadata: meta(name),
		Spec:   fabric.MoveSpec{VM: "a", Ports: []fabric.PortID{"a"}, From: "h1", To: "h2"},
		Status: fabric.MoveStatus{Phase: phase, At: map[fabric.Phase]time.Time{phase: at}},
	}
	if err := s.UpdateLocations(tb.Context(), m); err != nil {
		tb.Fatal(err)
	}
}

// moves are the names of the records there are.
func moves(tb testing.TB, s *store.Store) map[string]bool {
	tb.Helper()
	all, err := s.List(tb.Context(), fabric.KindMove)
	if err != nil {
		tb.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range all {
		names[m.Meta().Name] = true
	}
	return names
}

func TestOfOldMovesTheLastHundredAreKept(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	now := time.Now()
	ends := []fabric.Phase{fabric.MoveSettled, fabric.MoveFailed, fabric.MoveAborted}
	for i := range 250 { // m-0 is the newest of those that have ended, a week ago
		moved(t, s, fmt.Sprintf("m-%d", i), ends[i%3], now.Add(-7*24*time.Hour-time.Duration(i)*time.Minute))
	}
	moved(t, s, "runs", fabric.MoveSwitched, now.Add(-30*24*time.Hour))
	if n, err := s.PruneMoves(t.Context(), now); err != nil || n != 150 {
		t.Errorf("%d pruned (%v), want 150", n, err)
	}
	left := moves(t, s)
	if len(left) != 101 || !left["runs"] || !left["m-0"] || !left["m-99"] || left["m-100"] {
		t.Errorf("%d are left: m-99 %v, m-100 %v, the one that runs %v", len(left), left["m-99"], left["m-100"], left["runs"])
	}
	if n, err := s.PruneMoves(t.Context(), now); err != nil || n != 0 {
		t.Errorf("%d pruned the second time (%v)", n, err)
	}
}

func TestAllMovesOfADayAreKept(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	now := time.Now()
	for i := range 130 { // the last ones to end: one every ten minutes, 21 hours
		moved(t, s, fmt.Sprintf("m-%d", i), fabric.MoveSettled, now.Add(-time.Duration(i)*10*time.Minute))
	}
	moved(t, s, "yesterday", fabric.MoveSettled, now.Add(-25*time.Hour))
	moved(t, s, "timeless", fabric.MoveSettled, time.Time{})
	if n, err := s.PruneMoves(t.Context(), now); err != nil || n != 2 {
		t.Errorf("%d pruned (%v), want the two of before", n, err)
	}
	if left := moves(t, s); len(left) != 130 || left["yesterday"] || left["timeless"] {
		t.Errorf("%d are left", len(left))
	}
}

func TestServerHostsPruneAtTheSameTime(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := e.Open(t)
	now := time.Now()
	for i := range 300 {
		moved(t, s, fmt.Sprintf("m-%d", i), fabric.MoveSettled, now.Add(-48*time.Hour-time.Duration(i)*time.Minute))
	}
	var all sync.WaitGroup
	counts := make([]int, 3)
	for i := range counts {
		other := e.Open(t)
		all.Go(func() {
			n, err := other.PruneMoves(t.Context(), now)
			if err != nil {
				t.Error(err)
			}
			counts[i] = n
		})
	}
	all.Wait()
	n, err := s.PruneMoves(t.Context(), now) // what one of them had left to another that then did not do it
	if total := counts[0] + counts[1] + counts[2] + n; err != nil || total != 200 {
		t.Errorf("%v and %d pruned (%v), want 200 together, each once", counts, n, err)
	}
	if left := moves(t, s); len(left) != 100 || !left["m-0"] || !left["m-99"] {
		t.Errorf("%d are left", len(left))
	}
}
