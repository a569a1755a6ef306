package datapath_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/tracing"
)

func TestGroupFramesReachEveryMemberOnce(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	sender := w.tap(h, 1, 0)
	members := []*tapGuest{w.tap(h, 2, 0), w.tap(h, 3, 0), w.tap(h, 4, 0)}
	closed, staged, foreign := w.tap(h, 5, 0), w.tap(h, 6, 0), w.tap(h, 7, 0)
	closed.gate(datapath.Closed, 1)
	staged.gate(datapath.Staged, 2)
	foreign.port.VNI = vni + 1
	foreign.gate(datapath.Open, 1)
	const peers = 100
	put := datapath.State{Peers: map[netip.Addr]datapath.Peer{}, Flood: map[datapath.FloodKey]struct{}{}}
	want := map[netip.Addr]bool{}
	for n := range peers {
		vtep := netip.AddrFrom4([4]byte{10, 99, 0, byte(n + 1)})
		put.Peers[vtep] = datapath.Peer{MTU: 1600}
		put.Flood[datapath.FloodKey{VNI: vni, Peer: vtep}] = struct{}{}
		want[vtep] = true
	}
	w.route(h, "10.99.0.0/16", x.vteps[2])
	h.apply(datapath.Change{Put: put})
	// The kernel keeps less than these copies for a next hop whose MAC it has still to ask for (unres_qlen_bytes).
	sender.hostRun("ping", "-c", "1", "-W", "5", x.vteps[2].String())
	for claim, frame := range map[string][]byte{
		"RARP":        ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)),
		"a multicast": ether(multi6, mac(1), typeIPv6, ip{protocol: protoUDP}.packet(address6(1), all6, udp(1, 2, data))),
		"a large one": ether(broadcast, mac(1), typeIPv4, ip{protocol: protoUDP, df: true}.packet(address4(1), all4, udp(1, 2, make([]byte, 1472)))),
	} {
		t.Run(claim, func(t *testing.T) {
			x.tb, sender.tb = t, t
			sender.send(frame)
			for _, m := range members {
				m.tb = t
				if !bytes.Equal(m.receive(), frame) {
					t.Fatalf("%s did not get it", m.port.Name)
				}
				m.silent()
			}
			seen := map[netip.Addr]bool{}
			for range peers {
				u := unpack(t, x.receive())
				if !bytes.Equal(u.inner, frame) || !want[u.dst] || seen[u.dst] || u.vni != vni {
					t.Fatalf("to %v: %d bytes", u.dst, len(u.inner))
				}
				seen[u.dst] = true
			}
			for _, g := range []*tapGuest{sender, closed, staged, foreign} {
				g.tb = t
				g.silent()
			}
		})
	}
	sender.tb = t
	sender.expectDrop(tracing.ReasonMTUExceeded, ether(broadcast, mac(1), 0x88b5, make([]byte, 1501)))
	ports, _ := h.counters()
	if c := ports["g1"]; c.Flooded != 3 {
		t.Fatalf("%d frames flooded, want 3", c.Flooded)
	}
}

func TestGroupFramesFromATunnelStayHere(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	h.apply(datapath.Change{Put: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: x.vteps[0]}: {}, {VNI: vni, Peer: x.vteps[1]}: {}}}})
	frame := ether(broadcast, mac(50), typeARP, arp(1, mac(50), address4(50), mac(0), address4(50)))
	x.send(h, vxlan(x.vteps[0], h.vtep, vni, ip{}, frame))
	for _, g := range []*tapGuest{a, b} {
		if !bytes.Equal(g.receive(), frame) {
			t.Fatalf("%s did not get it", g.port.Name)
		}
	}
	x.send(h, vxlan(x.vteps[0], h.vtep, vni, ip{}, ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))))
	a.receive()
	a.send(ip{protocol: protoUDP}.frame(1, 50, false, udp(9, 9, data)))
	if u := unpack(t, x.receive()); be16(u.inner, 12) != typeIPv4 {
		t.Fatalf("the group frame was sent on to %v", u.dst)
	}
}

func TestAStormIsLimited(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a := w.tap(h, 1, 0)
	w.tap(h, 2, 0)
	h.apply(datapath.Change{Put: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: x.vteps[0]}: {}, {VNI: vni, Peer: x.vteps[1]}: {}}}})
	const copies, burst, perSecond, frames = 4, 2000, 10_000, 3000
	frame := ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4))
	start := time.Now()
	for range frames {
		a.send(frame)
	}
	took := time.Since(start)
	ports, _ := h.counters()
	c := ports["g1"]
	if got := c.DropsIn[tracing.ReasonStormControl]; c.Flooded+got != frames {
		t.Fatalf("flooded %d and dropped %d of %d", c.Flooded, got, frames)
	}
	if most := (burst + perSecond*took.Seconds()) / copies; float64(c.Flooded) > most+1 || c.Flooded < burst/copies {
		t.Fatalf("%d frames of %d copies passed in %v, want %d to %.0f", c.Flooded, copies, took, burst/copies, most)
	}
	eventually(t, "what it may send comes back", func() bool {
		before, _ := h.counters()
		a.send(frame)
		after, _ := h.counters()
		return after["g1"].Flooded > before["g1"].Flooded
	})
}

func TestTheSecretMarkStaysOnTheHost(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	h.apply(datapath.Change{Put: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: x.vteps[0]}: {}}}})
	a.hostRun("nft", "add table inet t; add chain inet t o { type filter hook postrouting priority 0; }; add rule inet t o meta mark != 0 drop; add rule inet t o meta priority > 100 drop")
	for _, frame := range [][]byte{
		ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)),
		ether(mac(50), mac(1), typeARP, arp(2, mac(1), address4(1), mac(50), address4(50))),
		ip{protocol: protoUDP}.frame(1, 50, false, udp(1, 2, data)),
	} {
		a.send(frame)
		if u := unpack(t, x.receive()); !bytes.Equal(u.inner, frame) {
			t.Fatalf("a marked packet left the host: of % x", frame)
		}
		b.pending()
	}
	a.gate(datapath.Relay, 2)
	h.place(datapath.FDB{Device: a.device, Peer: x.vteps[1], Epoch: 2})
	x.send(h, vxlan(x.vteps[0], h.vtep, vni, ip{}, ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))))
	if p := x.receive(); p == nil {
		t.Fatal("a relayed packet left the host with the mark")
	}
}

func TestCopiesThatTheDeviceLosesAreCountedOnce(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.veth(h, 2)
	w.in(b.ns, func() error { return nic.SetDown("eth0") })
	for range 10 {
		a.send(ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)))
		a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data)))
	}
	w.in(h.ns, func() error { return nic.SetDown(b.device) })
	for range 10 {
		a.send(ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)))
		a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data)))
	}
	ports, _ := h.counters()
	if c := ports["g2"]; c.Offered != 40 || c.Tx.Frames+c.DropsOut[tracing.ReasonRedirectFailed] != 40 {
		t.Fatalf("of 40 frames for the guest: %+v", c)
	}
}
