package server

import (
	"context"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// moves are all moves. What the source reports at the end only, but the record knows already, is filled in.
func (v *view) moves() []fabric.Move {
	out := sorted(v.snap.Moves)
	for i := range out {
		st := &out[i].Status
		stopped, known := st.At[fabric.MoveSwitched]
		runs := st.At[fabric.MoveActive]
		if st.Phase == fabric.MoveActive && st.Result.GuestPauseMs == 0 && known && runs.After(stopped) {
			st.Result.GuestPauseMs = float64(runs.Sub(stopped)) / float64(time.Millisecond)
		}
	}
	return out
}

// countMove asks the source of a move that is not settled how many packets it has relayed and lost so far; what the
// destination lost is in the record. A source that does not answer leaves the record as it is.
func (s *Server) countMove(ctx context.Context, v *view, m *fabric.Move) {
	if m.Status.Phase != fabric.MoveActive {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	ports, err := s.portsOf(ctx, v.snap.Hosts[m.Spec.From])
	if err != nil {
		s.o.Logger.DebugContext(ctx, "what a move's source has relayed is not shown", "host", m.Spec.From, "error", err)
		return
	}
	var relayed uint64
	for _, p := range ports {
		if slices.Contains(m.Spec.Ports, p.Name) {
			relayed += p.Relayed
			m.Status.Result.Lost += lostToMoves(p.Drops)
		}
	}
	m.Status.Result.Relayed = max(m.Status.Result.Relayed, relayed)
}

// lostToMoves sums the drops of the migration class.
func lostToMoves(drops map[string]uint64) (n uint64) {
	for name, count := range drops {
		var r tracing.Reason
		if r.UnmarshalText([]byte(name)) == nil && r.Class() == tracing.ClassMigration {
			n += count
		}
	}
	return n
}
