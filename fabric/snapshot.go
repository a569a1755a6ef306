package fabric

import (
	"maps"
	"net/netip"
)

// Snapshot is the whole wanted state at one revision: what an agent plans from. It is immutable once handed out.
type Snapshot struct {
	Revision Revision
	// Incarnation identifies the etcd data this snapshot was read from; it changes when an operator confirms a restore.
	Incarnation string
	// Problems says in sentences what is wrong with the data itself: records that cannot be read (their last good version is
	// still in the snapshot), or a hold because etcd went back in time. Each ends with the next step.
	Problems  []string
	Hosts     map[HostID]*Host
	Switches  map[SwitchID]*Switch
	Ports     map[PortID]*Port
	Profiles  map[string]*Profile
	Groups    map[string]*Group
	Policies  map[string]*Policy
	Mirrors   map[string]*Mirror
	Moves     map[MoveID]*Move
	Locations map[PortID]Location
}

// With is the snapshot as it would be with objects in the place of those of the same names; s stays as it is. Moves and locations are
// the hosts' and not changed.
func (s *Snapshot) With(objects ...Object) *Snapshot {
	c := *s
	for _, o := range objects {
		name := o.Meta().Name
		switch o := o.(type) {
		case *Host:
			c.Hosts = with(c.Hosts, HostID(name), o)
		case *Switch:
			c.Switches = with(c.Switches, SwitchID(name), o)
		case *Port:
			c.Ports = with(c.Ports, PortID(name), o)
		case *Profile:
			c.Profiles = with(c.Profiles, name, o)
		case *Group:
			c.Groups = with(c.Groups, name, o)
		case *Policy:
			c.Policies = with(c.Policies, name, o)
		case *Mirror:
			c.Mirrors = with(c.Mirrors, name, o)
		}
	}
	return &c
}

// with is a copy of a map with one more entry.
func with[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	c := make(map[K]V, len(m)+1)
	maps.Copy(c, m)
	c[k] = v
	return c
}

// Encapsulation overhead on the underlay, in bytes from the inner L3 packet to the outer one: inner Ethernet 14 + VXLAN 8
// + UDP 8 + outer IP (RFC 7348 section 5).
const (
	Overhead4 = 14 + 8 + 8 + 20
	Overhead6 = 14 + 8 + 8 + 40
)

// SwitchMTU is the guests' MTU on a switch: the configured one, else the smallest underlay MTU of its hosts less the
// encapsulation; 1450 when none is known yet.
func (s *Snapshot) SwitchMTU(sw *Switch) int {
	if sw.Spec.MTU != 0 {
		return sw.Spec.MTU
	}
	mtu := 0
	for id, h := range s.Hosts {
		if !sw.Covers(id) {
			continue
		}
		room := h.Spec.UnderlayMTU - Overhead(h.Spec.VTEP)
		if mtu == 0 || room < mtu {
			mtu = room
		}
	}
	if mtu <= 0 {
		return 1500 - Overhead4
	}
	return mtu
}

// Overhead is the encapsulation overhead towards a tunnel end point of this family.
func Overhead(vtep netip.Addr) int {
	if vtep.Is6() && !vtep.Is4In6() {
		return Overhead6
	}
	return Overhead4
}
