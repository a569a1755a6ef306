package fabric

import "time"

// Event is something that happened on a host, with its cause.
type Event struct {
	Time time.Time `json:"time"`
	Host HostID    `json:"host"`
	// Type is a dotted name: "port.active", "switch.in-force", "datapath.repaired".
	Type string `json:"type"`
	// Object is what it happened to, as kind/name.
	Object string `json:"object,omitempty"`
	// Message is a sentence for people.
	Message string `json:"message"`
	// TraceID is the operation that caused it, 32 hex digits.
	TraceID    string   `json:"traceID,omitempty"`
	Generation Revision `json:"generation,omitempty"`
}
