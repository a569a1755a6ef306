package datapath_test

import (
	"encoding/binary"
	"net/netip"

	"github.com/weftnet/weft/fabric"
)

// talk is a connection that packets are drawn from, so that they meet flows.
type talk struct {
	here, there   netip.Addr
	lport, rport  uint16
	protocol      uint8
	seq           [2]uint32 // of the guest's side and the other
	fragment      uint16
	last          []byte // an IP packet of it, which ICMP errors quote
	lastDirection fabric.Direction
}

func (u *universe) talk() *talk {
	t := &talk{here: pick(u, u.addresses), lport: u.port(), rport: u.port(), fragment: pick(u, []uint16{0, 1, 2, 3, 34, 35, 0x8003})}
	for t.there = pick(u, u.addresses); t.there.Is4() != t.here.Is4(); {
		t.there = pick(u, u.addresses)
	}
	t.protocol = pick(u, []uint8{6, 6, 6, 6, 17, 17, 1, 58, 132, 47, 59})
	if t.protocol == 1 && t.here.Is6() || t.protocol == 58 && t.here.Is4() {
		if u.IntN(10) > 0 {
			t.protocol = 59 - t.protocol
		}
	}
	t.seq = [2]uint32{u.Uint32(), u.Uint32()}
	if u.IntN(4) == 0 {
		t.seq[0] = 0xfffffff0
	}
	return t
}

// near is a sequence number, most often where it belongs.
func (u *universe) near(n uint32) uint32 {
	switch u.IntN(12) {
	case 0:
		return n + uint32(u.IntN(3<<20)) - 3<<19
	case 1:
		return u.Uint32()
	}
	return n
}

// payloadOf draws the transport part of the talk's next packet.
func (u *universe) payloadOf(t *talk, from int) []byte {
	sport, dport := t.lport, t.rport
	if from == 1 {
		sport, dport = dport, sport
	}
	body := make([]byte, u.IntN(30))
	switch t.protocol {
	case 6:
		return u.segment(t, from, sport, dport, body)
	case 17:
		return udp(sport, dport, body)
	case 132:
		s := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, sport), dport)
		return append(s, make([]byte, 8+len(body))...)
	case 1, 58:
		return u.message(t, body)
	}
	return body
}

func (u *universe) segment(t *talk, from int, sport, dport uint16, body []byte) []byte {
	flags := pick(u, []uint8{0x02, 0x02, 0x12, 0x12, 0x10, 0x10, 0x10, 0x18, 0x11, 0x11, 0x04, 0x14, 0x01, 0x00, 0x13, 0x3f, 0xc2})
	if u.IntN(8) == 0 {
		flags = uint8(u.IntN(256))
	}
	if flags&2 != 0 && u.IntN(3) > 0 {
		body = nil
	}
	s := make([]byte, 20, 20+len(body))
	binary.BigEndian.PutUint16(s, sport)
	binary.BigEndian.PutUint16(s[2:], dport)
	seq := u.near(t.seq[from])
	ack := u.near(t.seq[1-from])
	binary.BigEndian.PutUint32(s[4:], seq)
	binary.BigEndian.PutUint32(s[8:], ack)
	s[12], s[13] = 5<<4, flags
	if flags&4 == 0 && u.IntN(8) > 0 {
		t.seq[from] = seq + uint32(len(body)) + uint32(flags>>1&1) + uint32(flags&1)
	}
	return append(s, body...)
}

// message draws an ICMP message: an echo of the talk, an error about it, or another.
func (u *universe) message(t *talk, body []byte) []byte {
	request, reply, errors := byte(8), byte(0), []byte{3, 4, 5, 11, 12}
	if t.protocol == 58 {
		request, reply, errors = 128, 129, []byte{1, 2, 3, 4}
	}
	switch u.IntN(10) {
	case 0:
		return append([]byte{byte(u.IntN(256)), byte(u.IntN(4)), 0, 0, 0, 0, 0, 0}, body...)
	case 1:
		return append([]byte{pick(u, []byte{133, 135, 136, 137}), 0, 0, 0, 0, 0, 0, 0}, make([]byte, 24)...)
	case 2:
		return append([]byte{pick(u, errors), 0, 0, 0, 0, 0, 0, 0}, body...)
	}
	m := []byte{pick(u, []byte{request, reply}), byte(u.IntN(8) / 7), 0, 0}
	m = binary.BigEndian.AppendUint16(m, t.lport)
	return append(append(m, 0, 1), body...)
}

