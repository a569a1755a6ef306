package datapath_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
)

func TestPrioritiesCountWhereTheyAreTrusted(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6=%t", v6), func(t *testing.T) { prioritiesCount(t, v6, datapath.Limits{}) })
	}
	t.Run("of what waits for a rate", func(t *testing.T) { prioritiesCount(t, false, waits) })
}

func prioritiesCount(t *testing.T, v6 bool, limits datapath.Limits) {
	w := newWorld(t, 1, v6)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a := w.tap(h, 1, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	h.apply(datapath.Change{Put: datapath.State{Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: x.vteps[0]}: {}}}})
	const ef, ecn, priority = 46 << 2, 2, 5
	payload := ip{protocol: protoUDP, ecn: ef | ecn}.packet(address4(1), address4(50), udp(1, 2, data))
	payload6 := ip{protocol: protoUDP, ecn: ef | ecn}.packet(address6(1), address6(50), udp(1, 2, data))
	tag := func(to, ethertype uint16, rest []byte) []byte {
		dst := mac(50)
		if to == 0 {
			dst = broadcast
		}
		return ether(dst, mac(1), 0x8100, append([]byte{priority << 5, 0, byte(ethertype >> 8), byte(ethertype)}, rest...))
	}
	for kind, frame := range map[string]struct {
		bytes []byte
		want  map[datapath.Priority]uint8 // beside nothing
	}{
		"IPv4":                       {tag(50, typeIPv4, payload), map[datapath.Priority]uint8{{}: ecn, {Trusted: true}: priority<<5 | ecn, {DSCP: true}: ef | ecn, {Trusted: true, DSCP: true}: ef | ecn}},
		"IPv6":                       {tag(50, typeIPv6, payload6), map[datapath.Priority]uint8{{}: ecn, {Trusted: true}: priority<<5 | ecn, {DSCP: true}: ef | ecn}},
		"untagged":                   {ether(mac(50), mac(1), typeIPv4, payload), map[datapath.Priority]uint8{{}: ecn, {Trusted: true}: ecn, {DSCP: true}: ef | ecn}},
		"ARP by the kernel's tunnel": {tag(50, typeARP, arp(2, mac(1), address4(1), mac(50), address4(50))), map[datapath.Priority]uint8{{}: 0, {Trusted: true}: priority << 5, {DSCP: true}: 0}},
		"a group's copy":             {tag(0, typeRARP, arp(3, mac(1), any4, mac(1), any4)), map[datapath.Priority]uint8{{}: 0, {Trusted: true}: priority << 5}},
	} {
		for p, want := range frame.want {
			t.Run(fmt.Sprintf("%s with %+v", kind, p), func(t *testing.T) {
				a.tb = t
				a.port.Priority, a.port.Limits = p, limits
				a.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{a.device: a.port}}})
				a.send(frame.bytes)
				x.tb = t
				u := unpack(t, x.receive())
				if u.ecn != want {
					t.Errorf("the outer header has %#x, want %#x", u.ecn, want)
				}
				if len(u.inner) != len(frame.bytes) && len(u.inner) != len(frame.bytes)-4 || u.inner[12] == 0x81 {
					t.Errorf("%d bytes arrive with type %02x%02x: the tag has travelled", len(u.inner), u.inner[12], u.inner[13])
				}
			})
		}
	}
}
