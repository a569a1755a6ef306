package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// guardCase is a frame of guest 1 and what becomes of it.
type guardCase struct {
	claim  string
	frame  []byte
	reason tracing.Reason // 0: it passes
	guard  datapath.GuardSet
}

var (
	data   = []byte("0123456789abcdef0123456789abcdef")
	local6 = netip.MustParseAddr("fe80::5054:ff:fe00:1") // of mac(1)
	drawn6 = netip.MustParseAddr("fe80::1")
	any4   = netip.MustParseAddr("0.0.0.0")
	all4   = netip.MustParseAddr("255.255.255.255")
	all6   = netip.MustParseAddr("ff02::1")
	multi6 = fabric.MAC{0x33, 0x33, 0, 0, 0, 1}
)

// naked is an IPv6 frame of guest 1 to all nodes, with an ICMPv6 message.
func nd(src netip.Addr, kind uint8, body ...byte) []byte {
	return ether(multi6, mac(1), typeIPv6, ip{protocol: protoICMPv6, ttl: 255}.packet(src, all6, icmp6(src, all6, kind, body...)))
}

// advertisement is the body of a neighbour advertisement for target with a link-layer address.
func advertisement(target netip.Addr, link fabric.MAC) []byte {
	t := target.As16()
	return append(append(append([]byte{0x20, 0, 0, 0}, t[:]...), 2, 1), link[:]...)
}