// packetOf draws the talk's next packet, sent by the guest (0) or to it (1).
func (u *universe) packetOf(t *talk, from int) []byte {
	src, dst := t.here, t.there
	if from == 1 {
		src, dst = dst, src
	}
	if t.last != nil && u.IntN(12) == 0 {
		return u.errorAbout(t, src, dst)
	}
	h := ip{protocol: t.protocol}
	payload := u.payloadOf(t, from)
	switch {
	case src.Is4() && u.IntN(14) == 0:
		h.more, payload = true, append(payload, make([]byte, (8-len(payload)%8)%8)...)
	case src.Is4() && u.IntN(20) == 0:
		h.offset = 4
	case src.Is4() && u.IntN(30) == 0:
		h.options = 8
	}
	p := h.packet(src, dst, payload)
	if src.Is4() {
		binary.BigEndian.PutUint16(p[4:], t.fragment)
	} else if u.IntN(10) == 0 {
		p = u.extended(t, p)
	}
	t.last, t.lastDirection = p, fabric.Out
	if from == 1 {
		t.lastDirection = fabric.In
	}
	return p
}

// extended puts extension headers into an IPv6 packet.
func (u *universe) extended(t *talk, p []byte) []byte {
	next := p[6]
	var chain []byte
	for range 1 + u.IntN(3) {
		switch u.IntN(3) {
		case 0:
			chain, next = append([]byte{next, 0, 0, 0, 0, 0, 0, 0}, chain...), 60
		case 1:
			chain, next = append([]byte{next, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, chain...), 43
		case 2:
			offset := uint16(u.IntN(2)) // the last bit says that more follow
			if u.IntN(2) == 0 {
				offset |= 5 << 3
			}
			chain, next = append([]byte{next, 0, byte(offset >> 8), byte(offset), 0, 0, 0, byte(t.fragment)}, chain...), 44
		}
	}
	out := append([]byte{}, p[:40]...)
	out[6] = next
	out = append(append(out, chain...), p[40:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

// errorAbout is an ICMP error that quotes the talk's last packet, as far as there is room.
func (u *universe) errorAbout(t *talk, src, dst netip.Addr) []byte {
	quote := t.last[:min(len(t.last), 20+u.IntN(60))]
	if u.IntN(8) == 0 {
		src = pick(u, u.addresses)
		if src.Is4() != dst.Is4() {
			src = dst
		}
	}
	if src.Is4() {
		return ip{protocol: protoICMP}.packet(src, dst, append([]byte{pick(u, []byte{3, 4, 11, 12, 5}), 1, 0, 0, 0, 0, 0, 0}, quote...))
	}
	return ip{protocol: protoICMPv6}.packet(src, dst, append([]byte{pick(u, []byte{1, 2, 3, 4, 100}), 0, 0, 0, 0, 0, 0, 0}, quote...))
}

// frameOf is the talk's next frame.
func (u *universe) frameOf(t *talk, from int, dst, src fabric.MAC) []byte {
	if u.IntN(60) == 0 {
		return ether(dst, src, pick(u, []uint16{0x88b5, 0x0806, 0x8035, 0x0040}), make([]byte, 28+u.IntN(40)))
	}
	p := u.packetOf(t, from)
	kind := uint16(typeIPv4)
	if p[0]>>4 == 6 {
		kind = typeIPv6
	}
	f := ether(dst, src, kind, p)
	if u.IntN(6) == 0 {
		f = append(f, make([]byte, u.IntN(10))...) // padding
	}
	if u.IntN(50) == 0 { // damage
		for range 1 + u.IntN(3) {
			f[14+u.IntN(len(f)-14)] = byte(u.IntN(256))
		}
	}
	return f
}
