package datapath_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/fabric"
)

func TestNeighborsAreAnswered(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	g, other := w.tap(h, 1, 0), w.tap(h, 2, 0)
	h.remoteless(50)
	for claim, c := range map[string]struct{ ask, answer []byte }{
		"ARP": {
			ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(50))),
			ether(mac(1), mac(50), typeARP, arp(2, mac(50), address4(50), mac(1), address4(1))),
		},
		"an ARP probe for another's address (RFC 5227)": {
			ether(broadcast, mac(1), typeARP, arp(1, mac(1), any4, fabric.MAC{}, address4(50))),
			ether(mac(1), mac(50), typeARP, arp(2, mac(50), address4(50), mac(1), any4)),
		},
		"ARP for a neighbour on the same host": {
			ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(2))),
			ether(mac(1), mac(2), typeARP, arp(2, mac(2), address4(2), mac(1), address4(1))),
		},
		"neighbour discovery": {
			solicitation(address6(1), mac(1), address6(50), mac(1)), advertised(address6(50), mac(50), address6(1), mac(1), 0x60),
		},
		"neighbour discovery without the asker's MAC": {
			solicitation(address6(1), mac(1), address6(50), fabric.MAC{}), advertised(address6(50), mac(50), address6(1), mac(1), 0x60),
		},
		"neighbour discovery with a nonce": {
			withNonce(), advertised(address6(50), mac(50), address6(1), mac(1), 0x60),
		},
	} {
		t.Run(claim, func(t *testing.T) {
			g.tb, other.tb = t, t
			g.send(c.ask)
			if got := g.receive(); !bytes.Equal(got, c.answer) {
				t.Errorf("answer\n% x\nwant\n% x", got, c.answer)
			}
			if be16(c.answer, 12) == typeIPv6 && !transportOK(c.answer) {
				t.Error("the expected checksum is wrong itself")
			}
			other.silent()
		})
	}
}

// withNonce is a solicitation with an option that advertisements do not have (RFC 3971).
func withNonce() []byte {
	f := solicitation(address6(1), mac(1), address6(50), mac(1))
	src, _ := netip.AddrFromSlice(f[22:38])
	dst, _ := netip.AddrFromSlice(f[38:54])
	body := append(append([]byte{}, f[58:]...), 14, 1, 1, 2, 3, 4, 5, 6)
	return ether(fabric.MAC(f[0:6]), mac(1), typeIPv6, ip{protocol: protoICMPv6, ttl: 255}.packet(src, dst, icmp6(src, dst, 135, body...)))
}

// advertised is the answer to a solicitation.
func advertised(target netip.Addr, owner fabric.MAC, to netip.Addr, toMAC fabric.MAC, flags byte) []byte {
	t := target.As16()
	body := append(append(append([]byte{flags, 0, 0, 0}, t[:]...), 2, 1), owner[:]...)
	return ether(toMAC, owner, typeIPv6, ip{protocol: protoICMPv6, ttl: 255}.packet(target, to, icmp6(target, to, 136, body...)))
}

func TestWhatANeighborMustNotBeAsked(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	g, other := w.tap(h, 1, 0), w.tap(h, 2, 0)
	spoofed := solicitation(address6(1), mac(1), address6(2), mac(1))
	spoofed[21] = 64 // hop limit: it came through a router
	for claim, frame := range map[string][]byte{
		"a gratuitous ARP goes to all":                       ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(1))),
		"a probe for the own address goes to all":            ether(broadcast, mac(1), typeARP, arp(1, mac(1), any4, fabric.MAC{}, address4(1))),
		"duplicate address detection goes to all":            solicitation(netip.IPv6Unspecified(), mac(1), address6(1), fabric.MAC{}),
		"ARP for an unknown address goes to all":             ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(99))),
		"an ARP reply to all goes to all":                    ether(broadcast, mac(1), typeARP, arp(2, mac(1), address4(1), fabric.MAC{}, address4(2))),
		"an ARP request to one station goes to it":           ether(mac(2), mac(1), typeARP, arp(1, mac(1), address4(1), mac(2), address4(2))),
		"a solicitation that passed a router is no question": spoofed,
	} {
		t.Run(claim, func(t *testing.T) {
			g.tb, other.tb = t, t
			g.send(frame)
			if got := other.receive(); !bytes.Equal(got, frame) {
				t.Errorf("the neighbour gets\n% x\nwant\n% x", got, frame)
			}
			g.silent()
		})
	}
}
