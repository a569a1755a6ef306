package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/fabric"
)

// IP protocols that have ports or messages (IANA protocol numbers).
const (
	protocolICMP     = 1
	protocolTCP      = 6
	protocolUDP      = 17
	protocolFragment = 44
	protocolICMPv6   = 58
	protocolNone     = 59
	protocolSCTP     = 132
)

// TCP flags (RFC 9293 section 3.1).
const (
	FlagFIN uint8 = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
	FlagURG
)

// Packet is what a frame says that a rule or a flow may ask for.
type Packet struct {
	// SourceMAC and DestinationMAC are the frame's.
	SourceMAC, DestinationMAC fabric.MAC
	// Segment is the VNI of the VLAN that a trunk's guest has tagged the frame with, or receives it tagged with; 0 for what it knows
	// untagged, and at all other ports. No frame says it (ADR 12).
	Segment fabric.VNI
	// EtherType is 0 in a frame that has a length in its place (IEEE 802.3).
	EtherType fabric.EtherType
	// Source and Destination are invalid unless the frame carries IP.
	Source, Destination netip.Addr
	// Protocol is the one behind IPv6 extension headers.
	Protocol uint8
	// Fragment is set in every fragment, the first included; Later in those that are not the first; FragmentID tells which
	// packet they are of.
	Fragment, Later bool
	FragmentID      uint32
	// SourcePort and DestinationPort are those of TCP, UDP and SCTP, where the packet is not a later fragment.
	SourcePort, DestinationPort uint16
	// TCPFlags, Sequence, Acknowledgment and Payload (bytes) are TCP's.
	TCPFlags                 uint8
	Sequence, Acknowledgment uint32
	Payload                  uint32
	// ICMPType and ICMPCode are those of ICMP in IPv4 and of ICMPv6 in IPv6; Echo is the identifier of an echo.
	ICMPType, ICMPCode uint8
	Echo               uint16
	// Quote is the packet that an ICMP error quotes, as far as it can be read: its addresses, protocol, ports or echo.
	Quote *Packet
}

// HasIP reports whether the frame carries IP.
func (p Packet) HasIP() bool { return p.Source.IsValid() }

// HasPorts reports whether the packet shows ports.
func (p Packet) HasPorts() bool {
	return p.HasIP() && !p.Later && (p.Protocol == protocolTCP || p.Protocol == protocolUDP || p.Protocol == protocolSCTP)
}

// HasICMP reports whether the packet shows an ICMP message of its own family.
func (p Packet) HasICMP() bool {
	return p.HasIP() && !p.Later && (p.Protocol == protocolICMP && p.Source.Is4() || p.Protocol == protocolICMPv6 && p.Source.Is6())
}

// Group reports whether the frame is for several stations.
func (p Packet) Group() bool { return p.DestinationMAC[0]&1 != 0 }

// reverse is the head of a packet that goes the other way in the same connection.
func (p Packet) reverse() Packet {
	p.SourceMAC, p.DestinationMAC = p.DestinationMAC, p.SourceMAC
	p.Source, p.Destination = p.Destination, p.Source
	p.SourcePort, p.DestinationPort = p.DestinationPort, p.SourcePort
	return p
}

// view reads from a frame within its bounds.
type view []byte

func (v view) has(at, n int) bool { return at >= 0 && n >= 0 && at+n <= len(v) }
func (v view) u16(at int) uint16  { return binary.BigEndian.Uint16(v[at:]) }
func (v view) u32(at int) uint32  { return binary.BigEndian.Uint32(v[at:]) }

func malformed(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, fabric.ErrInvalid)...)
}

// Parse reads an Ethernet frame. The error wraps fabric.ErrInvalid and says which header is impossible: such a frame is
// dropped before any rule is asked.
func Parse(frame []byte) (Packet, error) {
	var p Packet
	v := view(frame)
	if !v.has(0, 14) {
		return p, malformed("a frame of %d bytes, an Ethernet header has 14", len(frame))
	}
	copy(p.DestinationMAC[:], frame[0:6])
	copy(p.SourceMAC[:], frame[6:12])
	switch t := v.u16(12); {
	case t >= 0x600:
		p.EtherType = fabric.EtherType(t)
	case t > 1500 || !v.has(14, int(t)):
		return p, malformed("a length of %d in a frame of %d bytes", t, len(frame))
	}
	switch p.EtherType {
	case 0x0800:
		return p, p.ipv4(v[14:], false)
	case 0x86dd:
		return p, p.ipv6(v[14:], false)
	}
	return p, nil
}

// ipv4 reads from the IP header on; of a quoted packet only its beginning is there.
func (p *Packet) ipv4(v view, quoted bool) error {
	if !v.has(0, 20) || v[0]>>4 != 4 {
		return malformed("no IPv4 header")
	}
	header, total := int(v[0]&15)*4, int(v.u16(2))
	if header < 20 || !v.has(0, header) || total < header || !quoted && !v.has(0, total) {
		return malformed("an IPv4 header of %d bytes and a packet of %d in %d bytes", header, total, len(v))
	}
	p.Source, p.Destination = netip.AddrFrom4([4]byte(v[12:16])), netip.AddrFrom4([4]byte(v[16:20]))
	p.Protocol = v[9]
	offset := v.u16(6)
	p.Fragment, p.Later, p.FragmentID = offset&0x3fff != 0, offset&0x1fff != 0, uint32(v.u16(4))
	if !p.Fragment {
		p.FragmentID = 0
	}
	if !quoted {
		v = v[:total]
	}
	return p.transport(v[header:], quoted)
}

