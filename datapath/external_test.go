package datapath_test

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func TestGuestsTheWireAndTheHostReachEachOther(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	w.ping(l.machine, hostAddress(0), true)
	a, b := w.veth(h, 1), w.veth(h, 2)
	h.adopt(true)
	for _, g := range []*station{a, b} {
		w.ping(g.ns, machine4, true)
		w.ping(g.ns, machine6, true)
		w.ping(g.ns, hostAddress(0), true)
		w.ping(g.ns, address6(200), true)
	}
	w.ping(a.ns, address4(2), true)
	w.ping(l.machine, hostAddress(0), true)
	w.ping(l.machine, address4(1), true)
	w.ping(l.machine, address6(2), true)
	w.ping(h.ns, address4(1), true)
	w.ping(h.ns, address6(2), true)
	w.ping(h.ns, machine4, true)
}

func TestAHostThatIsNotOnItsSwitchIsCutOff(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	a := w.veth(h, 1)
	h.adopt(false)
	w.ping(l.machine, address4(1), true)
	w.ping(a.ns, machine4, true)
	w.ping(l.machine, hostAddress(0), false)
	w.ping(h.ns, address4(1), false)
	w.ping(a.ns, hostAddress(0), false)
	h.adopt(true)
	w.ping(a.ns, hostAddress(0), true)
	w.ping(l.machine, hostAddress(0), true)
}

func TestNothingOfAHostThatIsNotOnItsSwitchGetsThrough(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.quiet()
	guest := w.tap(h, 1, 0)
	h.adopt(false)
	host, machine := l.listen("eth1", h.ns), l.listen("eth0", l.machine)
	toGuest, toAll, toHost := ether(mac(1), mac(200), 0x88b5, make([]byte, 60)), ether(broadcast, mac(200), 0x88b5, make([]byte, 60)), ether(mac(200), mac(100), 0x88b5, make([]byte, 60))
	for _, frame := range [][]byte{toGuest, toAll} {
		if err := unix.Sendto(host.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: host.index}); !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("the host is not told that its frame was dropped: %v", err)
		}
	}
	machine.send(toHost)
	guest.send(ether(mac(200), mac(1), 0x88b5, make([]byte, 60)))
	guest.silent()
	if n := machine.count(toAll); n != 0 {
		t.Fatal("the host's frame is on the wire")
	}
	ports, counters := h.counters()
	if n := counters.Uplinks["eth1"].DropsIn[tracing.ReasonHostAccessOff]; n != 3 {
		t.Errorf("%d frames of and for the host were dropped at the NIC, want 3", n)
	}
	if n := ports["g1"].DropsIn[tracing.ReasonHostAccessOff]; n != 1 {
		t.Errorf("%d frames of the guest for the host were dropped, want 1", n)
	}
}

// bothUplinked gives both hosts an uplink: neither floods by VXLAN to the other.
func (w *world) bothUplinked() {
	for _, h := range w.hosts {
		h.apply(datapath.Change{Delete: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: w.hosts[0].vtep}: {}, {VNI: vni, Peer: w.hosts[1].vtep}: {}}}})
		h.adopt(true)
	}
}

func TestGroupFramesCrossTheWireOnce(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	l := w.newLAN()
	l.quiet()
	w.bothUplinked()
	a, b, c := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[1], 3, 0)
	machine := l.listen("eth0", l.machine)
	frame := ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4))
	const frames = 50
	for range frames {
		a.send(frame)
	}
	for _, g := range []*tapGuest{b, c} {
		for i := range frames {
			if got := g.receive(); !bytes.Equal(got, frame) {
				t.Fatalf("%s: frame %d is % x", g.port.Name, i, got)
			}
		}
		g.silent()
	}
	a.silent()
	if got := machine.count(frame); got != frames {
		t.Fatalf("the wire has seen %d frames of %d", got, frames)
	}
	reply := ether(broadcast, mac(100), typeRARP, arp(3, mac(100), any4, mac(100), any4))
	machine.send(reply)
	for _, g := range []*tapGuest{a, b, c} {
		if !bytes.Equal(g.receive(), reply) {
			t.Fatalf("%s did not get the broadcast of the wire", g.port.Name)
		}
		g.silent()
	}
}

