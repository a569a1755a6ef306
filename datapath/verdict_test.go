package datapath_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// everything is a rule without a match.
func everything(d fabric.Direction, a fabric.Action) fabric.Rule {
	return fabric.Rule{Name: string(a) + "-" + string(d), Direction: d, Action: a}
}

func TestARejectedPacketIsAnswered(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	for name, put := range map[string]func(source *policy.Source){
		"by the sender's port":   func(source *policy.Source) { a.judge(t, source) },
		"by the receiver's port": func(source *policy.Source) { b.judge(t, source) },
	} {
		t.Run(name, func(t *testing.T) {
			put(rules(everything(fabric.In, fabric.Reject), everything(fabric.Out, fabric.Reject)))
			defer put(nil)
			for _, v6 := range []bool{false, true} {
				src, dst := address4(1), address4(2)
				if v6 {
					src, dst = address6(1), address6(2)
				}
				a.send(ip{protocol: protoTCP}.frame(1, 2, v6, complete(src, dst, tcp(src, dst, 0x02, nil, nil))))
				reset := a.receive()
				if reset == nil {
					t.Fatalf("no RST, IPv6 %v", v6)
				}
				size := 34
				if v6 {
					size = 54
				}
				segment := reset[size:]
				if !transportOK(reset) || segment[13] != 0x14 || binary.BigEndian.Uint32(segment[8:]) != 1001 {
					t.Errorf("the answer to a SYN, IPv6 %v: % x", v6, reset)
				}
				a.send(ip{protocol: protoUDP}.frame(1, 2, v6, udp(5, 6, []byte("x"))))
				told := a.receive()
				if told == nil {
					t.Fatalf("no ICMP error, IPv6 %v", v6)
				}
				if !v6 && (told[34] != 3 || told[35] != 13) || v6 && (told[54] != 1 || told[55] != 1) || !transportOK(told) {
					t.Errorf("the answer to UDP, IPv6 %v: % x", v6, told)
				}
			}
			a.send(ip{protocol: protoTCP}.frame(1, 2, false, complete(address4(1), address4(2), tcp(address4(1), address4(2), 0x04, nil, nil))))
			a.silent()
			b.silent()
		})
	}
	if got := a.drops(tracing.ReasonPolicyRejected); got != 5 {
		t.Errorf("the sender's port has %d drops, want 5", got)
	}
}

func TestARejectedPacketOfAnotherHostIsAnswered(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[1], 2, 0)
	b.judge(t, rules(everything(fabric.In, fabric.Reject)))
	src, dst := address4(1), address4(2)
	a.send(ip{protocol: protoTCP}.frame(1, 2, false, complete(src, dst, tcp(src, dst, 0x02, nil, nil))))
	if reset := a.receive(); reset == nil || reset[47] != 0x14 || !transportOK(reset) {
		t.Fatalf("the answer to a SYN across hosts: % x", reset)
	}
	b.silent()
	if got := b.outDrops(tracing.ReasonPolicyRejected); got != 1 {
		t.Errorf("%d drops, want 1", got)
	}
}

func TestAMeterCountsTheHeadersOfEverySegment(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, nic.FullOffload)
	a.judge(t, rules(fabric.Rule{Name: "count", Direction: fabric.Out, Action: fabric.Meter, Protocol: "tcp"}))
	const payload, mss = 10000, 1400
	segment := tcp(address4(1), address4(2), 0x10, nil, make([]byte, payload))
	a.sendVnet(vnet{Flags: needsCsum, Type: gsoTCP4, HeaderLen: 54, Size: mss, CsumStart: 34, CsumAt: 16}, ip{protocol: protoTCP, df: true}.frame(1, 2, false, segment))
	if b.receive() == nil {
		t.Fatal("the aggregate does not arrive")
	}
	packets := uint64((payload + mss - 1) / mss)
	if got := a.hits(t, "count"); got.Packets != packets || got.Bytes != payload+packets*54 {
		t.Errorf("%d packets of %d bytes were metered, want %d of %d", got.Packets, got.Bytes, packets, payload+packets*54)
	}
}

