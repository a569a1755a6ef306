package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/fabric"
)

// The universe of the properties is small, so that rules and packets meet.
var (
	someAddrs    = []netip.Addr{addrVM, addrFar, netip.MustParseAddr("10.10.1.1"), netip.MustParseAddr("192.0.2.7"), six, sixFar, netip.MustParseAddr("2001:db8::1")}
	somePrefixes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.10.0.0/16"), netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("10.10.0.22/32"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("fd00::22/128")}
	somePorts    = []uint16{0, 53, 80, 443, 1000, 8080, 65535}
	someMACs     = []fabric.MAC{macVM, macPeer, {0x52, 0x54, 0, 0, 0, 3}}
)

func drawEnd(t *rapid.T, ports bool) *fabric.End {
	if rapid.IntRange(0, 2).Draw(t, "end") == 0 {
		return nil
	}
	e := &fabric.End{}
	if rapid.Bool().Draw(t, "prefixes") {
		e.Prefixes = rapid.SliceOfN(rapid.SampledFrom(somePrefixes), 0, 3).Draw(t, "prefix")
		e.Prefixes = append([]netip.Prefix{}, e.Prefixes...)
	}
	if rapid.IntRange(0, 4).Draw(t, "groups") == 0 {
		e.Groups = []string{"web"}
	}
	if ports && rapid.Bool().Draw(t, "ports") {
		a, b := rapid.SampledFrom(somePorts).Draw(t, "first"), rapid.SampledFrom(somePorts).Draw(t, "last")
		e.Ports = []fabric.PortRange{{First: min(a, b), Last: max(a, b)}}
	}
	if rapid.IntRange(0, 4).Draw(t, "macs") == 0 {
		e.MACs = []fabric.MAC{rapid.SampledFrom(someMACs).Draw(t, "mac")}
	}
	return e
}

// drawPolicies makes 1 to 3 valid policies p0, p1, … that all judge the VM's port.
func drawWorld(t *rapid.T, tb testing.TB) *fabric.Snapshot {
	s := world(tb, "---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: web}\nspec: {ports: {tier: web}, cidrs: [192.0.2.0/24]}\n")
	for n := range rapid.IntRange(1, 3).Draw(t, "policies") {
		p := &fabric.Policy{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: fmt.Sprintf("p%d", n)}}
		weights := rapid.SliceOfNDistinct(rapid.Uint16Range(1, 60000), 0, 8, rapid.ID[uint16]).Draw(t, "weights")
		for k, w := range weights {
			p.Spec.Rules = append(p.Spec.Rules, drawRule(t, fmt.Sprintf("r%d", k), w))
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("the generator made %v", err)
		}
		s.Policies[p.Metadata.Name] = p
		s.Ports["vm"].Spec.Policies = append(s.Ports["vm"].Spec.Policies, p.Metadata.Name)
	}
	return s
}

func drawRule(t *rapid.T, name string, weight uint16) fabric.Rule {
	r := fabric.Rule{Name: name, Weight: weight,
		Direction: rapid.SampledFrom([]fabric.Direction{fabric.In, fabric.Out}).Draw(t, "direction"),
		Action:    rapid.SampledFrom([]fabric.Action{fabric.Allow, fabric.Allow, fabric.Deny, fabric.Reject, fabric.Meter}).Draw(t, "action"),
		Protocol:  rapid.SampledFrom([]string{"", "", "tcp", "udp", "icmp", "icmpv6", "sctp", "47", "6"}).Draw(t, "protocol"),
	}
	ports := slices.Contains([]string{"tcp", "udp", "sctp", "6"}, r.Protocol)
	r.Local, r.Remote = drawEnd(t, ports), drawEnd(t, ports)
	r.Stateful = r.Action == fabric.Allow && rapid.Bool().Draw(t, "stateful")
	if r.Protocol == "icmp" && rapid.Bool().Draw(t, "icmp") {
		one := rapid.SampledFrom([]uint8{0, 3, 8}).Draw(t, "type")
		r.ICMP = &fabric.ICMPMatch{Type: &one}
	}
	if r.Protocol == "tcp" && !r.Stateful && r.Action != fabric.Meter && rapid.IntRange(0, 3).Draw(t, "flags") == 0 {
		r.TCPFlags = &fabric.TCPFlags{Set: []string{"syn"}, Clear: []string{"ack"}}
	}
	return r
}

