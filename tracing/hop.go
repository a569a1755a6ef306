package tracing

import (
	"net/netip"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Hop is one stage of one frame on one host, as the datapath recorded it. The datapath fills everything but Host, which
// the agent adds before a hop leaves its machine.
type Hop struct {
	Host fabric.HostID `json:"host,omitempty"`
	// Port and Device are the port concerned: where the frame came from at port.in and guard, where it goes at port.out.
	Port   fabric.PortID `json:"port,omitempty"`
	Device string        `json:"device,omitempty"`
	// Ifindex is the kernel's number of Device, in the host's network namespace.
	Ifindex uint32 `json:"ifindex,omitempty"`

	Stage  Stage  `json:"stage"`
	Result Result `json:"result"`
	// Reason is set where Result is drop or caught.
	Reason Reason `json:"reason,omitempty"`

	// Time is the wall clock of the host that recorded the hop; Ktime its CLOCK_MONOTONIC in ns, which orders the hops of one
	// host without jumps.
	Time  time.Time `json:"time,omitzero"`
	Ktime uint64    `json:"ktime,omitempty"`

	// Label is the frame's label (see Label), 0 when it has none; Session the session that asked for the record, 0 for none.
	Label   uint64 `json:"label,string,omitempty"`
	Session uint16 `json:"session,omitempty"`

	VNI fabric.VNI `json:"vni,omitempty"`
	// Peer is the other tunnel end point: the outer destination on the way out, the outer source on the way in.
	Peer netip.Addr `json:"peer,omitzero"`
	// Generation is the revision of the settings that the frame was judged under; its low 32 bits in the datapath.
	Generation fabric.Revision `json:"generation,omitempty"`

	// RuleID is the number of the rule that decided at policy.out or policy.in, made of its policy's name and its own (policy.ID);
	// 0 where none did. Policy and Rule are these names, which the agent adds; a default action has no policy.
	RuleID uint64 `json:"ruleID,string,omitempty"`
	Policy string `json:"policy,omitempty"`
	Rule   string `json:"rule,omitempty"`

	// Length is the frame's length in bytes from the inner Ethernet header on.
	Length uint32 `json:"length,omitempty"`
	// Source and Destination are the inner addresses (ARP: sender and target), Protocol the IP protocol number; the ports
	// are 0 for protocols that have none.
	Source          netip.Addr `json:"source,omitzero"`
	SourcePort      uint16     `json:"sourcePort,omitempty"`
	Destination     netip.Addr `json:"destination,omitzero"`
	DestinationPort uint16     `json:"destinationPort,omitempty"`
	Protocol        uint8      `json:"protocol,omitempty"`
}

// Ends reports whether the frame's way ends at this hop.
func (h Hop) Ends() bool {
	switch h.Result {
	case ResultDeliver, ResultCaught, ResultAnswered, ResultDrop:
		return true
	}
	return false
}

// Arrives reports whether the frame's way ends at this hop as its sender wanted: delivered to the guest, answered in the
// guest's place, or, being a probe, caught just before the guest.
func (h Hop) Arrives() bool {
	return h.Ends() && (h.Result != ResultDrop || h.Reason == ReasonProbeCaught)
}
