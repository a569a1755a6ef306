package migration

import (
	"fmt"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// sent: from here on the guest may run at the destination at any moment.
func (t *turn) sent() {
	t.enter(Sent, t.Limits.Switch)
	if t.Handed && !t.Lost {
		// What was on its way into the device when the ports were closed; and the count, in case somebody else ends the machine, whose
		// device goes with it.
		t.do(Drain, Count)
	}
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
	if t.Past {
		t.alarm("The destination gave up after post-copy had begun and before the guest ran there. It is whole at the source, but its hypervisor may " +
			"not let it run again (QEMU: \"Migration is not finalized yet\"). Then end the machine at the source: the move ends with it.")
	}
	t.enter(Returning, t.Limits.Answer)
	t.do(Resume)
}

// noReturn: the guest's memory follows it. From here on the destination alone says where the guest is, whatever the hypervisor here
// makes of the rest: one that lets the guest run again, or is told to, has not heard what the destination did.
func (t *turn) noReturn(e Event) {
	t.Past, t.Ordered, t.Known, t.Running = true, true, true, false // where it runs still, it is about to stop
	switch t.State {
	case Copying, Cancelling:
		t.hold(e.At)
		t.sent()
	case Held:
		t.sent()
	}
	if e.Guest == qmp.Broken && (t.State == Sent || t.State == Relaying || t.State == Settling) {
		t.alarm("The guest's memory does not follow it any more: the stream of its post-copy migration is broken, and it stands still at the destination " +
			"when it misses a page. Do not end the machine at the source. Recover the migration (QEMU: migrate-recover there, migrate with resume here; libvirt: virsh migrate --postcopy-resume).")
	}
}

// spent reports whether the machine that the guest has left is of no use any more, as far as its hypervisor has told.
func (t *turn) spent() bool {
	return t.Migration == qmp.Completed || !t.Past && t.idle()
}

// owes reports whether the guest's memory is still to follow it.
func (t *turn) owes() bool {
	return !t.Lost && (t.Migration == qmp.NoReturn || t.Migration == qmp.Broken)
}

// gone: the machine has ended. Whether the guest had left before is known at the destination only: it runs there, or the
// destination says that it never will.
func (t *turn) gone(why string) {
	if t.owes() && (t.State == Relaying || t.State == Settling) {
		t.alarm("The machine at the source has ended before all of the guest's memory had followed: the guest at the destination cannot go on. Start it anew.")
	}
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

// cancel tells the hypervisor to give up, and to say so within the time for an answer. Past the point of no return that would
// tear the guest apart.
func (t *turn) cancel() {
	if t.Past {
		return
	}
	t.Cancelled, t.Waits = true, false
	t.do(Cancel)
	t.expect(t.Limits.Answer)
}

// conclude opens the ports, where they are not open, and records that the guest stays here. What the hypervisor told may
// have been about an earlier migration, said again after the connection was made anew: to cancel makes it true of this one.
func (t *turn) conclude() {
	if t.State != Awaiting && t.State != Beginning && !t.Past {
		t.do(Cancel)
	}
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

// relay sends late packets on for a while. The machine here is of no use any more, but it is ended a moment later: its
// device goes with it, and with the device the count of what was sent on.
func (t *turn) relay() {
	t.Until, t.Warned = t.now.Add(t.Limits.Relay), false
	t.enter(Relaying, min(t.Limits.Relay, t.Limits.Answer))
	if !t.Handed {
		t.do(Handoff)
	}
}

// sourceLate: the time for the state is over.
func (t *turn) sourceLate() {
	switch t.State {
	case Beginning: // the records are away: the grant was all that is needed of them
		t.do(Remember)
		t.expect(t.Limits.Answer)
	case Awaiting:
		if t.Incoming != "" {
			t.giveUp(fmt.Sprintf("the hypervisor at the source has not said within %s whether the guest runs: its QMP socket is silent, or speaks something else; see the agent's log", t.Limits.Stage))
			return
		}
		t.giveUp(fmt.Sprintf("the destination was not ready within %s", t.Limits.Stage))
	case Copying:
		if t.Migration == qmp.Completed {
			t.giveUp("the hypervisor says that the guest has been sent, and that it runs on: it is not believed")
			return
		}
		t.giveUp(fmt.Sprintf("the guest's memory was not copied within %s", t.Limits.Copy))
	case Cancelling:
		if t.Running && t.idle() {
			t.conclude()
			return
		}
		if !t.Warned {
			t.Warned = true
			t.alarm("The hypervisor at the source was told to give the migration up, and does not say that it has. The guest's ports stay open here as long as it " +
				"is not said to have stopped. Look at its QMP socket.")
		}
		t.cancel()
	case Held:
		if t.Waits {
			t.inherited()
			return
		}
		if !t.Known && !t.Warned { // an agent that begins again does not know yet whether there is a return
			t.Warned = true
			t.expect(t.Limits.Answer)
			return
		}
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
	case !t.Warned:
		t.Warned = true
		t.expect(t.Limits.Answer)
		t.do(Count)
	case t.owes():
		t.expect(t.Limits.Relay)
	default:
		if !t.spent() && !t.Lost {
			t.alarm("The machine that the guest has left does not say that it has sent it: it is left as it is. Look at it, and end it.")
		}
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
		all := t.Counts.plus(t.Drained).plus(t.Theirs)
		status.Result = fabric.MoveResult{
			GuestPauseMs: milliseconds(t.Stopped, t.Active), Relayed: all.Relayed, Lost: all.Lost, Duplicated: all.Duplicated,
		}
	}
	t.out = append(t.out, Action{Do: Report, Status: status})
}
