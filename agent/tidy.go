package agent

import (
	"maps"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
)

// tidy forgets what the host knew and the records have settled since: handoffs and stagings of moves that are over, and
// attachments whose device has gone while the port lives elsewhere, or nowhere any more.
func (k *keeper) tidy() {
	next := k.local.clone()
	for port, h := range next.Handoffs {
		if loc := k.snap.Locations[port]; loc.Host != k.host || loc.Epoch != h.Epoch {
			delete(next.Handoffs, port)
		}
	}
	for port, move := range next.Staged {
		loc := k.snap.Locations[port]
		if loc.Grant != nil && loc.Grant.Move == move {
			continue
		}
		delete(next.Staged, port)
		if loc.Host != k.host {
			delete(next.Attachments, port)
		}
	}
	for port, id := range next.Expects {
		if move := k.snap.Moves[id]; move == nil || location.Over(move.Status.Phase) {
			delete(next.Expects, port)
		}
	}
	for move := range next.Moves {
		if !k.awaits(next, move) {
			delete(next.Moves, move)
		}
	}
	for id := range next.Begun {
		if move := k.snap.Moves[id]; move == nil || move.Status.Phase != fabric.MoveGranted && move.Status.Phase != fabric.MoveStaged {
			delete(next.Begun, id) // the record says it now
		}
	}
	for port, at := range next.Attachments {
		if k.present[at.Device] == 0 && !k.concerns(port) {
			delete(next.Attachments, port)
		}
	}
	if next.equal(k.local) {
		return
	}
	if err := next.save(k.stateDir); err != nil {
		k.log.Error("what the host knows cannot be kept; it is tried again", "error", err)
		return
	}
	k.local, k.want = next, nil
}

// awaits reports whether a port is staged for the move.
func (k *keeper) awaits(l local, move fabric.MoveID) bool {
	for _, m := range l.Staged {
		if m == move {
			return true
		}
	}
	return false
}

// concerns reports whether the records connect the port with this host.
func (k *keeper) concerns(port fabric.PortID) bool {
	loc, held := k.snap.Locations[port]
	return held && (loc.Host == k.host || loc.From == k.host || loc.Grant != nil && loc.Grant.To == k.host)
}

// equal compares.
func (l local) equal(other local) bool {
	return maps.Equal(l.Attachments, other.Attachments) && maps.Equal(l.Handoffs, other.Handoffs) &&
		maps.Equal(l.Staged, other.Staged) && maps.Equal(l.Expects, other.Expects) && maps.Equal(l.Moves, other.Moves) &&
		maps.Equal(l.Begun, other.Begun) && l.Libvirt == other.Libvirt
}
