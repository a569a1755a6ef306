package policy

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/fabric"
)

var (
	macVM   = fabric.MAC{0x52, 0x54, 0, 0, 0, 1}
	macPeer = fabric.MAC{0x52, 0x54, 0, 0, 0, 2}
	addrVM  = netip.MustParseAddr("10.10.0.11")
	addrFar = netip.MustParseAddr("10.10.0.22")
	six     = netip.MustParseAddr("fd00::11")
	sixFar  = netip.MustParseAddr("fd00::22")
)

// world is a snapshot with one switch, a VM's port and another's, and the policies that the VM's port names in order.
func world(tb testing.TB, yaml string, policies ...string) *fabric.Snapshot {
	tb.Helper()
	s := &fabric.Snapshot{
		Switches: map[fabric.SwitchID]*fabric.Switch{"blue": {Metadata: fabric.Metadata{Name: "blue"}, Spec: fabric.SwitchSpec{Type: fabric.Private, VNI: 10001}}},
		Ports: map[fabric.PortID]*fabric.Port{
			"vm":  {Metadata: fabric.Metadata{Name: "vm"}, Spec: fabric.PortSpec{Switch: "blue", Addresses: []netip.Addr{addrVM, six}, Settings: fabric.Settings{Policies: policies}}},
			"far": {Metadata: fabric.Metadata{Name: "far", Labels: map[string]string{"tier": "web"}}, Spec: fabric.PortSpec{Switch: "blue", Addresses: []netip.Addr{addrFar}}},
		},
		Profiles: map[string]*fabric.Profile{}, Groups: map[string]*fabric.Group{}, Policies: map[string]*fabric.Policy{},
	}
	objects, err := fabric.Decode("test", []byte(yaml))
	if err != nil {
		tb.Fatal(err)
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *fabric.Policy:
			s.Policies[o.Metadata.Name] = o
		case *fabric.Group:
			s.Groups[o.Metadata.Name] = o
		case *fabric.Profile:
			s.Profiles[o.Metadata.Name] = o
		default:
			tb.Fatalf("a %T in a world", o)
		}
	}
	return s
}

// rules is a policy document with rules in the flow form of YAML.
func rules(name, lines string) string {
	return "\n---\napiVersion: weft/v1\nkind: Policy\nmetadata: {name: " + name + "}\nspec:\n  rules:\n" + lines + "\n"
}

// out is a packet from the VM to the far one, in the other way round.
func out(protocol uint8, sport, dport uint16) Packet {
	return Packet{SourceMAC: macVM, DestinationMAC: macPeer, EtherType: 0x0800, Source: addrVM, Destination: addrFar, Protocol: protocol, SourcePort: sport, DestinationPort: dport}
}

func in(protocol uint8, sport, dport uint16) Packet { return out(protocol, dport, sport).reverse() }

func change(p Packet, fn func(*Packet)) Packet { fn(&p); return p }

