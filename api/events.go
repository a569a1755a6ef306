package api

import "github.com/weftnet/weft/fabric"

// HostSilent is the type of an event that no host has written: the answering host says that the event's host does not
// answer, so that what happened there is missing from the stream.
const HostSilent = "host.silent"

// HostEvent is one line of a host's own events.
type HostEvent struct {
	// Seq is the event's number on its host; the stream goes on after it when it is given as `after`.
	Seq   uint64        `json:"seq,omitempty"`
	Event *fabric.Event `json:"event,omitempty"`
	// CaughtUp follows the last event that was there when the stream began; what comes later has just happened.
	CaughtUp bool `json:"caughtUp,omitempty"`
}
