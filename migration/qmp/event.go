package qmp

import (
	"encoding/json"
	"time"
)

// Kind is what a monitor told about the guest or its migration.
type Kind string

// The kinds of events. At the start, and whenever the connection had to be made anew, the monitor is asked for both
// states, and the answers come as events: first the migration's (Idle when there is none), then the guest's.
const (
	// Runs: the guest's processors run.
	Runs Kind = "runs"
	// Stops: they have stopped, or were found stopped.
	Stops Kind = "stops"
	// Gone: the machine has ended; nothing follows.
	Gone Kind = "gone"
	// Idle: no migration was ever tried.
	Idle Kind = "idle"
	// Copying: memory is on its way.
	Copying Kind = "copying"
	// Waiting: the guest has stopped and the migration waits for Continue before the switchover.
	Waiting Kind = "waiting"
	// Completed: at the source, the last byte has been sent; at the destination, everything has been loaded.
	Completed Kind = "completed"
	// Failed and Cancelled: at the source, the guest runs on, which Runs tells on its own.
	Failed    Kind = "failed"
	Cancelled Kind = "cancelled"
	// NoReturn: the guest goes on before its memory has followed (post-copy). From here on what it is lies at the destination; the
	// source has only the pages that are still to be fetched, and must neither run the guest nor end.
	NoReturn Kind = "no-return"
	// Broken: as NoReturn, but the pages do not follow until somebody recovers the stream.
	Broken Kind = "broken"
)

// follows reports whether the guest's memory follows it.
func (k Kind) follows() bool { return k == NoReturn || k == Broken }

// Event is something a monitor told.
type Event struct {
	Kind Kind
	// Time is QEMU's, by the wall clock of its host, for what QEMU reported by itself; that of the answer for what was asked.
	Time time.Time
	// Desc says why, for Failed and Gone.
	Desc string
}

// kinds translates the migration states that matter (qapi/migration.json).
var kinds = map[string]Kind{
	"": Idle, "none": Idle, "setup": Copying, "wait-unplug": Copying, "active": Copying, "device": Copying, "cancelling": Copying,
	"pre-switchover": Waiting, "completed": Completed, "failed": Failed, "cancelled": Cancelled,
	"postcopy-device": NoReturn, "postcopy-active": NoReturn, "postcopy-paused": Broken, "postcopy-recover-setup": NoReturn,
	"postcopy-recover": NoReturn,
}

// EventOf translates a notice; false when it does not matter.
func EventOf(n Notice) (Event, bool) {
	e := Event{Time: n.Time}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	switch n.Name {
	case "STOP":
		e.Kind = Stops
	case "RESUME":
		e.Kind = Runs
	case "MIGRATION":
		var s MigrationState
		if json.Unmarshal(n.Data, &s) != nil {
			return Event{}, false
		}
		kind, known := kinds[s.Status]
		e.Kind, e.Desc = kind, s.Desc
		return e, known && kind != Idle
	default:
		return Event{}, false
	}
	return e, true
}
