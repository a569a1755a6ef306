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

// connections are those that the station's port remembers.
func (s *station) connections(tb testing.TB) map[datapath.Connection]bool {
	tb.Helper()
	all, err := s.host.Connections(context.Background(), s.device)
	if err != nil {
		tb.Fatal(err)
	}
	set := map[datapath.Connection]bool{}
	for _, c := range all {
		set[c] = true
	}
	if len(set) != len(all) {
		tb.Fatalf("%d connections at %s, %d of them different", len(all), s.device, len(set))
	}
	return set
}

func statefully(d fabric.Direction) fabric.Rule {
	return fabric.Rule{Name: "follow-" + string(d), Direction: d, Action: fabric.Allow, Stateful: true}
}

func TestAFloodOfConnectionsEvictsNoFlowOfAnotherGuest(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, attacker, wall := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0), w.tap(h, 4, 0)
	for _, g := range []*tapGuest{a, b, attacker} {
		g.judge(t, rules(statefully(fabric.Out), statefully(fabric.In)))
	}
	wall.judge(t, &policy.Source{Default: fabric.Deny})
	const flows, room, flood = 500, 16384, 50_000
	for n := range flows {
		a.send(ip{protocol: protoUDP}.frame(1, 2, n%2 == 1, udp(uint16(1000+n), 7, data)))
		if b.receive() == nil {
			t.Fatalf("packet %d does not arrive", n)
		}
	}
	before := map[*tapGuest]map[datapath.Connection]bool{a: a.connections(t), b: b.connections(t)}
	if len(before[a]) != flows || len(before[b]) != flows {
		t.Fatalf("%d and %d connections of %d", len(before[a]), len(before[b]), flows)
	}
	for n := range flood {
		attacker.send(ip{protocol: protoUDP}.frame(3, 4, n%2 == 1, udp(uint16(10_000+n), uint16(20_000+n/7), data)))
	}
	if got := wall.outDrops(tracing.ReasonPolicyDenied); got != flood {
		t.Fatalf("%d of %d packets reached the guest that refuses them", got, flood)
	}
	if n := len(attacker.connections(t)); n > room || n < room/2 {
		t.Errorf("%d connections at the attacker's port, want its room of %d to be used", n, room)
	}
	remembered, err := h.Remembered(context.Background(), []fabric.PortID{a.port.Name, attacker.port.Name, "nobody"})
	if r := remembered[attacker.port.Name]; err != nil || !r.Full || r.Room != room || r.Connections != len(attacker.connections(t)) {
		t.Errorf("the attacker's port remembers %+v (%v)", r, err)
	}
	if r := remembered[a.port.Name]; r.Full || r.Connections != flows || len(remembered) != 2 {
		t.Errorf("the ports remember %+v", remembered)
	}
	for g, had := range before {
		for c := range had {
			if !g.connections(t)[c] {
				t.Errorf("%s has lost %+v", g.port.Name, c)
			}
		}
	}
	if len(wall.connections(t)) != 0 {
		t.Error("a guest that refuses all has connections")
	}
}

func TestAConnectionNamesItsEndsAndItsOpener(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	a.judge(t, rules(statefully(fabric.Out)))
	b.judge(t, rules(statefully(fabric.In)))
	before, err := h.Memory(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	a.send(ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 7, data)))
	if b.receive() == nil {
		t.Fatal("nothing arrives")
	}
	for g, want := range map[*tapGuest]datapath.Connection{
		a: {Protocol: protoUDP, Local: netip.AddrPortFrom(address6(1), 1000), Remote: netip.AddrPortFrom(address6(2), 7), Opener: fabric.Out},
		b: {Protocol: protoUDP, Local: netip.AddrPortFrom(address6(2), 7), Remote: netip.AddrPortFrom(address6(1), 1000), Opener: fabric.In},
	} {
		if got := g.connections(t); len(got) != 1 || !got[want] {
			t.Errorf("%s: %+v, want %+v", g.port.Name, got, want)
		}
	}
	a.judge(t, rules(statefully(fabric.Out), fabric.Rule{Name: "web", Direction: fabric.In, Action: fabric.Allow, Remote: remotePrefix("10.0.0.0/8")}))
	after, err := h.Memory(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flows", "slots", "combos"} {
		if after[name] == 0 || after[name] < before[name] {
			t.Errorf("map %s takes %d bytes, before %d", name, after[name], before[name])
		}
	}
	if after["places"] <= before["places"] {
		t.Errorf("a rule of addresses takes no memory: %d bytes, before %d", after["places"], before["places"])
	}
	if all, err := h.Connections(context.Background(), "nowhere"); len(all) != 0 || err != nil {
		t.Errorf("a device without a port: %v, %v", all, err)
	}
}
