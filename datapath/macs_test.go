package datapath_test

import (
	"context"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// using puts in force what a guest may use beside its port's MAC.
func (g *tapGuest) using(m datapath.MACs) {
	g.tb.Helper()
	g.port.MACs = m
	g.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: g.port}}})
}

// from is a frame of guest 1 to guest 2 with another source MAC.
func from(src fabric.MAC) []byte {
	return ether(mac(2), src, typeIPv4, ip{protocol: protoUDP}.packet(address4(1), address4(2), udp(1, 2, data)))
}

func TestAListedMACIsThePortsToo(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	a.expectDrop(tracing.ReasonGuardSrcMAC, from(mac(11)))
	var m datapath.MACs
	m.Listed[0], m.Listed[1] = datapath.StationMAC{MAC: mac(11)}, datapath.StationMAC{MAC: mac(12)}
	a.using(m)
	h.apply(datapath.Change{Put: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(11)}: {Device: a.device, Epoch: 1}}}})
	for claim, frame := range map[string][]byte{
		"the port's own": from(mac(1)), "one that is listed": from(mac(11)), "another": from(mac(12)),
		"ARP that names it": ether(mac(2), mac(11), typeARP, arp(2, mac(11), address4(1), mac(2), address4(2))),
		"an advertisement that names it": ether(mac(2), mac(11), typeIPv6, ip{protocol: protoICMPv6, ttl: 255}.packet(address6(1), address6(2),
			icmp6(address6(1), address6(2), 136, append(append([]byte{0x60, 0, 0, 0}, address6(1).AsSlice()...), append([]byte{2, 1}, macBytes(11)...)...)...))),
	} {
		a.send(frame)
		if b.receive() == nil {
			t.Errorf("%s does not pass", claim)
		}
	}
	b.send(ether(mac(11), mac(2), typeIPv4, ip{protocol: protoUDP}.packet(address4(2), address4(1), udp(1, 2, data))))
	if a.receive() == nil {
		t.Error("what is sent to a listed MAC does not arrive")
	}
	a.expectDrop(tracing.ReasonGuardSrcMAC, from(mac(13)))
	a.expectDrop(tracing.ReasonGuardARP, ether(mac(2), mac(11), typeARP, arp(2, mac(13), address4(1), mac(2), address4(2))))
	m.Listed[0], m.Listed[1] = m.Listed[1], datapath.StationMAC{}
	a.using(m)
	a.expectDrop(tracing.ReasonGuardSrcMAC, from(mac(11)))
	a.send(from(mac(12)))
	if b.receive() == nil {
		t.Error("a MAC that stays listed does not pass")
	}
	a.using(datapath.MACs{})
	a.expectDrop(tracing.ReasonGuardSrcMAC, from(mac(12)))
}

func macBytes(n int) []byte {
	m := mac(n)
	return m[:]
}

func TestSpoofedMACsHaveALimit(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	a.port.Guards &^= datapath.GuardMAC
	a.using(datapath.MACs{})
	for n := range 20 {
		a.send(from(mac(20 + n)))
		if b.receive() == nil {
			t.Fatalf("without a limit the spoofed MAC %d does not pass", n)
		}
	}
	a.using(datapath.MACs{Learned: 3})
	for range 2 {
		for _, n := range []int{1, 20, 21, 22} {
			a.send(from(mac(n)))
			if b.receive() == nil {
				t.Fatalf("MAC %d is within the limit and does not pass", n)
			}
		}
		a.expectDrop(tracing.ReasonMACLimit, from(mac(23)))
	}
	if e := w.hosts[0].next(datapath.Alarmed); e.Alarm != (datapath.Alarm{Reason: tracing.ReasonMACLimit, MAC: mac(23)}) {
		t.Errorf("the event is %+v", e)
	}
	a.expectDrop(tracing.ReasonSrcGroup, from(multi6))
	a.using(datapath.MACs{Learned: 4})
	a.send(from(mac(23)))
	if b.receive() == nil {
		t.Error("under a higher limit the next one does not pass")
	}
	a.expectDrop(tracing.ReasonMACLimit, from(mac(24)))
	w.hosts[0].Close()
	w.hosts[0].load()
	a.expectDrop(tracing.ReasonMACLimit, from(mac(24)))
}

