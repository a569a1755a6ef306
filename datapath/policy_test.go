package datapath_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// rules is a source of one policy.
func rules(of ...fabric.Rule) *policy.Source {
	for i := range of {
		of[i].Weight = uint16(1000 - i)
	}
	return &policy.Source{Policies: []*fabric.Policy{{Metadata: fabric.Metadata{Name: "test"}, Spec: fabric.PolicySpec{Rules: of}}}}
}

// judge puts the port of a station under a source; nil is none.
func (s *station) judge(tb testing.TB, source *policy.Source) {
	tb.Helper()
	s.port.Policy = policy.Digest{}
	c := datapath.Change{}
	if source != nil {
		s.port.Policy = source.Digest()
		c.Put.Tables = map[policy.Digest]*policy.Source{s.port.Policy: source}
	}
	c.Put.Ports = map[string]datapath.Port{s.device: s.port}
	s.host.apply(c)
}

// outDrops is how many frames for the guest were dropped for a reason.
func (s *station) outDrops(r tracing.Reason) uint64 {
	ports, _ := s.host.counters()
	return ports[s.port.Name].DropsOut[r]
}

// hits are the hits of a rule of the policy "test" at the station's port.
func (s *station) hits(tb testing.TB, rule string) datapath.Hits {
	tb.Helper()
	all, err := s.host.RuleHits(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return all[s.port.Name][policy.ID("test", rule)]
}

func remotePrefix(p string) *fabric.End {
	return &fabric.End{Prefixes: []netip.Prefix{netip.MustParsePrefix(p)}}
}

func TestRulesOfTheReceiverDecideByPrefixProtocolAndPort(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, c := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0)
	one := netip.PrefixFrom(address4(1), 32).String()
	b.judge(t, rules(
		fabric.Rule{Name: "web", Direction: fabric.In, Action: fabric.Allow, Protocol: "udp", Remote: remotePrefix(one), Local: &fabric.End{Ports: []fabric.PortRange{{First: 80, Last: 90}}}},
		fabric.Rule{Name: "none", Direction: fabric.In, Action: fabric.Deny, Remote: remotePrefix("0.0.0.0/0")},
	))
	good := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 85, data))
	a.send(good)
	if b.receive() == nil {
		t.Fatal("a packet that a rule allows does not arrive")
	}
	for name, f := range map[string][]byte{
		"another port":     ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 91, data)),
		"another protocol": ip{protocol: protoTCP}.frame(1, 2, false, tcp(address4(1), address4(2), 0x10, nil, data)),
	} {
		before := b.outDrops(tracing.ReasonPolicyDenied)
		a.send(f)
		if got := b.outDrops(tracing.ReasonPolicyDenied) - before; got != 1 {
			t.Errorf("%s: %d drops, want 1", name, got)
		}
	}
	before := b.outDrops(tracing.ReasonPolicyDenied)
	c.send(ip{protocol: protoUDP}.frame(3, 2, false, udp(1000, 85, data)))
	if got := b.outDrops(tracing.ReasonPolicyDenied) - before; got != 1 {
		t.Errorf("another source: %d drops, want 1", got)
	}
	b.silent()
	a.send(ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 91, data)))
	if b.receive() == nil {
		t.Error("a rule about IPv4 keeps IPv6 out")
	}
	if got := b.hits(t, "web"); got.Packets != 1 || got.Bytes != uint64(len(good)) || got.Last.IsZero() {
		t.Errorf("hits of the rule that allows: %+v", got)
	}
	if got := b.hits(t, "none"); got.Packets != 3 {
		t.Errorf("hits of the rule that denies: %+v, want 3 packets", got)
	}
	b.judge(t, nil)
	a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 91, data)))
	if b.receive() == nil {
		t.Error("a port without rules receives nothing")
	}
}

func TestRulesOfTheSenderDecideFirst(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	a.judge(t, rules(fabric.Rule{Name: "no-dns", Direction: fabric.Out, Action: fabric.Deny, Protocol: "udp", Remote: &fabric.End{Ports: []fabric.PortRange{{First: 53, Last: 53}}}}))
	a.expectDrop(tracing.ReasonPolicyDenied, ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 53, data)))
	a.send(ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 54, data)))
	if b.receive() == nil {
		t.Fatal("the default action does not allow")
	}
	a.send(ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(9))))
	if b.receive() == nil {
		t.Fatal("ARP is judged")
	}
}
