package policy

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/weftnet/weft/fabric"
)

// Reason says what decided a packet.
type Reason string

// The reasons of a verdict.
const (
	ByRule     Reason = "rule"          // the rule that the verdict names
	ByDefault  Reason = "default"       // no rule matched: the default action
	ByFlow     Reason = "flow"          // the packet belongs to a flow, opened under the rule that the verdict names
	ByRelated  Reason = "related"       // an ICMP error about a flow
	ByFragment Reason = "fragment"      // as the first fragment of the same packet
	ByNeighbor Reason = "neighbor"      // ARP or neighbour discovery, which no rule judges
	ByNoFlow   Reason = "ct_no_flow"    // a stateful rule would allow it, but it opens no connection and belongs to none
	ByUnknown  Reason = "policy_absent" // the port, or a policy or group it is judged by, is not known: closed
)

// RuleRef names a rule of a policy; the zero value names none.
type RuleRef struct {
	Policy string `json:"policy,omitempty"`
	Rule   string `json:"rule,omitempty"`
}

// String is policy/rule, empty for none.
func (r RuleRef) String() string {
	if r == (RuleRef{}) {
		return ""
	}
	return r.Policy + "/" + r.Rule
}

// Verdict is what becomes of a packet at one port, and why.
type Verdict struct {
	// Action is allow, deny or reject.
	Action fabric.Action
	Reason Reason
	// Rule is the rule that decided, or under which the flow was opened.
	Rule RuleRef
	// Meter is the rule that counts the packet, whatever becomes of it.
	Meter RuleRef
	// Stateful is set when the rule that decided opens flows.
	Stateful bool
}

// Allowed reports whether the packet passes.
func (v Verdict) Allowed() bool { return v.Action == fabric.Allow }

// Decide judges one packet at one port by the rules alone, as if there were no flows: what a stateful rule allows is
// allowed. The time it takes grows with the number of rules.
func Decide(s *fabric.Snapshot, port fabric.PortID, d fabric.Direction, p Packet) Verdict {
	l, ok := listOf(s, port)
	if !ok {
		return Verdict{Action: fabric.Deny, Reason: ByUnknown}
	}
	return l.decide(d, p)
}

// list is everything that judges one port: its rules in the order in which they are asked, and what decides without one.
type list struct {
	rules  []judge
	action fabric.Action // the default
	on     fabric.Segments
}

// judge is a rule with what its groups stand for.
type judge struct {
	fabric.Rule
	ref           RuleRef
	local, remote []netip.Prefix // of prefixes and groups together; nil when neither is asked for
	protocol      int            // the number of Protocol; -1 when the rule does not ask for one
	set, clear    uint8          // TCP flags
}

// listOf resolves a port's list (ADR 10, 1); false when a part of it is not known.
func listOf(s *fabric.Snapshot, id fabric.PortID) (list, bool) {
	port := s.Ports[id]
	if port == nil || s.Switches[port.Spec.Switch] == nil {
		return list{}, false
	}
	of := s.Settings(port)
	if !of.Known {
		return list{}, false
	}
	l := list{on: s.Segments(port), action: of.DefaultAction}
	for _, name := range of.Policies {
		pol := s.Policies[name]
		if pol == nil || !l.add(s, pol) {
			return list{}, false
		}
	}
	return l, true
}

// add appends a policy's rules, the highest weight first; false when one of their groups is not known.
func (l *list) add(s *fabric.Snapshot, pol *fabric.Policy) bool {
	rules := slices.Clone(pol.Spec.Rules)
	slices.SortStableFunc(rules, func(a, b fabric.Rule) int { return int(b.Weight) - int(a.Weight) })
	for _, r := range rules {
		j := judge{Rule: r, ref: RuleRef{Policy: pol.Metadata.Name, Rule: r.Name}}
		var ok1, ok2 bool
		j.local, ok1 = addresses(s, r.Local)
		j.remote, ok2 = addresses(s, r.Remote)
		if !ok1 || !ok2 {
			return false
		}
		j.protocol = protocolOf(r.Protocol)
		if r.TCPFlags != nil {
			j.set, j.clear = flagsOf(r.TCPFlags.Set), flagsOf(r.TCPFlags.Clear)
		}
		l.rules = append(l.rules, j)
	}
	return true
}

