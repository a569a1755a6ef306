package migration

import (
	"fmt"
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
	t.State = Beginning
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
			t.enter(Beginning, t.Limits.Stage)
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
	case Sent:
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
		if t.Migration == qmp.Idle && !t.Ordered {
			t.because("the guest is paused: let it run, then move it")
			t.conclude()
			return
		}
		t.hold(at)
		if t.Migration == qmp.Completed {
			t.sent()
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
		switch t.State {
		case Copying, Cancelling:
			t.hold(e.At)
		case Concluding:
			t.do(Cancel)
		}
		t.proceed()
	case qmp.Completed:
		switch {
		case t.State == Held:
			t.sent()
		case (t.State == Copying || t.State == Cancelling) && t.Known && !t.Running:
			t.hold(e.At)
			t.sent()
		}
	case qmp.Failed, qmp.Cancelled:
		t.because("the hypervisor ended the migration: " + string(e.Guest) + " " + e.Text)
		switch t.State {
		case Copying, Cancelling:
			t.conclude()
		case Held:
			t.enter(Returning, t.Limits.Answer)
		}
	}
}

// proceed lets the hypervisor switch over, once the frames go to the destination.
func (t *turn) proceed() {
	if t.State == Held && t.Migration == qmp.Waiting && t.Handed && !t.Cancelled && !t.Fault {
		t.do(Continue)
	}
}

// sent: from here on the guest may run at the destination at any moment.
func (t *turn) sent() {
	t.enter(Sent, t.Limits.Switch)
	if t.Fault {
		t.recall()
	}
}

// recall lets the guest run on here after all: the destination has given its word that it does not run there.
func (t *turn) recall() {
	if t.Lost {
		t.because("the guest was lost at both ends")
		t.conclude()
		return
	}
	if t.Running {
		t.conclude()
		return
	}
	t.enter(Returning, t.Limits.Answer)
	t.do(Resume)
}

// gone: the machine has ended. Whether the guest had left before is known at the destination only: it runs there, or the
// destination says that it never will.
func (t *turn) gone(why string) {
	t.Lost, t.Known, t.Running = true, true, false
	switch t.State {
	case Awaiting, Beginning:
		t.giveUp("the machine at the source has ended: " + why)
	case Copying, Cancelling:
		t.hold(t.now)
		t.sent()
	case Held:
		t.sent()
	case Returning:
		t.recall()
	}
}

// faulted: the destination has given the move up.
func (t *turn) faulted(why string) {
	t.Fault = true
	if t.State == Sent {
		t.because("the destination gave up: " + why)
		t.recall()
		return
	}
	t.giveUp("the destination gave up: " + why)
}

// giveUp ends the move as far as that is still possible.
func (t *turn) giveUp(reason string) {
	switch t.State {
	case Awaiting, Beginning:
		t.because(reason)
		t.conclude()
	case Copying:
		t.because(reason)
		t.cancel()
		t.enter(Cancelling, t.Limits.Answer)
	case Held:
		if !t.Cancelled {
			t.because(reason)
			t.cancel()
		}
	}
}

// cancel tells the hypervisor to give up, and to say so within the time for an answer.
func (t *turn) cancel() {
	t.Cancelled = true
	t.do(Cancel)
	t.expect(t.Limits.Answer)
}

// conclude opens the ports, where they are not open, and records that the guest stays here.
func (t *turn) conclude() {
	t.Handed = false
	t.do(Restore)
	t.Outcome = fabric.MoveAborted
	if !t.Stopped.IsZero() {
		t.Outcome = fabric.MoveFailed
	}
	t.enter(Concluding, t.Limits.Answer)
	t.report(t.Outcome)
}

// overtaken: the destination holds the ports. Normally that is the end that was hoped for; if the guest runs here as well,
// its copy here loses, because the record is the authority.
func (t *turn) overtaken() {
	if t.State == Concluding || t.State == Returning || t.Running && !t.Stopped.IsZero() {
		t.alarm("The guest ran at both hosts: the destination holds its ports by the record, so the copy at the source is shut off and ended.")
	}
	t.relay()
}

