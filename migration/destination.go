package migration

import (
	"fmt"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// beginDestination finds where the destination's part stands. Staging again finds the machine that waits, or the guest in it.
func (t *turn) beginDestination(move *fabric.Move) {
	switch p := move.Status.Phase; {
	case p == fabric.MoveActive || p == fabric.MoveSettled:
		t.end(p)
	case p == fabric.MoveFailed || p == fabric.MoveAborted:
		t.leave(p)
	case t.Fault:
		t.enter(Surrendered, 0)
		t.do(Unstage)
	default:
		t.enter(Staging, t.Limits.Stage)
		t.do(Stage)
	}
}

// destination is one step of the destination.
func (t *turn) destination(e Event) {
	switch e.Kind {
	case Saw:
		t.destinationSaw(e.Record)
	case Told:
		t.destinationTold(e)
	case Opened:
		if t.Framed.IsZero() || !e.At.IsZero() && e.At.Before(t.Framed) {
			t.Framed = e.At
		}
		t.arrived()
	case Done:
		t.destinationDone(e)
	case Undone:
		t.destinationUndone(e)
	case Clock:
		if t.due() {
			t.destinationLate()
		}
	}
}

// destinationSaw takes what the record says.
func (t *turn) destinationSaw(m *fabric.Move) {
	if m == nil {
		if t.State != Committing && t.State != Measuring {
			t.expel(fabric.MoveAborted)
		}
		return
	}
	switch m.Status.Phase {
	case fabric.MoveFailed, fabric.MoveAborted:
		t.because(m.Status.Reason)
		t.expel(m.Status.Phase)
	case fabric.MoveSwitched:
		t.Switched = true
		t.suspect()
		if !t.Resumed.IsZero() {
			t.arrived()
		}
	case fabric.MoveActive, fabric.MoveSettled:
		if t.State == Committing {
			t.measure()
		}
		if m.Status.Phase == fabric.MoveSettled {
			t.end(fabric.MoveSettled)
		}
	}
}

// expel makes sure that the guest never sends from here: the record gives the ports to the source.
func (t *turn) expel(outcome fabric.Phase) {
	switch t.State {
	case Leaving:
		return
	case Committing, Measuring:
		t.alarm("The guest ran at both hosts: the source holds its ports by the record, so the copy at the destination is shut off and ended.")
	}
	t.do(Quit)
	t.leave(outcome)
}

// destinationTold takes what the hypervisor says.
func (t *turn) destinationTold(e Event) {
	switch e.Guest {
	case qmp.Idle, qmp.Copying, qmp.Completed, qmp.NoReturn, qmp.Broken:
		t.Migration = e.Guest
		t.suspect()
		if !t.Resumed.IsZero() {
			t.arrived()
		}
	case qmp.Runs:
		if t.Resumed.IsZero() || e.At.Before(t.Resumed) {
			t.Resumed = e.At
		}
		t.arrived()
	case qmp.Failed:
		t.surrender("the guest could not be loaded: " + e.Text)
	case qmp.Gone:
		t.Lost = true
		if t.State == Surrendering {
			t.do(Unstage)
			return
		}
		t.surrender("the machine at the destination has ended: " + e.Text)
	}
}

// suspect sets a time for the stream to begin, once the source's guest has stopped: if its machine died before it sent
// anything, nobody else would ever notice.
func (t *turn) suspect() {
	if t.State == Watching && t.Switched && t.Migration == qmp.Idle && t.Deadline.IsZero() {
		t.expect(t.Limits.Switch + t.Limits.Answer)
	}
}

// arrived: the guest runs here. A hypervisor that says so although nothing was ever sent to it is not believed, unless a frame comes.
func (t *turn) arrived() {
	if t.Migration == qmp.Idle && !t.Switched && t.Framed.IsZero() {
		return
	}
	switch t.State {
	case Staging, Offering, Watching, Surrendering:
		t.enter(Committing, t.Limits.Answer)
		t.report(fabric.MoveActive)
	case Measuring:
		t.measured()
	case Surrendered, Leaving:
		t.alarm("The guest runs at the destination although it was given up there: its ports are closed.")
	}
}

// surrender gives the destination's epoch up, before anybody has run by it. The order is what makes the word true: the
// machine ends, the ports are closed, and then it is said.
func (t *turn) surrender(reason string) {
	switch t.State {
	case Staging, Offering, Watching:
	default:
		return // a guest that has run is not given back, even if it died at once
	}
	t.because(reason)
	t.enter(Surrendering, t.Limits.Answer)
	t.yield()
}

// yield does the next part of a surrender. A machine that was never offered is no danger: nobody knows where it waits.
func (t *turn) yield() {
	if t.Incoming == "" || t.Lost {
		t.do(Unstage, Quit)
		return
	}
	t.do(Quit)
}

// measure completes the figures after the commit.
func (t *turn) measure() {
	t.enter(Measuring, t.Limits.Answer)
	t.measured()
}

// measured asks for the counters once both times are known.
func (t *turn) measured() {
	if !t.Resumed.IsZero() && !t.Framed.IsZero() {
		t.do(Count)
	}
}

// destinationDone takes the success of an action.
func (t *turn) destinationDone(e Event) {
	switch e.Do {
	case Stage:
		if t.State == Staging {
			t.Incoming = e.Incoming
			t.enter(Offering, 0)
			t.report(fabric.MoveStaged)
		}
	case Unstage:
		switch t.State {
		case Surrendering:
			t.enter(Surrendered, t.Limits.Answer)
			t.report("")
		case Leaving:
			t.end(t.Outcome)
		}
	case Count:
		if t.State == Measuring {
			t.Counts = e.Counts
			t.report(fabric.MoveActive)
			t.end(fabric.MoveActive)
		}
	case Report:
		switch {
		case t.State == Offering:
			t.enter(Watching, 0)
			t.suspect()
		case t.State == Surrendered:
			t.expect(0)
		}
		t.destinationSaw(e.Record)
	}
}

// destinationUndone takes the failure of an action.
func (t *turn) destinationUndone(e Event) {
	switch e.Do {
	case Stage:
		if t.Incoming == "" {
			t.surrender("the destination could not be made ready: " + e.Text)
			return
		}
		// The source may have begun to send. Only the end of the machine shows that the guest does not run in it.
		t.alarm("The machine that waits for the guest cannot be watched: " + e.Text)
		t.expect(t.Limits.Answer)
	case Unstage:
		t.alarm("The destination's ports cannot be closed: " + e.Text)
	case Count:
		if t.State == Measuring {
			t.report(fabric.MoveActive)
			t.end(fabric.MoveActive)
		}
	case Report:
		t.destinationSaw(e.Record)
		switch {
		case e.Record == nil && (t.State == Committing || t.State == Measuring):
			t.end(fabric.MoveActive)
		case t.State == Committing && e.Record.Status.Fault != "":
			t.expel(fabric.MoveFailed)
		}
	}
}

// destinationLate: the time for the state is over.
func (t *turn) destinationLate() {
	switch t.State {
	case Staging:
		if t.Incoming == "" {
			t.surrender(fmt.Sprintf("the destination was not ready within %s", t.Limits.Stage))
			return
		}
		t.do(Stage)
		t.expect(t.Limits.Stage)
	case Watching:
		switch {
		case t.Migration != qmp.Idle:
			t.expect(0)
		case !t.Warned: // an agent that was frozen hears of the time before it hears what was told in that time
			t.Warned = true
			t.expect(t.Limits.Answer)
		default:
			t.surrender("the source's guest has stopped, but nothing was sent")
		}
	case Committing:
		t.report(fabric.MoveActive)
		t.expect(t.Limits.Answer)
	case Measuring:
		t.do(Count)
		t.expect(t.Limits.Answer)
	case Surrendering:
		t.yield()
		t.expect(t.Limits.Answer)
	case Leaving:
		t.do(Unstage)
		t.expect(t.Limits.Answer)
	case Surrendered:
		t.report("")
		t.expect(t.Limits.Answer)
	}
}

// report records how far the destination is; an empty phase reports that it has given up.
func (t *turn) report(phase fabric.Phase) {
	if t.Role == Source {
		t.reportSource(phase)
		return
	}
	status := fabric.MoveStatus{Phase: phase}
	switch phase {
	case "":
		status.Fault = t.Reason
	case fabric.MoveStaged:
		status.Incoming = t.Incoming
		status.At = map[fabric.Phase]time.Time{phase: t.now}
	case fabric.MoveActive:
		at := t.Resumed
		if at.IsZero() {
			at = t.Framed
		}
		if at.IsZero() {
			at = t.now
		}
		status.At = map[fabric.Phase]time.Time{phase: at}
		status.Result = fabric.MoveResult{FabricGapMs: gap(t.Resumed, t.Framed), Lost: t.Counts.Lost, Duplicated: t.Counts.Duplicated}
	}
	t.out = append(t.out, Action{Do: Report, Status: status})
}
