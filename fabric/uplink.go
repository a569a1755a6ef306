package fabric

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Uplink puts an external switch on a NIC: of one host, or of all hosts that carry some labels (ADR 13).
type Uplink struct {
	// Host is the one host; Hosts are the labels that hosts must all carry. One of the two is given.
	Host  HostID            `json:"host,omitempty"`
	Hosts map[string]string `json:"hosts,omitempty"`
	// NIC is the device's name there, such as eth1. The host keeps its addresses on it. NICs are several instead, at most four, the best
	// first, all on the same wire (ADR 18).
	NIC  string   `json:"nic,omitempty"`
	NICs []string `json:"nics,omitempty"`
	// Mode is how several NICs serve the guests: active-standby (the default), hash-port or hash-flow.
	Mode UplinkMode `json:"mode,omitempty"`
	// Reach are IPv4 addresses on the wire, such as its router's, at most four: a NIC by which none of them answers, while another NIC of
	// the uplink gets answers, is used as little as one without a link.
	Reach []netip.Addr `json:"reach,omitempty"`
}

// UplinkMode is how several NICs of a host serve the guests of a switch.
type UplinkMode string

// Modes of several NICs (ADR 18).
const (
	// ActiveStandby uses one NIC, and another when that has no link.
	ActiveStandby UplinkMode = "active-standby"
	// HashPort gives each guest one NIC, by its MAC.
	HashPort UplinkMode = "hash-port"
	// HashFlow gives each flow one NIC: the physical switch must have them as one static link aggregation.
	HashFlow UplinkMode = "hash-flow"
)

// All are the NICs of the uplink, the best first.
func (u *Uplink) All() []string {
	if u.NIC != "" {
		return append([]string{u.NIC}, u.NICs...)
	}
	return u.NICs
}

// maxUplinks bounds the list of one switch, maxNICs that of one uplink; maxNIC is the longest device name (linux/if.h, IFNAMSIZ).
const (
	maxUplinks = 1024
	maxNICs    = 4
	maxReach   = 4
	maxNIC     = 15
)

// takes reports whether the uplink is on that host.
func (u *Uplink) takes(id HostID, h *Host) bool {
	if u.Host != "" {
		return u.Host == id
	}
	if h == nil || len(u.Hosts) == 0 {
		return false
	}
	for key, value := range u.Hosts {
		if have, there := h.Metadata.Labels[key]; !there || have != value {
			return false
		}
	}
	return true
}

// UplinkOn is how an external switch is on the wire at a host: the first of its uplinks that takes the host; nil when none does.
func (s *Switch) UplinkOn(id HostID, h *Host) *Uplink {
	if s.Spec.Type != External || !s.Covers(id) {
		return nil
	}
	for i := range s.Spec.Uplinks {
		if s.Spec.Uplinks[i].takes(id, h) {
			return &s.Spec.Uplinks[i]
		}
	}
	return nil
}

// NICsOn are the NICs that an external switch is on at a host, the best first.
func (s *Switch) NICsOn(id HostID, h *Host) []string {
	if u := s.UplinkOn(id, h); u != nil {
		return u.All()
	}
	return nil
}

// UplinkHosts are the hosts that a switch has a NIC on, in order.
func (s *Snapshot) UplinkHosts(sw *Switch) []HostID {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.Hosts)), func(id HostID) bool { return sw.UplinkOn(id, s.Hosts[id]) == nil })
}

// HostIsOn reports whether the hosts themselves are on the switch by their uplinks; they are unless they are kept off.
func (s *Switch) HostIsOn() bool { return s.Spec.HostAccess == nil || *s.Spec.HostAccess }

// Expired reports whether the time has passed by which the switch was to be confirmed: its uplinks are off from then on.
func (s *Switch) Expired(now time.Time) bool {
	return s.Spec.ConfirmBy != nil && !now.Before(*s.Spec.ConfirmBy)
}

// checkUplinks checks that the switch may have uplinks, and each by itself.
func (s *Switch) checkUplinks(f *Findings) {
	if len(s.Spec.Uplinks) > 0 && s.Spec.Type != External {
		f.add("spec.uplinks", "a switch of type %s has no NIC: make it external, or take the uplinks away", s.Spec.Type)
		return
	}
	if s.Spec.ConfirmBy != nil && len(s.Spec.Uplinks) == 0 {
		f.add("spec.confirmBy", "there is nothing to confirm: only a switch with uplinks takes a time")
	}
	if len(s.Spec.Uplinks) > maxUplinks {
		f.add("spec.uplinks", "%d uplinks, the most is %d: name hosts by their labels", len(s.Spec.Uplinks), maxUplinks)
		return
	}
	seen := map[HostID]int{}
	for i := range s.Spec.Uplinks {
		u, path := &s.Spec.Uplinks[i], fmt.Sprintf("spec.uplinks[%d]", i)
		if (u.Host == "") == (len(u.Hosts) == 0) {
			f.add(path, "give the name of a host, or labels of hosts, and not both")
		}
		checkRef(f, path+".host", string(u.Host), false)
		checkLabels(f, path+".hosts", u.Hosts)
		u.check(f, path)
		if other, twice := seen[u.Host]; twice && u.Host != "" {
			f.add(path+".host", "%s has an uplink in spec.uplinks[%d] already: name all NICs of a host in one uplink, with nics", u.Host, other)
		}
		seen[u.Host] = i
	}
}

