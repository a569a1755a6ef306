package migration

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The header in front of a tap's frames (linux/virtio_net.h), in the byte order of the machine: weft runs on little-endian
// ones only.
const (
	needsChecksum = 1 // flags
	gsoNone       = 0
	gsoTCP4       = 1
	gsoTCP6       = 4
	gsoUDP        = 5 // one datagram for each segment
	gsoECN        = 0x80
)

// errSegment: a frame that cannot be cut up.
var errSegment = errors.New("an aggregate of a kind that cannot be segmented")

// finish does to a frame what a NIC would: it completes the checksum and cuts an aggregate into segments. Each frame
// that results goes to out; it is valid during the call only. The frame comes from a guest by way of the kernel.
func finish(header, frame []byte, out func([]byte) error) error {
	if len(header) < 10 {
		return out(frame)
	}
	le := binary.LittleEndian
	flags, gso, size := header[0], header[1]&^gsoECN, int(le.Uint16(header[4:]))
	if gso == gsoTCP4 || gso == gsoTCP6 || gso == gsoUDP {
		return segment(frame, size, out)
	}
	if gso != gsoNone {
		return fmt.Errorf("%w: type %d", errSegment, gso)
	}
	if flags&needsChecksum == 0 {
		return out(frame)
	}
	start, at := int(le.Uint16(header[6:])), int(le.Uint16(header[6:]))+int(le.Uint16(header[8:]))
	if at < start || at+2 > len(frame) {
		return fmt.Errorf("%w: its checksum is outside of it", errSegment)
	}
	// The field holds the sum of the pseudo header already.
	binary.BigEndian.PutUint16(frame[at:], checksum(add(0, frame[start:])))
	return out(frame)
}

// Offsets and values in Ethernet, IP, TCP and UDP headers.
const (
	ethernet    = 14
	tcpSequence = 4
	tcpLength   = 12
	tcpFlags    = 13
	tcpChecksum = 16
	tcpMinimum  = 20
	flagFIN     = 0x01
	flagPSH     = 0x08
	flagCWR     = 0x80
	udpLength   = 4
	udpChecksum = 6
	udpHeader   = 8
	protocolTCP = 6
	protocolUDP = 17
	maxSegments = 1024
)

// layout is where the headers of an untagged frame are.
type layout struct {
	ip, transport, payload int
	protocol               byte
}

// segment cuts an aggregate into packets of at most size bytes of payload (RFC 9293 for the fields; the rules for the flags
// are those of the kernel's tcp_gso_segment).
func segment(frame []byte, size int, out func([]byte) error) error {
	l, err := parse(frame)
	if err != nil {
		return err
	}
	payload := frame[l.payload:]
	if size <= 0 || (len(payload)+size-1)/size > maxSegments {
		return fmt.Errorf("%w: %d bytes in pieces of %d", errSegment, len(payload), size)
	}
	be := binary.BigEndian
	id := be.Uint16(frame[l.ip+4:])
	packet := make([]byte, 0, l.payload+min(size, len(payload)))
	for i, at := 0, 0; i == 0 || at < len(payload); i, at = i+1, at+size {
		end := min(at+size, len(payload))
		packet = append(append(packet[:0], frame[:l.payload]...), payload[at:end]...)
		if l.protocol == protocolTCP {
			be.PutUint32(packet[l.transport+tcpSequence:], be.Uint32(frame[l.transport+tcpSequence:])+uint32(at))
			if end < len(payload) {
				packet[l.transport+tcpFlags] &^= flagFIN | flagPSH
			}
			if i > 0 {
				packet[l.transport+tcpFlags] &^= flagCWR
			}
		}
		l.seal(packet, id+uint16(i))
		if err := out(packet); err != nil {
			return err
		}
	}
	return nil
}

// parse finds the headers.
func parse(frame []byte) (layout, error) {
	l := layout{ip: ethernet}
	if len(frame) < ethernet+20 {
		return l, fmt.Errorf("%w: too short", errSegment)
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		l.transport, l.protocol = l.ip+int(frame[l.ip]&0x0f)*4, frame[l.ip+9]
		if frame[l.ip]>>4 != 4 || l.transport < l.ip+20 {
			return l, fmt.Errorf("%w: impossible IPv4 header", errSegment)
		}
	case 0x86dd:
		l.transport, l.protocol = l.ip+40, frame[l.ip+6]
		if frame[l.ip]>>4 != 6 {
			return l, fmt.Errorf("%w: impossible IPv6 header", errSegment)
		}
	default:
		return l, fmt.Errorf("%w: not IP", errSegment)
	}
	switch {
	case l.protocol == protocolUDP && l.transport+udpHeader <= len(frame):
		l.payload = l.transport + udpHeader
	case l.protocol == protocolTCP && l.transport+tcpMinimum <= len(frame):
		l.payload = l.transport + int(frame[l.transport+tcpLength]>>4)*4
	default:
		return l, fmt.Errorf("%w: neither TCP nor UDP, or cut off", errSegment)
	}
	if l.payload < l.transport+udpHeader || l.protocol == protocolTCP && l.payload < l.transport+tcpMinimum || l.payload > len(frame) {
		return l, fmt.Errorf("%w: impossible header length", errSegment)
	}
	return l, nil
}

// seal sets the lengths and checksums of a packet.
func (l layout) seal(packet []byte, id uint16) {
	be := binary.BigEndian
	ip, transport := packet[l.ip:], packet[l.transport:]
	var addresses []byte
	if ip[0]>>4 == 4 {
		be.PutUint16(ip[2:], uint16(len(ip)))
		be.PutUint16(ip[4:], id)
		be.PutUint16(ip[10:], 0)
		be.PutUint16(ip[10:], ^fold(add(0, packet[l.ip:l.transport])))
		addresses = ip[12:20]
	} else {
		be.PutUint16(ip[4:], uint16(len(transport)))
		addresses = ip[8:40]
	}
	at := tcpChecksum
	if l.protocol == protocolUDP {
		be.PutUint16(transport[udpLength:], uint16(len(transport)))
		at = udpChecksum
	}
	be.PutUint16(transport[at:], 0)
	be.PutUint16(transport[at:], checksum(add(add(uint64(l.protocol)+uint64(len(transport)), addresses), transport)))
}

// checksum is what goes into a transport header; 0 would mean that there is none (RFC 768).
func checksum(sum uint64) uint16 {
	if c := ^fold(sum); c != 0 {
		return c
	}
	return 0xffff
}

// add adds big-endian 16-bit words to a ones' complement sum (RFC 1071); an odd byte at the end counts as the high one.
func add(sum uint64, b []byte) uint64 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

// fold reduces a sum to 16 bits.
func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
