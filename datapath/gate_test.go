package datapath_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// gate sets the gate of a guest's port.
func (g *tapGuest) gate(gate datapath.Gate, epoch fabric.Epoch) {
	g.tb.Helper()
	g.port.Gate, g.port.Epoch = gate, epoch
	g.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: g.port}}})
}

// place says where guest 1 is.
func (h *host) place(e datapath.FDB) {
	h.tb.Helper()
	h.apply(datapath.Change{Put: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(1)}: e}}})
}

// event waits for the next event of a kind.
func (h *host) event(kind datapath.EventKind) datapath.Event {
	h.tb.Helper()
	for {
		select {
		case e := <-h.Events():
			if e.Kind == kind {
				return e
			}
		case <-time.After(5 * time.Second):
			h.tb.Fatalf("waited five seconds for an event of kind %d", kind)
		}
	}
}

func TestAGuestMayNotSendUnlessItsPortIsOpen(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	a.gate(datapath.Closed, 1)
	a.expectDrop(tracing.ReasonPortDisabled, frame)
	a.gate(datapath.Relay, 1)
	a.expectDrop(tracing.ReasonNotOwner, frame)
	a.port.Generation = 0
	a.gate(datapath.Open, 1)
	a.expectDrop(tracing.ReasonPolicyMissing, frame)
	a.gate(datapath.Staged, 2)
	a.expectDrop(tracing.ReasonPolicyMissing, frame)
	b.silent()
	a.port.Generation = 7
	a.gate(datapath.Open, 3)
	a.send(frame)
	if !bytes.Equal(b.receive(), frame) {
		t.Fatal("an open port does not pass")
	}
}

func TestTheFirstGoodFrameOpensAStagedPort(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	source := x.vteps[0]
	h.remote(50, source, netip.Addr{})
	a.gate(datapath.Staged, 5)
	h.place(datapath.FDB{Device: a.device, Peer: source, Alt: source, Epoch: 4})
	for len(h.Events()) > 0 {
		<-h.Events()
	}

	toGuest := ip{protocol: protoUDP}.frame(2, 1, false, udp(1, 2, data))
	b.send(toGuest)
	if u := unpack(t, x.receive()); !bytes.Equal(u.inner, toGuest) {
		t.Fatal("while staged, a neighbour's frame goes to the host where the guest runs")
	}
	relayed := ip{protocol: protoUDP}.frame(50, 1, false, udp(3, 4, data))
	x.send(h, vxlan(source, h.vtep, vni, ip{}, relayed))
	fromGuest := ip{protocol: protoUDP}.frame(1, 2, false, udp(5, 6, data))
	x.send(h, vxlan(source, h.vtep, vni, ip{}, fromGuest))
	if !bytes.Equal(b.receive(), fromGuest) {
		t.Fatal("while staged, the guest is heard from the host where it runs")
	}
	eventually(t, "the relayed frame is queued", func() bool { ports, _ := h.counters(); return ports["g1"].Tx.Frames == 1 })
	a.expectDrop(tracing.ReasonGuardSrcIP, ip{protocol: protoUDP}.packetFrom(1, 2, address4(9)))
	if got := h.gateOf(t, a.device); got != datapath.Staged {
		t.Fatalf("a frame that the guard drops has opened the port: %d", got)
	}

	a.send(fromGuest)
	if !bytes.Equal(b.receive(), fromGuest) {
		t.Fatal("the first frame itself is lost")
	}
	if e := h.event(datapath.PortOpened); e.Port != "g1" || e.Device != a.device || time.Since(e.Time) > time.Minute || time.Since(e.Time) < 0 {
		t.Fatalf("event %+v", e)
	}
	if got := h.gateOf(t, a.device); got != datapath.Open {
		t.Fatalf("gate %d after the first frame", got)
	}
	a.gate(datapath.Staged, 5)
	if got := h.gateOf(t, a.device); got != datapath.Open {
		t.Fatal("a late order to stage has closed the port that the guest opened")
	}
	if !bytes.Equal(a.receive(), relayed) {
		t.Fatal("the frame that waited is lost")
	}
	b.send(toGuest)
	if !bytes.Equal(a.receive(), toGuest) {
		t.Fatal("once open, a neighbour's frame goes to the guest here")
	}
	a.send(fromGuest)
	b.receive()
	if len(h.Events()) != 0 {
		t.Fatalf("a second event: %+v", <-h.Events())
	}
}

