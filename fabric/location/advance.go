package location

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Advance records how far the host's part of a move is, and does to the locations what the phase means, in the same
// transaction and for all ports of the VM at once:
//
//	active   (destination) the destination holds the ports at the granted epoch; the source relays
//	failed   (source)      the source holds the ports at the rollback epoch
//	aborted  (source, or either before the copy began) as failed, before the guest stopped
//	settled  (source)      the relay is over
//
// The other phases only go forward in the record. Of the status, the phase, the times, the result, the incoming address,
// the fault and the reason are taken; times and the result of an earlier phase are filled in without moving the phase back.
// It returns the record as it is afterwards, also with an error. Reporting twice is reporting once. Errors:
// fabric.ErrNotFound, fabric.ErrInvalid (the phase is not this host's to report), fabric.ErrConflict (the move has ended
// otherwise), fabric.ErrStaleEpoch (another epoch of the ports is in force).
func (l *Ledger) Advance(ctx context.Context, id fabric.MoveID, host fabric.HostID, status fabric.MoveStatus) (*fabric.Move, error) {
	var out *fabric.Move
	what := fmt.Sprintf("report move %s as %s from host %s", id, status.Phase, host)
	err := l.update(ctx, what, func(s *fabric.Snapshot) (*fabric.Move, []fabric.Location, error) {
		known := s.Moves[id]
		if known == nil {
			out = nil
			return nil, nil, fmt.Errorf("there is no move %s: see 'weft get moves': %w", id, fabric.ErrNotFound)
		}
		out = clone(known)
		next, err := advance(known, host, status)
		if err != nil || next == nil {
			return nil, nil, err
		}
		locations, err := locate(s, known, next)
		if err != nil {
			return nil, nil, err
		}
		out = next
		return next, locations, nil
	})
	return out, err
}

// Abort gives a move up on the user's word: at once while no guest memory has been sent, else by asking the source, which
// alone knows whether the guest still runs there. Errors: fabric.ErrNotFound, fabric.ErrConflict (the guest has already
// moved, or the move is over).
func (l *Ledger) Abort(ctx context.Context, id fabric.MoveID, reason string, now time.Time) (*fabric.Move, error) {
	var out *fabric.Move
	err := l.update(ctx, fmt.Sprintf("abort move %s", id), func(s *fabric.Snapshot) (*fabric.Move, []fabric.Location, error) {
		known := s.Moves[id]
		switch {
		case known == nil:
			return nil, nil, fmt.Errorf("there is no move %s: see 'weft get moves': %w", id, fabric.ErrNotFound)
		case known.Status.Phase == fabric.MoveAborted || known.Spec.Abort:
			out = clone(known)
			return nil, nil, nil
		case known.Status.Phase != fabric.MoveGranted && known.Status.Phase != fabric.MoveStaged && known.Status.Phase != fabric.MoveCopying:
			return nil, nil, fmt.Errorf("the move is %s: a guest that has left is moved back with 'weft migrate %s --to %s': %w",
				known.Status.Phase, known.Spec.VM, known.Spec.From, fabric.ErrConflict)
		}
		out = clone(known)
		if known.Status.Phase == fabric.MoveCopying {
			out.Spec.Abort, out.Status.Reason = true, reason
			return out, nil, nil
		}
		enter(out, fabric.MoveStatus{Phase: fabric.MoveAborted, Reason: reason, At: map[fabric.Phase]time.Time{fabric.MoveAborted: now}})
		locations, err := locate(s, known, out)
		return out, locations, err
	})
	return out, err
}

// Commit makes the destination of a move the holder, as its guest runs there: Advance to active by the port and the epoch
// that was granted, for all ports of the move. It succeeds when the host already holds the port at that epoch. Errors:
// fabric.ErrStaleEpoch, fabric.ErrConflict.
func (l *Ledger) Commit(ctx context.Context, port fabric.PortID, host fabric.HostID, epoch fabric.Epoch) error {
	return l.take(ctx, port, host, epoch, fabric.MoveActive)
}

