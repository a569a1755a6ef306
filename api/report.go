package api

import "github.com/weftnet/weft/fabric"

// StatusReport is a host's word about itself.
type StatusReport struct {
	Host   fabric.HostID     `json:"host"`
	Status fabric.HostStatus `json:"status"`
}

// LocationAct is what a host does to a location record.
type LocationAct string

// The acts on a location; each is one compare-and-swap.
const (
	Claim    LocationAct = "claim"     // hold a port that nobody holds
	Commit   LocationAct = "commit"    // the granted destination takes over
	Rollback LocationAct = "rollback"  // the source keeps the port after a failed move
	Release  LocationAct = "release"   // the port is gone from the host
	Join     LocationAct = "join"      // hold the host's own port on an internal switch, which is made where it is missing
	EndRelay LocationAct = "end-relay" // the source has stopped sending late packets on
	Welcome  LocationAct = "welcome"   // make the port of a guest's NIC on the host, unless there is one with its MAC
	Receive  LocationAct = "receive"   // begin the move of a guest that its hypervisor is about to send to the host
)

// LocationReport asks a server host to write a location on behalf of the host that is named in the caller's certificate.
type LocationReport struct {
	Host fabric.HostID `json:"host"`
	Act  LocationAct   `json:"act" enum:"claim,commit,rollback,release,end-relay,join,welcome,receive"`
	Port fabric.PortID `json:"port"`
	// Switch is the one to join; other acts leave it out.
	Switch fabric.SwitchID `json:"switch,omitempty"`
	Epoch  fabric.Epoch    `json:"epoch,omitempty"`
	// VM is the guest to welcome or receive, MAC and Profile those of the NIC to welcome.
	VM      string     `json:"vm,omitempty" maxLength:"255"`
	MAC     fabric.MAC `json:"mac,omitzero"`
	Profile string     `json:"profile,omitempty"`
}

// MoveReport is a host's word about a move it takes part in; it is written only if the record is still at Revision.
type MoveReport struct {
	Host     fabric.HostID     `json:"host"`
	Move     fabric.MoveID     `json:"move"`
	Status   fabric.MoveStatus `json:"status"`
	Revision fabric.Revision   `json:"revision"`
}