// ipv6 reads from the IP header on, through at most six extension headers.
func (p *Packet) ipv6(v view, quoted bool) error {
	if !v.has(0, 40) || v[0]>>4 != 6 {
		return malformed("no IPv6 header")
	}
	length := int(v.u16(4))
	p.Source, p.Destination = netip.AddrFrom16([16]byte(v[8:24])), netip.AddrFrom16([16]byte(v[24:40]))
	p.Protocol = v[6]
	if !quoted && (!v.has(40, length) || length == 0 && p.Protocol != protocolNone) {
		return malformed("an IPv6 payload of %d in %d bytes", length, len(v)-40)
	}
	if !quoted {
		v = v[:40+length]
	}
	at := 40
	for range 7 {
		size := 0
		switch p.Protocol {
		case 0, 43, 60: // hop by hop, routing, destination options
			if v.has(at, 4) {
				size = (int(v[at+1]) + 1) * 8
			}
		case 51: // authentication (RFC 4302 section 2.2)
			if v.has(at, 4) {
				size = (int(v[at+1]) + 2) * 4
			}
		case protocolFragment:
			if !v.has(at, 8) {
				return malformed("no fragment header")
			}
			p.Fragment, p.FragmentID, size = true, v.u32(at+4), 8
			if v.u16(at+2)&0xfff8 != 0 {
				p.Later, p.Protocol = true, v[at]
				return nil
			}
		default:
			if at > len(v) {
				return malformed("IPv6 extension headers beyond the packet")
			}
			return p.transport(v[at:], quoted)
		}
		if size == 0 {
			return malformed("no room for IPv6 extension header %d", p.Protocol)
		}
		p.Protocol = v[at]
		at += size
	}
	return malformed("more than six IPv6 extension headers")
}

// transport reads what follows IP. A quotation shows at least eight bytes of it (RFC 792); less shows nothing.
func (p *Packet) transport(v view, quoted bool) error {
	if p.Later {
		return nil
	}
	need := 0
	switch {
	case p.Protocol == protocolTCP:
		need = 20
	case p.Protocol == protocolSCTP:
		need = 12
	case p.Protocol == protocolUDP, p.HasICMP():
		need = 8
	}
	if quoted {
		need = min(need, 8)
	}
	if !v.has(0, need) {
		return malformed("%d bytes of protocol %d, its header has %d", len(v), p.Protocol, need)
	}
	switch {
	case p.HasPorts():
		p.SourcePort, p.DestinationPort = v.u16(0), v.u16(2)
	case p.HasICMP():
		return p.icmp(v, quoted)
	}
	if quoted {
		return nil
	}
	switch p.Protocol {
	case protocolTCP:
		header := int(v[12]>>4) * 4
		if header < 20 || !v.has(0, header) {
			return malformed("a TCP header of %d bytes in %d", header, len(v))
		}
		p.Sequence, p.Acknowledgment, p.TCPFlags, p.Payload = v.u32(4), v.u32(8), v[13]&63, uint32(len(v)-header)
	case protocolUDP:
		if n := int(v.u16(4)); !p.Fragment && (n < 8 || !v.has(0, n)) {
			return malformed("a UDP length of %d in %d bytes", n, len(v))
		}
	}
	return nil
}

func (p *Packet) icmp(v view, quoted bool) error {
	p.ICMPType, p.ICMPCode = v[0], v[1]
	if p.isEcho() {
		p.Echo = v.u16(4)
	}
	if quoted || !p.isICMPError() {
		return nil
	}
	var q Packet
	var err error
	if p.Source.Is4() {
		err = q.ipv4(v[8:], true)
	} else {
		err = q.ipv6(v[8:], true)
	}
	if err == nil && !q.Later {
		p.Quote = &q
	}
	return nil // an unreadable quotation is related to nothing
}

// isEcho reports whether the packet is an echo request or reply.
func (p Packet) isEcho() bool { return p.isEchoRequest() || p.isEchoReply() }

func (p Packet) isEchoRequest() bool {
	return p.HasICMP() && (p.Source.Is4() && p.ICMPType == 8 || p.Source.Is6() && p.ICMPType == 128)
}

func (p Packet) isEchoReply() bool {
	return p.HasICMP() && (p.Source.Is4() && p.ICMPType == 0 || p.Source.Is6() && p.ICMPType == 129)
}

// isICMPError reports whether the packet is an error that may be related to a flow: destination unreachable, source
// quench, time exceeded, parameter problem; in ICMPv6 packet too big, too.
func (p Packet) isICMPError() bool {
	if !p.HasICMP() {
		return false
	}
	if p.Source.Is6() {
		return p.ICMPType >= 1 && p.ICMPType <= 4
	}
	switch p.ICMPType {
	case 3, 4, 11, 12:
		return true
	}
	return false
}

// isNeighbor reports whether the packet is ARP or neighbour discovery, which no rule judges (ADR 10).
func (p Packet) isNeighbor() bool {
	return p.EtherType == 0x0806 || p.HasICMP() && !p.Fragment && p.Source.Is6() && p.ICMPType >= 133 && p.ICMPType <= 137
}
