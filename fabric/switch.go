package fabric

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

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
	// Hosts are the hosts that the switch exists on; absent means all. Ports are plugged in, and moved, there alone.
	Hosts []HostID `json:"hosts,omitzero"`
	// VNI is allocated when 0.
	VNI VNI `json:"vni,omitempty"`
	// Subnets are the prefixes port addresses are allocated from, at most one IPv4 and one IPv6; none means that the
	// fabric allocates no addresses and does not guard them.
	Subnets []netip.Prefix `json:"subnets,omitempty"`
	// Gateways are those of an internal switch, at most one for each subnet; a subnet without one has its first address.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// Services are what the hosts do for the guests of an internal switch.
	Services Services `json:"services,omitzero"`
	// VLANs are the switch's segments beside the untagged one. A port that names a VLAN adds it here; absent, the list stays.
	VLANs []SwitchVLAN `json:"vlans,omitzero"`
	// MTU is the guests' MTU in bytes; 0 means the smallest underlay MTU of all hosts less the encapsulation.
	MTU int `json:"mtu,omitempty"`
	// Profile is used by ports that name none.
	Profile string `json:"profile,omitempty"`
	// Policies judge the packets of all ports on the switch, after the ports' own and their profiles'.
	Policies []string `json:"policies,omitempty"`
	// Uplinks are the NICs that an external switch is on, at most one uplink of each host. Hosts without one reach the wire through one
	// that has it. The untagged wire is the switch's own segment, and each of its VLANs the tagged one.
	Uplinks []Uplink `json:"uplinks,omitempty"`
	// HostAccess false keeps the hosts themselves off an external switch: what they send and receive by its NICs is dropped. Absent
	// means true.
	HostAccess *bool `json:"hostAccess,omitempty"`
	// ConfirmBy is when the switch loses its uplinks again unless it is confirmed; absent means that it stays.
	ConfirmBy *time.Time `json:"confirmBy,omitempty"`
	// DefaultAction, allow or deny, decides where no rule does and the profile says nothing; absent means allow.
	DefaultAction Action `json:"defaultAction,omitempty"`
	// QoS is how its ports share the hosts' ways out.
	QoS *QoS `json:"qos,omitempty"`
}

// SwitchStatus is computed when asked for.
type SwitchStatus struct {
	MTU    int      `json:"mtu,omitempty"`
	Ports  int      `json:"ports,omitempty"`
	Hosts  []HostID `json:"hosts,omitempty"`  // hosts on which the switch is in force
	Absent []HostID `json:"absent,omitempty"` // hosts on which it is not (yet)
}

// Type returns the document head.
func (s *Switch) Type() *TypeMeta { return &s.TypeMeta }

// Meta returns the metadata.
func (s *Switch) Meta() *Metadata { return &s.Metadata }

// Default leaves a switch as it is: VNI and MTU depend on the rest of the fabric.
func (s *Switch) Default() {}

// Validate checks type, VNI, subnets and MTU; the error is Findings.
func (s *Switch) Validate() error {
	var f Findings
	checkHead(&f, &s.TypeMeta, &s.Metadata, KindSwitch)
	types := []string{string(External), string(Internal), string(Private)}
	switch {
	case s.Spec.Type == "":
		f.add("spec.type", "is missing: one of %s", strings.Join(types, ", "))
	case !slices.Contains(types, string(s.Spec.Type)):
		f.add("spec.type", "%s", unknown("type", string(s.Spec.Type), types))
	}
	if s.Spec.VNI > MaxVNI {
		f.add("spec.vni", "%d does not fit: a VNI is 1 to %d; leave it out to have one allocated", s.Spec.VNI, MaxVNI)
	}
	s.checkScope(&f)
	s.checkUplinks(&f)
	six := checkSubnets(&f, "spec.subnets", s.Spec.Subnets)
	s.checkGateways(&f)
	s.checkServices(&f)
	s.checkVLANs(&f)
	switch mtu := s.Spec.MTU; {
	case mtu == 0:
	case mtu < MinMTU || mtu > MaxMTU:
		f.add("spec.mtu", "%d cannot be: an MTU is %d to %d bytes; leave it out to have it computed", mtu, MinMTU, MaxMTU)
	case six && mtu < MinMTU6:
		f.add("spec.mtu", "%d is too small for the IPv6 subnet: IPv6 needs at least %d", mtu, MinMTU6)
	}
	checkRef(&f, "spec.profile", s.Spec.Profile, false)
	checkPolicies(&f, s.Spec.Policies)
	checkDefaultAction(&f, s.Spec.DefaultAction)
	s.checkQoS(&f)
	return f.Err()
}

// checkSubnets checks each subnet and that there is at most one of each family; it reports whether one is IPv6.
func checkSubnets(f *Findings, field string, subnets []netip.Prefix) (six bool) {
	seen := map[bool]netip.Prefix{}
	for i, p := range subnets {
		path := fmt.Sprintf("%s[%d]", field, i)
		before := len(*f)
		checkPrefix(f, path, p)
		if len(*f) > before {
			continue
		}
		is6 := p.Addr().Is6()
		six = six || is6
		if other, twice := seen[is6]; twice {
			f.add(path, "%s is a second %s subnet beside %s: a segment has at most one of each family", p, family(is6), other)
			continue
		}
		seen[is6] = p
		if widest, narrowest := subnetBits(is6); p.Bits() < widest || p.Bits() > narrowest {
			f.add(path, "%s cannot be a subnet of ports: its length is /%d to /%d", p, widest, narrowest)
		} else if a := p.Addr(); a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() {
			f.add(path, "%s is not a block of unicast addresses: choose one such as 10.10.0.0/24 or fd00:10::/64", p)
		}
	}
	return six
}

// subnetBits bounds a subnet's length: room for the network, the gateway and a port at one end, one organisation at the other.
func subnetBits(is6 bool) (widest, narrowest int) {
	if is6 {
		return 16, 126
	}
	return 8, 30
}

func family(is6 bool) string {
	if is6 {
		return "IPv6"
	}
	return "IPv4"
}
