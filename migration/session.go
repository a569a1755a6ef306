package migration

import (
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// Role is which end of the move a host is.
type Role string

// The two ends.
const (
	Source      Role = "source"
	Destination Role = "destination"
)

// State is where one host's part of a move stands.
//
// At the source:
//
//	            staged          recorded          STOP             completed         active           Relay over
//	awaiting ──────────► beginning ─────► copying ─────► held ───────────────► sent ─────────► relaying ───────► settling ──► leaving ──► ended
//	    │                    │               │  ▲          │ │                   │                  ▲
//	    │ fault, abort,      │               │  └─ RESUME ─┘ │ failed,           │ fault            │ active: the destination's
//	    │ time               │     ┌─────────┘   (cancelling)│ cancelled         ▼                  │ commit won
//	    │                    │     │ failed, cancelled       ├──────────► returning                 │
//	    ▼                    ▼     ▼                         │                   │ RESUME           │
//	 concluding ◄──────────────────────────────────────────────── restored ──────┘ ─────────────────┘
//	    └────► leaving ──► ended (aborted: the guest never stopped; failed: it did)
//
// Post-copy (NoReturn) leads from copying, cancelling and held to sent, past which nothing is cancelled; relaying lasts until the
// guest's memory has followed.
//
// At the destination:
//
//	          ready           recorded           RESUME, first frame              recorded
//	staging ─────────► offering ────────► watching ─────────────────► committing ─────────► measuring ──► ended
//	    │ failed, time     │ gone            │ gone                        │ refused
//	    └──────────────────┴─────────────────┴──► surrendering ► surrendered ──┴──► leaving ──► ended (failed, aborted)
type State string

// The states of the source.
const (
	Awaiting   State = "awaiting"   // for the destination to be staged
	Beginning  State = "beginning"  // the copy is being recorded, or remembered here when nobody records it
	Copying    State = "copying"    // the hypervisor sends memory; the guest runs here
	Cancelling State = "cancelling" // the guest runs here; the hypervisor was told to give up
	Held       State = "held"       // the guest has stopped; its frames go to the destination
	Sent       State = "sent"       // the last byte has left: the guest runs on here only if the destination gives up
	Returning  State = "returning"  // the guest is about to run on here
	Relaying   State = "relaying"   // the destination holds the ports; late packets are sent on
	Settling   State = "settling"   // the end of the relay is being recorded
	Concluding State = "concluding" // the guest runs here; that is being recorded
)

// The states of the destination.
const (
	Staging      State = "staging"      // machine and ports are being made ready
	Offering     State = "offering"     // that they are ready is being recorded
	Watching     State = "watching"     // for the guest to run here
	Committing   State = "committing"   // it runs here; that is being recorded
	Measuring    State = "measuring"    // recorded; the figures are being completed
	Surrendering State = "surrendering" // the guest does not run here; the ports are being closed
	Surrendered  State = "surrendered"  // they are closed; that the epoch is given up is being recorded, or is
)

// The last states of either host.
const (
	Leaving State = "leaving" // the record says how the move ended; the plane is being brought in line with it
	Ended   State = "ended"
)

// Session is one host's part of one move. It is a value: Step returns the next one.
type Session struct {
	Role   Role
	State  State
	Limits Limits
	// Outcome is how the move ended for this host, once State is Ended; before that, what is being recorded.
	Outcome fabric.Phase
	// Reason says why the move is given up.
	Reason string
	// Deadline is when Step wants a Clock event; zero when never.
	Deadline time.Time

	// Incoming is where the destination waits.
	Incoming string
	// Fault is true once the destination has given the move up.
	Fault bool
	// Active is when the guest ran at the destination, by that host's clock, from the record.
	Active time.Time
	// Until is when the relay ends.
	Until time.Time

	// Known and Running are what the hypervisor last told of the guest, and Migration of its migration.
	Known, Running bool
	Migration      qmp.Kind
	// Ordered is true once this session has ordered the migration, Handed while the plane sends frames on, Cancelled once the
	// hypervisor was told to give up, Lost once the machine has ended, Warned after the first of a state's two deadlines.
	Ordered, Handed, Cancelled, Lost, Warned bool
	// Inherited is true once the destination has what the ports take along, or is no longer waited for; Waits while it is.
	Inherited, Waits bool
	// Past is true once the hypervisor has said that there is no return: the guest's memory follows it.
	Past bool
	// Switched is true at the destination once the source has said that its guest stopped.
	Switched bool

	// Stopped, Resumed and Framed are when the guest stopped at the source, ran at the destination, and sent its first frame
	// there; zero while unknown.
	Stopped, Resumed, Framed time.Time
	// Counts are this host's, Drained those of what its devices still held, Theirs those that the destination put into the record.
	Counts, Drained, Theirs Counts
}

// Kind is what an Event tells.
type Kind string

// The kinds of events.
const (
	Saw       Kind = "saw"       // the record, as it is now
	Told      Kind = "told"      // the hypervisor told something
	Opened    Kind = "opened"    // the kernel let the guest's first frame pass at the destination
	Done      Kind = "done"      // an action succeeded
	Undone    Kind = "undone"    // an action failed for good
	Clock     Kind = "clock"     // time has passed
	Inherited Kind = "inherited" // the destination has taken over what the ports take along
)

// Event is what a session learns. It may come twice, late, or not at all.
type Event struct {
	Kind Kind
	// Now is this host's time.
	Now time.Time
	// At is when it happened, where somebody measured it: the hypervisor for Told, the kernel for Opened.
	At time.Time
	// Record is the move, for Saw, and for Done and Undone of Report; nil when it was deleted.
	Record *fabric.Move
	// Guest is what the hypervisor told.
	Guest qmp.Kind
	// Do is the action that Done and Undone are about, and Phase what it reported.
	Do    Do
	Phase fabric.Phase
	// Incoming is the result of Stage, Counts that of Count and Drain.
	Incoming string
	Counts   Counts
	// Unsure says that what is Undone may have been done all the same: the answer was lost.
	Unsure bool
	// Text says why, for Undone and for what the hypervisor told.
	Text string
}

// Do is what a session wants done.
type Do string

// The actions. The runner carries them out in order, except that it makes reports beside them, and the newest only.
const (
	Handoff  Do = "handoff"  // SourcePlane.Handoff
	Drain    Do = "drain"    // Drainer.Drain
	Restore  Do = "restore"  // SourcePlane.Restore
	Finish   Do = "finish"   // SourcePlane.Finish
	Stage    Do = "stage"    // DestinationPlane.Stage
	Unstage  Do = "unstage"  // DestinationPlane.Unstage
	Count    Do = "count"    // Counted
	Migrate  Do = "migrate"  // Sender.Migrate
	Continue Do = "continue" // Sender.Continue
	Cancel   Do = "cancel"   // Sender.Cancel
	Resume   Do = "resume"   // Sender.Resume
	Announce Do = "announce" // Guest.Announce
	Quit     Do = "quit"     // Guest.Quit
	Report   Do = "report"   // Records.Advance, until it is accepted or refused
	Remember Do = "remember" // SourcePlane.Remember
	Alarm    Do = "alarm"    // tell a person
)

// Action is one thing to be done.
type Action struct {
	Do Do
	// Status is what to report.
	Status fabric.MoveStatus
	// Text is the alarm, or where to migrate to.
	Text string
}

// Begin is the session of a host that finds the move's record as it is: newly granted, or at any later point after the
// host's agent was away. The actions are the first ones.
func Begin(role Role, move *fabric.Move, limits Limits, now time.Time) (Session, []Action) {
	t := &turn{Session: Session{Role: role, Limits: limits.For(move), Incoming: move.Status.Incoming}, now: now}
	t.Stopped = move.Status.At[fabric.MoveSwitched]
	t.Fault = move.Status.Fault != ""
	if role == Source {
		t.beginSource(move)
	} else {
		t.beginDestination(move)
	}
	return t.Session, t.out
}

// Step is what a session makes of an event: the session after it, and what is to be done now.
func Step(s Session, e Event) (Session, []Action) {
	if s.State == Ended {
		return s, nil
	}
	t := &turn{Session: s, now: e.Now}
	if s.Role == Source {
		t.source(e)
	} else {
		t.destination(e)
	}
	return t.Session, t.out
}

// turn is one step under way.
type turn struct {
	Session
	now time.Time
	out []Action
}

// do adds actions.
func (t *turn) do(all ...Do) {
	for _, d := range all {
		t.out = append(t.out, Action{Do: d})
	}
}

// alarm tells a person.
func (t *turn) alarm(text string) { t.out = append(t.out, Action{Do: Alarm, Text: text}) }

// enter changes the state; limit is how long it may last, 0 for ever.
func (t *turn) enter(s State, limit time.Duration) {
	t.State = s
	t.expect(limit)
}

// expect sets the deadline.
func (t *turn) expect(limit time.Duration) {
	t.Deadline = time.Time{}
	if limit > 0 {
		t.Deadline = t.now.Add(limit)
	}
}

// end ends the session.
func (t *turn) end(outcome fabric.Phase) {
	t.enter(Ended, 0)
	t.Outcome = outcome
}

// leave brings the plane in line with how the move ended, as the last thing.
func (t *turn) leave(outcome fabric.Phase) {
	t.Outcome = outcome
	t.enter(Leaving, t.Limits.Answer)
	if t.Role == Source {
		t.do(Finish)
	} else {
		t.do(Unstage)
	}
}

// due reports whether a clock event is for the deadline that is set now, and not for one that has passed.
func (t *turn) due() bool { return !t.Deadline.IsZero() && !t.now.Before(t.Deadline) }

// reason keeps the first reason.
func (t *turn) because(reason string) {
	if t.Reason == "" {
		t.Reason = reason
	}
}

// milliseconds between two times; 0 when one is unknown, or when the clocks of the hosts disagree by more than there was.
func milliseconds(from, to time.Time) float64 {
	if from.IsZero() || to.Before(from) {
		return 0
	}
	return float64(to.Sub(from).Microseconds()) / 1000
}

// gap is what the network added, in milliseconds: from when the guest ran to its first frame, both by this host's clock; 0 when
// one is unknown. A hypervisor's own announcement may come before it says that the guest runs: then the gap is the resolution of
// its clock, a microsecond.
func gap(resumed, framed time.Time) float64 {
	if resumed.IsZero() || framed.IsZero() {
		return 0
	}
	return float64(max(framed.Sub(resumed).Microseconds(), 1)) / 1000
}
