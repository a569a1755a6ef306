package datapath_test

import (
	"encoding/binary"
	"net/netip"

	"github.com/weftnet/weft/fabric"
)

// talk is a connection between two stations that packets are drawn from, so that they meet flows.
type talk struct {
	ends     [2]end
	protocol uint8
	broken   bool // comes in fragments most of the time
	fragment uint16
	tcp      handshake
	segment  int    // that its packets travel on, where both ends are on it
	last     []byte // an IP packet of it, which ICMP errors quote
}

// end is one end of a talk.
type end struct {
	number  int        // of the guest
	mac     fabric.MAC // that it sends from
	address netip.Addr
	port    uint16
}

func (u *universe) talk(numbers [2]int) *talk {
	t := &talk{fragment: pick(u, []uint16{0, 1, 2, 3, 34, 35, 0x8003}), broken: u.IntN(12) == 0}
	for i, n := range numbers {
		t.ends[i] = end{number: n, mac: mac(n), address: pick(u, u.addresses), port: u.port()}
		if u.IntN(8) == 0 && n != remoteGuest { // the fabric knows where a remote guest's MAC is at home
			t.ends[i].mac = pick(u, u.macs)
		}
	}
	for t.ends[1].address.Is4() != t.ends[0].address.Is4() {
		t.ends[1].address = pick(u, u.addresses)
	}
	t.protocol = pick(u, []uint8{6, 6, 6, 6, 6, 6, 17, 17, 17, 1, 58, 132, 132, 47, 59})
	if t.protocol == 1 && t.ends[0].address.Is6() || t.protocol == 58 && t.ends[0].address.Is4() {
		if u.IntN(10) > 0 {
			t.protocol = 59 - t.protocol
		}
	}
	t.segment = pick(u, []int{0, 0, 1, 2})
	t.tcp.begin(u)
	return t
}

// appendPayload draws the transport part of the talk's next packet.
func (u *universe) appendPayload(f []byte, t *talk, from int) []byte {
	sport, dport := t.ends[from].port, t.ends[1-from].port
	body := u.IntN(30)
	if u.IntN(64) == 0 {
		body = u.IntN(1200)
	}
	switch t.protocol {
	case 6:
		return u.appendSegment(f, t, from, body)
	case 17:
		f = binary.BigEndian.AppendUint16(f, sport)
		f = binary.BigEndian.AppendUint16(f, dport)
		f = binary.BigEndian.AppendUint16(f, uint16(8+body))
		return appendZeros(f, 2+body)
	case 132:
		f = binary.BigEndian.AppendUint16(f, sport)
		f = binary.BigEndian.AppendUint16(f, dport)
		return appendZeros(f, 8+body)
	case 1, 58:
		return u.appendMessage(f, t, body)
	}
	return appendZeros(f, body)
}

var zeros [2048]byte

func appendZeros(f []byte, n int) []byte { return append(f, zeros[:n]...) }

var (
	requests, replies = [2]byte{8, 128}, [2]byte{0, 129}
	errors4, errors6  = []byte{3, 4, 5, 11, 12}, []byte{1, 2, 3, 4, 100}
	neighborDiscovery = []byte{133, 134, 135, 136, 137}
	otherTypes        = []uint16{0x88b5, 0x0806, 0x8035, 0x0040}
)

// appendMessage draws an ICMP message: an echo of the talk, an error without a quotation, or another.
func (u *universe) appendMessage(f []byte, t *talk, body int) []byte {
	family, failures := 0, errors4
	if t.protocol == 58 {
		family, failures = 1, errors6
	}
	switch u.IntN(16) {
	case 0:
		f = append(f, byte(u.IntN(256)), byte(u.IntN(4)), 0, 0)
		f = binary.BigEndian.AppendUint16(f, t.ends[0].port) // where an echo has its identifier
		f = append(f, 0, 0)
	case 1:
		f = append(f, pick(u, neighborDiscovery), 0, 0, 0, 0, 0, 0, 0)
		body = 24
	case 2:
		f = append(f, pick(u, failures), byte(u.IntN(3)), 0, 0, 0, 0, 0, 0)
	default:
		kind := requests[family]
		if u.IntN(2) == 0 {
			kind = replies[family]
		}
		f = append(f, kind, byte(u.IntN(8)/7), 0, 0)
		f = binary.BigEndian.AppendUint16(f, t.ends[0].port+uint16(u.IntN(8)/7))
		f = append(f, 0, 1)
	}
	return appendZeros(f, body)
}

// appendPacket draws the talk's next packet, sent by one of its ends.
func (u *universe) appendPacket(f []byte, t *talk, from int) []byte {
	src, dst := t.ends[from].address, t.ends[1-from].address
	at := len(f)
	if len(t.last) > 0 && u.IntN(16) == 0 {
		return u.appendError(f, t, src, dst)
	}
	if src.Is4() {
		f = u.appendIPv4(f, t, from)
	} else {
		f = u.appendIPv6(f, t, from)
	}
	t.last = append(t.last[:0], f[at:min(len(f), at+128)]...)
	return f
}