// packetFrom is a UDP frame with another source address.
func (h ip) packetFrom(src, dst int, from netip.Addr) []byte {
	return ether(mac(dst), mac(src), typeIPv4, h.packet(from, address4(dst), udp(1, 2, data)))
}

// gateOf reads the gate from the kernel.
func (h *host) gateOf(tb testing.TB, device string) datapath.Gate {
	tb.Helper()
	s, err := inside{h}.Read(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return s.Ports[device].Gate
}

func TestTheSourceOfAMoveSendsLateFramesOn(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	home, destination := x.vteps[0], x.vteps[1]
	h.remote(50, home, netip.Addr{})
	for name, c := range map[string]struct {
		epoch fabric.Epoch
		move  func()
	}{
		"when one word of the port says so": {2, func() { // the peer is known beforehand
			h.place(datapath.FDB{Device: a.device, Alt: destination, Peer: destination, Epoch: 1})
			a.gate(datapath.Relay, 2)
		}},
		"when the station says so": {3, func() {
			a.gate(datapath.Relay, 3)
			h.place(datapath.FDB{Peer: destination, Relay: true, Epoch: 3})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			x.tb, a.tb, b.tb, h.tb = t, t, t, t
			c.move()
			ports, before := h.counters()
			sentOn := ports["g1"].SentOn
			late := ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))
			x.send(h, vxlan(home, h.vtep, vni, ip{}, late))
			if u := unpack(t, x.receive()); u.dst != destination || u.src != h.vtep || u.vni != vni || !bytes.Equal(u.inner, late) {
				t.Fatalf("relayed as %+v", u)
			}
			request := ether(mac(1), mac(50), typeARP, arp(1, mac(50), address4(50), mac(1), address4(1)))
			x.send(h, vxlan(home, h.vtep, vni, ip{}, request))
			if u := unpack(t, x.receive()); u.dst != destination || !bytes.Equal(u.inner, request) {
				t.Fatalf("ARP relayed as %+v", u)
			}
			neighbors := ip{protocol: protoUDP}.frame(2, 1, false, udp(1, 2, data))
			b.send(neighbors)
			if u := unpack(t, x.receive()); u.dst != destination || !bytes.Equal(u.inner, neighbors) {
				t.Fatalf("a neighbour's frame goes out as %+v", u)
			}
			a.silent()
			ports, after := h.counters()
			if after.Tunnel.Relayed != before.Tunnel.Relayed+2 || ports["g1"].SentOn != sentOn+2 {
				t.Fatalf("relayed %d, for the port %d, want 2", after.Tunnel.Relayed-before.Tunnel.Relayed, ports["g1"].SentOn-sentOn)
			}
		})
	}
	a.file.Close() // as when the hypervisor ends before the relay does
	eventually(t, "the device is gone", func() bool {
		return h.ns.Do(func() error { _, err := nic.Find(a.device); return err }) != nil
	})
	h.place(datapath.FDB{Device: a.device, Peer: destination, Relay: true, Epoch: 3})
	for range 50 {
		late := ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))
		x.tb = t
		x.send(h, vxlan(home, h.vtep, vni, ip{}, late))
		if u := unpack(t, x.receive()); u.dst != destination {
			t.Fatalf("with the device gone, relayed as %+v", u)
		}
	}
	h.place(datapath.FDB{Peer: destination, Epoch: 3})
	late := ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))
	x.send(h, vxlan(home, h.vtep, vni, ip{}, late))
	eventually(t, "after the relay has ended late frames are dropped", func() bool {
		_, c := h.counters()
		return c.Underlay.DropsIn[tracing.ReasonLoopSplitHorizon] == 1
	})
}