func guardCases(own, peer netip.Addr) []guardCase {
	u := func(sport, dport uint16) []byte { return udp(sport, dport, data) }
	plain := ip{protocol: protoUDP}
	return []guardCase{
		{"a frame with the port's MAC and address passes", plain.frame(1, 2, false, u(1, 2)), 0, 0},
		{"the same over IPv6 passes", plain.frame(1, 2, true, u(1, 2)), 0, 0},
		{"a foreign source MAC is dropped", ether(mac(2), mac(3), typeIPv4, plain.packet(address4(1), address4(2), u(1, 2))), tracing.ReasonGuardSrcMAC, datapath.GuardMAC},
		{"a group source MAC is dropped", ether(mac(2), multi6, typeIPv4, plain.packet(address4(1), address4(2), u(1, 2))), tracing.ReasonSrcGroup, 0},
		{"a zero source MAC is dropped", ether(mac(2), fabric.MAC{}, typeIPv4, plain.packet(address4(1), address4(2), u(1, 2))), tracing.ReasonSrcGroup, 0},
		{"a foreign IPv4 source is dropped", ether(mac(2), mac(1), typeIPv4, plain.packet(address4(3), address4(2), u(1, 2))), tracing.ReasonGuardSrcIP, datapath.GuardIP},
		{"a foreign IPv6 source is dropped", ether(mac(2), mac(1), typeIPv6, plain.packet(address6(3), address6(2), u(1, 2))), tracing.ReasonGuardSrcIP, datapath.GuardIP},
		{"the port's IPv4 address within an IPv6 source is dropped",
			ether(mac(2), mac(1), typeIPv6, plain.packet(netip.AddrFrom16(address4(1).As16()), address6(2), u(1, 2))), tracing.ReasonGuardSrcIP, 0},
		{"a link-local IPv6 source passes", ether(mac(2), mac(1), typeIPv6, plain.packet(local6, address6(2), u(1, 2))), 0, 0},
		{"another link-local IPv6 source is dropped", ether(mac(2), mac(1), typeIPv6, plain.packet(drawn6, address6(2), u(1, 2))), tracing.ReasonGuardSrcIP, datapath.GuardIP},
		{"a neighbour advertisement of another link-local address is dropped", nd(address6(1), 136, advertisement(drawn6, mac(1))...), tracing.ReasonGuardND, datapath.GuardARP},
		{"a neighbour advertisement of the own link-local address passes", nd(local6, 136, advertisement(local6, mac(1))...), 0, 0},
		{"duplicate address detection of another link-local address is dropped", solicitation(netip.IPv6Unspecified(), mac(1), drawn6, fabric.MAC{}), tracing.ReasonGuardND, datapath.GuardARP},
		{"duplicate address detection of the own link-local address passes", solicitation(netip.IPv6Unspecified(), mac(1), local6, fabric.MAC{}), 0, 0},
		{"a DHCP client without address passes", ether(broadcast, mac(1), typeIPv4, plain.packet(any4, all4, u(68, 67))), 0, 0},
		{"another packet from 0.0.0.0 is dropped", ether(broadcast, mac(1), typeIPv4, plain.packet(any4, all4, u(68, 69))), tracing.ReasonGuardSrcIP, datapath.GuardIP},
		{"a DHCP client's fragment from 0.0.0.0 is dropped",
			ether(broadcast, mac(1), typeIPv4, ip{protocol: protoUDP, offset: 4}.packet(any4, all4, u(68, 67))), tracing.ReasonGuardSrcIP, datapath.GuardIP},
		{"an ARP request for an unknown address passes", ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(99))), 0, 0},
		{"a gratuitous ARP passes", ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(1))), 0, 0},
		{"an ARP probe for the own address passes", ether(broadcast, mac(1), typeARP, arp(1, mac(1), any4, fabric.MAC{}, address4(1))), 0, 0},
		{"ARP with a foreign sender MAC is dropped", ether(broadcast, mac(1), typeARP, arp(1, mac(3), address4(1), fabric.MAC{}, address4(99))), tracing.ReasonGuardARP, datapath.GuardARP},
		{"ARP with a foreign sender address is dropped", ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(3), fabric.MAC{}, address4(99))), tracing.ReasonGuardARP, datapath.GuardARP},
		{"an ARP reply with a foreign MAC is dropped", ether(mac(2), mac(1), typeARP, arp(2, mac(3), address4(1), mac(2), address4(2))), tracing.ReasonGuardARP, datapath.GuardARP},
		{"ARP for other hardware is dropped", ether(broadcast, mac(1), typeARP, append([]byte{0, 6}, arp(1, mac(1), address4(1), fabric.MAC{}, address4(99))[2:]...)), tracing.ReasonL3Bad, 0},
		{"ARP cut short is dropped", ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), fabric.MAC{}, address4(99))[:27]), tracing.ReasonL3Bad, 0},
		{"an ARP probe of an address's owner is dropped", ether(mac(2), mac(1), typeARP, arp(1, mac(1), any4, fabric.MAC{}, address4(2))), tracing.ReasonGuardARP, datapath.GuardARP},
		{"RARP, as QEMU announces a move, passes", ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)), 0, 0},
		{"a neighbour advertisement of the own address passes", nd(address6(1), 136, advertisement(address6(1), mac(1))...), 0, 0},
		{"a neighbour advertisement of a foreign address is dropped", nd(address6(1), 136, advertisement(address6(3), mac(1))...), tracing.ReasonGuardND, datapath.GuardARP},
		{"a neighbour advertisement of a foreign MAC is dropped", nd(address6(1), 136, advertisement(address6(1), mac(3))...), tracing.ReasonGuardND, datapath.GuardARP},
		{"a solicitation with a foreign MAC is dropped", solicitation(address6(1), mac(1), address6(99), mac(3)), tracing.ReasonGuardND, datapath.GuardARP},
		{"a solicitation for an unknown address passes", solicitation(address6(1), mac(1), address6(99), mac(1)), 0, 0},
		{"duplicate address detection of the own address passes", solicitation(netip.IPv6Unspecified(), mac(1), address6(1), fabric.MAC{}), 0, 0},
		{"duplicate address detection of a foreign address is dropped", solicitation(netip.IPv6Unspecified(), mac(1), address6(3), fabric.MAC{}), tracing.ReasonGuardND, datapath.GuardARP},
		{"another packet from :: is dropped", ether(mac(2), mac(1), typeIPv6, plain.packet(netip.IPv6Unspecified(), address6(2), u(1, 2))), tracing.ReasonGuardSrcIP, datapath.GuardIP},
		{"an MLD report from :: passes", nd(netip.IPv6Unspecified(), 143, 0, 0, 0, 0), 0, 0},
		{"a neighbour option of length 0 is dropped", nd(address6(1), 133, 0, 0, 0, 0, 1, 0, 2, 3, 4, 5, 6, 7), tracing.ReasonL4Bad, 0},
		{"a router solicitation passes", nd(local6, 133, 0, 0, 0, 0), 0, 0},
		{"a router advertisement is dropped", nd(local6, 134, make([]byte, 12)...), tracing.ReasonGuardRA, datapath.GuardRA},
		{"a redirect is dropped", nd(local6, 137, make([]byte, 36)...), tracing.ReasonGuardRA, datapath.GuardRA},
		{"a router advertisement behind a destination option is dropped",
			ether(multi6, mac(1), typeIPv6, ip{protocol: 60, ttl: 255}.packet(local6, all6, append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, icmp6(local6, all6, 134, make([]byte, 12)...)...))),
			tracing.ReasonGuardRA, datapath.GuardRA},
		{"a fragmented advertisement is dropped (RFC 6980)",
			ether(multi6, mac(1), typeIPv6, ip{protocol: 44, ttl: 255}.packet(local6, all6, append([]byte{58, 0, 0, 1, 0, 0, 0, 7}, icmp6(local6, all6, 136, advertisement(address6(1), mac(1))...)...))),
			tracing.ReasonGuardND, datapath.GuardARP},
		{"a chain of seven extension headers is dropped",
			ether(mac(2), mac(1), typeIPv6, ip{protocol: 60}.packet(address6(1), address6(2), append(chain(7, 17), u(1, 2)...))), tracing.ReasonL3Bad, 0},
		{"a chain of six passes", ether(mac(2), mac(1), typeIPv6, ip{protocol: 60}.packet(address6(1), address6(2), append(chain(6, 17), u(1, 2)...))), 0, 0},
		{"a DHCP server is dropped", plain.frame(1, 2, false, u(67, 68)), tracing.ReasonGuardDHCPServer, datapath.GuardDHCPServer},
		{"a DHCPv6 server is dropped", plain.frame(1, 2, true, u(547, 546)), tracing.ReasonGuardDHCPServer, datapath.GuardDHCPServer},
		{"a DHCP reply from another port is dropped", plain.frame(1, 2, false, u(1067, 68)), tracing.ReasonGuardDHCPServer, datapath.GuardDHCPServer},
		{"a DHCPv6 reply from another port is dropped", plain.frame(1, 2, true, u(1547, 546)), tracing.ReasonGuardDHCPServer, datapath.GuardDHCPServer},
		{"PVST+ is dropped", ether(fabric.MAC{1, 0, 0x0c, 0xcc, 0xcc, 0xcd}, mac(1), 46, snap(0x0c, 0x010b, make([]byte, 38))), tracing.ReasonGuardL2Control, datapath.GuardL2Control},
		{"CDP is dropped", ether(fabric.MAC{1, 0, 0x0c, 0xcc, 0xcc, 0xcc}, mac(1), 46, snap(0x0c, 0x2000, make([]byte, 38))), tracing.ReasonGuardL2Control, datapath.GuardL2Control},
		{"IPv4 behind SNAP is dropped", ether(mac(2), mac(1), 68, snap(0, typeIPv4, plain.packet(address4(9), address4(2), u(1, 2)))), tracing.ReasonGuardEvasion, allL3},
		{"ARP behind SNAP for bridges is dropped", ether(mac(2), mac(1), 36, snap(0xf8, typeARP, arp(2, mac(1), address4(9), mac(2), address4(2)))), tracing.ReasonGuardEvasion, allL3},
		{"IPv6 behind SNAP is dropped", ether(multi6, mac(1), 64, snap(0, typeIPv6, nd(drawn6, 134, make([]byte, 12)...)[14:])), tracing.ReasonGuardEvasion, allL3},
		{"a tag behind SNAP is dropped", ether(mac(2), mac(1), 46, snap(0, 0x8100, make([]byte, 38))), tracing.ReasonGuardEvasion, allL3},
		{"another protocol behind SNAP passes", ether(mac(2), mac(1), 46, snap(0, 0x809b, make([]byte, 38))), 0, 0},
		{"MPLS is dropped", ether(mac(2), mac(1), 0x8847, append([]byte{0, 1, 1, 64}, plain.packet(address4(9), address4(2), u(1, 2))...)), tracing.ReasonGuardEvasion, allL3},
		{"an IPv4 source route is dropped", mangled(ip{protocol: protoUDP, options: 12}.frame(1, 2, false, u(1, 2)), 35, 131, 7, 4, 10, 77, 0, 9), tracing.ReasonGuardEvasion, datapath.GuardIP},
		{"other IPv4 options pass", ip{protocol: protoUDP, options: 12}.frame(1, 2, false, u(1, 2)), 0, 0},
		{"STP is dropped", ether(fabric.MAC{1, 0x80, 0xc2}, mac(1), 38, make([]byte, 46)), tracing.ReasonGuardL2Control, datapath.GuardL2Control},
		{"LLDP is dropped", ether(fabric.MAC{1, 0x80, 0xc2, 0, 0, 0x0e}, mac(1), 0x88cc, data), tracing.ReasonGuardL2Control, datapath.GuardL2Control},
		{"LACP to a station is dropped", ether(mac(2), mac(1), 0x8809, data), tracing.ReasonGuardL2Control, datapath.GuardL2Control},
		{"pause is dropped", ether(mac(2), mac(1), 0x8808, data), tracing.ReasonGuardL2Control, datapath.GuardL2Control},
		{"EAPOL is dropped", ether(mac(2), mac(1), 0x888e, data), tracing.ReasonGuardL2Control, datapath.GuardL2Control},
		{"VXLAN to the own tunnel end point is dropped", ether(mac(2), mac(1), typeIPv4, plain.packet(address4(1), own, u(1, 4789))), tracing.ReasonGuardVXLAN, datapath.GuardVXLAN},
		{"VXLAN to another host's is dropped", ether(mac(2), mac(1), typeIPv4, plain.packet(address4(1), peer, u(1, 4789))), tracing.ReasonGuardVXLAN, datapath.GuardVXLAN},
		{"VXLAN between guests passes", plain.frame(1, 2, false, u(1, 4789)), 0, 0},
		{"a tagged frame is dropped", ether(mac(2), mac(1), 0x8100, append([]byte{0, 5, 8, 0}, plain.packet(address4(1), address4(2), u(1, 2))...)), tracing.ReasonVLANNotAllowed, 0},
		{"a frame with a service tag is dropped", ether(mac(2), mac(1), 0x88a8, append([]byte{0, 5, 8, 0}, plain.packet(address4(1), address4(2), u(1, 2))...)), tracing.ReasonVLANNotAllowed, 0},
		{"a tag behind a priority tag is dropped", ether(mac(2), mac(1), 0x8100, append([]byte{0xe0, 0, 0x81, 0, 0, 5, 8, 0}, plain.packet(address4(1), address4(2), u(1, 2))...)), tracing.ReasonVLANNotAllowed, 0},
		{"a priority tag alone passes", ether(mac(2), mac(1), 0x8100, append([]byte{0xe0, 0, 8, 0}, plain.packet(address4(1), address4(2), u(1, 2))...)), 0, 0},
		{"an 802.3 length beyond the frame is dropped", ether(mac(2), mac(1), 1000, data), tracing.ReasonL2Short, 0},
		{"an EtherType that is neither is dropped", ether(mac(2), mac(1), 0x5ff, data), tracing.ReasonL2Short, 0},
		{"an unknown EtherType passes", ether(mac(2), mac(1), 0x88b5, data), 0, 0},
		{"an unknown destination is dropped", plain.frame(1, 99, false, u(1, 2)), tracing.ReasonDstUnknown, 0},
		{"a frame to the sender itself is dropped", plain.frame(1, 1, false, u(1, 2)), tracing.ReasonLoopSplitHorizon, 0},
	}
}