// check checks the NICs of one uplink.
func (u *Uplink) check(f *Findings, path string) {
	nics := u.All()
	switch {
	case len(u.NICs) == 0 || u.NIC != "":
		if text := badNIC(u.NIC); text != "" {
			f.add(path+".nic", "%s", text)
		}
		if len(u.NICs) > 0 {
			f.add(path+".nics", "give nic or nics, and not both")
		}
	case len(nics) > maxNICs:
		f.add(path+".nics", "%d NICs, the most is %d", len(nics), maxNICs)
	}
	for i, name := range u.NICs {
		if text := badNIC(name); text != "" {
			f.add(fmt.Sprintf("%s.nics[%d]", path, i), "%s", text)
		}
		if slices.Contains(u.NICs[:i], name) {
			f.add(fmt.Sprintf("%s.nics[%d]", path, i), "%s is named twice", name)
		}
	}
	u.checkReach(f, path)
	switch u.Mode {
	case "", ActiveStandby, HashPort, HashFlow:
		if u.Mode != "" && len(nics) < 2 {
			f.add(path+".mode", "one NIC has no mode: name several in nics, or take mode away")
		}
	default:
		f.add(path+".mode", "%s is no mode: it is %s, %s or %s", quote(string(u.Mode)), ActiveStandby, HashPort, HashFlow)
	}
}

// checkReach checks whom the NICs of an uplink are to reach.
func (u *Uplink) checkReach(f *Findings, path string) {
	if len(u.Reach) > 0 && len(u.All()) < 2 {
		f.add(path+".reach", "one NIC has no other to take its place: name several in nics, or take reach away")
	}
	if len(u.Reach) > maxReach {
		f.add(path+".reach", "%d addresses, the most is %d", len(u.Reach), maxReach)
	}
	for i, a := range u.Reach {
		at := fmt.Sprintf("%s.reach[%d]", path, i)
		switch {
		case !a.Is4():
			f.add(at, "%s is not IPv4: stations are asked by ARP; name the router's IPv4 address", a)
		case a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			f.add(at, "%s is no station's address: name the router's, such as 192.168.1.1", a)
		case slices.Contains(u.Reach[:i], a):
			f.add(at, "%s is named twice", a)
		}
	}
}

// badNIC says why a name cannot be a device's; empty when it can.
func badNIC(name string) string {
	switch {
	case name == "":
		return "is missing: give the name of the NIC, such as eth1"
	case len(name) > maxNIC:
		return fmt.Sprintf("%s is %d characters long, a device's name has at most %d", quote(name), len(name), maxNIC)
	case name == "." || name == ".." || name == "lo" || strings.ContainsAny(name, "/: \t\n"):
		return fmt.Sprintf("%s is no NIC's name", quote(name))
	}
	return ""
}

// NICStatus is a network device of a host that could be an uplink, as its kernel describes it.
type NICStatus struct {
	Name string `json:"name"`
	MAC  MAC    `json:"mac"`
	// MTU is the largest L3 packet, in bytes; Speed is in Mbit/s, 0 where the driver does not say.
	MTU   int `json:"mtu"`
	Speed int `json:"speed,omitempty"`
	// Up is true when its administrator has raised it, Carrier when there is a link.
	Up      bool `json:"up,omitempty"`
	Carrier bool `json:"carrier,omitempty"`
	// Silent is true of a NIC by which none of the addresses in spec.uplinks' reach answers, while another of its uplink gets answers.
	Silent bool `json:"silent,omitempty"`
	// Addresses are the host's own on it, with their prefix lengths.
	Addresses []string `json:"addresses,omitempty"`
	// Wireless, Bridge (the bridge or bond it is a member of) and Underlay (tunnels to the other hosts use it) say what else it is.
	Wireless bool   `json:"wireless,omitempty"`
	Bridge   string `json:"bridge,omitempty"`
	Underlay bool   `json:"underlay,omitempty"`
	// Switch is the external switch that is on it.
	Switch SwitchID `json:"switch,omitempty"`
	// Leader is the NIC of that switch here that takes the group frames, and with active-standby all frames, instead of this one; empty:
	// this one does.
	Leader string `json:"leader,omitempty"`
}

// Unfit says why no switch can be on the NIC, and what to do; empty when one can. A NIC that is down, or has no link, can be
// one: it carries nothing until it is up.
func (n *NICStatus) Unfit() string {
	switch {
	case n.Wireless:
		return "is wireless: an access point takes frames of its own stations only; use a wired NIC, or an internal switch with NAT"
	case n.Bridge != "":
		return fmt.Sprintf("is a member of %s, which takes every frame first: take it out of there, or name another NIC", n.Bridge)
	}
	return ""
}

// FindNIC is the NIC of that name; nil when the host does not name it.
func (s *HostStatus) FindNIC(name string) *NICStatus {
	i, found := slices.BinarySearchFunc(s.NICs, name, func(n NICStatus, name string) int { return cmp.Compare(n.Name, name) })
	if !found {
		return nil
	}
	return &s.NICs[i]
}
