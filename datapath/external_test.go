package datapath_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// lan is a wire outside of the fabric: a Linux bridge in a namespace of its own, with one machine on it, and an uplink eth1 of
// each host. Host n has the address 10.77.0.(200+n) there, the machine 10.77.0.100.
type lan struct {
	w       *world
	ns      nic.Namespace
	machine nic.Namespace
}

var machine4, machine6 = address4(100), address6(100)

func hostAddress(n int) netip.Addr { return address4(200 + n) }

func (w *world) newLAN() *lan {
	w.tb.Helper()
	l := &lan{w: w, ns: w.namespace("lan"), machine: w.namespace("m")}
	w.in(l.ns, func() error {
		if err := exec.Command("ip", "link", "add", "lan0", "up", "type", "bridge", "mcast_snooping", "0").Run(); err != nil {
			return err
		}
		err := nic.CreateVeth(nic.Veth{Name: "m", Peer: "eth0", PeerNamespace: l.machine, PeerMAC: mac(100)})
		return firstError(err, nic.SetMaster("m", "lan0"), nic.SetUp("m"))
	})
	w.in(l.machine, func() error {
		return firstError(nic.AddAddress("eth0", netip.PrefixFrom(machine4, 24)), nic.AddAddress("eth0", netip.PrefixFrom(machine6, 64)), nic.SetUp("eth0"))
	})
	for i, h := range w.hosts {
		port := fmt.Sprintf("p%d", i)
		w.in(l.ns, func() error {
			err := nic.CreateVeth(nic.Veth{Name: port, Peer: "eth1", PeerNamespace: h.ns, PeerMAC: mac(200 + i)})
			return firstError(err, nic.SetMaster(port, "lan0"), nic.SetUp(port))
		})
		w.in(h.ns, func() error {
			return firstError(nic.AddAddress("eth1", netip.PrefixFrom(hostAddress(i), 24)), nic.AddAddress("eth1", netip.PrefixFrom(address6(200+i), 64)), nic.SetUp("eth1"))
		})
	}
	return l
}

// quiet keeps the kernels on the wire from saying anything by themselves.
func (l *lan) quiet() {
	l.w.tb.Helper()
	for _, h := range l.w.hosts {
		l.w.in(h.ns, func() error { return nic.DisableIPv6("eth1") })
	}
	l.w.in(l.machine, func() error { return nic.DisableIPv6("eth0") })
	l.w.in(l.ns, func() error {
		return exec.Command("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1").Run()
	})
}

// adopt puts the switch on the host's NIC.
func (h *host) adopt(hostAccess bool) {
	h.tb.Helper()
	h.apply(datapath.Change{Put: datapath.State{
		Uplinks: map[string]datapath.Uplink{"eth1": {HostAccess: hostAccess}},
		Wires:   map[fabric.VNI]datapath.Wire{vni: {Device: "eth1"}},
	}})
}

// ping pings once from a namespace, and fails unless the answer is as wanted.
func (w *world) ping(from nic.Namespace, to netip.Addr, want bool) {
	w.tb.Helper()
	var out []byte
	err := from.Do(func() (err error) {
		out, err = exec.Command("ping", "-n", "-c", "1", "-W", "2", to.String()).CombinedOutput()
		return err
	})
	if (err == nil) != want {
		w.tb.Fatalf("ping from %s to %s: %v, answer wanted: %v\n%s", from.Name, to, err, want, out)
	}
}

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
	_, counters := h.counters()
	if counters.Uplinks["eth1"].DropsIn[tracing.ReasonHostAccessOff] == 0 {
		t.Fatal("what the host is kept from is not counted")
	}
	h.adopt(true)
	w.ping(a.ns, hostAddress(0), true)
	w.ping(l.machine, hostAddress(0), true)
}

func TestGroupFramesCrossTheWireOnce(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	l := w.newLAN()
	l.quiet()
	for _, h := range w.hosts {
		// Both have an uplink: neither floods by VXLAN to the other.
		h.apply(datapath.Change{Delete: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: w.hosts[0].vtep}: {}, {VNI: vni, Peer: w.hosts[1].vtep}: {}}}})
		h.adopt(true)
	}
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

// ear is a raw socket on a device.
type ear struct {
	tb        testing.TB
	fd, index int
}

func (l *lan) listen(device string, ns nic.Namespace) *ear {
	l.w.tb.Helper()
	e := &ear{tb: l.w.tb}
	l.w.in(ns, func() error {
		found, err := nic.Find(device)
		if err != nil {
			return err
		}
		e.index = found.Index
		all := int(binary.BigEndian.Uint16([]byte{0, unix.ETH_P_ALL})) << 8
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(e.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		return unix.Bind(e.fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: e.index})
	})
	l.w.tb.Cleanup(func() { unix.Close(e.fd) })
	return e
}

func (e *ear) send(frame []byte) {
	e.tb.Helper()
	if err := unix.Sendto(e.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: e.index}); err != nil {
		e.tb.Fatal(err)
	}
}

// count reads what has been heard so far, and returns how often it was the frame, coming in.
func (e *ear) count(frame []byte) (n int) {
	buffer := make([]byte, 70000)
	for {
		size, from, err := unix.Recvfrom(e.fd, buffer, 0)
		if err != nil {
			return n
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && bytes.Equal(buffer[:size], frame) {
			n++
		}
	}
}

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

// countTagged is count, of frames with this tag; 0: without.
func (e *ear) countTagged(frame []byte, vlan int) (n int) {
	e.tb.Helper()
	buffer, control := make([]byte, 70000), make([]byte, 256)
	for {
		size, used, _, from, err := unix.Recvmsg(e.fd, buffer, control, 0)
		if err != nil {
			return n
		}
		messages, err := unix.ParseSocketControlMessage(control[:used])
		if err != nil || len(messages) != 1 {
			e.tb.Fatalf("no auxiliary data: %v", err)
		}
		tci := int(binary.NativeEndian.Uint16(messages[0].Data[16:])) & 0xfff
		ll, ok := from.(*unix.SockaddrLinklayer)
		if ok && ll.Pkttype != unix.PACKET_OUTGOING && bytes.Equal(buffer[:size], frame) && tci == vlan {
			n++
		}
	}
}

func TestAGuestThatHasMovedIsReachedByItsOldUplink(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	l := w.newLAN()
	l.quiet()
	for _, h := range w.hosts {
		h.apply(datapath.Change{Delete: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: w.hosts[0].vtep}: {}, {VNI: vni, Peer: w.hosts[1].vtep}: {}}}})
		h.adopt(true)
	}
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
