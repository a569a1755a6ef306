package datapath_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

var gateway4, gateway6 = address4(1), address6(1)

// hostPort plugs a host's own port in, with the gateway behind it; its device is read by the test in the place of the host's stack.
func (w *world) hostPort(h *host, n int) *tapGuest {
	w.tb.Helper()
	g := w.bareTap(h, n, 0)
	g.port.Kind = datapath.HostEnd
	g.port.Guards = datapath.GuardMAC | datapath.GuardARP | datapath.GuardL2Control
	w.plug(&g.station)
	mac := fabric.GatewayMAC(vni)
	h.apply(datapath.Change{Put: datapath.State{
		FDB: map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac}: {Device: g.device, Epoch: 1}},
		Neighbors: map[datapath.NeighborKey]fabric.MAC{
			{VNI: vni, Addr: gateway4}: mac, {VNI: vni, Addr: gateway6}: mac, {VNI: vni, Addr: fabric.GatewayLinkLocal(vni)}: mac,
		},
	}})
	return g
}

func TestEveryHostIsTheGatewayOfItsGuests(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	gateway := fabric.GatewayMAC(vni)
	var guests, hosts []*tapGuest
	for i, h := range w.hosts {
		guests = append(guests, w.tap(h, 10+i, 0))
		hosts = append(hosts, w.hostPort(h, 20+i))
	}
	for i, g := range guests {
		n, own := 10+i, hosts[i]
		body := ip{protocol: protoUDP}.packet(address4(n), netip.MustParseAddr("192.0.2.1"), udp(1, 2, data))
		g.send(ether(gateway, mac(n), typeIPv4, body))
		if got := own.receive(); !bytes.Equal(got, ether(mac(20+i), mac(n), typeIPv4, body)) {
			t.Fatalf("the host of %s gets % x", g.port.Name, got)
		}
		hosts[1-i].silent()
		// By its own address a host is a station like any other, wherever the guest is.
		for j, other := range hosts {
			frame := ip{protocol: protoUDP}.frame(n, 20+j, false, udp(1, 2, data))
			g.send(frame)
			if got := other.receive(); !bytes.Equal(got, frame) {
				t.Fatalf("%s gets % x from %s", other.port.Name, got, g.port.Name)
			}
		}
		// What a host sends has any source: it routes.
		from := ether(mac(n), mac(20+i), typeIPv4, ip{protocol: protoUDP}.packet(netip.MustParseAddr("192.0.2.1"), address4(n), udp(2, 1, data)))
		own.send(from)
		if got := g.receive(); !bytes.Equal(got, from) {
			t.Fatalf("%s gets % x from its host", g.port.Name, got)
		}
	}
}

func TestTheGatewayAlwaysNamesItsOwnMAC(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	g, own := w.tap(w.hosts[0], 10, 0), w.hostPort(w.hosts[0], 20)
	gateway := fabric.GatewayMAC(vni)
	local := fabric.GatewayLinkLocal(vni)
	unicast := func(frame []byte) []byte { copy(frame, gateway[:]); return frame }
	for claim, c := range map[string]struct{ ask, answer []byte }{
		"ARP to all": {
			ether(broadcast, mac(10), typeARP, arp(1, mac(10), address4(10), fabric.MAC{}, gateway4)),
			ether(mac(10), gateway, typeARP, arp(2, gateway, gateway4, mac(10), address4(10))),
		},
		"ARP to the gateway itself": {
			ether(gateway, mac(10), typeARP, arp(1, mac(10), address4(10), gateway, gateway4)),
			ether(mac(10), gateway, typeARP, arp(2, gateway, gateway4, mac(10), address4(10))),
		},
		"neighbour discovery of the gateway itself": {
			unicast(solicitation(address6(10), mac(10), gateway6, mac(10))), advertised(gateway6, gateway, address6(10), mac(10), 0x60),
		},
		"neighbour discovery of its link-local address": {
			solicitation(address6(10), mac(10), local, mac(10)), advertised(local, gateway, address6(10), mac(10), 0x60),
		},
	} {
		t.Run(claim, func(t *testing.T) {
			g.tb, own.tb = t, t
			g.send(c.ask)
			if got := g.receive(); !bytes.Equal(got, c.answer) {
				t.Errorf("answer\n% x\nwant\n% x", got, c.answer)
			}
			own.silent()
		})
	}
}

func TestCallsForServicesReachTheOwnHostAlone(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	g, other := w.tap(h, 10, 0), w.tap(h, 11, 0)
	h.apply(datapath.Change{Put: datapath.State{
		Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 1500, Services: true}},
		Peers:    map[netip.Addr]datapath.Peer{x.vteps[0]: {MTU: 1600}},
		Flood:    map[datapath.FloodKey]struct{}{{VNI: vni, Peer: x.vteps[0]}: {}},
	}})
	local := g.port.MAC.LinkLocal()
	routers, servers := netip.MustParseAddr("ff02::2"), netip.MustParseAddr("ff02::1:2")
	calls := map[string][]byte{
		"DHCP":                  ether(broadcast, mac(10), typeIPv4, ip{protocol: protoUDP}.packet(any4, all4, udp(68, 67, data))),
		"DHCPv6":                ether(multi6, mac(10), typeIPv6, ip{protocol: protoUDP}.packet(local, servers, udp(546, 547, data))),
		"a router solicitation": ether(multi6, mac(10), typeIPv6, ip{protocol: protoICMPv6, ttl: 255}.packet(local, routers, icmp6(local, routers, 133, 0, 0, 0, 0))),
	}
	for claim, frame := range calls {
		t.Run(claim+" without a host port", func(t *testing.T) {
			g.tb, other.tb = t, t
			g.expectDrop(tracing.ReasonHostPortMissing, frame)
			other.silent()
		})
	}
	own := w.hostPort(h, 20)
	for claim, frame := range calls {
		t.Run(claim, func(t *testing.T) {
			g.tb, other.tb, own.tb, x.tb = t, t, t, t
			g.send(frame)
			if got := own.receive(); !bytes.Equal(got, frame) {
				t.Errorf("the host gets % x", got)
			}
			other.silent()
		})
	}
	// The first frame on the wire is the one that is for all: none of the calls was.
	frame := ether(broadcast, mac(10), typeRARP, arp(3, mac(10), any4, mac(10), any4))
	g.send(frame)
	for _, s := range []*tapGuest{own, other} {
		s.tb = t
		if got := s.receive(); !bytes.Equal(got, frame) {
			t.Errorf("%s gets % x", s.port.Name, got)
		}
	}
	x.tb = t
	if u := unpack(t, x.receive()); !bytes.Equal(u.inner, frame) {
		t.Errorf("the wire gets % x", u.inner)
	}
	g.tb, x.tb = t, w.tb
	// The host that has lost its port drops the calls again.
	h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{own.device: own.port}}})
	g.expectDrop(tracing.ReasonHostPortMissing, calls["DHCP"])
}