// addresses lists what an end's prefixes and groups stand for; nil when it asks for neither.
func addresses(s *fabric.Snapshot, e *fabric.End) ([]netip.Prefix, bool) {
	if e == nil || e.Prefixes == nil && e.Groups == nil {
		return nil, true
	}
	all := append([]netip.Prefix{}, e.Prefixes...)
	for _, name := range e.Groups {
		g := s.Groups[name]
		if g == nil {
			return nil, false
		}
		all = append(all, g.Spec.CIDRs...)
		for _, port := range s.Ports {
			if !carries(port.Metadata.Labels, g.Spec.Ports) {
				continue
			}
			for _, a := range port.Spec.Addresses {
				all = append(all, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return all, true
}

// carries reports whether the labels hold all that are wanted; wanting none selects nothing.
func carries(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return len(wanted) > 0
}

// decide asks the rules in order (ADR 10, 1 and 2).
func (l list) decide(d fabric.Direction, p Packet) Verdict {
	if p.isNeighbor() {
		return Verdict{Action: fabric.Allow, Reason: ByNeighbor}
	}
	v := Verdict{Action: l.action, Reason: ByDefault, Meter: l.meter(d, p)}
	if j := l.first(d, p, false); j != nil {
		v.Action, v.Reason, v.Rule, v.Stateful = j.Action, ByRule, j.ref, j.Stateful
	}
	return v
}

// opensFlows reports whether there is a stateful rule that a packet can match.
func (l list) opensFlows() bool {
	return slices.ContainsFunc(l.rules, func(j judge) bool {
		return j.Stateful && l.canBeOn(&j.Rule) && !isEmpty(j.Local, j.local) && !isEmpty(j.Remote, j.remote)
	})
}

// isEmpty reports whether an end has a list with nothing in it, which nothing matches.
func isEmpty(e *fabric.End, prefixes []netip.Prefix) bool {
	return e != nil && (prefixes != nil && len(prefixes) == 0 || e.Ports != nil && len(e.Ports) == 0 || e.MACs != nil && len(e.MACs) == 0)
}

// meter is the rule that counts a packet.
func (l list) meter(d fabric.Direction, p Packet) RuleRef {
	if j := l.first(d, p, true); j != nil {
		return j.ref
	}
	return RuleRef{}
}

// first is the first rule of a direction that matches, among the meters or among the others; nil when there is none.
func (l list) first(d fabric.Direction, p Packet, meters bool) *judge {
	if d == fabric.In { // local is the destination
		p = p.reverse()
	}
	for i := range l.rules {
		j := &l.rules[i]
		if j.Direction == d && (j.Action == fabric.Meter) == meters && j.isOn(l.segment(p.Segment)) && j.matches(&p) {
			return j
		}
	}
	return nil
}

// segment is the VNI and the VLAN of a frame at the port, by what Packet.Segment says of it.
func (l *list) segment(tagged fabric.VNI) (fabric.VNI, fabric.VLANID) {
	if tagged == 0 || tagged == l.on.Sends {
		return l.on.Sends, l.on.VLAN
	}
	for id, vni := range l.on.Tags {
		if vni == tagged {
			return vni, id
		}
	}
	return tagged, 0
}

// canBeOn reports whether the port is on a segment that the rule asks for.
func (l *list) canBeOn(r *fabric.Rule) bool {
	j := judge{Rule: *r}
	if j.isOn(l.segment(0)) {
		return true
	}
	for _, vni := range l.on.Tags {
		if j.isOn(l.segment(vni)) {
			return true
		}
	}
	return false
}

// isOn reports whether the rule asks for no other segment than this one.
func (j *judge) isOn(vni fabric.VNI, vlan fabric.VLANID) bool {
	return (j.VNI == 0 || j.VNI == vni) && (j.VLAN == 0 || j.VLAN == vlan)
}

// matches reports whether the packet, whose source is the VM's end, is all that the rule asks for (ADR 10, 3 and 4).
func (j *judge) matches(p *Packet) bool {
	if j.EtherType != 0 && j.EtherType != p.EtherType {
		return false
	}
	if !matchMAC(j.Local, p.SourceMAC) || !matchMAC(j.Remote, p.DestinationMAC) {
		return false
	}
	return matchAddress(j.local, p.Source) && matchAddress(j.remote, p.Destination) &&
		j.matchesProtocol(p) && j.matchesPorts(p) && j.matchesICMP(p) && j.matchesFlags(p)
}

func matchMAC(e *fabric.End, m fabric.MAC) bool {
	return e == nil || e.MACs == nil || slices.Contains(e.MACs, m)
}

// matchAddress reports whether an address is in one of the prefixes; nil asks for nothing, not even for an address.
func matchAddress(prefixes []netip.Prefix, a netip.Addr) bool {
	return prefixes == nil || a.IsValid() && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// protocolOf is the number of a rule's protocol, -1 for none.
func protocolOf(name string) int {
	switch name {
	case "":
		return -1
	case "tcp":
		return protocolTCP
	case "udp":
		return protocolUDP
	case "sctp":
		return protocolSCTP
	case "icmp":
		return protocolICMP
	case "icmpv6":
		return protocolICMPv6
	}
	if n, err := strconv.Atoi(name); err == nil {
		return n
	}
	return 256 // no packet has it
}

func (j *judge) matchesProtocol(p *Packet) bool {
	return j.protocol == -1 || p.HasIP() && int(p.Protocol) == j.protocol
}

func (j *judge) matchesPorts(p *Packet) bool {
	in := func(e *fabric.End, port uint16) bool {
		if e == nil || e.Ports == nil {
			return true
		}
		return p.HasPorts() && slices.ContainsFunc(e.Ports, func(r fabric.PortRange) bool { return r.First <= port && port <= r.Last })
	}
	return in(j.Local, p.SourcePort) && in(j.Remote, p.DestinationPort)
}

func (j *judge) matchesICMP(p *Packet) bool {
	switch m := j.ICMP; {
	case m == nil:
		return true
	case !p.HasICMP():
		return false
	default:
		return (m.Type == nil || *m.Type == p.ICMPType) && (m.Code == nil || *m.Code == p.ICMPCode)
	}
}

func (j *judge) matchesFlags(p *Packet) bool {
	if j.TCPFlags == nil {
		return true
	}
	if p.Protocol != protocolTCP || !p.HasPorts() {
		return false
	}
	return p.TCPFlags&j.set == j.set && p.TCPFlags&j.clear == 0
}

// flagsOf are the bits of named TCP flags.
func flagsOf(names []string) (bits uint8) {
	for _, name := range names {
		switch name {
		case "fin":
			bits |= FlagFIN
		case "syn":
			bits |= FlagSYN
		case "rst":
			bits |= FlagRST
		case "psh":
			bits |= FlagPSH
		case "ack":
			bits |= FlagACK
		case "urg":
			bits |= FlagURG
		}
	}
	return bits
}
