package datapath_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// unpacked is a VXLAN packet taken apart.
type unpacked struct {
	src, dst netip.Addr
	ecn, ttl uint8
	df       bool
	sport    uint16
	vni      fabric.VNI
	inner    []byte
}

// unpack checks everything of a VXLAN packet that is the same for all, and returns the rest.
func unpack(tb testing.TB, p []byte) (u unpacked) {
	tb.Helper()
	if p == nil {
		tb.Fatal("nothing came out of the underlay NIC")
	}
	var segment []byte
	if p[0]>>4 == 4 {
		u.src, _ = netip.AddrFromSlice(p[12:16])
		u.dst, _ = netip.AddrFromSlice(p[16:20])
		u.ecn, u.ttl, u.df = p[1], p[8], p[6] == 0x40
		if p[0] != 0x45 || int(be16(p, 2)) != len(p) || checksum(p[:20], 0) != 0xffff || p[9] != protoUDP {
			tb.Fatalf("outer IPv4 header of %d bytes: % x", len(p), p[:20])
		}
		segment = p[20:]
	} else {
		u.src, _ = netip.AddrFromSlice(p[8:24])
		u.dst, _ = netip.AddrFromSlice(p[24:40])
		u.ecn, u.ttl, u.df = p[0]<<4|p[1]>>4, p[7], true
		if p[0]>>4 != 6 || int(be16(p, 4)) != len(p)-40 || p[6] != protoUDP {
			tb.Fatalf("outer IPv6 header of %d bytes: % x", len(p), p[:40])
		}
		segment = p[40:]
	}
	u.sport = be16(segment, 0)
	if be16(segment, 2) != 4789 || int(be16(segment, 4)) != len(segment) || be16(segment, 6) != 0 || u.sport < 49152 {
		tb.Fatalf("outer UDP header: % x", segment[:8])
	}
	if segment[8] != 8 || segment[9]|segment[10]|segment[11]|segment[15] != 0 {
		tb.Fatalf("VXLAN header: % x", segment[8:16])
	}
	u.vni = fabric.VNI(uint32(be16(segment, 12))<<8 | uint32(segment[14]))
	u.inner = segment[16:]
	return u
}

func TestDepartures(t *testing.T) {
	for name, ipv6 := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, ipv6)
			w.load()
			x, h := w.newWire(), w.hosts[0]
			g := w.tap(h, 1, 0)
			h.remote(50, x.vteps[0], netip.Addr{})
			h.remote(51, x.vteps[1], netip.Addr{})
			for claim, frame := range departures() {
				t.Run(claim, func(t *testing.T) {
					x.tb, g.tb, h.tb = t, t, t
					g.send(frame)
					u := unpack(t, x.receive())
					if u.src != h.vtep || u.dst != x.vteps[0] || u.vni != vni || u.ttl != 64 || !u.df {
						t.Errorf("outer header: %+v", u)
					}
					if !bytes.Equal(u.inner, frame) {
						t.Errorf("carries\n% x\nwant\n% x", u.inner, frame)
					}
					if want := innerECN(frame); u.ecn != want {
						t.Errorf("outer ECN %d, inner %d", u.ecn, want)
					}
				})
			}
			t.Run("each peer gets its own", func(t *testing.T) {
				x.tb, g.tb = t, t
				g.send(ip{protocol: protoUDP}.frame(1, 51, false, udp(1, 2, data)))
				if u := unpack(t, x.receive()); u.dst != x.vteps[1] {
					t.Fatalf("sent to %v, want %v", u.dst, x.vteps[1])
				}
			})
			t.Run("flows spread over source ports", func(t *testing.T) {
				x.tb, g.tb = t, t
				ports := map[uint16]bool{}
				for n := range 32 {
					g.send(ip{protocol: protoUDP}.frame(1, 50, false, udp(uint16(1000+n), 2, data)))
					ports[unpack(t, x.receive()).sport] = true
				}
				if len(ports) < 24 {
					t.Fatalf("32 flows share %d source ports", len(ports))
				}
			})
		})
	}
}

// departures are frames from guest 1 to guest 50, which lives at a peer.
func departures() map[string][]byte {
	u := func(v6 bool, ecn uint8) []byte {
		return ip{protocol: protoUDP, ecn: ecn}.frame(1, 50, v6, udp(1, 2, data))
	}
	m := map[string][]byte{
		"an ARP reply":          ether(mac(50), mac(1), typeARP, arp(2, mac(1), address4(1), mac(50), address4(50))),
		"RARP":                  ether(mac(50), mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)),
		"a test EtherType":      ether(mac(50), mac(1), 0x88b5, data),
		"an IPv4 fragment":      ip{protocol: protoUDP, offset: 100}.frame(1, 50, false, data),
		"a first fragment":      ip{protocol: protoUDP, more: true}.frame(1, 50, false, udp(1, 2, data)),
		"an unusual protocol":   ip{protocol: 132}.frame(1, 50, false, data),
		"IPv4 with options":     ip{protocol: protoUDP, options: 40}.frame(1, 50, false, udp(1, 2, data)),
		"ICMP":                  ip{protocol: protoICMP}.frame(1, 50, false, append([]byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, make([]byte, 8)...)),
		"a frame of odd length": ip{protocol: protoUDP}.frame(1, 50, false, udp(1, 2, data[:3])),
	}
	for ecn := range uint8(4) {
		m[fmt.Sprintf("IPv4 with ECN %d", ecn)] = u(false, ecn)
		m[fmt.Sprintf("IPv6 with ECN %d", ecn)] = u(true, ecn)
	}
	return m
}

// innerECN is the congestion field of an IP frame, 0 for others.
func innerECN(frame []byte) uint8 {
	switch be16(frame, 12) {
	case typeIPv4:
		return frame[15] & 3
	case typeIPv6:
		return frame[15] >> 4 & 3
	}
	return 0
}

func TestAPeerThatIsGoneIsNamed(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	g := w.tap(h, 1, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	h.apply(datapath.Change{Delete: datapath.State{Peers: map[netip.Addr]datapath.Peer{x.vteps[0]: {}}}})
	g.expectDrop(tracing.ReasonUnderlayDown, ip{protocol: protoUDP}.frame(1, 50, false, udp(1, 2, data)))
}

func TestAPeerWithoutARouteIsLeftToTheKernel(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	g := w.tap(h, 1, 0)
	far := netip.MustParseAddr("10.88.0.1")
	h.apply(datapath.Change{Put: datapath.State{Peers: map[netip.Addr]datapath.Peer{far: {MTU: 1600}}}})
	h.remote(50, far, netip.Addr{})
	frame := ip{protocol: protoUDP}.frame(1, 50, false, udp(1, 2, data))
	g.send(frame) // dropped by the kernel: no route
	w.route(h, "10.88.0.0/16", x.vteps[0])
	g.send(frame)
	if u := unpack(t, x.receive()); u.dst != far || !bytes.Equal(u.inner, frame) {
		t.Fatalf("before Verify: %+v", u)
	}
	w.verify(h)
	g.send(frame)
	if u := unpack(t, x.receive()); u.dst != far || !bytes.Equal(u.inner, frame) {
		t.Fatalf("after Verify: %+v", u)
	}
}