// appendIPv4 draws fragments and options too.
func (u *universe) appendIPv4(f []byte, t *talk, from int) []byte {
	src, dst := t.ends[from].address.As4(), t.ends[1-from].address.As4()
	at, options, word := len(f), 0, uint16(0)
	chance := 24
	if t.broken {
		chance = 4
	}
	switch u.IntN(chance) {
	case 0:
		word = 0x2000 // more fragments
	case 1:
		word = pick(u, []uint16{4, 0x2004, 1, 0x1fff})
	case 2:
		options = 4 * u.IntN(11)
	}
	f = append(f, byte(0x45+options/4), 0, 0, 0, byte(t.fragment>>8), byte(t.fragment), byte(word>>8), byte(word), 64, t.protocol, 0, 0)
	f = append(append(f, src[:]...), dst[:]...)
	for range options {
		f = append(f, 1)
	}
	f = u.appendPayload(f, t, from)
	if word&0x2000 != 0 {
		f = appendZeros(f, (8-(len(f)-at-20)%8)%8)
	}
	finishIPv4(f[at:])
	return f
}

// finishIPv4 writes length and checksum.
func finishIPv4(p []byte) {
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^checksum(p[:int(p[0]&15)*4], 0))
}

// appendIPv6 draws extension headers too.
func (u *universe) appendIPv6(f []byte, t *talk, from int) []byte {
	src, dst := t.ends[from].address.As16(), t.ends[1-from].address.As16()
	at := len(f)
	f = append(f, 0x60, 0, 0, 0, 0, 0, t.protocol, 64)
	f = append(append(f, src[:]...), dst[:]...)
	if u.IntN(12) == 0 || t.broken && u.IntN(2) == 0 {
		f = u.appendExtensions(f, at+6, t)
	}
	f = u.appendPayload(f, t, from)
	binary.BigEndian.PutUint16(f[at+4:], uint16(len(f)-at-40))
	return f
}

// appendExtensions draws extension headers; next is where the number of the first one is said.
func (u *universe) appendExtensions(f []byte, next int, t *talk) []byte {
	last := f[next]
	headers := 1 + u.IntN(3)
	if u.IntN(4) == 0 {
		headers = 5 + u.IntN(3) // six are allowed
	}
	for i := range headers {
		kind := pick(u, u.extensions)
		switch {
		case t.broken:
			kind = 44
		case i == 0 && u.IntN(4) == 0:
			kind = 0 // hop by hop
		}
		f[next], next = kind, len(f)
		switch kind {
		case 43:
			f = append(f, last, 1)
			f = appendZeros(f, 14)
		case 51:
			f = append(f, last, 2)
			f = appendZeros(f, 14)
		case 44:
			offset := uint16(u.IntN(2)) // the last bit says that more follow
			if u.IntN(2) == 0 {
				offset |= pick(u, []uint16{1, 5, 0x1fff}) << 3
			}
			f = append(f, last, 0, byte(offset>>8), byte(offset), 0, 0, byte(t.fragment>>8), byte(t.fragment))
		default:
			f = append(f, last, 0, 0, 0, 0, 0, 0, 0)
		}
	}
	return f
}

// appendError is an ICMP error that quotes the talk's last packet, as far as there is room.
func (u *universe) appendError(f []byte, t *talk, src, dst netip.Addr) []byte {
	if u.IntN(8) == 0 { // a router's
		if other := pick(u, u.addresses); other.Is4() == dst.Is4() {
			src = other
		}
	}
	quote := t.last[:min(len(t.last), 20+u.IntN(100))]
	at := len(f)
	if src.Is4() {
		from, to := src.As4(), dst.As4()
		f = append(f, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protoICMP, 0, 0)
		f = append(append(f, from[:]...), to[:]...)
		f = append(append(f, pick(u, errors4), 1, 0, 0, 0, 0, 0, 0), quote...)
		finishIPv4(f[at:])
		return f
	}
	from, to := src.As16(), dst.As16()
	f = append(f, 0x60, 0, 0, 0, 0, 0, protoICMPv6, 64)
	f = append(append(f, from[:]...), to[:]...)
	f = append(append(f, pick(u, errors6), 0, 0, 0, 0, 0, 0, 0), quote...)
	binary.BigEndian.PutUint16(f[at+4:], uint16(len(f)-at-40))
	return f
}

// appendFrame is the talk's next frame between two stations.
func (u *universe) appendFrame(f []byte, t *talk, from int, dst, src fabric.MAC) []byte {
	at := len(f)
	u.damaged = false
	f = append(append(f, dst[:]...), src[:]...)
	if u.IntN(80) == 0 {
		other := pick(u, otherTypes)
		if f = binary.BigEndian.AppendUint16(f, other); other == typeARP {
			f = append(f, arp(2, src, address4(1), dst, address4(2))...)
		}
		return appendZeros(f, 46+u.IntN(40))
	}
	kind := uint16(typeIPv4)
	if t.ends[0].address.Is6() {
		kind = typeIPv6
	}
	f = u.appendPacket(binary.BigEndian.AppendUint16(f, kind), t, from)
	if u.IntN(6) == 0 {
		f = appendZeros(f, u.IntN(10)) // padding
	}
	u.damaged = u.IntN(50) == 0
	if u.damaged {
		for range 1 + u.IntN(3) {
			f[at+14+u.IntN(len(f)-at-14)] = byte(u.IntN(256))
		}
	}
	return f
}
