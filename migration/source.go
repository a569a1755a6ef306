package migration

import (
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// beginSource finds where the source's part stands. What the guest did meanwhile is told by its monitor's first events.
func (t *turn) beginSource(move *fabric.Move) {
	switch move.Status.Phase {
	case fabric.MoveGranted, fabric.MoveStaged:
		t.enter(Awaiting, t.Limits.Stage)
	case fabric.MoveCopying:
		t.enter(Copying, t.Limits.Copy)
	case fabric.MoveSwitched:
		t.enter(Held, t.Limits.Switch)
		t.do(Handoff)
	case fabric.MoveActive:
		t.Active = move.Status.At[fabric.MoveActive]
		t.relay()
	default:
		t.leave(move.Status.Phase)
	}
}

// source is one step of the source.
func (t *turn) source(e Event) {
	switch e.Kind {
	case Saw:
		t.sourceSaw(e.Record)
	case Told:
		t.sourceTold(e)
	case Done:
		t.sourceDone(e)
	case Undone:
		t.sourceUndone(e)
	case Inherited:
		t.inherited()
	case Clock:
		if t.due() {
			t.sourceLate()
		}
	}
}

// sourceSaw takes what the record says. It is the authority: a commit of the destination ends what was thought here.
func (t *turn) sourceSaw(m *fabric.Move) {
	if t.State == Leaving {
		return
	}
	if m == nil {
		if t.State == Awaiting || t.State == Beginning {
			t.leave(fabric.MoveAborted)
		}
		return
	}
	switch m.Status.Phase {
	case fabric.MoveSettled, fabric.MoveFailed, fabric.MoveAborted:
		t.because(m.Status.Reason)
		t.leave(m.Status.Phase)
		return
	case fabric.MoveActive:
		t.Active, t.Theirs = m.Status.At[fabric.MoveActive], Counts{Lost: m.Status.Result.Lost, Duplicated: m.Status.Result.Duplicated}
		if t.State != Relaying && t.State != Settling {
			t.overtaken()
		}
		return
	}
	if m.Status.Fault != "" {
		t.faulted(m.Status.Fault)
		return
	}
	if m.Spec.Abort {
		t.giveUp("aborted by a person")
		return
	}
	if t.State == Awaiting && m.Status.Phase == fabric.MoveStaged {
		t.Incoming = m.Status.Incoming
		t.start()
	}
}

// start begins the copy once the destination waits and the guest is known to run.
func (t *turn) start() {
	if t.State != Awaiting || t.Incoming == "" || !t.Known {
		return
	}
	if !t.Running {
		t.giveUp("the guest is paused: let it run, then move it")
		return
	}
	t.enter(Beginning, t.Limits.Record)
	t.report(fabric.MoveCopying)
}

// copy orders the migration.
func (t *turn) copy() {
	t.enter(Copying, t.Limits.Copy)
	t.Ordered, t.Migration = true, ""
	t.out = append(t.out, Action{Do: Migrate, Text: t.Incoming})
}

// sourceTold takes what the hypervisor says.
func (t *turn) sourceTold(e Event) {
	switch e.Guest {
	case qmp.Runs:
		t.Known, t.Running = true, true
		t.runs()
	case qmp.Stops:
		t.Known, t.Running = true, false
		t.stops(e.At)
	case qmp.Gone:
		t.gone(e.Text)
	default:
		if t.State == Copying && t.Migration == qmp.Completed && e.Guest == qmp.Copying {
			t.expect(t.Limits.Copy) // it was an earlier one that had completed
		}
		t.Migration = e.Guest
		t.migration(e)
	}
}

// runs: the guest runs here.
func (t *turn) runs() {
	switch t.State {
	case Awaiting:
		t.start()
	case Copying:
		// After a restart: the copy was recorded, but the order never reached the hypervisor. A "completed" of a guest that runs is
		// that of the move which once brought it here.
		if !t.Ordered && t.idle() {
			t.enter(Beginning, t.Limits.Record)
			t.report(fabric.MoveCopying)
		}
	case Cancelling:
		if t.idle() {
			t.conclude()
		}
	case Held:
		// The hypervisor lets the guest run before it says why, or a person paused and resumed it. Traffic first; the move ends
		// when the hypervisor says that it has ended.
		t.because("the guest ran on before it was sent")
		t.Handed = false
		t.do(Restore, Announce)
		t.cancel()
		t.State = Cancelling
	case Returning:
		t.conclude()
		t.do(Announce)
	case Sent, Relaying, Settling:
		t.alarm("The guest was made to run at the source although its state has been sent: its frames are dropped here. Stop it.")
	}
}

// idle reports whether the hypervisor, as last told, is not migrating.
func (t *turn) idle() bool {
	return t.Migration == qmp.Idle || t.Migration == qmp.Completed || t.Migration == qmp.Failed || t.Migration == qmp.Cancelled
}

// stops: the guest stands still here; in a migration that is the switchover, and redirecting comes before everything else.
func (t *turn) stops(at time.Time) {
	switch t.State {
	case Awaiting:
		t.start()
	case Copying, Cancelling:
		if !t.Ordered && t.idle() && t.Migration != qmp.Completed {
			t.because("the guest is paused: let it run, then move it")
			t.conclude()
			return
		}
		t.hold(at)
		if t.Migration == qmp.Completed {
			t.sent()
		}
	case Sent:
		if t.Past && !t.Lost {
			t.Stopped = at // QEMU says that there is no return just before it stops the guest
		}
	}
}

// hold sends the guest's frames on.
func (t *turn) hold(at time.Time) {
	t.Stopped = at
	t.enter(Held, t.Limits.Switch)
	t.do(Handoff)
	t.report(fabric.MoveSwitched)
	if t.Cancelled || t.Fault {
		t.cancel()
	}
}

// migration: what the hypervisor says of the migration.
func (t *turn) migration(e Event) {
	switch e.Guest {
	case qmp.Idle:
		if t.State == Held {
			t.enter(Returning, t.Limits.Answer)
		}
	case qmp.Copying:
		t.Ordered = t.Ordered || t.State == Copying || t.State == Cancelling
	case qmp.Waiting:
		switch {
		case t.State == Concluding:
			t.do(Cancel)
		case t.Running: // that it has stopped is told before, or, by a new connection, next
		case t.State == Copying, t.State == Cancelling:
			t.hold(e.At)
		}
		t.proceed()
	case qmp.Completed:
		switch {
		case t.State == Held:
			t.sent()
		case t.State != Copying && t.State != Cancelling || !t.Known:
		case !t.Running:
			t.hold(e.At)
			t.sent()
		case t.State == Copying && t.Ordered: // of an earlier migration, said again, or a lie
			t.expect(t.Limits.Answer)
		}
	case qmp.Failed, qmp.Cancelled:
		t.ended(e)
	case qmp.NoReturn, qmp.Broken:
		t.noReturn(e)
	}
	if t.State == Relaying && t.Warned && t.spent() {
		t.do(Count)
	}
}

// ended: the migration has come to nothing. After a restart that may be an earlier one; the guest's state, which is told
// next, decides whether this one is still to be ordered.
func (t *turn) ended(e Event) {
	if t.State == Copying && !t.Ordered || t.State != Copying && t.State != Cancelling && t.State != Held {
		return
	}
	why := "the hypervisor ended the migration: " + string(e.Guest)
	if e.Text != "" {
		why += ": " + e.Text
	}
	t.because(why)
	if t.State == Held {
		t.enter(Returning, t.Limits.Answer)
		return
	}
	t.conclude()
}

// proceed lets the hypervisor switch over, once the frames go to the destination and it knows the ports' connections. That is
// waited for as long as the guest hardly notices.
func (t *turn) proceed() {
	if t.State != Held || t.Migration != qmp.Waiting || !t.Handed || t.Cancelled || t.Fault {
		return
	}
	if !t.Inherited {
		if !t.Waits {
			t.Waits = true
			t.expect(t.Limits.Inherit)
		}
		return
	}
	t.do(Continue)
}

// inherited: the destination has what the ports take along, or is no longer waited for.
func (t *turn) inherited() {
	t.Inherited = true
	if t.State == Held && t.Waits {
		t.Waits = false
		t.expect(t.Limits.Switch)
		t.proceed()
	}
}

// sourceDone takes the success of an action.
func (t *turn) sourceDone(e Event) {
	switch e.Do {
	case Handoff:
		t.Handed = t.State == Held || t.State == Sent || t.State == Relaying
		if t.Handed && !t.Lost {
			t.do(Drain)
		}
		t.proceed()
	case Remember:
		if t.State == Beginning {
			t.copy()
		}
	case Drain:
		t.Drained = t.Drained.plus(e.Counts)
	case Finish:
		if t.State == Leaving {
			t.end(t.Outcome)
		}
	case Count:
		t.Counts = t.Counts.most(e.Counts)
		t.counted()
	case Report:
		if t.State == Beginning && e.Phase == fabric.MoveCopying && e.Record.Status.Phase == fabric.MoveCopying {
			t.copy()
		}
		t.sourceSaw(e.Record)
	}
}

// counted goes on after the packets were counted, or could not be.
func (t *turn) counted() {
	switch t.State {
	case Relaying:
		if t.spent() {
			t.do(Quit)
		}
		t.expect(max(t.Until.Sub(t.now), time.Millisecond))
	case Settling:
		t.report(fabric.MoveSettled)
	}
}

// sourceUndone takes the failure of an action.
func (t *turn) sourceUndone(e Event) {
	switch e.Do {
	case Handoff:
		t.alarm("The guest's frames cannot be sent on: " + e.Text)
		t.giveUp("frames could not be sent on: " + e.Text)
		if t.State == Sent || t.State == Relaying {
			t.expect(min(t.Limits.Answer, t.Limits.Relay))
		}
	case Remember:
		if t.State == Beginning {
			t.giveUp("the copy could not be recorded, nor remembered here: " + e.Text)
		}
	case Migrate:
		switch {
		case t.State == Copying && e.Unsure:
			t.giveUp("the order to migrate was not answered: " + e.Text)
		case !e.Unsure && (t.State == Copying || t.State == Cancelling || t.State == Held || t.State == Sent):
			t.because("the hypervisor refused: " + e.Text)
			t.conclude()
		}
	case Count:
		t.counted()
	case Report:
		if e.Record == nil && (t.State == Settling || t.State == Concluding) {
			t.leave(e.Phase)
			return
		}
		t.sourceSaw(e.Record)
	}
}
