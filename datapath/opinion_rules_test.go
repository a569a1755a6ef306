package datapath_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// ruling is what judges a port in one direction: rules in the order in which they are asked, and what decides without one. It is
// read from the documents as ADR 10 tells it, and shares nothing with package policy.
type ruling struct {
	rules []asked
	allow bool // the default
}

// asked is a rule that can match a packet, with addresses in place of groups and numbers in place of names.
type asked struct {
	fabric.Rule
	protocol    int        // -1 for any
	source, end sideOfWire // where the packet comes from and where it goes
}

// sideOfWire is what a rule asks of one end of a packet; nil asks for nothing.
type sideOfWire struct {
	prefixes []netip.Prefix
	ports    []fabric.PortRange
	macs     []fabric.MAC
}

// rulingOf reads what judges a port in one direction.
func rulingOf(s *fabric.Snapshot, id fabric.PortID, d fabric.Direction) ruling {
	port := s.Ports[id]
	sw := s.Switches[port.Spec.Switch]
	profile := s.Profiles[cmp.Or(port.Spec.Profile, sw.Spec.Profile)]
	if profile == nil {
		profile = &fabric.Profile{}
	}
	out := ruling{allow: cmp.Or(profile.Spec.DefaultAction, sw.Spec.DefaultAction, fabric.Allow) == fabric.Allow}
	done := map[string]bool{}
	for _, name := range slices.Concat(port.Spec.Policies, profile.Spec.Policies, sw.Spec.Policies) {
		if done[name] {
			continue
		}
		done[name] = true
		for weight := 65535; weight > 0; weight-- {
			for _, r := range s.Policies[name].Spec.Rules {
				if int(r.Weight) == weight && r.Direction == d && r.Action != fabric.Meter && (r.VNI == 0 || r.VNI == sw.Spec.VNI) && r.VLAN == 0 {
					out.add(s, r)
				}
			}
		}
	}
	return out
}

// add appends a rule, unless one of its lists is empty: it matches nothing then.
func (l *ruling) add(s *fabric.Snapshot, r fabric.Rule) {
	a := asked{Rule: r, protocol: -1, source: sideOf(s, r.Local), end: sideOf(s, r.Remote)}
	if r.Protocol != "" {
		n, err := fabric.ParseProtocol(r.Protocol)
		if err != nil {
			panic(err) // only admitted rules are drawn
		}
		a.protocol = int(n)
	}
	if r.Direction == fabric.In {
		a.source, a.end = a.end, a.source
	}
	for _, e := range []sideOfWire{a.source, a.end} {
		if e.prefixes != nil && len(e.prefixes) == 0 || e.ports != nil && len(e.ports) == 0 || e.macs != nil && len(e.macs) == 0 {
			return
		}
	}
	l.rules = append(l.rules, a)
}

// sideOf puts addresses in place of groups.
func sideOf(s *fabric.Snapshot, e *fabric.End) (out sideOfWire) {
	if e == nil {
		return out
	}
	out.ports, out.macs = e.Ports, e.MACs
	if e.Prefixes != nil || e.Groups != nil {
		out.prefixes = append([]netip.Prefix{}, e.Prefixes...)
	}
	for _, name := range e.Groups {
		g := s.Groups[name]
		out.prefixes = append(out.prefixes, g.Spec.CIDRs...)
		for _, p := range s.Ports {
			member := len(g.Spec.Ports) > 0
			for label, value := range g.Spec.Ports {
				member = member && p.Metadata.Labels[label] == value
			}
			for _, a := range p.Spec.Addresses {
				if member {
					out.prefixes = append(out.prefixes, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
	}
	return out
}

// verdict is nftables' word for the rule's action. A refusal is silent here: the bridge family of some kernels cannot answer.
func (a *asked) verdict() string {
	if a.Stateful {
		return "goto opens"
	}
	return verdictOf(a.Action == fabric.Allow)
}

func verdictOf(allow bool) string {
	if allow {
		return "accept"
	}
	return "drop"
}

// transport is nftables' name of a protocol that has ports.
func (a *asked) transport() string {
	return map[int]string{6: "tcp", 17: "udp", 132: "sctp"}[a.protocol]
}

// header is nftables' name of an address's header.
func header(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

// flags is the condition on TCP flags, empty without one.
func (a *asked) flags() string {
	if a.TCPFlags == nil {
		return ""
	}
	bits := map[string]int{"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}
	set, clear := 0, 0
	for _, f := range a.TCPFlags.Set {
		set |= bits[f]
	}
	for _, f := range a.TCPFlags.Clear {
		clear |= bits[f]
	}
	return fmt.Sprintf("tcp flags & 0x%x == 0x%x", set|clear, set)
}

// shown is the condition that the packet shows its transport header, where the rule asks for something in it. By itself nftables
// would take the data of some later fragments of IPv4 for ports.
func (a *asked) shown() string {
	if a.ICMP != nil || a.TCPFlags != nil || a.source.ports != nil || a.end.ports != nil {
		return "meta mark 0"
	}
	return ""
}

// family is the family that a condition on ICMP type and code asks for, empty without one: nftables by itself takes protocol 58
// of IPv4 for ICMPv6.
func (a *asked) family() string {
	switch {
	case a.ICMP == nil:
		return ""
	case a.protocol == 1:
		return "meta protocol ip"
	}
	return "meta protocol ip6"
}

// message is the condition on ICMP type and code, empty without one. Asking for neither still asks for a message.
func (a *asked) message() string {
	if a.ICMP == nil {
		return ""
	}
	name := map[int]string{1: "icmp", 58: "icmpv6"}[a.protocol]
	if a.ICMP.Type == nil {
		return name + " type 0-255"
	}
	text := name + " type " + strconv.Itoa(int(*a.ICMP.Type))
	if a.ICMP.Code != nil {
		text += " " + name + " code " + strconv.Itoa(int(*a.ICMP.Code))
	}
	return text
}

// ruleset is an nftables table of the bridge family, as it is written.
type ruleset struct{ sets, chains strings.Builder }

func (t *ruleset) chain(name string, lines ...string) {
	fmt.Fprintf(&t.chains, "\tchain %s {\n\t\t%s\n\t}\n", name, strings.Join(lines, "\n\t\t"))
}

// endOfBatch is the EtherType of frames that pass whatever the rules say.
const endOfBatch = 0x88b6

// text is the whole table: a frame from one of the two devices is asked about by the sender's rules and then by the receiver's,
// and both must accept it.
func (t *ruleset) text() string {
	all := fmt.Sprintf("ether type 0x%x accept", endOfBatch)
	t.chain("sender", "type filter hook forward priority 0; policy accept;", all,
		"ip frag-off & 0x1fff != 0 meta mark set 1", "frag frag-off != 0 meta mark set 1", // later fragments
		"iifname p0 jump guest_out", "iifname p1 jump other_out")
	t.chain("receiver", "type filter hook forward priority 10; policy accept;", all, "oifname p0 jump guest_in", "oifname p1 jump other_in")
	return "flush ruleset\ntable bridge opinion {\n" + t.sets.String() + t.chains.String() + "}\n"
}