const allL3 = datapath.GuardIP | datapath.GuardARP | datapath.GuardDHCPServer | datapath.GuardRA | datapath.GuardVXLAN

// snap is a SNAP header, with the last byte of the OUI, and what follows it.
func snap(oui byte, ethertype uint16, payload []byte) []byte {
	return append([]byte{0xaa, 0xaa, 3, 0, 0, oui, byte(ethertype >> 8), byte(ethertype)}, payload...)
}

// mangled is the frame with other bytes from an offset on.
func mangled(frame []byte, at int, with ...byte) []byte {
	copy(frame[at:], with)
	return frame
}

// chain is n destination options headers of 8 bytes, the last of which names the protocol.
func chain(n int, last byte) (b []byte) {
	for i := range n {
		next := byte(60)
		if i == n-1 {
			next = last
		}
		b = append(b, next, 0, 1, 4, 0, 0, 0, 0)
	}
	return b
}

func TestAListedLinkLocalAddressPasses(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	a.port.Addresses[2] = drawn6
	a.gate(datapath.Open, 1)
	for _, frame := range [][]byte{
		ether(mac(2), mac(1), typeIPv6, ip{protocol: protoUDP}.packet(drawn6, address6(2), udp(1, 2, data))),
		nd(drawn6, 136, advertisement(drawn6, mac(1))...),
	} {
		a.send(frame)
		if b.receive() == nil {
			t.Fatalf("dropped: % x", frame)
		}
	}
}