func drawPacket(t *rapid.T) Packet {
	p := Packet{SourceMAC: rapid.SampledFrom(someMACs).Draw(t, "source mac"), DestinationMAC: rapid.SampledFrom(someMACs).Draw(t, "mac"), EtherType: 0x88cc}
	if rapid.IntRange(0, 9).Draw(t, "ip") == 0 {
		return p
	}
	p.Source = rapid.SampledFrom(someAddrs).Draw(t, "source")
	p.Destination = rapid.SampledFrom(slices.DeleteFunc(slices.Clone(someAddrs), func(a netip.Addr) bool { return a.BitLen() != p.Source.BitLen() })).Draw(t, "destination")
	p.EtherType = 0x0800
	if p.Source.Is6() {
		p.EtherType = 0x86dd
	}
	p.Protocol = rapid.SampledFrom([]uint8{1, 6, 17, 47, 58, 132}).Draw(t, "protocol")
	p.Fragment = rapid.IntRange(0, 5).Draw(t, "fragment") == 0
	p.Later = p.Fragment && rapid.Bool().Draw(t, "later")
	if p.HasPorts() {
		p.SourcePort, p.DestinationPort = rapid.SampledFrom(somePorts).Draw(t, "sport"), rapid.SampledFrom(somePorts).Draw(t, "dport")
		if p.Protocol == protocolTCP {
			p.TCPFlags = rapid.SampledFrom([]uint8{FlagSYN, FlagSYN | FlagACK, FlagACK, FlagRST, FlagFIN | FlagACK}).Draw(t, "flags")
		}
	}
	if p.HasICMP() {
		p.ICMPType = rapid.SampledFrom([]uint8{0, 3, 8, 128, 129, 135}).Draw(t, "icmp")
	}
	return p
}

// sameDecisions changes a world and checks that 20 packets are decided as before; rule translates names of rules.
func sameDecisions(t *testing.T, transform func(t *rapid.T, s *fabric.Snapshot), rule func(RuleRef) RuleRef) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		before := drawWorld(rt, t)
		after := *before
		after.Policies = map[string]*fabric.Policy{}
		for name, p := range before.Policies {
			c := *p
			c.Spec.Rules = slices.Clone(p.Spec.Rules)
			after.Policies[name] = &c
		}
		port := *before.Ports["vm"]
		port.Spec.Policies = slices.Clone(port.Spec.Policies)
		after.Ports = maps.Clone(before.Ports)
		after.Ports["vm"] = &port
		transform(rt, &after)
		for range 20 {
			d, p := rapid.SampledFrom([]fabric.Direction{fabric.In, fabric.Out}).Draw(rt, "direction"), drawPacket(rt)
			a, b := Decide(before, "vm", d, p), Decide(&after, "vm", d, p)
			b.Rule, b.Meter = rule(b.Rule), rule(b.Meter)
			if a != b {
				rt.Fatalf("%s became %s for %+v", text(a), text(b), p)
			}
		}
	})
}

func unchanged(r RuleRef) RuleRef { return r }

// anyPolicy is one of the world's policies that has rules; nil when there is none.
func anyPolicy(t *rapid.T, s *fabric.Snapshot) *fabric.Policy {
	var with []string
	for name, p := range s.Policies {
		if len(p.Spec.Rules) > 0 {
			with = append(with, name)
		}
	}
	if len(with) == 0 {
		return nil
	}
	slices.Sort(with)
	return s.Policies[rapid.SampledFrom(with).Draw(t, "policy")]
}

func TestTheOrderOfRulesInADocumentMeansNothing(t *testing.T) {
	sameDecisions(t, func(t *rapid.T, s *fabric.Snapshot) {
		for _, name := range slices.Sorted(maps.Keys(s.Policies)) {
			s.Policies[name].Spec.Rules = rapid.Permutation(s.Policies[name].Spec.Rules).Draw(t, "order")
		}
	}, unchanged)
}

