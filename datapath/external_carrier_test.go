package datapath_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// carried makes host 0 the carrier of host 1, which has guest 3 and no uplink, and returns it with guest 1 of host 0.
func (w *world) carried() (near, far *station) {
	w.tb.Helper()
	carrier, dependant := w.hosts[0], w.hosts[1]
	near, far = w.veth(carrier, 1), w.veth(dependant, 3)
	carrier.adopt(true)
	carrier.apply(datapath.Change{Put: datapath.State{
		Wires: map[fabric.VNI]datapath.Wire{vni: {Device: "eth1", Carries: true}},
		FDB:   map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(3)}: {Peer: dependant.vtep, Carried: true, Epoch: 1}},
	}})
	dependant.apply(datapath.Change{Put: datapath.State{Wires: map[fabric.VNI]datapath.Wire{vni: {Carrier: carrier.vtep}}}})
	return near, far
}

func TestAHostWithoutAnUplinkReachesTheWireByAnother(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay IPv6 %v", ipv6), func(t *testing.T) {
			w := newWorld(t, 2, ipv6)
			w.load()
			l := w.newLAN()
			near, far := w.carried()
			w.ping(far.ns, machine4, true)
			w.ping(far.ns, hostAddress(0), true)
			w.ping(far.ns, hostAddress(1), true) // its own host, by the wire
			w.ping(far.ns, address4(1), true)
			w.ping(l.machine, address4(3), true)
			w.ping(l.machine, address6(3), true)
			w.ping(w.hosts[0].ns, address4(3), true)
			w.ping(w.hosts[1].ns, address6(3), true)
			w.ping(near.ns, machine6, true)
			talk := startTalk(t, l.machine, far.ns, address4(3))
			talk.say(10, 200_000)
			talk.conn.Close()
		})
	}
}

func TestGroupFramesOfTheWireReachCarriedHostsOnce(t *testing.T) {
	w := newWorld(t, 3, false)
	w.load()
	l := w.newLAN()
	l.quiet()
	near, far, other := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[1], 3, 0), w.tap(w.hosts[2], 5, 0)
	// Hosts 0 and 2 have an uplink, host 0 carries for host 1.
	vtep := func(n int) netip.Addr { return w.hosts[n].vtep }
	flood := func(n ...int) map[datapath.FloodKey]struct{} {
		keys := map[datapath.FloodKey]struct{}{}
		for _, i := range n {
			keys[datapath.FloodKey{VNI: vni, Peer: vtep(i)}] = struct{}{}
		}
		return keys
	}
	for _, h := range w.hosts {
		h.apply(datapath.Change{Delete: datapath.State{Flood: flood(0, 1, 2)}})
	}
	w.hosts[0].adopt(true)
	w.hosts[2].adopt(true)
	w.hosts[0].apply(datapath.Change{Put: datapath.State{
		Wires: map[fabric.VNI]datapath.Wire{vni: {Device: "eth1", Carries: true}}, Flood: flood(1),
		FDB: map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(3)}: {Peer: vtep(1), Carried: true, Epoch: 1}},
	}})
	w.hosts[1].apply(datapath.Change{Put: datapath.State{Wires: map[fabric.VNI]datapath.Wire{vni: {Carrier: vtep(0)}}, Flood: flood(0)}})
	machine := l.listen("eth0", l.machine)
	guests := []*tapGuest{near, far, other}
	for _, from := range guests {
		frame := ether(broadcast, from.port.MAC, typeRARP, arp(3, from.port.MAC, any4, from.port.MAC, any4))
		from.send(frame)
		for _, g := range guests {
			if g == from {
				continue
			}
			if !bytes.Equal(g.receive(), frame) {
				t.Fatalf("%s did not get what %s sent to all", g.port.Name, from.port.Name)
			}
		}
		for _, g := range guests {
			g.silent()
		}
		if n := machine.count(frame); n != 1 {
			t.Fatalf("the wire has seen the frame of %s %d times", from.port.Name, n)
		}
	}
	frame := ether(broadcast, mac(100), typeRARP, arp(3, mac(100), any4, mac(100), any4))
	machine.send(frame)
	for _, g := range guests {
		if !bytes.Equal(g.receive(), frame) {
			t.Fatalf("%s did not get the broadcast of the wire", g.port.Name)
		}
		g.silent()
	}
}

func TestAGuestThatHasMovedIsReachedByItsOldUplink(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	l := w.newLAN()
	l.quiet()
	w.bothUplinked()
	machine := l.listen("eth0", l.machine)
	old := w.tap(w.hosts[0], 1, 0)
	announce := ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4))
	old.send(announce)
	new := w.bareTap(w.hosts[1], 1, 0)
	new.port.Gate, new.port.Epoch = datapath.Staged, 2
	w.hosts[1].apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{new.device: new.port}}})
	w.hosts[1].place(datapath.FDB{Device: new.device, Peer: w.hosts[0].vtep, Epoch: 2})
	w.hosts[0].place(datapath.FDB{Device: old.device, Peer: w.hosts[1].vtep, Epoch: 1})

	data := func(n byte) []byte { return ether(mac(1), mac(100), 0x88b5, bytes.Repeat([]byte{n}, 60)) }
	machine.send(data(1))
	if !bytes.Equal(old.receive(), data(1)) {
		t.Fatal("the guest does not get its frame before it moves")
	}
	old.gate(datapath.Relay, 1)
	machine.send(data(2)) // the wire still sends it to the old host
	if !bytes.Equal(new.receive(), data(2)) {
		t.Fatal("the frame is not sent on to where the guest is now")
	}
	new.send(announce)
	if machine.count(announce) == 0 {
		t.Fatal("the wire has not heard of the guest")
	}
	machine.send(data(3))
	if !bytes.Equal(new.receive(), data(3)) {
		t.Fatal("the guest does not get its frame by its new uplink")
	}
	new.silent()
	_, host := w.hosts[0].counters()
	if host.Uplinks["eth1"].Remote != 1 {
		t.Fatalf("%d frames were sent on by the old host, want 1", host.Uplinks["eth1"].Remote)
	}
}

func TestTheWireLearnsOfANewCarrier(t *testing.T) {
	w := newWorld(t, 3, false)
	w.load()
	l := w.newLAN()
	l.quiet()
	dependant := w.hosts[1]
	guest := w.tap(dependant, 3, 0)
	for _, h := range []*host{w.hosts[0], w.hosts[2]} {
		h.adopt(true)
	}
	by := func(h *host) {
		dependant.apply(datapath.Change{Put: datapath.State{Wires: map[fabric.VNI]datapath.Wire{vni: {Carrier: h.vtep}}}})
	}
	only := func(h *host) {
		for _, other := range w.hosts {
			dependant.apply(datapath.Change{Delete: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: other.vtep}: {}}}})
		}
		dependant.apply(datapath.Change{Put: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: h.vtep}: {}}}})
		by(h)
	}
	for _, h := range []*host{w.hosts[0], w.hosts[2]} {
		for _, other := range w.hosts {
			h.apply(datapath.Change{Delete: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: other.vtep}: {}}}})
		}
	}
	machine := l.listen("eth0", l.machine)
	said := ether(broadcast, mac(3), typeRARP, arp(3, mac(3), any4, mac(3), any4))
	said = append(said, make([]byte, 60-len(said))...)
	only(w.hosts[0])
	if n := machine.count(said); n != 0 {
		t.Fatalf("%d announcements before anything has changed", n)
	}
	only(w.hosts[2])
	heard := 0
	eventually(t, "the wire hears of the guest once", func() bool { heard += machine.count(said); return heard == 1 })
	guest.silent()
}
