package api

import "github.com/weftnet/weft/fabric"

// HypervisorAct is what a host's hypervisor is about to do with a guest, or has done.
type HypervisorAct string

// The acts. When one is refused, the hypervisor gives up what it was about to do.
const (
	GuestPlug    HypervisorAct = "plug"    // a NIC is about to be made: its port is made where there is none
	GuestBegin   HypervisorAct = "begin"   // the devices are there: their ports are in force before the guest starts
	GuestReceive HypervisorAct = "receive" // the guest is about to be sent here: its move begins
	GuestEnded   HypervisorAct = "ended"   // the guest's machine has ended here
	GuestRelease HypervisorAct = "release" // the ports may be held elsewhere
	GuestUnplug  HypervisorAct = "unplug"  // a NIC is gone
)

// HypervisorCall is what a hypervisor's hook tells the agent of its host.
type HypervisorCall struct {
	Act  HypervisorAct `json:"act" enum:"plug,begin,receive,ended,release,unplug"`
	VM   string        `json:"vm" minLength:"1" maxLength:"255"`
	NICs []GuestNIC    `json:"nics" maxItems:"64"`
}

// GuestNIC is a NIC as the hypervisor knows it. What it does not know at that time is empty.
type GuestNIC struct {
	MAC fabric.MAC `json:"mac"`
	// Bridge is the bridge that stands for the switch on the host; Network the hypervisor's own name of the network, the switch's.
	Bridge  string `json:"bridge,omitempty"`
	Network string `json:"network,omitempty"`
	// Profile is the profile that the guest's description asks for.
	Profile string `json:"profile,omitempty"`
	// Device is the network device on the host.
	Device string `json:"device,omitempty"`
}

// IntegrateRequest asks a host to make its hypervisor use the fabric, or with Undo to leave it as if weft had never been there.
type IntegrateRequest struct {
	Undo bool `json:"undo,omitempty"`
	// DryRun only says what would be done.
	DryRun bool `json:"dryRun,omitempty"`
}

// Integration is what was, or would be, changed.
type Integration struct {
	Host    fabric.HostID       `json:"host"`
	Changes []IntegrationChange `json:"changes"`
	// Restart is true when the hypervisor's daemon must be started anew to see the changes; guests run on meanwhile.
	Restart bool `json:"restart,omitempty"`
}

// IntegrationChange is one difference.
type IntegrationChange struct {
	// Object is a file's path, or "network NAME".
	Object string `json:"object"`
	// Diff is what changes, each line with - or + before it.
	Diff string `json:"diff"`
}
