package fabric

import (
	"fmt"
	"time"
)

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

// DefaultRelay is how long the source sends late packets on where a move does not say.
const DefaultRelay = 30 * time.Second

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
	// Driver is libvirt when libvirt sends the guest and weft takes its network along; empty when weft has it sent.
	Driver MoveDriver `json:"driver,omitempty"`
	// Abort asks both hosts to give the move up; it is honoured until the guest's state has left the source.
	Abort bool `json:"abort,omitempty"`
	// RelaySeconds is how long the source sends late packets on after the switchover; 0 means DefaultRelay.
	RelaySeconds float64 `json:"relaySeconds,omitempty"`
}

// MoveDriver is who has the guest sent.
type MoveDriver string

// DriverLibvirt: libvirt has been told to migrate the guest.
const DriverLibvirt MoveDriver = "libvirt"

// MoveStatus is written by the two hosts of the move, each by compare-and-swap.
type MoveStatus struct {
	Phase Phase `json:"phase"`
	// Epoch is the destination's granted epoch (of the first port).
	Epoch Epoch `json:"epoch,omitempty"`
	// Incoming is where the destination's hypervisor waits, in QEMU's migration URI form.
	Incoming string `json:"incoming,omitempty"`
	// Fault is the destination's word that the guest does not run there and never will by this move, and why: it has closed
	// its ports and given its epoch up, so that the source may let the guest run on.
	Fault string `json:"fault,omitempty"`
	// Reason says why a move failed or was aborted, with the next step.
	Reason string     `json:"reason,omitempty"`
	Result MoveResult `json:"result,omitzero"`
	// At has the time each phase was entered, on the clock of the host that entered it.
	At map[Phase]time.Time `json:"at,omitzero"`
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

// Type returns the document head.
func (m *Move) Type() *TypeMeta { return &m.TypeMeta }

// Meta returns the metadata.
func (m *Move) Meta() *Metadata { return &m.Metadata }

// RelayUntil is when the source ceases to send late packets on; ok is false when the move is not in that phase.
func (m *Move) RelayUntil() (until time.Time, ok bool) {
	active, known := m.Status.At[MoveActive]
	if m.Status.Phase != MoveActive || !known {
		return time.Time{}, false
	}
	relay := DefaultRelay
	if s := m.Spec.RelaySeconds; s > 0 {
		relay = time.Duration(s * float64(time.Second))
	}
	return active.Add(relay), true
}

// Default leaves a move as it is.
func (m *Move) Default() {}

// Validate checks the names; the error is Findings.
func (m *Move) Validate() error {
	var f Findings
	checkHead(&f, &m.TypeMeta, &m.Metadata, KindMove)
	if vm := m.Spec.VM; len(vm) > MaxName || !vmExpr.MatchString(vm) {
		f.add("spec.vm", "%s must match %s and have at most %d characters", quote(vm), vmPattern, MaxName)
	}
	if len(m.Spec.Ports) == 0 {
		f.add("spec.ports", "is empty: a move names the VM's ports")
	}
	for i, p := range m.Spec.Ports {
		checkRef(&f, fmt.Sprintf("spec.ports[%d]", i), string(p), true)
	}
	if d := m.Spec.Driver; d != "" && d != DriverLibvirt {
		f.add("spec.driver", "%s is no driver of moves: write libvirt, or leave it out", quote(string(d)))
	}
	checkRef(&f, "spec.from", string(m.Spec.From), true)
	checkRef(&f, "spec.to", string(m.Spec.To), true)
	if m.Spec.From != "" && m.Spec.From == m.Spec.To {
		f.add("spec.to", "%s is where the VM already is: name another host", quote(string(m.Spec.To)))
	}
	return f.Err()
}
