package location

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Advance records how far the host's part of a move is, and does to the locations what the phase means, in the same
// transaction and for all ports of the VM at once:
//
//	active   (destination) the destination holds the ports at the granted epoch; the source relays
//	failed   (source)      the source holds the ports at the rollback epoch
//	aborted  (source)      as failed, before the guest stopped
//	settled  (source)      the relay is over
//
// The other phases only go forward in the record. An empty phase leaves it as it is: with a fault it is the destination's
// word that the guest does not run there and never will by this move, and voids its epoch; without one it only reads. Of
// the status, the phase, the times, the result, the incoming address, the fault and the reason are taken; times and the
// result of an earlier phase are filled in without moving the phase back. It returns the record as it is afterwards, also with an error. Reporting twice is reporting once. Errors:
// fabric.ErrNotFound, fabric.ErrInvalid (the phase is not this host's to report), fabric.ErrConflict (the move has ended
// otherwise), fabric.ErrStaleEpoch (another epoch of the ports is in force).
func (l *Ledger) Advance(ctx context.Context, id fabric.MoveID, host fabric.HostID, status fabric.MoveStatus) (*fabric.Move, error) {
	var out *fabric.Move
	what := fmt.Sprintf("report move %s as %s from host %s", id, status.Phase, host)
	err := l.update(ctx, what, func(ctx context.Context) (*fabric.Move, []fabric.Location, error) {
		known, err := l.move(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		out = known
		next, locations, err := l.step(ctx, known, host, status)
		if next != nil {
			out = next
		}
		return next, locations, err
	})
	return out, err
}

// Abort gives a move up on the user's word: by asking the source, which alone knows whether the guest still runs there, and which may be
// ahead of the record (ADR 5); at once where there is no such host any more. Errors: fabric.ErrNotFound, fabric.ErrConflict (the guest has
// already moved, or the move is over).
func (l *Ledger) Abort(ctx context.Context, id fabric.MoveID, reason string, now time.Time) (*fabric.Move, error) {
	var out *fabric.Move
	err := l.update(ctx, fmt.Sprintf("abort move %s", id), func(ctx context.Context) (*fabric.Move, []fabric.Location, error) {
		known, err := l.move(ctx, id)
		switch {
		case err != nil:
			return nil, nil, err
		case known.Status.Phase == fabric.MoveAborted || known.Spec.Abort:
			out = known
			return nil, nil, nil
		case known.Status.Phase != fabric.MoveGranted && known.Status.Phase != fabric.MoveStaged && known.Status.Phase != fabric.MoveCopying:
			return nil, nil, fmt.Errorf("the move is %s: a guest that has left is moved back with 'weft migrate %s --to %s': %w",
				known.Status.Phase, known.Spec.VM, known.Spec.From, fabric.ErrConflict)
		}
		out = clone(known)
		if _, err := l.store.Get(ctx, fabric.KindHost, string(known.Spec.From)); err == nil {
			out.Spec.Abort, out.Status.Reason = true, reason
			return out, nil, nil
		} else if !errors.Is(err, fabric.ErrNotFound) {
			return nil, nil, err
		}
		enter(out, fabric.MoveStatus{Phase: fabric.MoveAborted, Reason: reason, At: map[fabric.Phase]time.Time{fabric.MoveAborted: now}})
		locations, err := l.locate(ctx, known, out)
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
	return l.update(ctx, what, func(ctx context.Context) (*fabric.Move, []fabric.Location, error) {
		loc, err := l.location(ctx, port)
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
		known, err := l.move(ctx, loc.Grant.Move)
		if err != nil {
			return nil, nil, err
		}
		return l.step(ctx, known, host, fabric.MoveStatus{Phase: phase})
	})
}

// move reads a move.
func (l *Ledger) move(ctx context.Context, id fabric.MoveID) (*fabric.Move, error) {
	o, err := l.store.Get(ctx, fabric.KindMove, string(id))
	if errors.Is(err, fabric.ErrNotFound) {
		return nil, fmt.Errorf("there is no move %s: see 'weft get moves': %w", id, err)
	}
	if err != nil {
		return nil, err
	}
	return o.(*fabric.Move), nil
}

// step is what a report changes: nothing when it says nothing new.
func (l *Ledger) step(ctx context.Context, known *fabric.Move, host fabric.HostID, status fabric.MoveStatus) (*fabric.Move, []fabric.Location, error) {
	next, err := advance(known, host, status)
	if err != nil || next == nil {
		return nil, nil, err
	}
	locations, err := l.locate(ctx, known, next)
	if err != nil {
		return nil, nil, err
	}
	return next, locations, nil
}

// locate is what a change of phase means to the locations of the move's ports.
func (l *Ledger) locate(ctx context.Context, before, after *fabric.Move) ([]fabric.Location, error) {
	take := takes(after)
	if before.Status.Phase == after.Status.Phase || take == nil {
		return nil, nil
	}
	locations := make([]fabric.Location, 0, len(after.Spec.Ports))
	for _, p := range after.Spec.Ports {
		loc, err := l.store.GetLocation(ctx, p)
		if errors.Is(err, fabric.ErrNotFound) {
			continue // the port was deleted while it moved
		}
		if err != nil {
			return nil, err
		}
		changed, err := take(&loc)
		if err != nil {
			return nil, l.sure(ctx, before, fmt.Errorf("port %s: %w", p, err))
		}
		if changed {
			loc.Trace = after.Metadata.Trace
			locations = append(locations, loc)
		}
	}
	return locations, nil
}

// sure returns the error, unless the move was written since it was read: then the location that led to the error may be
// the newer one of the two.
func (l *Ledger) sure(ctx context.Context, read *fabric.Move, because error) error {
	now, err := l.move(ctx, fabric.MoveID(read.Metadata.Name))
	if err != nil {
		return err
	}
	if now.Metadata.Revision != read.Metadata.Revision {
		return errAgain
	}
	return because
}

// takes is what a phase does to each location of its move; nil when nothing.
func takes(m *fabric.Move) func(*fabric.Location) (bool, error) {
	switch m.Status.Phase {
	case fabric.MoveActive:
		return func(loc *fabric.Location) (bool, error) {
			if !grantedBy(loc, m) {
				return false, stale(*loc, m.Status.Epoch)
			}
			loc.Host, loc.From, loc.Epoch, loc.Grant = m.Spec.To, m.Spec.From, loc.Grant.Epoch, nil
			return true, nil
		}
	case fabric.MoveFailed, fabric.MoveAborted:
		return func(loc *fabric.Location) (bool, error) {
			if !grantedBy(loc, m) {
				return false, stale(*loc, m.Status.Epoch+1)
			}
			loc.From, loc.Epoch, loc.Grant = "", loc.Grant.Rollback, nil
			return true, nil
		}
	case fabric.MoveSettled:
		return func(loc *fabric.Location) (bool, error) {
			still := loc.From == m.Spec.From && loc.Host == m.Spec.To
			if still {
				loc.From = ""
			}
			return still, nil
		}
	}
	return nil
}

// grantedBy reports whether the port is on its way by this move.
func grantedBy(loc *fabric.Location, m *fabric.Move) bool {
	return loc.Grant != nil && loc.Grant.Move == fabric.MoveID(m.Metadata.Name)
}