func TestRulesDecideAsTheADRSays(t *testing.T) {
	const deny = "\n  - {name: rest, weight: 1, direction: in, action: deny}"
	frame := Packet{SourceMAC: macPeer, DestinationMAC: macVM, EtherType: 0x88cc}
	nd := Packet{SourceMAC: macPeer, DestinationMAC: macVM, EtherType: 0x86dd, Source: sixFar, Destination: six, Protocol: 58, ICMPType: 135}
	for claim, c := range map[string]struct {
		rules  string
		packet Packet
		want   string // action, reason, rule
	}{
		"no rule matches: the default allows":               {"  - {name: a, weight: 2, direction: in, action: deny, protocol: udp}", in(6, 1, 2), "allow default"},
		"the highest weight is asked first":                 {"  - {name: low, weight: 1, direction: in, action: deny}\n  - {name: high, weight: 2, direction: in, action: allow}", in(6, 1, 2), "allow rule p/high"},
		"a rule of the other direction is not asked":        {"  - {name: a, weight: 2, direction: out, action: deny}", in(6, 1, 2), "allow default"},
		"local is the VM's end of what comes in":            {"  - {name: a, weight: 2, direction: in, action: allow, protocol: tcp, local: {ports: [443]}}" + deny, in(6, 999, 443), "allow rule p/a"},
		"remote is the other end of what comes in":          {"  - {name: a, weight: 2, direction: in, action: allow, protocol: tcp, remote: {ports: [443]}}" + deny, in(6, 999, 443), "deny rule p/rest"},
		"a range includes its ends":                         {"  - {name: a, weight: 2, direction: in, action: reject, protocol: udp, local: {ports: [80-90]}}", in(17, 1, 90), "reject rule p/a"},
		"past a range is outside":                           {"  - {name: a, weight: 2, direction: in, action: reject, protocol: udp, local: {ports: [80-90]}}", in(17, 1, 91), "allow default"},
		"an empty list matches nothing":                     {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: []}}", in(6, 1, 2), "allow default"},
		"an empty list of MACs matches nothing":             {"  - {name: a, weight: 2, direction: in, action: deny, remote: {macs: []}}", in(6, 1, 2), "allow default"},
		"empty prefixes beside a group are the group":       {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: [], groups: [web]}}", in(6, 1, 2), "deny rule p/a"},
		"a group is the addresses of its ports":             {"  - {name: a, weight: 2, direction: in, action: deny, remote: {groups: [web]}}", in(6, 1, 2), "deny rule p/a"},
		"a group is its prefixes too":                       {"  - {name: a, weight: 2, direction: in, action: deny, remote: {groups: [web]}}", change(in(6, 1, 2), func(p *Packet) { p.Source = netip.MustParseAddr("192.0.2.7") }), "deny rule p/a"},
		"prefixes and MACs must both match":                 {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: [10.10.0.0/24], macs: [52:54:00:00:00:99]}}", in(6, 1, 2), "allow default"},
		"prefixes of IPv6 match no IPv4":                    {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: ['::/0']}}", in(6, 1, 2), "allow default"},
		"a rule about protocol matches IP only":             {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: [0.0.0.0/0, '::/0']}}", frame, "allow default"},
		"a rule about nothing of IP matches every frame":    {"  - {name: a, weight: 2, direction: in, action: deny}", frame, "deny rule p/a"},
		"an EtherType narrows":                              {"  - {name: a, weight: 2, direction: in, action: allow, etherType: 0x88cc}" + deny, frame, "allow rule p/a"},
		"ARP is judged by no rule":                          {"  - {name: a, weight: 2, direction: in, action: deny}", change(frame, func(p *Packet) { p.EtherType = 0x0806 }), "allow neighbor"},
		"neighbour discovery is judged by no rule":          {"  - {name: a, weight: 2, direction: in, action: deny}", nd, "allow neighbor"},
		"fragmented neighbour discovery is judged":          {"  - {name: a, weight: 2, direction: in, action: deny}", change(nd, func(p *Packet) { p.Fragment = true }), "deny rule p/a"},
		"a multicast listener report is judged":             {"  - {name: a, weight: 2, direction: in, action: deny}", change(nd, func(p *Packet) { p.ICMPType = 143 }), "deny rule p/a"},
		"a later fragment has no ports":                     {"  - {name: a, weight: 2, direction: in, action: deny, protocol: udp, local: {ports: [0-65535]}}", change(in(17, 1, 2), func(p *Packet) { p.Fragment, p.Later = true, true }), "allow default"},
		"a later fragment has a protocol":                   {"  - {name: a, weight: 2, direction: in, action: deny, protocol: udp}", change(in(17, 1, 2), func(p *Packet) { p.Fragment, p.Later = true, true }), "deny rule p/a"},
		"ICMP type and code narrow":                         {"  - {name: a, weight: 2, direction: in, action: deny, protocol: icmp, icmp: {type: 3, code: 4}}", change(in(1, 0, 0), func(p *Packet) { p.ICMPType, p.ICMPCode = 3, 4 }), "deny rule p/a"},
		"another code is another message":                   {"  - {name: a, weight: 2, direction: in, action: deny, protocol: icmp, icmp: {type: 3, code: 4}}", change(in(1, 0, 0), func(p *Packet) { p.ICMPType, p.ICMPCode = 3, 1 }), "allow default"},
		"ICMP in IPv6 has no types":                         {"  - {name: a, weight: 2, direction: in, action: deny, protocol: icmp, icmp: {type: 135}}", change(nd, func(p *Packet) { p.Protocol = 1 }), "allow default"},
		"flags that must be set, and clear":                 {"  - {name: a, weight: 2, direction: in, action: deny, protocol: tcp, tcpFlags: {set: [syn], clear: [ack]}}", change(in(6, 1, 2), func(p *Packet) { p.TCPFlags = FlagSYN }), "deny rule p/a"},
		"a flag that must be clear is set":                  {"  - {name: a, weight: 2, direction: in, action: deny, protocol: tcp, tcpFlags: {set: [syn], clear: [ack]}}", change(in(6, 1, 2), func(p *Packet) { p.TCPFlags = FlagSYN | FlagACK }), "allow default"},
		"a protocol by number":                              {"  - {name: a, weight: 2, direction: in, action: deny, protocol: '47'}", in(47, 0, 0), "deny rule p/a"},
		"a VNI narrows to its switch":                       {"  - {name: a, weight: 2, direction: in, action: deny, vni: 10001}", in(6, 1, 2), "deny rule p/a"},
		"another VNI is another switch":                     {"  - {name: a, weight: 2, direction: in, action: deny, vni: 10002}", in(6, 1, 2), "allow default"},
		"a meter decides nothing":                           {"  - {name: a, weight: 9, direction: in, action: meter}" + deny, in(6, 1, 2), "deny rule p/rest meter p/a"},
		"a meter below the rule that decides counts":        {"  - {name: a, weight: 9, direction: in, action: deny}\n  - {name: m, weight: 1, direction: in, action: meter}", in(6, 1, 2), "deny rule p/a meter p/m"},
		"the first meter that matches counts alone":         {"  - {name: m, weight: 9, direction: in, action: meter, protocol: udp}\n  - {name: n, weight: 8, direction: in, action: meter}\n  - {name: o, weight: 7, direction: in, action: meter}", in(6, 1, 2), "allow default meter p/n"},
		"a stateful rule allows a packet that stands alone": {"  - {name: a, weight: 2, direction: in, action: allow, stateful: true}" + deny, in(6, 1, 2), "allow rule p/a"},
	} {
		t.Run(claim, func(t *testing.T) {
			s := world(t, rules("p", c.rules)+"---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: web}\nspec: {ports: {tier: web}, cidrs: [192.0.2.0/24]}\n", "p")
			if got := text(Decide(s, "vm", fabric.In, c.packet)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func text(v Verdict) string {
	s := string(v.Action) + " " + string(v.Reason)
	if v.Rule != (RuleRef{}) {
		s += " " + v.Rule.String()
	}
	if v.Meter != (RuleRef{}) {
		s += " meter " + v.Meter.String()
	}
	return s
}

func TestLayersAreAskedInOrder(t *testing.T) {
	one := func(name, action string) string {
		return rules(name, "  - {name: r, weight: 1, direction: out, action: "+action+"}")
	}
	docs := one("yes", "allow") + one("no", "deny") + one("never", "reject") + rules("nothing", "    []") + rules("lost", "  - {name: r, weight: 1, direction: in, action: deny, remote: {groups: [gone]}}") +
		"---\napiVersion: weft/v1\nkind: Profile\nmetadata: {name: closed}\nspec: {policies: [nothing], defaultAction: deny}\n" +
		"---\napiVersion: weft/v1\nkind: Profile\nmetadata: {name: open}\nspec: {policies: [yes], defaultAction: allow}\n"
	for claim, c := range map[string]struct {
		port, sw           []string
		profile, swProfile string
		swDefault          fabric.Action
		want               string
	}{
		"nothing is said":                              {want: "allow default"},
		"the port's own come first":                    {port: []string{"no"}, profile: "open", want: "deny rule no/r"},
		"the profile's come before the switch's":       {profile: "open", sw: []string{"no"}, want: "allow rule yes/r"},
		"the port's are asked as it names them":        {port: []string{"never", "no"}, want: "reject rule never/r"},
		"the switch's come last":                       {port: []string{"nothing"}, sw: []string{"no"}, want: "deny rule no/r"},
		"a port without a profile has its switch's":    {swProfile: "open", sw: []string{"no"}, want: "allow rule yes/r"},
		"the profile's default is before the switch's": {profile: "closed", swDefault: fabric.Allow, want: "deny default"},
		"the switch's default":                         {swDefault: fabric.Deny, want: "deny default"},
		"a policy that is gone closes the port":        {port: []string{"gone"}, want: "deny policy_absent"},
		"a group that is gone closes the port":         {port: []string{"yes", "lost"}, want: "deny policy_absent"},
		"a profile that is gone closes the port":       {profile: "gone", want: "deny policy_absent"},
	} {
		t.Run(claim, func(t *testing.T) {
			s := world(t, docs, c.port...)
			s.Ports["vm"].Spec.Profile = c.profile
			s.Switches["blue"].Spec.Profile, s.Switches["blue"].Spec.Policies, s.Switches["blue"].Spec.DefaultAction = c.swProfile, c.sw, c.swDefault
			if got := text(Decide(s, "vm", fabric.Out, out(6, 1, 2))); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	if got := text(Decide(world(t, docs), "nobody", fabric.Out, out(6, 1, 2))); got != "deny policy_absent" {
		t.Errorf("a port that is not known: %s", got)
	}
}
