package plan

import (
	"net/netip"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// Local is what only this host knows: which devices are plugged into which ports, and how far its own part of a running
// move is. The zero value is a host without guests.
type Local struct {
	// VTEP is this host's own tunnel end point, from its configuration.
	VTEP netip.Addr
	// Attachments are the devices plugged in here.
	Attachments map[fabric.PortID]Attachment
	// NICs are the devices here that a switch can be on.
	NICs map[string]bool
	// Idle are those that a switch could be on, and that lead nowhere now. Settled are those of NICs that have had a link for a while, Leads
	// the ones that lead now: a NIC that has come back takes over again only when it is settled.
	Idle, Settled, Leads map[string]bool
	// Others are the hosts that report, with the NICs that a switch can be on there; nil while that is not known. A host that is silent keeps the uplinks it
	// has, because what its kernel was told it does without an agent; it is not chosen to carry for others.
	Others map[fabric.HostID]map[string]bool
	// Unconfirmed are the switches whose time to be confirmed has passed.
	Unconfirmed map[fabric.SwitchID]bool
	// Ended are the mirrors whose time is over.
	Ended map[string]bool
	// Handoffs are the ports whose guest has stopped here for a move.
	Handoffs map[fabric.PortID]Handoff
	// Staged names, per port, the move this host has prepared itself to receive.
	Staged map[fabric.PortID]fabric.MoveID
	// Expects names, per port, the move whose source judges what the port receives until this host knows its connections.
	Expects map[fabric.PortID]fabric.MoveID
}

// Attachment is a device of this host that carries a port.
type Attachment struct {
	Device string            `json:"device"`
	Kind   datapath.PortKind `json:"kind"`
}

// Handoff is a port whose guest has stopped here: late frames go on to the host To. It is void as soon as the location's
// epoch is no longer Epoch, because then etcd knows better: the move was committed, or rolled back.
type Handoff struct {
	To    fabric.HostID `json:"to"`
	Epoch fabric.Epoch  `json:"epoch"`
	// Judges says that this host judges what the port receives, until the other knows its connections.
	Judges bool `json:"judges,omitempty"`
}
