package api

import (
	"encoding/json"

	"github.com/weftnet/weft/fabric"
)

// ChangeType says what a watched change is.
type ChangeType string

// The types of a watched change.
const (
	Put    ChangeType = "put"
	Delete ChangeType = "delete"
	// Synced follows the last object that existed when the watch began.
	Synced ChangeType = "synced"
)

// WatchedChange is one line of a watch: the state of an object at a revision. A watch is level-triggered: it tells the
// newest state of each object, and may leave out states in between.
type WatchedChange struct {
	Type     ChangeType      `json:"type" enum:"put,delete,synced"`
	Kind     fabric.Kind     `json:"kind,omitempty"`
	Name     string          `json:"name,omitempty"`
	Revision fabric.Revision `json:"revision"`
	Object   json.RawMessage `json:"object,omitempty"`
}
