package policy_test

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

func prefixes(of ...string) *fabric.End {
	e := &fabric.End{}
	for _, p := range of {
		e.Prefixes = append(e.Prefixes, netip.MustParsePrefix(p))
	}
	return e
}

// sample is a source with a bit of everything.
func sample() policy.Source {
	kind := uint8(8)
	web := prefixes("10.0.0.0/8", "192.168.1.0/24", "fd00::/16")
	web.Groups = []string{"office"}
	return policy.Source{
		Default: fabric.Deny, VNI: 7,
		Groups: map[string][]netip.Prefix{"office": {netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("10.1.0.0/16")}},
		Policies: []*fabric.Policy{{Metadata: fabric.Metadata{Name: "a"}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{
			{Name: "web", Weight: 9, Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Remote: web, Stateful: true,
				Local: &fabric.End{Ports: []fabric.PortRange{{First: 443, Last: 443}, {First: 80, Last: 90}, {First: 85, Last: 100}}}},
			{Name: "ping", Weight: 8, Direction: fabric.In, Action: fabric.Allow, Protocol: "icmp", ICMP: &fabric.ICMPMatch{Type: &kind}},
			{Name: "count", Weight: 7, Direction: fabric.In, Action: fabric.Meter, Remote: prefixes("10.0.0.0/8")},
			{Name: "other switch", Weight: 6, Direction: fabric.In, Action: fabric.Allow, VNI: 8},
			{Name: "nobody", Weight: 5, Direction: fabric.In, Action: fabric.Allow, Remote: &fabric.End{Prefixes: []netip.Prefix{}}},
			{Name: "mail", Weight: 4, Direction: fabric.Out, Action: fabric.Reject, Protocol: "tcp", Remote: &fabric.End{Ports: []fabric.PortRange{{First: 25, Last: 25}}}},
		}}}},
	}
}

func compile(t testing.TB, s policy.Source) *policy.Table {
	t.Helper()
	table, err := policy.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestATableIsTheSameUnderOtherNamesAndOrders(t *testing.T) {
	one, two := sample(), sample()
	p := two.Policies[0]
	p.Metadata.Name = "b"
	slices.Reverse(p.Spec.Rules)
	for i := range p.Spec.Rules {
		r := &p.Spec.Rules[i]
		r.Name += "-renamed"
		for _, e := range []*fabric.End{r.Local, r.Remote} {
			if e != nil {
				slices.Reverse(e.Prefixes)
				slices.Reverse(e.Ports)
			}
		}
	}
	a, b := compile(t, one), compile(t, two)
	if a.Digest != b.Digest || a.Shape != b.Shape || a.Places != b.Places {
		t.Fatalf("digests %s and %s", a.Digest, b.Digest)
	}
	if one.Digest() == two.Digest() {
		t.Fatal("a source under other names, for which packets are counted anew, has the same digest")
	}
	three := sample()
	slices.Reverse(three.Policies[0].Spec.Rules)
	if one.Digest() != three.Digest() || !reflect.DeepEqual(compile(t, one), compile(t, three)) {
		t.Fatal("the order in which rules stand in the document changes what they compile to")
	}
	three.Policies[0].Spec.Rules[0].Action = fabric.Deny
	if one.Digest() == three.Digest() || compile(t, one).Digest == compile(t, three).Digest {
		t.Fatal("another action has the same digest")
	}
}

func TestAMemberOfAGroupChangesAddressesAlone(t *testing.T) {
	one, two := sample(), sample()
	two.Groups["office"] = append(two.Groups["office"], netip.MustParsePrefix("203.0.113.7/32"))
	a, b := compile(t, one), compile(t, two)
	if a.Shape != b.Shape || a.Places == b.Places || a.Digest == b.Digest {
		t.Fatalf("shapes %s and %s, places %s and %s", a.Shape, b.Shape, a.Places, b.Places)
	}
}

func TestTooManyRulesAreRefused(t *testing.T) {
	s := policy.Source{}
	for n := range 2 {
		p := &fabric.Policy{Metadata: fabric.Metadata{Name: fmt.Sprint(n)}}
		for i := range 8200 {
			p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{Name: fmt.Sprint(i), Weight: uint16(i + 1), Direction: fabric.In, Action: fabric.Deny, Protocol: "47"})
		}
		s.Policies = append(s.Policies, p)
	}
	if _, err := policy.Compile(s); err == nil {
		t.Fatal("16,400 rules of one direction compile")
	}
}

// tableOf is a large policy of rules of their own prefixes and ports.
func large(n int) policy.Source {
	p := &fabric.Policy{Metadata: fabric.Metadata{Name: "large"}}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i << 4)})
		p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{
			Name: fmt.Sprint(i), Weight: uint16(i + 1), Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Stateful: true,
			Remote: &fabric.End{Prefixes: []netip.Prefix{netip.PrefixFrom(a, 28)}},
			Local:  &fabric.End{Ports: []fabric.PortRange{{First: uint16(i % 1000), Last: uint16(i%1000 + i%11)}}},
		})
	}
	return policy.Source{Policies: []*fabric.Policy{p}, Default: fabric.Deny}
}

func BenchmarkCompile10000(b *testing.B) {
	s := large(10000)
	for b.Loop() {
		compile(b, s)
	}
}