func TestAPrefixIsItsTwoHalves(t *testing.T) {
	halves := func(e *fabric.End) *fabric.End {
		if e == nil || len(e.Prefixes) == 0 {
			return e
		}
		c := *e
		c.Prefixes = nil
		for _, p := range e.Prefixes {
			if p.Bits() == p.Addr().BitLen() {
				c.Prefixes = append(c.Prefixes, p)
				continue
			}
			raw := p.Addr().AsSlice()
			raw[p.Bits()/8] |= 1 << (7 - p.Bits()%8)
			upper, _ := netip.AddrFromSlice(raw)
			c.Prefixes = append(c.Prefixes, netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(upper, p.Bits()+1))
		}
		return &c
	}
	sameDecisions(t, func(t *rapid.T, s *fabric.Snapshot) {
		for _, p := range s.Policies {
			for k := range p.Spec.Rules {
				p.Spec.Rules[k].Local, p.Spec.Rules[k].Remote = halves(p.Spec.Rules[k].Local), halves(p.Spec.Rules[k].Remote)
			}
		}
	}, unchanged)
}

func TestAShadowedRuleChangesNothing(t *testing.T) {
	sameDecisions(t, func(t *rapid.T, s *fabric.Snapshot) {
		p := anyPolicy(t, s)
		if p == nil {
			return
		}
		for n := range p.Spec.Rules {
			p.Spec.Rules[n].Weight++ // room for one at the very end
		}
		r := rapid.SampledFrom(p.Spec.Rules).Draw(t, "shadow")
		if r.Action == fabric.Meter {
			return
		}
		r.Name, r.Weight, r.Stateful = "shadowed", 1, false
		r.Action = rapid.SampledFrom([]fabric.Action{fabric.Allow, fabric.Deny, fabric.Reject}).Draw(t, "action")
		p.Spec.Rules = append(p.Spec.Rules, r)
	}, unchanged)
}

func TestNamesDecideNothing(t *testing.T) {
	sameDecisions(t, func(_ *rapid.T, s *fabric.Snapshot) {
		renamed := map[string]*fabric.Policy{}
		for name, p := range s.Policies {
			for n := range p.Spec.Rules {
				p.Spec.Rules[n].Name = "x-" + p.Spec.Rules[n].Name
			}
			p.Metadata.Name = "x-" + name
			renamed["x-"+name] = p
		}
		s.Policies = renamed
		for n, name := range s.Ports["vm"].Spec.Policies {
			s.Ports["vm"].Spec.Policies[n] = "x-" + name
		}
	}, func(r RuleRef) RuleRef {
		if r == (RuleRef{}) {
			return r
		}
		return RuleRef{r.Policy[2:], r.Rule[2:]}
	})
}

func TestWeightsMatterByTheirOrderOnly(t *testing.T) {
	sameDecisions(t, func(_ *rapid.T, s *fabric.Snapshot) {
		for _, p := range s.Policies {
			slices.SortFunc(p.Spec.Rules, func(a, b fabric.Rule) int { return int(a.Weight) - int(b.Weight) })
			for n := range p.Spec.Rules {
				p.Spec.Rules[n].Weight = uint16(n + 1)
			}
		}
	}, unchanged)
}

func TestARuleOfAnEmptyListChangesNothing(t *testing.T) {
	sameDecisions(t, func(t *rapid.T, s *fabric.Snapshot) {
		p := anyPolicy(t, s)
		if p == nil {
			return
		}
		r := fabric.Rule{Name: "nobody", Weight: 65535, Direction: rapid.SampledFrom([]fabric.Direction{fabric.In, fabric.Out}).Draw(t, "d"), Action: fabric.Deny, Remote: &fabric.End{Prefixes: []netip.Prefix{}}}
		p.Spec.Rules = append(p.Spec.Rules, r)
	}, unchanged)
}
