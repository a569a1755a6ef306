package datapath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/weftnet/weft/fabric"
)

// universe is the small world that random rules and packets are drawn from, so that they meet.
type universe struct {
	*rand.Rand
	addresses []netip.Addr // of both families
	prefixes  []netip.Prefix
	macs      []fabric.MAC
	// extensions are the IPv6 headers that may come before the transport's.
	extensions []byte
	damaged    bool // the frame that was drawn last
}

func newUniverse(r *rand.Rand) *universe {
	u := &universe{Rand: r, extensions: []byte{60, 43, 44, 51}}
	for i := range 8 {
		u.addresses = append(u.addresses, netip.AddrFrom4([4]byte{10, byte(i & 1), byte(r.IntN(2)), byte(r.IntN(256))}))
		u.addresses = append(u.addresses, netip.AddrFrom16([16]byte{0xfd, 0, 5: byte(i & 1), 14: byte(r.IntN(2)), 15: byte(r.IntN(256))}))
	}
	u.addresses[0], u.addresses[1] = address4(1), address6(1)
	u.addresses[2], u.addresses[3] = address4(50), address6(50)
	u.drawPrefixes()
	u.macs = []fabric.MAC{mac(1), mac(50), mac(3), {2, 9, 9, 9, 9, 9}}
	return u
}

// drawPrefixes draws prefixes of the universe's addresses.
func (u *universe) drawPrefixes() {
	u.prefixes = nil
	for range 40 {
		a := pick(u, u.addresses)
		bits := u.IntN(a.BitLen() + 1)
		if u.IntN(2) == 0 { // where the addresses differ
			bits = a.BitLen() - u.IntN(20)
		}
		u.prefixes = append(u.prefixes, netip.PrefixFrom(a, bits).Masked())
	}
}

func pick[T any](u *universe, from []T) T { return from[u.IntN(len(from))] }

// some draws up to n of a list; sometimes none, and an empty list matches nothing.
func some[T any](u *universe, n int, draw func() T) []T {
	list := []T{}
	for range u.IntN(n + 1) {
		list = append(list, draw())
	}
	return list
}

var edgePorts = []uint16{0, 1, 22, 53, 80, 443, 1000, 1023, 1024, 40000, 65534, 65535}

func (u *universe) port() uint16 {
	if u.IntN(4) == 0 {
		return uint16(u.IntN(65536))
	}
	return pick(u, edgePorts)
}

func (u *universe) ports() fabric.PortRange {
	a, b := u.port(), u.port()
	if u.IntN(2) == 0 {
		b = a
	}
	return fabric.PortRange{First: min(a, b), Last: max(a, b)}
}

// end draws one end of a rule; nil asks for nothing.
func (u *universe) end(ports bool) *fabric.End {
	e := &fabric.End{}
	if u.IntN(2) == 0 {
		e.Prefixes = some(u, 4, func() netip.Prefix { return pick(u, u.prefixes) })
	}
	if u.IntN(6) == 0 {
		e.Groups = some(u, 2, func() string { return fmt.Sprintf("g%d", u.IntN(3)) })
	}
	if ports && u.IntN(2) == 0 {
		e.Ports = some(u, 3, u.ports)
	}
	if u.IntN(12) == 0 {
		e.MACs = some(u, 2, func() fabric.MAC { return pick(u, u.macs) })
	}
	return e
}

var protocolNames = []string{"", "", "tcp", "tcp", "tcp", "udp", "udp", "icmp", "icmpv6", "sctp", "sctp", "47", "6", "58", "0", "255"}

// rule draws a rule, which need not be one that is admitted.
func (u *universe) rule(n int) fabric.Rule {
	r := fabric.Rule{Name: fmt.Sprintf("r%d", n), Weight: uint16(1 + u.IntN(65535)), Protocol: pick(u, protocolNames)}
	r.Direction = pick(u, []fabric.Direction{fabric.In, fabric.Out})
	r.Action = pick(u, []fabric.Action{fabric.Allow, fabric.Allow, fabric.Allow, fabric.Deny, fabric.Deny, fabric.Reject, fabric.Meter})
	ports := r.Protocol == "tcp" || r.Protocol == "udp" || r.Protocol == "sctp" || r.Protocol == "6"
	if u.IntN(3) > 0 {
		r.Remote = u.end(ports)
	}
	if u.IntN(3) == 0 {
		r.Local = u.end(ports)
	}
	if (r.Protocol == "icmp" || r.Protocol == "icmpv6" || r.Protocol == "58") && u.IntN(2) == 0 {
		kind, code := pick(u, []uint8{0, 3, 8, 128, 129, 1}), uint8(u.IntN(3))
		r.ICMP = &fabric.ICMPMatch{Type: &kind}
		if u.IntN(2) == 0 {
			r.ICMP.Code = &code
		}
		if u.IntN(6) == 0 {
			r.ICMP = &fabric.ICMPMatch{}
		}
	}
	r.Stateful = r.Action == fabric.Allow && u.IntN(2) == 0
	if r.Stateful && u.IntN(3) == 0 {
		r.Idle = pick(u, []fabric.Duration{5e9, 40e9, 3600e9})
	}
	if ports && !r.Stateful && r.Action != fabric.Meter && (r.Protocol == "tcp" || r.Protocol == "6") && u.IntN(4) == 0 {
		r.TCPFlags = &fabric.TCPFlags{Set: []string{pick(u, []string{"syn", "ack", "fin", "rst"})}, Clear: []string{pick(u, []string{"psh", "urg"})}}
	}
	if u.IntN(15) == 0 {
		r.EtherType = pick(u, []fabric.EtherType{0x0800, 0x86dd, 0x88b5})
	}
	if u.IntN(12) == 0 {
		r.VNI = pick(u, []fabric.VNI{vni, vni + 1, vni + 2, untaggedVNI})
	}
	if u.IntN(12) == 0 {
		r.VLAN = pick(u, append(segmentIDs[:], 30))
	}
	return r
}

