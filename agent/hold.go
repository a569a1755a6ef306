package agent

import (
	"fmt"

	"github.com/weftnet/weft/fabric"
)

// hold is a snapshot that removes so much at once that a person must confirm it: a slip of the hand or a restored backup
// looks like this, and what runs is worth more than what is written.
type hold struct {
	snap    *fabric.Snapshot
	removed int
	of      int
}

// Removing fewer ports than this, or no larger part, is never held.
const (
	heldPorts    = 10
	heldFraction = 10 // one in ten
)

// holds returns the hold that next is to be put on, nil when it may be accepted. It is always compared with what is accepted,
// so what is held stays held until it is confirmed, or no longer removes as much.
func holds(accepted, next *fabric.Snapshot) *hold {
	if accepted == nil {
		return nil
	}
	h := &hold{snap: next}
	for name, port := range accepted.Ports {
		if port.IsHost() {
			continue // they go with their switch
		}
		h.of++
		if next.Ports[name] == nil {
			h.removed++
		}
	}
	if h.removed < heldPorts || h.removed*heldFraction <= h.of {
		return nil
	}
	return h
}

// reason says what is held and how to go on.
func (h *hold) reason() string {
	return fmt.Sprintf("revision %d removes %d of %d ports at once, so this host keeps what it has: restore the ports, or confirm on this host with 'weft confirm --held'",
		h.snap.Revision, h.removed, h.of)
}
