package datapath_test

import "encoding/binary"

// handshake is a TCP connection as its two ends see it, so that most of its packets are what such ends send.
type handshake struct {
	opener int
	phase  int       // what comes next: 0 SYN, 1 its answer, 2 the acknowledgment, 3 anything
	seq    [2]uint32 // that each end sends next, and
	ack    [2]uint32 // that it acknowledged last
	fins   int       // a bit for each end that has sent one
}

const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

// begin draws the first numbers of a connection; many soon wrap.
func (h *handshake) begin(u *universe) {
	*h = handshake{opener: u.IntN(8) / 7, seq: [2]uint32{u.Uint32(), u.Uint32()}}
	for i := range h.seq {
		switch u.IntN(6) {
		case 0:
			h.seq[i] = -uint32(u.IntN(200))
		case 1:
			h.seq[i] = 1<<31 - uint32(u.IntN(200))
		}
	}
	h.ack = [2]uint32{h.seq[1], h.seq[0]}
	if u.IntN(6) == 0 {
		h.phase = 3 // it is under way
	}
}

// strange are flags that no script asks for.
var strange = []uint8{syn, syn, syn | ack, ack, ack, fin | ack, rst, rst | ack, fin, 0, syn | fin | ack, 0x3f, 0xc2, syn | rst, syn | fin, psh, rst | fin}

// flags draws the flags of the next packet from an end.
func (h *handshake) flags(u *universe, from int) uint8 {
	switch u.IntN(32) {
	case 0, 1, 2:
		return pick(u, strange)
	case 3:
		return uint8(u.IntN(256))
	}
	opener := from == h.opener
	switch {
	case h.phase == 0 && opener:
		h.phase = 1
		return syn
	case h.phase == 1 && !opener:
		h.phase = 2
		return syn | ack
	case h.phase == 2 && opener:
		h.phase = 3
		return ack
	case h.phase == 1 && opener:
		return syn // once more
	case h.phase == 2:
		return syn | ack
	}
	switch u.IntN(30) {
	case 0, 1:
		h.fins |= 1 << from
		return fin | ack
	case 2:
		return rst
	case 3:
		return rst | ack
	case 4:
		return syn
	case 5:
		return psh | ack
	}
	return ack
}

// steps are distances at which a sequence number begins or ends to count (ADR 10, 9).
var steps = []uint32{1, 2, 1 << 20, 1<<20 + 1, 1<<20 - 1, 1<<20 + 2, 3 << 20, 1 << 30, 1<<30 - 1, 1<<30 + 1, 1 << 31, 1<<31 - 1}

// near is a sequence number: most often where it belongs, else at an edge of it or of another one.
func (u *universe) near(n, other uint32) uint32 {
	switch u.IntN(20) {
	case 0:
		return n - 1
	case 1:
		return n + 1
	case 2:
		return n + pick(u, steps)
	case 3:
		return n - pick(u, steps)
	case 4:
		return other
	case 5:
		return other - 1
	case 6:
		return other + pick(u, steps)
	case 7:
		return u.Uint32()
	}
	return n
}

// appendSegment draws the next segment of a talk from one of its ends.
func (u *universe) appendSegment(f []byte, t *talk, from, body int) []byte {
	h := &t.tcp
	flags := h.flags(u, from)
	if flags&syn != 0 && u.IntN(3) > 0 {
		body = 0
	}
	if flags&syn != 0 && h.phase == 1 && u.IntN(4) == 0 {
		h.seq[from] = u.Uint32() // an attempt with numbers of its own
	}
	seq, acknowledged := u.near(h.seq[from], h.ack[1-from]), u.near(h.seq[1-from], h.ack[from])
	f = binary.BigEndian.AppendUint16(f, t.ends[from].port)
	f = binary.BigEndian.AppendUint16(f, t.ends[1-from].port)
	f = binary.BigEndian.AppendUint32(f, seq)
	f = binary.BigEndian.AppendUint32(f, acknowledged)
	options := 0
	if u.IntN(40) == 0 {
		options = 4 * u.IntN(11)
	}
	f = append(f, byte(5+options/4)<<4, flags, 4, 0, 0, 0, 0, 0)
	for range options {
		f = append(f, 1)
	}
	if flags&rst == 0 && (seq == h.seq[from] || u.IntN(4) == 0) {
		h.seq[from] = seq + uint32(body) + uint32(flags>>1&1) + uint32(flags&1)
		if flags&ack != 0 {
			h.ack[from] = acknowledged
		}
	}
	if h.fins == 3 && u.IntN(6) == 0 { // the same ports are used again
		h.begin(u)
	}
	return appendZeros(f, body)
}
