package datapath

// Priority is what becomes of the priority of a guest's packets.
type Priority struct {
	// Trusted lets the guest's 802.1p priority count: for the host's queues, in the tag of a VLAN on an external switch's wire, and as
	// class selector (RFC 2474 4.2.2) in the outer header. Otherwise it is 0.
	Trusted bool
	// DSCP copies an IP packet's to the outer header.
	DSCP bool
}

// The bits of a port's guards, the same as in bpf/types.h.
const (
	guardTrusted = 1 << 9
	guardDSCP    = 1 << 10
)

func (p Priority) bits() (bits uint32) {
	if p.Trusted {
		bits |= guardTrusted
	}
	if p.DSCP {
		bits |= guardDSCP
	}
	return bits
}

func priorityFromCore(guards uint32) Priority {
	return Priority{Trusted: guards&guardTrusted != 0, DSCP: guards&guardDSCP != 0}
}
