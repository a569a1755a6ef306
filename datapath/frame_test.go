package datapath_test

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// Protocol numbers of the frames that the tests build by hand.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeRARP = 0x8035
	typeIPv6 = 0x86dd
)

var broadcast = fabric.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ether is an Ethernet frame.
func ether(dst, src fabric.MAC, ethertype uint16, payload []byte) []byte {
	f := append(append([]byte{}, dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(f, ethertype), payload...)
}

// ip is what a packet's header says beyond addresses and payload; the zero value is a plain packet.
type ip struct {
	df       bool
	more     bool   // more fragments
	offset   uint16 // in units of 8 bytes
	ecn      uint8
	ttl      uint8
	options  int // bytes of IPv4 options
	length   int // what the header claims; 0 means the truth
	protocol uint8
}

// packet is an IPv4 or IPv6 packet, by the family of src.
func (h ip) packet(src, dst netip.Addr, payload []byte) []byte {
	if h.ttl == 0 {
		h.ttl = 64
	}
	if src.Is6() {
		p := make([]byte, 40, 40+len(payload))
		binary.BigEndian.PutUint32(p, 6<<28|uint32(h.ecn)<<20)
		length := len(payload)
		if h.length != 0 {
			length = h.length
		}
		binary.BigEndian.PutUint16(p[4:], uint16(length))
		p[6], p[7] = h.protocol, h.ttl
		copy(p[8:], src.AsSlice())
		copy(p[24:], dst.AsSlice())
		return append(p, payload...)
	}
	size := 20 + h.options
	p := make([]byte, size, size+len(payload))
	p[0], p[1] = byte(0x40|size/4), h.ecn
	length := size + len(payload)
	if h.length != 0 {
		length = h.length
	}
	binary.BigEndian.PutUint16(p[2:], uint16(length))
	fragment := h.offset
	if h.df {
		fragment |= 0x4000
	}
	if h.more {
		fragment |= 0x2000
	}
	binary.BigEndian.PutUint16(p[6:], fragment)
	p[8], p[9] = h.ttl, h.protocol
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	for i := 20; i < size; i++ {
		p[i] = 1 // no operation
	}
	binary.BigEndian.PutUint16(p[10:], ^checksum(p, 0))
	return append(p, payload...)
}

// frame is an IP packet in an Ethernet frame from guest src to guest dst over IPv4, or over IPv6 when v6.
func (h ip) frame(src, dst int, v6 bool, payload []byte) []byte {
	if v6 {
		return ether(mac(dst), mac(src), typeIPv6, h.packet(address6(src), address6(dst), payload))
	}
	return ether(mac(dst), mac(src), typeIPv4, h.packet(address4(src), address4(dst), payload))
}

// checksum adds 16-bit words, not complemented (RFC 1071).
func checksum(p []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	if len(p)%2 == 1 {
		sum += uint32(p[len(p)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// pseudo is the checksum of the pseudo header of a transport segment.
func pseudo(src, dst netip.Addr, protocol uint8, length int) uint16 {
	p := append(src.AsSlice(), dst.AsSlice()...)
	p = binary.BigEndian.AppendUint32(p, uint32(length))
	return checksum(append(p, 0, 0, 0, protocol), 0)
}

// transportOK reports whether the checksum of the transport segment of an IP frame is right.
func transportOK(frame []byte) bool {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeIPv4:
		p := frame[14:]
		size := int(p[0]&15) * 4
		segment := p[size:binary.BigEndian.Uint16(p[2:])]
		if p[9] == protoICMP {
			return checksum(segment, 0) == 0xffff
		}
		src, _ := netip.AddrFromSlice(p[12:16])
		dst, _ := netip.AddrFromSlice(p[16:20])
		return checksum(segment, uint32(pseudo(src, dst, p[9], len(segment)))) == 0xffff
	case typeIPv6:
		p := frame[14:]
		segment := p[40 : 40+binary.BigEndian.Uint16(p[4:])]
		src, _ := netip.AddrFromSlice(p[8:24])
		dst, _ := netip.AddrFromSlice(p[24:40])
		return checksum(segment, uint32(pseudo(src, dst, p[6], len(segment)))) == 0xffff
	}
	return false
}

// udp is a UDP segment; the checksum is left to the reader.
func udp(sport, dport uint16, payload []byte) []byte {
	s := binary.BigEndian.AppendUint16(nil, sport)
	s = binary.BigEndian.AppendUint16(s, dport)
	s = binary.BigEndian.AppendUint16(s, uint16(8+len(payload)))
	return append(append(s, 0, 0), payload...)
}

// tcp is a TCP segment with options, its checksum the pseudo header's, as a guest with checksum offload leaves it.
func tcp(src, dst netip.Addr, flags uint8, options, payload []byte) []byte {
	s := make([]byte, 20, 20+len(options)+len(payload))
	binary.BigEndian.PutUint16(s, 40000)
	binary.BigEndian.PutUint16(s[2:], 80)
	binary.BigEndian.PutUint32(s[4:], 1000)
	s[12], s[13] = byte((20+len(options))/4<<4), flags
	binary.BigEndian.PutUint16(s[14:], 1024)
	s = append(append(s, options...), payload...)
	binary.BigEndian.PutUint16(s[16:], pseudo(src, dst, protoTCP, len(s)))
	return s
}

// complete puts the full checksum into a TCP segment.
func complete(src, dst netip.Addr, segment []byte) []byte {
	s := slices.Clone(segment)
	s[16], s[17] = 0, 0
	binary.BigEndian.PutUint16(s[16:], ^checksum(s, uint32(pseudo(src, dst, protoTCP, len(s)))))
	return s
}

// icmp6 is an ICMPv6 message with its checksum.
func icmp6(src, dst netip.Addr, kind uint8, body ...byte) []byte {
	m := append([]byte{kind, 0, 0, 0}, body...)
	binary.BigEndian.PutUint16(m[2:], ^checksum(m, uint32(pseudo(src, dst, protoICMPv6, len(m)))))
	return m
}

// arp is an ARP message for IPv4 over Ethernet.
func arp(op uint16, sender fabric.MAC, from netip.Addr, target fabric.MAC, to netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4}
	p = binary.BigEndian.AppendUint16(p, op)
	p = append(append(p, sender[:]...), from.AsSlice()...)
	return append(append(p, target[:]...), to.AsSlice()...)
}

// solicitation is a neighbour solicitation for target, with the source link-layer option when link is not zero.
func solicitation(src netip.Addr, from fabric.MAC, target netip.Addr, link fabric.MAC) []byte {
	t := target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	body := append([]byte{0, 0, 0, 0}, t[:]...)
	if !link.IsZero() {
		body = append(append(body, 1, 1), link[:]...)
	}
	message := icmp6(src, group, 135, body...)
	return ether(fabric.MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]}, from, typeIPv6, ip{protocol: protoICMPv6, ttl: 255}.packet(src, group, message))
}

// vxlan is a frame in a VXLAN packet of a host's underlay, without Ethernet header.
func vxlan(from, to netip.Addr, network fabric.VNI, outer ip, inner []byte) []byte {
	outer.protocol = protoUDP
	payload := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, uint32(network)<<8)
	return outer.packet(from, to, udp(50000, 4789, append(payload, inner...)))
}