func BenchmarkDigest10000(b *testing.B) {
	s := large(10000)
	for b.Loop() {
		s.Digest()
	}
}

// TestTheTableFindsTheRuleThatTheModelFinds looks packets up in compiled tables as the kernel does.
func TestTheTableFindsTheRuleThatTheModelFinds(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	s := large(6000)
	s.Policies = append(s.Policies, sample().Policies...)
	s.Groups, s.VNI = sample().Groups, 7
	snap := &fabric.Snapshot{
		Ports:    map[fabric.PortID]*fabric.Port{"p": {Spec: fabric.PortSpec{Switch: "sw", Settings: fabric.Settings{Policies: []string{"large", "a"}}}}},
		Switches: map[fabric.SwitchID]*fabric.Switch{"sw": {Spec: fabric.SwitchSpec{VNI: 7, DefaultAction: fabric.Deny}}},
		Policies: map[string]*fabric.Policy{"large": s.Policies[0], "a": s.Policies[1]},
		Groups:   map[string]*fabric.Group{"office": {Spec: fabric.GroupSpec{CIDRs: s.Groups["office"]}}},
	}
	table := compile(t, s)
	for range 3000 {
		p := policy.Packet{EtherType: 0x0800, Protocol: []uint8{6, 6, 6, 17, 1, 47}[r.IntN(6)], SourcePort: uint16(r.IntN(1100)), DestinationPort: uint16(r.IntN(1100)), TCPFlags: 2}
		p.Source = netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(256)), byte(r.IntN(256))})
		if r.IntN(4) == 0 {
			p.Source = netip.AddrFrom4([4]byte{172, 20, 1, byte(r.IntN(256))})
		}
		p.Destination = netip.MustParseAddr("10.9.9.9")
		if p.Protocol == 1 {
			p.ICMPType = uint8(r.IntN(2) * 8)
		}
		want := policy.Decide(snap, "p", fabric.In, p)
		id, meter := find(&table.Sides[1], p)
		wantID, wantMeter := policy.DefaultID(fabric.In), policy.RuleID(0)
		if want.Rule != (policy.RuleRef{}) {
			wantID = policy.ID(want.Rule.Policy, want.Rule.Rule)
		}
		if want.Meter != (policy.RuleRef{}) {
			wantMeter = policy.ID(want.Meter.Policy, want.Meter.Rule)
		}
		if id != wantID || meter != wantMeter {
			t.Fatalf("%+v: rule %x and meter %x, want %+v", p, id, meter, want)
		}
	}
}

// find looks a packet towards the VM up.
func find(s *policy.Side, p policy.Packet) (rule, meter policy.RuleID) {
	port := p.DestinationPort
	if p.HasICMP() {
		port = uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
	} else if !p.HasPorts() {
		port = 0
	}
	class := map[policy.Dim]uint16{policy.DimService: service(s, policy.DimService, p.Protocol, port)}
	class[policy.DimRemote], class[policy.DimLocal] = address(s, policy.DimRemote, p.Source), address(s, policy.DimLocal, p.Destination)
	if p.HasPorts() {
		class[policy.DimRemotePort] = service(s, policy.DimRemotePort, 0, p.SourcePort)
	}
	for block := range uint8(policy.MaxBlocks) {
		if n := first(s, class, block); n >= 0 {
			rule = s.Decides[int(block)*policy.BlockBits+n].ID
			break
		}
	}
	if n := first(s, class, policy.MaxBlocks); n >= 0 {
		meter = s.Meters[n].ID
	}
	return rule, meter
}

// first is the first rule of a block that is in the vectors of all classes; -1 if none is.
func first(s *policy.Side, class map[policy.Dim]uint16, block uint8) int {
	var all [policy.BlockBits / 64]uint64
	for i := range all {
		all[i] = ^uint64(0)
	}
	for dim := range policy.Dim(8) {
		if s.Dims&(1<<dim) == 0 {
			continue
		}
		i := slices.IndexFunc(s.Vectors, func(v policy.Vector) bool { return v.Dim == dim && v.Class == class[dim] && v.Block == block })
		if i < 0 {
			return -1
		}
		for w := range all {
			all[w] &= s.Vectors[i].Words[w]
		}
	}
	for w, word := range all {
		if word != 0 {
			return 64*w + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// service is the longest match of a packet with a transport header.
func service(s *policy.Side, dim policy.Dim, proto uint8, port uint16) (class uint16) {
	longest := uint8(0)
	for _, e := range s.Services {
		switch {
		case e.Dim != dim || e.Kind != policy.KindTransport || e.Bits <= longest:
		case e.Bits >= 16 && e.Proto != proto:
		case e.Bits > 24 && (e.Port^port)>>(40-e.Bits) != 0:
		default:
			longest, class = e.Bits, e.Class
		}
	}
	return class
}

// address is the longest match of an address.
func address(s *policy.Side, dim policy.Dim, a netip.Addr) (class uint16) {
	longest := -1
	for _, e := range s.Addresses {
		if e.Dim == dim && e.Prefix.Contains(a) && e.Prefix.Bits() > longest {
			longest, class = e.Prefix.Bits(), e.Class
		}
	}
	return class
}
