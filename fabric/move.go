package fabric

import "time"

// Phase is how far a move is. It only goes forward, or to failed or aborted.
type Phase string

// The phases of a move.
const (
	MoveGranted  Phase = "granted"  // epochs granted; the destination may stage
	MoveStaged   Phase = "staged"   // settings in force at the destination, read back from its kernel
	MoveCopying  Phase = "copying"  // the guest's memory is on its way
	MoveSwitched Phase = "switched" // the source guest has stopped; its host redirects
	MoveActive   Phase = "active"   // the guest's first frame left from the destination
	MoveSettled  Phase = "settled"  // the location is committed and the relay is over
	MoveFailed   Phase = "failed"   // rolled back: the guest runs at the source
	MoveAborted  Phase = "aborted"  // given up before the guest stopped
)

// Move is one live migration of a VM with all its ports.
type Move struct {
	TypeMeta
	Metadata Metadata   `json:"metadata"`
	Spec     MoveSpec   `json:"spec"`
	Status   MoveStatus `json:"status,omitzero"`
}

// MoveSpec is what was asked for.
type MoveSpec struct {
	VM    string   `json:"vm"`
	Ports []PortID `json:"ports"`
	From  HostID   `json:"from"`
	To    HostID   `json:"to"`
}

// MoveStatus is written by the two hosts of the move, each by compare-and-swap.
type MoveStatus struct {
	Phase Phase `json:"phase"`
	// Epoch is the destination's granted epoch (of the first port).
	Epoch Epoch `json:"epoch,omitempty"`
	// Incoming is where the destination's hypervisor waits, in QEMU's migration URI form.
	Incoming string `json:"incoming,omitempty"`
	// Reason says why a move failed or was aborted, with the next step.
	Reason string     `json:"reason,omitempty"`
	Result MoveResult `json:"result,omitzero"`
	// At has the time each phase was entered, on the clock of the host that entered it.
	At map[Phase]time.Time `json:"at,omitempty"`
}

// MoveResult is computed from what was measured, never from intentions.
type MoveResult struct {
	// GuestPauseMs is from the hypervisor's STOP to RESUME, in milliseconds.
	GuestPauseMs float64 `json:"guestPauseMs"`
	// FabricGapMs is what the network added to the pause: from RESUME to the guest's first forwarded frame, in milliseconds.
	FabricGapMs float64 `json:"fabricGapMs"`
	Relayed     uint64  `json:"relayed"`    // packets the source sent on
	Lost        uint64  `json:"lost"`       // packets dropped by a reason of the migration class, and by full tap queues
	Duplicated  uint64  `json:"duplicated"` // packets delivered at both hosts
	FlowsMoved  uint64  `json:"flowsMoved"`
}