// Rollback lets the source of a move keep the port at the epoch granted for that case: Advance to failed by port and
// epoch, for all ports of the move. It succeeds when the host already holds the port at that epoch. Errors:
// fabric.ErrStaleEpoch, fabric.ErrConflict.
func (l *Ledger) Rollback(ctx context.Context, port fabric.PortID, host fabric.HostID, epoch fabric.Epoch) error {
	return l.take(ctx, port, host, epoch, fabric.MoveFailed)
}

// take advances the move that the port is granted by.
func (l *Ledger) take(ctx context.Context, port fabric.PortID, host fabric.HostID, epoch fabric.Epoch, phase fabric.Phase) error {
	what := fmt.Sprintf("take port %s for host %s at epoch %d", port, host, epoch)
	return l.update(ctx, what, func(s *fabric.Snapshot) (*fabric.Move, []fabric.Location, error) {
		loc, err := record(s, port)
		switch {
		case err != nil:
			return nil, nil, err
		case loc.Host == host && loc.Epoch == epoch && loc.Grant == nil:
			return nil, nil, nil
		case loc.Grant == nil:
			return nil, nil, stale(loc, epoch)
		case phase == fabric.MoveActive && loc.Grant.Epoch != epoch, phase == fabric.MoveFailed && loc.Grant.Rollback != epoch:
			return nil, nil, stale(loc, epoch)
		}
		known := s.Moves[loc.Grant.Move]
		if known == nil {
			return nil, nil, fmt.Errorf("its move %s has no record: %w", loc.Grant.Move, fabric.ErrNotFound)
		}
		next, err := advance(known, host, fabric.MoveStatus{Phase: phase})
		if err != nil || next == nil {
			return nil, nil, err
		}
		locations, err := locate(s, known, next)
		return next, locations, err
	})
}

// rank orders the phases that follow one another.
var rank = map[fabric.Phase]int{
	fabric.MoveGranted: 1, fabric.MoveStaged: 2, fabric.MoveCopying: 3, fabric.MoveSwitched: 4, fabric.MoveActive: 5, fabric.MoveSettled: 6,
}

// Over reports whether a move has ended.
func Over(p fabric.Phase) bool {
	return p == fabric.MoveSettled || p == fabric.MoveFailed || p == fabric.MoveAborted
}

// advance is the record after the host's report; nil when the report says nothing new.
func advance(known *fabric.Move, host fabric.HostID, status fabric.MoveStatus) (*fabric.Move, error) {
	if err := entitled(known, host, status); err != nil {
		return nil, err
	}
	now := known.Status.Phase
	next := clone(known)
	switch {
	case Over(now) && now == status.Phase:
		return nil, nil
	case Over(now):
		return nil, fmt.Errorf("the move is over: it is %s (%s): start another: %w", now, known.Status.Reason, fabric.ErrConflict)
	case status.Phase == fabric.MoveActive && known.Status.Fault != "":
		return nil, fmt.Errorf("host %s has given the move up (%s): its epoch %d is void: %w", host, known.Status.Fault, known.Status.Epoch, fabric.ErrStaleEpoch)
	case status.Phase == fabric.MoveCopying && known.Spec.Abort:
		return nil, fmt.Errorf("the move is to be aborted (%s): %w", known.Status.Reason, fabric.ErrConflict)
	case (status.Phase == fabric.MoveFailed || status.Phase == fabric.MoveAborted) && rank[now] >= rank[fabric.MoveActive]:
		return nil, fmt.Errorf("host %s holds the ports at epoch %d since the move became %s: the copy at %s must not run on: %w",
			known.Spec.To, known.Status.Epoch, now, host, fabric.ErrStaleEpoch)
	case status.Phase == fabric.MoveSettled && now != fabric.MoveActive:
		return nil, fmt.Errorf("the move is %s: it settles after the guest runs at %s: %w", now, known.Spec.To, fabric.ErrConflict)
	case rank[status.Phase] != 0 && rank[status.Phase] <= rank[now]:
		status.Phase = now
	}
	enter(next, status)
	if equal(known, next) {
		return nil, nil
	}
	return next, nil
}

