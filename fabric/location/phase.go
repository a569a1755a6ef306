package location

import (
	"cmp"
	"fmt"
	"maps"
	"time"

	"github.com/weftnet/weft/fabric"
)

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
	if status.Phase == "" {
		status.Phase = now
	}
	switch {
	case Over(now) && now == status.Phase:
		return nil, nil
	case Over(now):
		return nil, fmt.Errorf("the move is over: it is %s (%s): start another: %w", now, known.Status.Reason, fabric.ErrConflict)
	case status.Phase == fabric.MoveActive && known.Status.Fault != "":
		return nil, fmt.Errorf("host %s has given the move up (%s): its epoch %d is void: %w", host, known.Status.Fault, known.Status.Epoch, fabric.ErrStaleEpoch)
	case status.Fault != "" && rank[now] >= rank[fabric.MoveActive]:
		return nil, fmt.Errorf("host %s has taken the ports at epoch %d and cannot give the move up any more: %w", host, known.Status.Epoch, fabric.ErrConflict)
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
	ok := false
	switch status.Phase {
	case "":
		ok = source || destination
	case fabric.MoveStaged, fabric.MoveActive:
		ok = destination
	case fabric.MoveCopying, fabric.MoveSwitched, fabric.MoveSettled, fabric.MoveFailed:
		ok = source
	case fabric.MoveAborted:
		ok = source || destination && Over(known.Status.Phase)
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
