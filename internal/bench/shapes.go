package main

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// shape is a policy of many rules for what a guest sends, of which none but the last decides about what the benchmark sends: that
// one allows statefully.
type shape struct {
	text string
	rule func(i int) fabric.Rule
	// groups are the members of the groups that the rules name.
	groups map[string][]netip.Prefix
}

// shapes are policies that differ in what makes them large.
func shapes() []shape {
	return []shape{
		{text: "a prefix and a range of ports each", rule: prefixAndPorts},
		{text: "a single port of a single address each", rule: addressAndPort},
		{text: "one of 200 groups of 50 addresses and a port each", rule: groupAndPort, groups: groupsOf(200, 50)},
		{text: "both families and every dimension", rule: everything},
	}
}

// source is a policy of n rules of the shape.
func (s shape) source(n int) *policy.Source {
	p := &fabric.Policy{Metadata: fabric.Metadata{Name: "bench"}}
	for i := range n - 1 {
		r := s.rule(i)
		r.Name, r.Direction, r.Weight = fmt.Sprintf("r%d", i), fabric.Out, uint16(60_000-i)
		p.Spec.Rules = append(p.Spec.Rules, r)
	}
	p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{Name: "rest", Weight: 1, Direction: fabric.Out, Action: fabric.Allow, Stateful: true})
	return &policy.Source{Policies: []*fabric.Policy{p}, Default: fabric.Deny, VNI: benchVNI, Groups: s.groups}
}

func ports(first, more int) []fabric.PortRange {
	return []fabric.PortRange{{First: uint16(first), Last: uint16(first + more)}}
}

// network4 and network6 are prefixes of numbers, long enough to be different.
func network4(i, long int) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)}), long).Masked()}
}

func network6(i, long int) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x77, 0, byte(i >> 16), byte(i >> 8), byte(i)}), long).Masked()}
}

func prefixAndPorts(i int) fabric.Rule {
	return fabric.Rule{Action: fabric.Deny, Protocol: "tcp", Remote: &fabric.End{Prefixes: network4(i*8, 29+i%3), Ports: ports(1+i*7%2000, i%8)}}
}

func addressAndPort(i int) fabric.Rule {
	return fabric.Rule{Action: fabric.Deny, Protocol: "udp", Remote: &fabric.End{Prefixes: network4(i, 32), Ports: ports(1+i%1900, 0)}}
}

func groupAndPort(i int) fabric.Rule {
	return fabric.Rule{Action: fabric.Deny, Protocol: "tcp", Remote: &fabric.End{Groups: []string{groupName(i % 200)}, Ports: ports(1+i/200, 0)}}
}

func groupName(n int) string { return fmt.Sprintf("g%d", n) }

// groupsOf are groups of addresses of their own.
func groupsOf(n, members int) map[string][]netip.Prefix {
	all := map[string][]netip.Prefix{}
	for g := range n {
		for m := range members {
			all[groupName(g)] = append(all[groupName(g)], network4(g*members+m, 32)...)
		}
	}
	return all
}

// everything asks for something else in each rule, so that a table of it has all dimensions and both families.
func everything(i int) fabric.Rule {
	r := fabric.Rule{Action: fabric.Deny}
	mac := fabric.MAC{0x02, 0, 0, 0x78, byte(i >> 8), byte(i)}
	switch i % 8 {
	case 0:
		r.Protocol, r.Remote = "tcp", &fabric.End{Prefixes: network4(i, 29), Ports: ports(1+i*7%2000, 7)}
	case 1:
		r.Protocol, r.Remote = "udp", &fabric.End{Prefixes: network6(i, 48), Ports: ports(1+i*7%2000, 7)}
	case 2:
		r.Protocol, r.Local = "tcp", &fabric.End{Prefixes: network4(i, 29), Ports: ports(1+i*5%2000, 3)}
	case 3:
		r.Protocol, r.TCPFlags, r.Remote = "tcp", &fabric.TCPFlags{Set: []string{"fin", "urg"}}, &fabric.End{Prefixes: network4(i, 30)}
	case 4:
		r.Protocol, r.Local, r.Remote = "udp", &fabric.End{Ports: ports(1+i*3%2000, 1)}, &fabric.End{Prefixes: network6(i, 48)}
	case 5:
		r.EtherType, r.Remote = fabric.EtherType(0x0800), &fabric.End{MACs: []fabric.MAC{mac}}
	case 6:
		r.Protocol, r.Local = "sctp", &fabric.End{MACs: []fabric.MAC{mac}}
	case 7:
		r.Action, r.Protocol, r.Remote = fabric.Reject, "icmp", &fabric.End{Prefixes: network4(i, 28)}
	}
	return r
}
