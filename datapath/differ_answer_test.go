package datapath_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/weftnet/weft/policy"
)

// mayBeAnswered reports whether a rejected packet is of a kind that is answered at all (ADR 10, 12).
func mayBeAnswered(p policy.Packet) bool {
	switch {
	case !p.HasIP() || p.Group() || p.Later:
		return false
	case p.HasICMP() && p.Source.Is4():
		return !slices.Contains([]uint8{3, 4, 5, 11, 12}, p.ICMPType) // RFC 1122 section 3.2.2
	case p.HasICMP():
		return p.ICMPType >= 128 && p.ICMPType != 137 // RFC 4443 section 2.4
	}
	return p.Protocol != protoTCP || p.TCPFlags&policy.FlagRST == 0
}

// refill gives all ports enough to send to groups, and to answer for 64 packets, or has them answer none.
func (d *differ) refill() {
	d.budget = d.u.IntN(8) > 0
	for _, slot := range d.slots[1:] {
		d.h.SetBudgets(slot, d.budget)
	}
}

// compareAnswer fails unless a rejected packet was answered as it must be, or dropped without a word.
func (d *differ) compareAnswer(w *trip, p policy.Packet) {
	if !d.budget || !mayBeAnswered(p) {
		if w.ran != tcxDrop {
			d.fail(w, "verdict %d for a rejected packet that is not to be answered: %x", w.ran, w.left)
		}
		return
	}
	mark := uint32(0)
	if w.src != remoteGuest {
		mark = d.h.Mark(d.slots[w.src])
	}
	if w.ran != tcxRedirect || w.mark != mark {
		d.fail(w, "verdict %d and mark %x for a rejected packet that is to be answered, want mark %x", w.ran, w.mark, mark)
		return
	}
	if err := checkAnswer(w.frame, p, w.left); err != nil {
		d.fail(w, "a rejected packet is answered with\n%x: %v", w.left, err)
	}
}

// checkAnswer says what is wrong with the answer to a rejected packet.
func checkAnswer(frame []byte, p policy.Packet, answer []byte) error {
	a, err := policy.Parse(answer)
	switch {
	case err != nil:
		return err
	case a.DestinationMAC != p.SourceMAC || a.SourceMAC != p.DestinationMAC || a.EtherType != p.EtherType:
		return fmt.Errorf("sent from %v to %v", a.SourceMAC, a.DestinationMAC)
	case a.Source != p.Destination || a.Destination != p.Source || a.Fragment:
		return fmt.Errorf("sent from %v to %v, fragment %v", a.Source, a.Destination, a.Fragment)
	case a.Source.Is4() && checksum(answer[14:34], 0) != 0xffff:
		return fmt.Errorf("the checksum of the IP header comes to %x", checksum(answer[14:34], 0))
	case !transportOK(answer):
		return fmt.Errorf("wrong checksum behind the IP header")
	case p.Protocol == protoTCP:
		return checkReset(p, a)
	}
	kind, code, quoted := uint8(3), uint8(13), []byte(nil)
	if p.Source.Is4() {
		quoted = answer[14+20+8 : 14+binary.BigEndian.Uint16(answer[16:])]
	} else {
		kind, code, quoted = 1, 1, answer[14+40+8:14+40+binary.BigEndian.Uint16(answer[18:])]
	}
	if !a.HasICMP() || a.ICMPType != kind || a.ICMPCode != code {
		return fmt.Errorf("protocol %d, type %d, code %d; want %d, %d", a.Protocol, a.ICMPType, a.ICMPCode, kind, code)
	}
	if !bytes.HasPrefix(frame[14:], quoted) || len(quoted) < min(len(frame)-14, 28) {
		return fmt.Errorf("it quotes %x", quoted)
	}
	return nil
}

// checkReset says what is wrong with the reset of a segment (RFC 9293 3.10.7.1).
func checkReset(p, a policy.Packet) error {
	flags, seq, acknowledged := policy.FlagRST, p.Acknowledgment, uint32(0)
	if p.TCPFlags&policy.FlagACK == 0 {
		flags, seq = policy.FlagRST|policy.FlagACK, 0
		acknowledged = p.Sequence + p.Payload + uint32(p.TCPFlags>>1&1) + uint32(p.TCPFlags&1)
	}
	if a.Protocol != protoTCP || a.SourcePort != p.DestinationPort || a.DestinationPort != p.SourcePort || a.Payload != 0 {
		return fmt.Errorf("protocol %d from port %d to %d", a.Protocol, a.SourcePort, a.DestinationPort)
	}
	if a.TCPFlags != flags || a.Sequence != seq || a.Acknowledgment != acknowledged {
		return fmt.Errorf("flags %x, numbers %d, %d; want %x, %d, %d", a.TCPFlags, a.Sequence, a.Acknowledgment, flags, seq, acknowledged)
	}
	return nil
}