func TestVLANsOfASwitchAreTagsOnTheWire(t *testing.T) {
	const tagged = vni + 1
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.quiet()
	plain, guest := w.tap(h, 1, 0), w.bareTap(h, 2, 0)
	guest.port.VNI = tagged
	h.adopt(true)
	h.apply(datapath.Change{Put: datapath.State{
		Switches: map[fabric.VNI]datapath.Switch{tagged: {MTU: 1500}},
		Wires:    map[fabric.VNI]datapath.Wire{tagged: {Device: "eth1", VLAN: 7}},
		Ports:    map[string]datapath.Port{guest.device: guest.port},
		FDB:      map[datapath.FDBKey]datapath.FDB{{VNI: tagged, MAC: mac(2)}: {Device: guest.device, Epoch: 1}},
	}})
	machine, behind := l.listen("eth0", l.machine), l.listen("eth1", h.ns)
	payload := bytes.Repeat([]byte{0xa5}, 60)
	tag := func(frame []byte, id byte) []byte {
		return append(append(append([]byte{}, frame[:12]...), 0x81, 0, 0, id), frame[12:]...)
	}
	for claim, c := range map[string]struct {
		dst  fabric.MAC
		wire int // how often the machine gets it
		host int // and the host
	}{"unicast": {mac(100), 1, 0}, "to the host": {mac(200), 0, 1}, "to all": {broadcast, 1, 1}} {
		for g, id := range map[*tapGuest]int{plain: 0, guest: 7} {
			frame := ether(c.dst, g.port.MAC, 0x88b5, payload)
			g.send(frame)
			if n := machine.countTagged(frame, id); n != c.wire {
				t.Errorf("%s from VLAN %d: %d on the wire, want %d", claim, id, n, c.wire)
			}
			if n := behind.countTagged(frame, id); n != c.host {
				t.Errorf("%s from VLAN %d: %d at the host, want %d", claim, id, n, c.host)
			}
		}
	}
	plain.silent()
	guest.silent()
	to := func(g *tapGuest) []byte { return ether(g.port.MAC, mac(100), 0x88b5, payload) }
	all := ether(broadcast, mac(100), 0x88b5, payload)
	machine.send(tag(to(guest), 7))
	machine.send(tag(all, 7))
	machine.send(tag(to(guest), 8)) // no VLAN of ours
	machine.send(tag(to(plain), 7)) // in another VLAN
	machine.send(to(plain))
	for _, want := range []struct {
		g     *tapGuest
		frame []byte
	}{{guest, to(guest)}, {guest, all}, {plain, to(plain)}} {
		if got := want.g.receive(); !bytes.Equal(got, want.frame) {
			t.Fatalf("%s has got % x, want % x", want.g.port.Name, got, want.frame)
		}
	}
	if n := behind.countTagged(all, 7); n != 1 {
		t.Fatalf("the host has got the tagged broadcast of the wire %d times", n)
	}
	guest.silent()
	plain.silent()
}

func TestAGuestsMACFromTheWireIsDropped(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.quiet()
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	h.adopt(true)
	machine := l.listen("eth0", l.machine)
	machine.send(ether(mac(2), mac(1), 0x88b5, make([]byte, 60)))
	machine.send(ether(broadcast, mac(1), 0x88b5, make([]byte, 60)))
	b.silent()
	a.silent()
	_, host := h.counters()
	if n := host.Uplinks["eth1"].DropsIn[tracing.ReasonOwnMACOnWire]; n != 2 {
		t.Fatalf("%d frames with a guest's MAC were dropped, want 2", n)
	}
}

func TestStationsOnTheWireAreRemembered(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.quiet()
	w.tap(h, 1, 0)
	h.adopt(true)
	machine := l.listen("eth0", l.machine)
	machine.send(ether(mac(1), mac(101), 0x88b5, make([]byte, 60)))
	machine.send(ether(broadcast, mac(102), 0x88b5, make([]byte, 60)))
	machine.send(ether(mac(9), mac(103), 0x88b5, make([]byte, 60))) // for nobody here
	heard, err := h.Heard(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]bool{101: true, 102: true, 103: false, 1: false} {
		station, there := heard[datapath.FDBKey{VNI: vni, MAC: mac(n)}]
		if there != want || there && station.Device != "eth1" {
			t.Errorf("station %d is remembered: %v, at %q", n, there, station.Device)
		}
	}
	const flood = 40_000 // more than the core remembers
	for n := range flood {
		from := fabric.MAC{2, 1, 0, byte(n >> 16), byte(n >> 8), byte(n)}
		machine.send(ether(mac(1), from, 0x88b5, make([]byte, 60)))
	}
	if heard, err = h.Heard(t.Context()); err != nil || len(heard) > 16384 || len(heard) < 1024 {
		t.Fatalf("%d stations are remembered of %d: %v", len(heard), flood, err)
	}
}

func TestUninstallingLeavesTheNICAsItWas(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	h.adopt(true)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h.Datapath = nil
	w.in(h.ns, func() error { return datapath.Uninstall(h.pinDir) })
	w.in(h.ns, func() error {
		d, err := nic.Find("eth1")
		if d.Promiscuous {
			t.Error("it is still promiscuous")
		}
		return err
	})
	w.ping(l.machine, hostAddress(0), true)
}
