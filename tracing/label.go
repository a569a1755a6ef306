package tracing

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/weftnet/weft/fabric"
)

// EtherTypes and IP protocols that have a label.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86DD

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// Label is the keyed hash by which several hosts recognise the same frame of a switch; 0 means that the frame has none. It
// covers the switch's VNI, so that a label is nobody else's, and only what no host on the way changes: no MAC, address, port, TTL, DSCP or checksum. The datapath computes the same in C
// (datapath/bpf); testdata/labels.json binds the two. frame begins at the inner Ethernet header.
//
// The words: the VNI first. TCP: protocol and flags; sequence and acknowledgement number. UDP: protocol and the header's length; 24 bytes
// of payload. ICMP and ICMPv6: protocol, type and code; the sequence number of an echo, else 0; 16 bytes after the 8 of the
// header. ARP over Ethernet for IPv4: operation; sender and target address. Bytes beyond the length that the UDP or IP header gives
// (Ethernet padding) count as zero. VLAN-tagged frames, IP fragments (the first one included), IPv6 extension headers and
// truncated headers have no label.
func Label(key0, key1 uint64, vni fabric.VNI, frame []byte) uint64 {
	words, n := labelWords(frame)
	if n == 0 {
		return 0
	}
	h := mix(key0, uint64(vni))
	for _, w := range words[:n] {
		h = mix(h, w)
	}
	h ^= key1
	h *= 0xBF58476D1CE4E5B9
	return h ^ h>>29
}

// mix takes a word into the hash.
func mix(h, word uint64) uint64 {
	h ^= word
	h *= 0x9E3779B97F4A7C15
	return h ^ h>>32
}

// LabelKeys derives the two keys of Label from a secret that all hosts of the fabric share, such as the gossip key. The
// secret cannot be computed from the keys.
func LabelKeys(secret []byte) (key0, key1 uint64) {
	sum := sha256.Sum256(append([]byte("weft label keys v1\x00"), secret...))
	return binary.BigEndian.Uint64(sum[0:]), binary.BigEndian.Uint64(sum[8:])
}

func labelWords(frame []byte) (words [4]uint64, n int) {
	if len(frame) < 14 {
		return words, 0
	}
	l3 := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		return arpWords(l3)
	case etherIPv4:
		return ipv4Words(l3)
	case etherIPv6:
		return ipv6Words(l3)
	}
	return words, 0
}

func arpWords(p []byte) (words [4]uint64, n int) {
	if len(p) < 28 || binary.BigEndian.Uint64(p)>>16 != 0x0001_0800_0604 {
		return words, 0
	}
	op := uint64(binary.BigEndian.Uint16(p[6:]))
	spa, tpa := uint64(binary.BigEndian.Uint32(p[14:])), uint64(binary.BigEndian.Uint32(p[24:]))
	return [4]uint64{etherARP | op<<16, spa<<32 | tpa}, 2
}

func ipv4Words(p []byte) (words [4]uint64, n int) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return words, 0
	}
	header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	const moreOrOffset = 0x3FFF
	if header < 20 || len(p) < header || binary.BigEndian.Uint16(p[6:])&moreOrOffset != 0 {
		return words, 0
	}
	return transportWords(p[9], p[header:], total-header)
}

func ipv6Words(p []byte) (words [4]uint64, n int) {
	if len(p) < 40 || p[0]>>4 != 6 {
		return words, 0
	}
	return transportWords(p[6], p[40:], int(binary.BigEndian.Uint16(p[4:])))
}

// transportWords takes the bytes after the IP header and how many of them the IP header claims.
func transportWords(proto uint8, p []byte, length int) (words [4]uint64, n int) {
	switch {
	case proto == protoTCP && len(p) >= 20:
		seq, ack := uint64(binary.BigEndian.Uint32(p[4:])), uint64(binary.BigEndian.Uint32(p[8:]))
		return [4]uint64{protoTCP | uint64(p[13])<<8, seq<<32 | ack}, 2
	case proto == protoUDP && len(p) >= 8:
		udpLength := int(binary.BigEndian.Uint16(p[4:]))
		data := padded(p, udpLength)
		return [4]uint64{protoUDP | uint64(udpLength)<<16, word(data, 0), word(data, 8), word(data, 16)}, 4
	case (proto == protoICMP || proto == protoICMPv6) && len(p) >= 8:
		data := padded(p, length)
		first := uint64(proto) | uint64(p[0])<<8 | uint64(p[1])<<16
		return [4]uint64{first, echoSequence(proto, p), word(data, 0), word(data, 8)}, 4
	}
	return words, 0
}

// echoSequence is the sequence number of an echo request or reply (RFC 792, RFC 4443 section 4), 0 for other messages.
func echoSequence(proto uint8, p []byte) uint64 {
	switch {
	case proto == protoICMP && (p[0] == 8 || p[0] == 0), proto == protoICMPv6 && (p[0] == 128 || p[0] == 129):
		return uint64(binary.BigEndian.Uint16(p[6:]))
	}
	return 0
}

// padded is the first 24 bytes after an 8-byte header, of a packet that claims length bytes with that header; what lies
// beyond the claim or beyond the frame is zero.
func padded(p []byte, length int) (data [24]byte) {
	if end := min(length, len(p)); end > 8 {
		copy(data[:], p[8:end])
	}
	return data
}

func word(data [24]byte, at int) uint64 { return binary.BigEndian.Uint64(data[at:]) }