func TestAGroupFrameIsJudgedForEachCopy(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, c := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0)
	b.judge(t, rules(everything(fabric.In, fabric.Deny)))
	a.send(ether(broadcast, mac(1), typeIPv4, ip{protocol: protoUDP}.packet(address4(1), netip.MustParseAddr("10.77.0.255"), udp(1, 2, data))))
	if c.receive() == nil {
		t.Fatal("a port without rules receives no copy")
	}
	b.silent()
	if got := b.outDrops(tracing.ReasonPolicyDenied); got != 1 {
		t.Errorf("%d copies were denied, want 1", got)
	}
}

func TestAFlowOutlivesTheLoaderAndEndsWithItsRule(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	open := fabric.Rule{Name: "dns", Direction: fabric.Out, Action: fabric.Allow, Protocol: "udp", Stateful: true}
	a.judge(t, rules(open, everything(fabric.In, fabric.Deny), everything(fabric.Out, fabric.Deny)))
	query, reply := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 53, data)), ip{protocol: protoUDP}.frame(2, 1, false, udp(53, 1000, data))
	b.send(reply)
	if got := a.outDrops(tracing.ReasonPolicyDenied); got != 1 {
		t.Fatalf("a reply to nothing: %d drops, want 1", got)
	}
	a.send(query)
	b.send(reply)
	if b.receive() == nil || a.receive() == nil {
		t.Fatal("the query or its reply does not arrive")
	}
	h.Close()
	h.load()
	b.send(reply)
	if a.receive() == nil {
		t.Fatal("the flow did not outlive the loader")
	}
	if s, err := h.Read(context.Background()); err != nil || s.Ports[a.device].Policy != a.port.Policy || len(s.Tables) != 1 {
		t.Fatalf("the rules are not read back: %+v, %v", s, err)
	}
	a.judge(t, rules(everything(fabric.In, fabric.Deny), everything(fabric.Out, fabric.Deny)))
	before := a.outDrops(tracing.ReasonPolicyDenied)
	b.send(reply)
	if got := a.outDrops(tracing.ReasonPolicyDenied) - before; got != 1 {
		t.Fatalf("the flow goes on without its rule: %d drops, want 1", got)
	}
	if got := a.hits(t, "dns"); got.Packets != 3 {
		t.Errorf("the rule that is gone has %d hits, want 3", got.Packets)
	}
	a.judge(t, rules(open, everything(fabric.In, fabric.Deny), everything(fabric.Out, fabric.Deny)))
	b.send(reply)
	if got := a.outDrops(tracing.ReasonPolicyDenied) - before; got != 2 {
		t.Errorf("the flow came back with its rule: %d drops, want 2", got)
	}
}

// TestTablesLeaveNothingBehind puts and deletes tables and looks for what is left in the maps.
func TestTablesLeaveNothingBehind(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	program := h.program(t, "vp_in")
	for range 3 {
		source := manyRules(300, true)
		a.judge(t, source)
		a.judge(t, nil)
		h.apply(datapath.Change{Delete: datapath.State{Tables: map[policy.Digest]*policy.Source{source.Digest(): nil}}})
	}
	for _, name := range []string{"tables_v2", "places_v1", "services_v1", "exacts_v1", "vectors_v1", "rules_v1"} {
		m := mapOf(t, program, name)
		if key, err := m.NextKeyBytes(nil); err != nil || key != nil {
			t.Errorf("%s holds % x: %v", name, bytes.Clone(key), err)
		}
	}
}

func TestPortsThatComeAndGoLeaveNoFlowsBehind(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	a.judge(t, manyRules(3, true))
	b := w.bareTap(h, 2, 0)
	flows := mapOf(t, h.program(t, "vp_in"), "flows_v2")
	for n := range 8 {
		w.plug(&b.station)
		h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{b.device: {}}}})
		var id ebpf.MapID
		held := 0
		for slot := range flows.MaxEntries() {
			if flows.Lookup(slot, &id) == nil {
				held++
			}
		}
		if held == 0 || held > 7 { // a's, and those of the next few slots
			t.Fatalf("%d maps of flows after %d ports have come and gone", held, n+1)
		}
	}
}
