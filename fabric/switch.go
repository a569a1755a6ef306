package fabric

import "net/netip"

// SwitchType says who may be on a switch.
type SwitchType string

// The three switch types.
const (
	External SwitchType = "external" // on a physical NIC
	Internal SwitchType = "internal" // VMs and the hosts themselves
	Private  SwitchType = "private"  // VMs only
)

// Switch is one layer-2 segment across all hosts.
type Switch struct {
	TypeMeta
	Metadata Metadata     `json:"metadata"`
	Spec     SwitchSpec   `json:"spec"`
	Status   SwitchStatus `json:"status,omitzero"`
}

// SwitchSpec is what the operator asks for.
type SwitchSpec struct {
	Type SwitchType `json:"type"`
	// VNI is allocated when 0.
	VNI VNI `json:"vni,omitempty"`
	// Subnets are the prefixes port addresses are allocated from, at most one IPv4 and one IPv6; none means that the
	// fabric allocates no addresses and does not guard them.
	Subnets []netip.Prefix `json:"subnets,omitempty"`
	// MTU is the guests' MTU in bytes; 0 means the smallest underlay MTU of all hosts less the encapsulation.
	MTU int `json:"mtu,omitempty"`
	// Profile is used by ports that name none.
	Profile string `json:"profile,omitempty"`
}

// SwitchStatus is computed when asked for.
type SwitchStatus struct {
	MTU    int      `json:"mtu,omitempty"`
	Ports  int      `json:"ports,omitempty"`
	Hosts  []HostID `json:"hosts,omitempty"`  // hosts on which the switch is in force
	Absent []HostID `json:"absent,omitempty"` // hosts on which it is not (yet)
}
