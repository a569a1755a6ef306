package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// asides are what the destinations of moves from here have said themselves: that they wait for the guest, or have given up. The record
// says the same, as soon as etcd takes it; a move that was granted does not wait for that (ADR 5).
type asides struct {
	changed *news

	mu   sync.Mutex
	said map[fabric.MoveID]fabric.MoveStatus
}

func newAsides() *asides {
	return &asides{changed: newNews(), said: map[fabric.MoveID]fabric.MoveStatus{}}
}

// hear keeps what was said, and forgets what was said of moves that are gone.
func (a *asides) hear(id fabric.MoveID, s fabric.MoveStatus, snap *fabric.Snapshot) {
	a.mu.Lock()
	for old := range a.said {
		if snap.Moves[old] == nil {
			delete(a.said, old)
		}
	}
	known := a.said[id]
	if s.Incoming != "" {
		known.Incoming = s.Incoming
	}
	if s.Fault != "" {
		known.Fault = s.Fault
	}
	a.said[id] = known
	a.mu.Unlock()
	a.changed.tell()
}

// with is the record with what was said beyond it; the record itself where that is nothing.
func (a *asides) with(move *fabric.Move) *fabric.Move {
	if move == nil || api.Over(move.Status.Phase) || move.Status.Phase == fabric.MoveActive {
		return move
	}
	a.mu.Lock()
	said := a.said[fabric.MoveID(move.Metadata.Name)]
	a.mu.Unlock()
	offered := said.Incoming != "" && move.Status.Phase == fabric.MoveGranted
	gaveUp := said.Fault != "" && move.Status.Fault == ""
	if !offered && !gaveUp {
		return move
	}
	next := *move
	if offered {
		next.Status.Phase, next.Status.Incoming = fabric.MoveStaged, said.Incoming
	}
	if gaveUp {
		next.Status.Fault = said.Fault
	}
	return &next
}

// Aside takes what the destination of a move from here says itself; see server.Reports.
func (a *Agent) Aside(_ context.Context, r api.MoveReport) error {
	snap := a.Latest()
	if snap == nil || snap.Moves[r.Move] == nil {
		return fmt.Errorf("move %s is not known on this host: %w", r.Move, fabric.ErrNotFound)
	}
	move := snap.Moves[r.Move]
	switch {
	case move.Spec.From != a.config.Host || move.Spec.To != r.Host:
		return fmt.Errorf("move %s is from %s to %s: host %s has nothing to say of it here: %w", r.Move, move.Spec.From, move.Spec.To, r.Host, fabric.ErrInvalid)
	case r.Status.Incoming == "" && r.Status.Fault == "":
		return fmt.Errorf("move %s: host %s says neither where it waits nor that it gave up: %w", r.Move, r.Host, fabric.ErrInvalid)
	}
	a.asides.hear(r.Move, r.Status, snap)
	return nil
}

// asideWithin is how long telling the source of a move may take.
const asideWithin = 2 * time.Second

// tellSource tells the source of a move what is being recorded, where that lets it go on.
func (a *Agent) tellSource(ctx context.Context, r api.MoveReport) {
	snap := a.Latest()
	if r.Status.Incoming == "" && r.Status.Fault == "" || snap == nil || snap.Moves[r.Move] == nil || snap.Moves[r.Move].Spec.To != r.Host {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, asideWithin)
	defer cancel()
	c, err := a.prober.client(snap.Moves[r.Move].Spec.From)
	if err == nil {
		err = c.Aside(ctx, r)
	}
	if err != nil {
		a.log.Debug("the source of a move hears of its destination by the record only", "move", r.Move, "error", err)
	}
}
