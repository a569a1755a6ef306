package datapath_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

func TestMetersCountEachPrefixToTheByte(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, c := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0)
	one, all, six := netip.PrefixFrom(address4(2), 32), netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/64")
	meters := fabric.Metering([]fabric.PrefixMeter{{Prefix: all}, {Prefix: one}, {Prefix: six, Direction: fabric.Out}})
	a.judge(t, &policy.Source{Default: fabric.Allow, Policies: []*fabric.Policy{meters}})
	want := map[policy.RuleID]datapath.Hits{}
	count := func(d fabric.Direction, p netip.Prefix, frame []byte) {
		id := policy.ID(fabric.MeterPolicy, fabric.MeterRule(d, p))
		want[id] = datapath.Hits{Packets: want[id].Packets + 1, Bytes: want[id].Bytes + uint64(len(frame))}
	}
	for n := range 7 {
		payload := make([]byte, 100*n)
		to2, to3 := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, payload)), ip{protocol: protoUDP}.frame(1, 3, false, udp(1, 2, payload))
		from2, from3 := ip{protocol: protoUDP}.frame(2, 1, false, udp(1, 2, payload)), ip{protocol: protoUDP}.frame(3, 1, false, udp(1, 2, payload))
		to6, from6 := ip{protocol: protoUDP}.frame(1, 2, true, udp(1, 2, payload)), ip{protocol: protoUDP}.frame(2, 1, true, udp(1, 2, payload))
		for _, frame := range []struct {
			from, to  *tapGuest
			bytes     []byte
			direction fabric.Direction
			prefix    netip.Prefix
		}{{a, b, to2, fabric.Out, one}, {a, c, to3, fabric.Out, all}, {b, a, from2, fabric.In, one}, {c, a, from3, fabric.In, all}, {a, b, to6, fabric.Out, six}, {b, a, from6, fabric.In, netip.Prefix{}}} {
			frame.from.send(frame.bytes)
			if frame.to.receive() == nil {
				t.Fatal("a metered frame does not pass")
			}
			if frame.prefix.IsValid() {
				count(frame.direction, frame.prefix, frame.bytes)
			}
		}
	}
	hits, err := h.RuleHits(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range meters.Spec.Rules {
		id := policy.ID(fabric.MeterPolicy, r.Name)
		got := hits[a.port.Name][id]
		if got.Packets != want[id].Packets || got.Bytes != want[id].Bytes {
			t.Errorf("%s: %d packets and %d bytes, want %d and %d", r.Name, got.Packets, got.Bytes, want[id].Packets, want[id].Bytes)
		}
	}
}