func TestAPortStandsInForItsSibling(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	first, second, b := w.tap(h, 1, 0), w.tap(h, 3, 0), w.tap(h, 2, 0)
	second.port.Addresses[2], second.port.Addresses[3] = address4(1), address6(1)
	m := datapath.MACs{Shared: true}
	m.Listed[0] = datapath.StationMAC{MAC: mac(1), Sibling: true}
	second.using(m)
	first.using(datapath.MACs{Shared: true})
	back := ip{protocol: protoUDP}.frame(2, 1, false, udp(1, 2, data))
	for turn, at := range []*tapGuest{first, second, second, first, second} {
		at.send(from(mac(1)))
		if b.receive() == nil {
			t.Fatalf("turn %d: the frame does not pass", turn)
		}
		b.send(back)
		if at.receive() == nil {
			t.Fatalf("turn %d: the answer does not come to the port that has sent last", turn)
		}
		first.silent()
		second.silent()
		s, err := h.Read(context.Background())
		if got := s.FDB[datapath.FDBKey{VNI: vni, MAC: mac(1)}]; err != nil || got != (datapath.FDB{Device: at.device, Epoch: 1}) {
			t.Fatalf("turn %d: the station is at %+v: %v", turn, got, err)
		}
	}
	second.port.Guards &^= datapath.GuardMAC
	second.using(m)
	second.send(ether(mac(1), mac(2), typeIPv4, ip{protocol: protoUDP}.packet(address4(3), address4(1), udp(1, 2, data))))
	if s, err := h.Read(context.Background()); err != nil || s.FDB[datapath.FDBKey{VNI: vni, MAC: mac(2)}].Device != b.device {
		t.Fatalf("a MAC that is spoofed takes its owner's place: %+v, %v", s.FDB, err)
	}
	if e := h.next(datapath.StoodIn); e.Port != second.port.Name || e.Alarm.MAC != mac(1) {
		t.Errorf("the event is %+v", e)
	}
	b.expectDrop(tracing.ReasonGuardSrcMAC, ether(mac(3), mac(1), typeIPv4, ip{protocol: protoUDP}.packet(address4(2), address4(3), udp(1, 2, data))))
}

// TestAPortStandsInForItsSiblingOnEverySegmentThatItHears has two ports of a VM send with one MAC in turn: on a private VLAN, where
// what is for a station does not come by the segment that it sends on, and by a trunk's tag.
func TestAPortStandsInForItsSiblingOnEverySegmentThatItHears(t *testing.T) {
	for claim, c := range map[string]struct {
		team, peer string
		tags       []uint16
	}{
		"isolated":              {"isolated:primary=100,secondary=101", "promiscuous:primary=100,secondary=101/102", nil},
		"community":             {"community:primary=100,secondary=102", "promiscuous:primary=100,secondary=101/102", nil},
		"in its own community":  {"community:primary=100,secondary=102", "community:primary=100,secondary=102", nil},
		"by the tag of a trunk": {"trunk:native=0,allowed=10", "10", []uint16{10}},
	} {
		t.Run(claim, func(t *testing.T) {
			e := newEstate(t, fabric.SwitchVLAN{ID: 10}, fabric.SwitchVLAN{ID: 100}, fabric.SwitchVLAN{ID: 101, Primary: 100, Mode: fabric.Isolated},
				fabric.SwitchVLAN{ID: 102, Primary: 100, Mode: fabric.Community})
			team := []*tapGuest{e.port(0, "one", c.team), e.port(0, "two", c.team)}
			peers := []*tapGuest{e.port(0, "here", c.peer), e.port(1, "there", c.peer)}
			yes := true
			for _, g := range team {
				e.snap.Ports[g.port.Name].Spec.VM = "vm"
				e.snap.Ports[g.port.Name].Spec.MACs = &fabric.MACs{Sibling: &yes}
			}
			e.plan()
			one, port := team[0].port.MAC, e.snap.Ports["one"].Spec
			for _, at := range []*tapGuest{team[1], team[0], team[1]} {
				for i, peer := range peers {
					there := e.snap.Ports[peer.port.Name].Spec.Addresses[0]
					hello := ether(peer.port.MAC, one, typeIPv4, ip{protocol: protoUDP}.packet(port.Addresses[0], there, udp(1, 2, data)))
					at.send(tagged(hello, c.tags...))
					peer.gets(t, hello)
					back := ether(one, peer.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(there, port.Addresses[0], udp(2, 1, data)))
					peer.send(back)
					at.gets(t, tagged(back, c.tags...))
					if i == 0 {
						e.plan() // which is to leave it there
					}
				}
			}
			e.quiet()
		})
	}
}