func TestTheDestinationHearsRelayedFramesOfOthers(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a := w.tap(h, 1, 0)
	relay, home := x.vteps[0], x.vteps[1]
	h.remote(50, home, netip.Addr{})
	relayed := ip{protocol: protoUDP}.frame(50, 1, false, udp(1, 2, data))
	x.send(h, vxlan(relay, h.vtep, vni, ip{}, relayed))
	eventually(t, "a frame that comes by a detour is refused", func() bool {
		_, c := h.counters()
		return c.Underlay.DropsIn[tracing.ReasonVTEPNotAllowed] == 1
	})
	h.place(datapath.FDB{Device: a.device, Peer: relay, Epoch: 2})
	x.send(h, vxlan(relay, h.vtep, vni, ip{}, relayed))
	if !bytes.Equal(a.receive(), relayed) {
		t.Fatal("the station's former host may relay, and its frame is lost")
	}
	h.place(datapath.FDB{Device: a.device, Epoch: 3})
	x.send(h, vxlan(relay, h.vtep, vni, ip{}, relayed))
	eventually(t, "after the relay has ended it is refused again", func() bool {
		_, c := h.counters()
		return c.Underlay.DropsIn[tracing.ReasonVTEPNotAllowed] == 2
	})
	a.silent()
}

func TestTwoHostsThatRelayToEachOtherEndIt(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	h0, h1 := w.hosts[0], w.hosts[1]
	b := w.tap(h0, 2, 0)
	first, second := w.tap(h0, 1, 0), w.bareTap(h1, 1, 0)
	h1.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{second.device: second.port}}})
	first.gate(datapath.Relay, 2)
	second.gate(datapath.Relay, 2)
	h0.place(datapath.FDB{Device: first.device, Peer: h1.vtep, Relay: true, Epoch: 2})
	h1.place(datapath.FDB{Device: second.device, Peer: h0.vtep, Relay: true, Epoch: 2})
	b.send(ip{protocol: protoUDP}.frame(2, 1, false, udp(1, 2, data)))
	eventually(t, "it is dropped when it comes back", func() bool {
		_, c := h0.counters()
		return c.Underlay.DropsIn[tracing.ReasonLoopSplitHorizon]+c.Tunnel.DropsIn[tracing.ReasonLoopSplitHorizon] == 1
	})
	if _, c := h1.counters(); c.Tunnel.Relayed != 1 {
		t.Fatalf("relayed %d times, want 1", c.Tunnel.Relayed)
	}
}

func TestAnOpeningIsToldEvenWhenTheRingWasFull(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	w.tap(h, 3, 0)
	a.gate(datapath.Staged, 2)
	followed := ip{protocol: protoUDP}.frame(2, 3, false, udp(1, 2, data))
	w.arm(followed, 1)
	eventually(t, "hops find no room", func() bool {
		for range 100 {
			b.send(followed)
		}
		ports, _ := h.counters()
		return ports["g2"].Untold > 0
	})
	a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data[1:])))
	if ports, _ := h.counters(); ports["g1"].Untold != 1 || h.gateOf(t, a.device) != datapath.Open {
		t.Fatalf("gate %d, %+v", h.gateOf(t, a.device), ports["g1"])
	}
	for quiet := false; !quiet; {
		select {
		case e := <-h.Events():
			if e.Kind == datapath.PortOpened {
				t.Fatal("the record found room: the test does not test")
			}
		case <-time.After(300 * time.Millisecond):
			quiet = true
		}
	}
	w.verify(h)
	if e := h.event(datapath.PortOpened); e.Port != "g1" || e.Device != a.device {
		t.Fatalf("event %+v", e)
	}
	w.verify(h)
	if len(h.Events()) != 0 {
		t.Fatalf("told again: %+v", <-h.Events())
	}
}