// entitled refuses a report that is not the host's to make.
func entitled(known *fabric.Move, host fabric.HostID, status fabric.MoveStatus) error {
	source, destination := host == known.Spec.From, host == known.Spec.To
	before := rank[known.Status.Phase] < rank[fabric.MoveCopying]
	ok := false
	switch status.Phase {
	case fabric.MoveStaged, fabric.MoveActive:
		ok = destination
	case fabric.MoveCopying, fabric.MoveSwitched, fabric.MoveSettled, fabric.MoveFailed:
		ok = source
	case fabric.MoveAborted:
		ok = source || destination && (before || Over(known.Status.Phase))
	}
	if status.Fault != "" && !destination {
		ok = false
	}
	if !ok {
		return fmt.Errorf("a move from %s to %s that is %s is not %s's to report as %q: %w",
			known.Spec.From, known.Spec.To, known.Status.Phase, host, status.Phase, fabric.ErrInvalid)
	}
	return nil
}

// enter puts the report into the record.
func enter(m *fabric.Move, status fabric.MoveStatus) {
	m.Status.Phase = status.Phase
	if status.Incoming != "" {
		m.Status.Incoming = status.Incoming
	}
	if status.Fault != "" {
		m.Status.Fault = status.Fault
	}
	if status.Reason != "" {
		m.Status.Reason = status.Reason
	}
	if m.Status.At == nil {
		m.Status.At = map[fabric.Phase]time.Time{}
	}
	for p, t := range status.At {
		m.Status.At[p] = t
	}
	measured(&m.Status.Result, status.Result)
}

// measured takes the figures that the reporting host has; a zero is one that it does not have.
func measured(to *fabric.MoveResult, from fabric.MoveResult) {
	to.GuestPauseMs = cmp.Or(from.GuestPauseMs, to.GuestPauseMs)
	to.FabricGapMs = cmp.Or(from.FabricGapMs, to.FabricGapMs)
	to.Relayed = cmp.Or(from.Relayed, to.Relayed)
	to.Lost = cmp.Or(from.Lost, to.Lost)
	to.Duplicated = cmp.Or(from.Duplicated, to.Duplicated)
	to.FlowsMoved = cmp.Or(from.FlowsMoved, to.FlowsMoved)
}

// equal reports whether a report changed nothing.
func equal(a, b *fabric.Move) bool {
	x, y := a.Status, b.Status
	if !maps.EqualFunc(x.At, y.At, time.Time.Equal) {
		return false
	}
	return x.Phase == y.Phase && x.Incoming == y.Incoming && x.Fault == y.Fault && x.Reason == y.Reason && x.Result == y.Result
}

// locate is what a change of phase means to the locations of the move's ports.
func locate(s *fabric.Snapshot, before, after *fabric.Move) ([]fabric.Location, error) {
	if before.Status.Phase == after.Status.Phase {
		return nil, nil
	}
	var take func(*fabric.Location)
	switch after.Status.Phase {
	case fabric.MoveActive:
		take = func(loc *fabric.Location) {
			loc.Host, loc.From, loc.Epoch = after.Spec.To, after.Spec.From, loc.Grant.Epoch
		}
	case fabric.MoveFailed, fabric.MoveAborted:
		take = func(loc *fabric.Location) { loc.Host, loc.From, loc.Epoch = after.Spec.From, "", loc.Grant.Rollback }
	case fabric.MoveSettled:
		return settle(s, after), nil
	default:
		return nil, nil
	}
	locations := make([]fabric.Location, 0, len(after.Spec.Ports))
	for _, p := range after.Spec.Ports {
		loc, ok := s.Locations[p]
		if !ok {
			continue // the port was deleted while it moved
		}
		if loc.Grant == nil || loc.Grant.Move != fabric.MoveID(after.Metadata.Name) {
			return nil, fmt.Errorf("port %s: %w", p, stale(loc, after.Status.Epoch))
		}
		take(&loc)
		loc.Grant, loc.Trace = nil, after.Metadata.Trace
		locations = append(locations, loc)
	}
	return locations, nil
}

// settle ends the relay of the ports that are still where the move brought them.
func settle(s *fabric.Snapshot, m *fabric.Move) []fabric.Location {
	var locations []fabric.Location
	for _, p := range m.Spec.Ports {
		loc, ok := s.Locations[p]
		if !ok || loc.From != m.Spec.From || loc.Host != m.Spec.To {
			continue
		}
		loc.From = ""
		locations = append(locations, loc)
	}
	return locations
}
