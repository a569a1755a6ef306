package api

import (
	"time"

	"github.com/weftnet/weft/fabric"
)

// MoveRequest asks for a live migration of a VM with all its ports. Exactly one of VM and Port is given.
type MoveRequest struct {
	VM   string        `json:"vm,omitempty"`
	Port fabric.PortID `json:"port,omitempty" doc:"A port of the VM, instead of its name"`
	To   fabric.HostID `json:"to"`
	// DryRun answers what would be done and changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// Relay is how long the source sends late packets on; 0 means 30 s. The shortest is 1 s.
	RelaySeconds float64 `json:"relaySeconds,omitempty" minimum:"0" maximum:"3600"`
}

// Relay is the asked-for relay time, 0 for the default.
func (r MoveRequest) Relay() time.Duration {
	return time.Duration(r.RelaySeconds * float64(time.Second))
}

// Migration is a move as the command line prints it.
type Migration struct {
	Move  fabric.MoveID `json:"move"`
	VM    string        `json:"vm"`
	From  fabric.HostID `json:"from"`
	To    fabric.HostID `json:"to"`
	Phase fabric.Phase  `json:"phase"`
	Epoch fabric.Epoch  `json:"epoch"`
	fabric.MoveResult
	// RelayUntil is when the source ceases to send late packets on; until then more may be relayed and lost. Absent when it is
	// over, or has not begun.
	RelayUntil *time.Time `json:"relayUntil,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	TraceID    string     `json:"traceID"`
}

// MigrationOf is the printed form of a move.
func MigrationOf(m *fabric.Move) Migration {
	out := Migration{
		Move: fabric.MoveID(m.Metadata.Name), VM: m.Spec.VM, From: m.Spec.From, To: m.Spec.To, Phase: m.Status.Phase, Epoch: m.Status.Epoch,
		MoveResult: m.Status.Result, Reason: m.Status.Reason, TraceID: TraceID(m.Metadata.Trace),
	}
	if until, relays := m.RelayUntil(); relays {
		out.RelayUntil = &until
	}
	return out
}

// TraceID is the trace id within a W3C traceparent, empty when there is none.
func TraceID(traceparent string) string {
	if len(traceparent) < 35 {
		return ""
	}
	return traceparent[3:35]
}

// Over reports whether a move has come to its end, good or bad.
func Over(p fabric.Phase) bool {
	return p == fabric.MoveSettled || p == fabric.MoveFailed || p == fabric.MoveAborted
}

// Left is what a port takes along from the host that it moves away from.
type Left struct {
	// Stopped says that its guest has stopped there, and that this is the last of it; before that only Flows is given.
	Stopped bool `json:"stopped"`
	// Form is the one in which the source takes part in moves; a destination that does not have it refuses.
	Form int `json:"form"`
	// Mark is what to ask for the next part with.
	Mark uint64 `json:"mark"`
	// Rules are what its rules had met there, and on the hosts where it was before.
	Rules []fabric.RuleHits `json:"rules"`
	// BacklogNs is how far its limits were used up, in the order of datapath.Backlog.
	BacklogNs []int64 `json:"backlogNs,omitempty"`
	// Flows are its connections since the mark that was asked for, in the form of datapath.ExportFlows; AgeMs is how many ms ago
	// they were read.
	Flows []byte `json:"flows,omitempty"`
	AgeMs int64  `json:"ageMs"`
}

// LeftSince asks for what a port takes along.
type LeftSince struct {
	// Mark is the last answer's; 0 asks for all.
	Mark uint64 `json:"mark"`
	// WaitMs is how long the answer may wait for the guest to stop.
	WaitMs int64 `json:"waitMs" minimum:"0" maximum:"1000"`
	// Taken says that the last of it is in force at the destination, which judges the port's packets itself from now on.
	Taken bool `json:"taken,omitempty"`
}

// Placement is a host that a VM can move to, or what stands against it.
type Placement struct {
	VM   string        `json:"vm"`
	From fabric.HostID `json:"from"`
	// To is empty where no host will do; Against then says what stands against the best.
	To fabric.HostID `json:"to,omitempty"`
	// Ports are those that the host holds already.
	Ports   int        `json:"ports"`
	Against []Obstacle `json:"against,omitempty"`
}

// Obstacle is a reason why a move would not go well.
type Obstacle struct {
	// Code is fixed: "host-unknown", "mtu-small"; Object is what it is about, as kind/name.
	Code   string `json:"code"`
	Object string `json:"object"`
	// What is found, and the next step, as sentences.
	What string `json:"what"`
	Fix  string `json:"fix"`
}