func TestGuards(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	for _, c := range guardCases(w.hosts[0].vtep, w.hosts[1].vtep) {
		t.Run(c.claim, func(t *testing.T) {
			a.tb, b.tb = t, t
			if c.reason != 0 {
				a.expectDrop(c.reason, c.frame)
				b.silent()
				return
			}
			a.send(c.frame)
			if b.receive() == nil {
				ports, _ := a.host.counters()
				t.Fatalf("it did not arrive: %+v", ports["g1"])
			}
		})
	}
	t.Run("each guard can be turned off", func(t *testing.T) {
		for _, c := range guardCases(w.hosts[0].vtep, w.hosts[1].vtep) {
			if c.guard == 0 {
				continue
			}
			a.tb, b.tb = t, t
			port := a.port
			port.Guards &^= c.guard
			a.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{a.device: port}}})
			before := a.drops(c.reason)
			a.send(c.frame)
			if after := a.drops(c.reason); after != before {
				t.Errorf("%s even without the guard", c.claim)
			}
			b.pending()
		}
	})
}

// TestNoFrameIsJudgedByAnotherPortsSettings rewrites two ports' settings all the time, so that the kernel gives the memory of
// the one to the other while vp_in reads it, and sends frames that only the other may send.
func TestNoFrameIsJudgedByAnotherPortsSettings(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b, c := w.tap(h, 1, 0), w.tap(h, 2, 0), w.tap(h, 3, 0)
	open := func(name string) *ebpf.Map {
		m, err := ebpf.LoadPinnedMap(filepath.Join(h.pinDir, "maps", name), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	ports, slots := open("ports_v1"), open("slots_v1")
	words, err := unix.Mmap(slots.FD(), 0, 4096*int(slots.ValueSize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(words)
	rewrite := func(g *tapGuest) func() {
		var key uint32
		w.in(h.ns, func() error {
			d, err := nic.Find(g.device)
			key = uint32(d.Index)
			return err
		})
		value, err := ports.LookupBytes(key)
		if err != nil {
			t.Fatal(err)
		}
		slot := binary.NativeEndian.Uint32(value[4:])
		version := (*uint64)(unsafe.Pointer(&words[slot*slots.ValueSize()+32])) // struct slot in bpf/types.h
		return func() {
			binary.NativeEndian.PutUint64(value[8:], atomic.AddUint64(version, 1)*4096+uint64(slot)) // as writePort does
			if err := ports.Put(key, value); err != nil {
				t.Error(err)
			}
		}
	}
	first, second := rewrite(a), rewrite(b)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			first()
			second()
		}
	}()
	spoofed := ether(mac(3), mac(2), typeIPv4, ip{protocol: protoUDP}.packet(address4(2), address4(3), udp(1, 2, data)))
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		a.send(spoofed)
	}
	stop.Store(true)
	<-done
	if frame := c.pending(); frame != nil {
		t.Fatalf("a guest was believed to be its neighbour: % x", frame)
	}
}