// relay sends late packets on for a while. The machine here is of no use any more.
func (t *turn) relay() {
	t.enter(Relaying, t.Limits.Relay)
	if !t.Handed {
		t.do(Handoff)
	}
	t.do(Quit)
}

// sourceDone takes the success of an action.
func (t *turn) sourceDone(e Event) {
	switch e.Do {
	case Handoff:
		t.Handed = t.State == Held || t.State == Sent || t.State == Relaying
		t.proceed()
	case Finish:
		if t.State == Leaving {
			t.end(t.Outcome)
		}
	case Count:
		if t.State == Settling {
			t.Counts = e.Counts
			t.report(fabric.MoveSettled)
		}
	case Report:
		if t.State == Beginning && e.Phase == fabric.MoveCopying && e.Record.Status.Phase == fabric.MoveCopying {
			t.copy()
		}
		t.sourceSaw(e.Record)
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
	case Migrate:
		switch {
		case t.State == Copying && e.Unsure:
			t.giveUp("the order to migrate was not answered: " + e.Text)
		case !e.Unsure && (t.State == Copying || t.State == Cancelling || t.State == Held || t.State == Sent):
			t.because("the hypervisor refused: " + e.Text)
			t.conclude()
		}
	case Count:
		if t.State == Settling {
			t.report(fabric.MoveSettled)
		}
	case Report:
		if e.Record == nil && (t.State == Settling || t.State == Concluding) {
			t.leave(e.Phase)
			return
		}
		t.sourceSaw(e.Record)
	}
}

// sourceLate: the time for the state is over.
func (t *turn) sourceLate() {
	switch t.State {
	case Awaiting, Beginning:
		t.giveUp(fmt.Sprintf("the destination was not ready within %s", t.Limits.Stage))
	case Copying:
		t.giveUp(fmt.Sprintf("the guest's memory was not copied within %s", t.Limits.Copy))
	case Cancelling:
		if t.Running && t.idle() {
			t.conclude()
			return
		}
		t.cancel()
	case Held:
		t.because(fmt.Sprintf("the guest stood still for %s", t.Limits.Switch))
		t.cancel()
	case Returning:
		t.do(Resume)
		t.expect(t.Limits.Answer)
	case Sent, Relaying:
		t.wait()
	case Settling:
		t.do(Count)
		t.expect(t.Limits.Answer)
	case Concluding:
		t.do(Restore)
		t.report(t.Outcome)
		t.expect(t.Limits.Answer)
	case Leaving:
		t.do(Finish)
		t.expect(t.Limits.Answer)
	}
}

// wait is what the passing of time means once the guest has left.
func (t *turn) wait() {
	switch {
	case !t.Handed:
		t.do(Handoff)
		t.expect(t.Limits.Answer)
	case t.State == Sent:
		t.expect(0)
		t.alarm("The guest has been sent, but the destination has not said that it runs. Frames go on being sent there. Look at the destination host.")
	default:
		t.enter(Settling, t.Limits.Answer)
		t.do(Count)
	}
}

// reportSource records how far the source is.
func (t *turn) reportSource(phase fabric.Phase) {
	status := fabric.MoveStatus{Phase: phase, At: map[fabric.Phase]time.Time{}}
	if phase != fabric.MoveSwitched {
		status.At[phase] = t.now
	}
	if !t.Stopped.IsZero() {
		status.At[fabric.MoveSwitched] = t.Stopped
	}
	switch phase {
	case fabric.MoveFailed, fabric.MoveAborted:
		status.Reason = t.Reason
	case fabric.MoveSettled:
		status.Result = fabric.MoveResult{
			GuestPauseMs: milliseconds(t.Stopped, t.Active), Relayed: t.Counts.Relayed,
			Lost: t.Counts.Lost + t.Theirs.Lost, Duplicated: t.Counts.Duplicated + t.Theirs.Duplicated,
		}
	}
	t.out = append(t.out, Action{Do: Report, Status: status})
}
