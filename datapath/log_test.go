package datapath_test

import (
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// logged is a rule that writes the first of every so many packets.
func logged(name string, action fabric.Action, protocol string, every uint32) fabric.Rule {
	return fabric.Rule{
		Name: name, Direction: fabric.In, Action: action, Protocol: protocol, Log: &fabric.RuleLog{Sample: every}, Stateful: action == fabric.Allow,
	}
}

func TestARuleWithLogTellsTheFirstOfEverySample(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	b.judge(t, rules(logged("each", fabric.Deny, "tcp", 0), logged("third", fabric.Allow, "udp", 3)))
	syn := ip{protocol: protoTCP}.frame(1, 2, false, tcp(address4(1), address4(2), 0x02, nil, nil))
	a.send(syn)
	got := h.event(datapath.RuleLogged)
	want := datapath.Decision{Rule: policy.ID("test", "each"), Direction: fabric.In, Reason: tracing.ReasonPolicyDenied, EtherType: typeIPv4,
		Source: got.Decision.Source, Destination: got.Decision.Destination, Protocol: protoTCP, Length: uint32(len(syn))}
	if got.Port != b.port.Name || got.Decision != want || got.Decision.Source.Addr() != address4(1) || got.Decision.Destination.Addr() != address4(2) || got.Decision.Destination.Port() == 0 {
		t.Fatalf("port %s, %+v", got.Port, got.Decision)
	}
	for i := range 7 { // the first opens the flow that the others belong to
		a.send(ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 85, data[:len(data)-i])))
		if b.receive() == nil {
			t.Fatal("an allowed packet does not arrive")
		}
	}
	a.send(syn)
	for _, shorter := range []int{0, 3, 6} {
		e := h.event(datapath.RuleLogged)
		if d := e.Decision; d.Rule != policy.ID("test", "third") || d.Reason != 0 || int(d.Length) != 14+40+8+len(data)-shorter {
			t.Fatalf("%+v, want the packet that is %d bytes shorter than the first", d, shorter)
		}
	}
	if e := h.event(datapath.RuleLogged); e.Decision.Rule != policy.ID("test", "each") {
		t.Fatalf("%+v, want the packet that was sent last", e.Decision)
	}
}

func TestAFloodIsLoggedWithinItsPortsBudget(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	b.judge(t, rules(logged("each", fabric.Deny, "", 1)))
	const sent = 2000
	packet := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 85, data))
	for range sent {
		a.send(packet)
	}
	ports, _ := h.counters()
	left := ports[b.port.Name].Unlogged
	if left == 0 || left > sent-100 {
		t.Fatalf("%d of %d were not logged", left, sent)
	}
	for range sent - int(left) {
		h.event(datapath.RuleLogged)
	}
	if got := b.hits(t, "each"); got.Packets != sent {
		t.Fatalf("%d hits, want %d", got.Packets, sent)
	}
}
