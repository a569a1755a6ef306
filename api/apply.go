package api

import (
	"encoding/json"
	"time"

	"github.com/weftnet/weft/fabric"
)

// ApplyRequest asks for objects to be as given: created where absent, configured where different.
type ApplyRequest struct {
	// Objects are complete nouns, each with apiVersion and kind; they are written in one transaction, all or none.
	Objects []json.RawMessage `json:"objects" maxItems:"10000" doc:"Complete objects, each with apiVersion, kind, metadata.name and spec; all are written in one transaction, or none"`
	// DryRun checks everything, allocations included, and writes nothing.
	DryRun bool `json:"dryRun,omitempty" doc:"Check everything and write nothing"`
	// ConfirmSeconds is how long the change stays unless it is confirmed; 0 means for good. The host that takes the request
	// undoes the change when the time is over, even if its agent was killed meanwhile.
	ConfirmSeconds float64 `json:"confirmSeconds,omitempty" minimum:"0" maximum:"3600" doc:"Undo the change after this time unless it is confirmed"`
}

// Pending is a change that is undone unless it is confirmed.
type Pending struct {
	Revision fabric.Revision `json:"revision"`
	UndoneAt time.Time       `json:"undoneAt"`
	// Objects are what it concerns, as kind/name.
	Objects []string `json:"objects"`
}

// Confirmed is what a host goes on with that it held for a person's word.
type Confirmed struct {
	Host fabric.HostID `json:"host"`
	// Message is a sentence for people.
	Message string `json:"message"`
}

// Outcome is what an apply did to one object.
type Outcome string

// The outcomes of an apply or delete.
const (
	Created    Outcome = "created"
	Configured Outcome = "configured"
	Unchanged  Outcome = "unchanged"
	Deleted    Outcome = "deleted"
	Renamed    Outcome = "renamed"
)

// Applied says what became of one object.
type Applied struct {
	Kind    fabric.Kind `json:"kind"`
	Name    string      `json:"name"`
	Outcome Outcome     `json:"outcome" enum:"created,configured,unchanged,deleted"`
	// Object is the object as stored, with everything that was allocated.
	Object json.RawMessage `json:"object,omitempty" doc:"The object as stored, with all that was allocated"`
}

// ApplyResult is the answer to an apply or delete.
type ApplyResult struct {
	Items []Applied `json:"items"`
	// Revision is the etcd revision of the change; it is in force on a host whose generation is at least this.
	Revision fabric.Revision `json:"revision" doc:"The change is in force on a host whose generation is at least this"`
	// TraceID is the operation's trace, 32 hex digits.
	TraceID string `json:"traceID,omitempty"`
	DryRun  bool   `json:"dryRun,omitempty"`
	// Pending is set when the change must be confirmed.
	Pending *Pending `json:"pending,omitempty"`
}