// policy draws a policy of about n rules, all of them admitted.
func (u *universe) policy(name string, n int) *fabric.Policy {
	head := fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}
	p := &fabric.Policy{TypeMeta: head, Metadata: fabric.Metadata{Name: name}}
	weights := map[uint16]bool{}
	for i := range n {
		alone := fabric.Policy{TypeMeta: head, Metadata: p.Metadata, Spec: fabric.PolicySpec{Rules: []fabric.Rule{u.rule(i)}}}
		if r := alone.Spec.Rules[0]; !weights[r.Weight] && alone.Validate() == nil {
			weights[r.Weight] = true
			p.Spec.Rules = append(p.Spec.Rules, r)
		}
	}
	return p
}

// snapshot draws a fabric whose ports g1 and g2 are judged by random policies of so many rules together.
func (u *universe) snapshot(rules int) *fabric.Snapshot {
	s := &fabric.Snapshot{
		Hosts: map[fabric.HostID]*fabric.Host{}, Locations: map[fabric.PortID]fabric.Location{},
		Switches: map[fabric.SwitchID]*fabric.Switch{"sw": {Metadata: fabric.Metadata{Name: "sw"}, Spec: fabric.SwitchSpec{VNI: vni, Policies: []string{"a"}}}},
		Ports:    map[fabric.PortID]*fabric.Port{},
		Profiles: map[string]*fabric.Profile{"pr": {Metadata: fabric.Metadata{Name: "pr"}, Spec: fabric.ProfileSpec{Settings: fabric.Settings{Policies: []string{"c"}}}}},
		Groups:   map[string]*fabric.Group{}, Policies: map[string]*fabric.Policy{},
	}
	for i, id := range []fabric.PortID{"g1", "g2"} {
		s.Locations[id] = fabric.Location{Port: id, Switch: "sw", Host: "h", Epoch: 1}
		p := &fabric.Port{Metadata: fabric.Metadata{Name: string(id), Revision: 7}, Spec: fabric.PortSpec{Switch: "sw", MAC: mac(i + 1), Settings: fabric.Settings{Policies: some(u, 2, func() string { return pick(u, []string{"b", "d", "a"}) })}}}
		if u.IntN(2) == 0 {
			p.Spec.Profile = "pr"
		}
		s.Ports[id] = p
	}
	s.Switches["sw"].Spec.DefaultAction = pick(u, []fabric.Action{"", fabric.Allow, fabric.Deny})
	s.Profiles["pr"].Spec.DefaultAction = pick(u, []fabric.Action{"", fabric.Allow, fabric.Deny})
	for i := range 3 {
		g := &fabric.Group{Metadata: fabric.Metadata{Name: fmt.Sprintf("g%d", i)}}
		g.Spec.CIDRs = some(u, 3, func() netip.Prefix { return pick(u, u.prefixes) })
		if i == 0 {
			g.Spec.Ports = map[string]string{"tier": "web"}
		}
		s.Groups[g.Metadata.Name] = g
	}
	s.Ports["x"] = &fabric.Port{Metadata: fabric.Metadata{Name: "x", Labels: map[string]string{"tier": "web"}}, Spec: fabric.PortSpec{Switch: "other", Addresses: []netip.Addr{pick(u, u.addresses), pick(u, u.addresses)}}}
	shares := u.shares(rules)
	for i, name := range []string{"a", "b", "c", "d"} {
		s.Policies[name] = u.policy(name, shares[i])
	}
	return s
}

// rarities has the fabric name what is rarely named: a profile of the switch, and a policy that is not known.
func (u *universe) rarities(s *fabric.Snapshot) {
	if u.IntN(4) == 0 {
		s.Switches["sw"].Spec.Profile = "pr"
	}
	for _, id := range []fabric.PortID{"g1", "g2"} {
		if u.IntN(30) == 0 {
			s.Ports[id].Spec.Policies = append(s.Ports[id].Spec.Policies, "nowhere")
		}
	}
}

// shares cuts a number into four.
func (u *universe) shares(of int) (cut [4]int) {
	for i := range 3 {
		cut[i] = u.IntN(of + 1)
		of -= cut[i]
	}
	cut[3] = of
	u.Shuffle(4, func(i, j int) { cut[i], cut[j] = cut[j], cut[i] })
	return cut
}
