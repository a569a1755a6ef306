package datapath_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// onVLAN puts guests on a segment of the host's that is VLAN 7 on its wire.
func (h *host) onVLAN(segment fabric.VNI, guests ...*tapGuest) {
	h.tb.Helper()
	put := datapath.State{
		Switches: map[fabric.VNI]datapath.Switch{segment: {MTU: 1500}},
		Wires:    map[fabric.VNI]datapath.Wire{segment: {Device: "eth1", VLAN: 7}},
		Ports:    map[string]datapath.Port{}, FDB: map[datapath.FDBKey]datapath.FDB{},
	}
	for _, g := range guests {
		g.port.VNI = segment
		put.Ports[g.device] = g.port
		put.FDB[datapath.FDBKey{VNI: segment, MAC: g.port.MAC}] = datapath.FDB{Device: g.device, Epoch: 1}
	}
	h.apply(datapath.Change{Put: put})
}

// TestTheInnerTagOfTheWireIsPayload: of two tags the wire's is taken off, and the other is the guest's own business, if its port says so.
func TestTheInnerTagOfTheWireIsPayload(t *testing.T) {
	const segment = vni + 1
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.quiet()
	carries, plain := w.bareTap(h, 1, 0), w.bareTap(h, 2, 0)
	h.adopt(true)
	h.onVLAN(segment, carries, plain)
	h.apply(datapath.Change{Put: datapath.State{Segments: map[datapath.SegmentKey]datapath.Segment{{Device: carries.device, VNI: segment}: {QinQ: true}}}})
	machine := l.listen("eth0", l.machine)
	payload := bytes.Repeat([]byte{0xa5}, 60)
	for claim, dst := range map[string]fabric.MAC{"unicast": carries.port.MAC, "to all": broadcast} {
		inner := tagged(ether(dst, mac(100), 0x88b5, payload), 42)
		machine.send(tagged(inner, 7))
		if got := carries.receive(); !bytes.Equal(got, inner) {
			t.Errorf("%s: the guest has got % x, want % x", claim, got, inner)
		}
		machine.send(tagged(inner, 8)) // another VLAN of the wire
	}
	carries.silent()
	lost, _ := h.counters()
	machine.send(tagged(ether(plain.port.MAC, mac(100), 0x88b5, payload), 7, 42))
	plain.silent()
	now, _ := h.counters()
	reason := tracing.ReasonVLANNotAllowed
	if before, after := lost[plain.port.Name].DropsOut[reason], now[plain.port.Name].DropsOut[reason]; before != 1 || after != 2 {
		t.Errorf("the port without qinq has dropped %d and then %d frames with two tags, want 1 (to all) and 2: %+v", before, after, now)
	}
	// Back: the guest's tag is behind the wire's.
	out := tagged(ether(mac(100), carries.port.MAC, 0x88b5, payload), 42)
	carries.send(out)
	if n := machine.countTagged(out, 7); n != 1 {
		t.Errorf("the wire has got the guest's tagged frame %d times behind tag 7, want once", n)
	}
}

// TestAnIsolatedStationIsOwnOnItsSecondary: a port of a private VLAN is heard on the secondary alone, and its MAC from the wire is as false there
// as on a segment that it receives on. One that lives elsewhere is not this host's own.
func TestAnIsolatedStationIsOwnOnItsSecondary(t *testing.T) {
	const segment = vni + 1
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.quiet()
	guest := w.bareTap(h, 1, 0)
	h.adopt(true)
	h.onVLAN(segment, guest)
	h.apply(datapath.Change{Put: datapath.State{
		Peers: map[netip.Addr]datapath.Peer{elsewhere: {MTU: 1500}},
		FDB: map[datapath.FDBKey]datapath.FDB{
			{VNI: segment, MAC: mac(50)}: {Source: true, Epoch: 1},
			{VNI: segment, MAC: mac(51)}: {Source: true, Peer: elsewhere, Epoch: 1},
		},
	}})
	machine := l.listen("eth0", l.machine)
	for _, dst := range []fabric.MAC{guest.port.MAC, broadcast} {
		machine.send(tagged(ether(dst, mac(50), 0x88b5, make([]byte, 60)), 7))
	}
	guest.silent()
	_, host := h.counters()
	if n := host.Uplinks["eth1"].DropsIn[tracing.ReasonOwnMACOnWire]; n != 2 {
		t.Errorf("%d frames with the isolated station's MAC were dropped, want 2", n)
	}
	for _, dst := range []fabric.MAC{guest.port.MAC, broadcast} {
		frame := ether(dst, mac(51), 0x88b5, make([]byte, 60))
		machine.send(tagged(frame, 7))
		if got := guest.receive(); !bytes.Equal(got, frame) {
			t.Errorf("a station of another host: the guest has got % x, want % x", got, frame)
		}
	}
	_, host = h.counters()
	if n := host.Uplinks["eth1"].DropsIn[tracing.ReasonOwnMACOnWire]; n != 2 {
		t.Errorf("%d frames were dropped as own, want 2 still", n)
	}
}

// elsewhere is the tunnel end point of a host that the test has no use for but its name.
var elsewhere = netip.MustParseAddr("10.240.0.99")
