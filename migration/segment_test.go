package migration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// aggregate is a frame of TCP or UDP over IPv4 or IPv6 with options and a payload, as a tap hands it out: lengths of the
// whole, no checksum.
func aggregate(six bool, protocol byte, payload []byte) []byte {
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, 0x08, 0x00)
	transport := make([]byte, udpHeader)
	if protocol == protocolTCP {
		transport = make([]byte, tcpMinimum+4)
		transport[tcpLength], transport[tcpFlags] = 6<<4, flagCWR|flagPSH|flagFIN|0x10
		binary.BigEndian.PutUint32(transport[tcpSequence:], 0xfffffff0)
	}
	binary.BigEndian.PutUint16(transport, 1000)
	binary.BigEndian.PutUint16(transport[2:], 2000)
	ip := make([]byte, 24) // with four bytes of options
	ip[0], ip[8], ip[9] = 0x46, 64, protocol
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1})
	binary.BigEndian.PutUint16(ip[4:], 0xffff)
	if six {
		frame[12], frame[13] = 0x86, 0xdd
		ip = make([]byte, 40)
		ip[0], ip[6], ip[7], ip[23], ip[39] = 0x60, protocol, 64, 1, 2
	}
	return slices.Concat(frame, ip, transport, payload)
}

// header is what stands in front of a frame.
func header(flags, gso byte, size, start, offset int) []byte {
	h := make([]byte, 12)
	h[0], h[1] = flags, gso
	binary.LittleEndian.PutUint16(h[4:], uint16(size))
	binary.LittleEndian.PutUint16(h[6:], uint16(start))
	binary.LittleEndian.PutUint16(h[8:], uint16(offset))
	return h
}

// verify checks a finished packet as a receiver does: all sums are all ones.
func verify(t *testing.T, packet []byte) layout {
	t.Helper()
	l, err := parse(packet)
	if err != nil {
		t.Fatal(err)
	}
	ip, transport := packet[l.ip:], packet[l.transport:]
	var addresses []byte
	if ip[0]>>4 == 4 {
		addresses = ip[12:20]
		if got := fold(add(0, packet[l.ip:l.transport])); got != 0xffff {
			t.Errorf("IP checksum: sum %#x", got)
		}
		if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
			t.Errorf("IP length %d of %d", binary.BigEndian.Uint16(ip[2:]), len(ip))
		}
	} else {
		addresses = ip[8:40]
		if int(binary.BigEndian.Uint16(ip[4:])) != len(transport) {
			t.Errorf("IPv6 length %d of %d", binary.BigEndian.Uint16(ip[4:]), len(transport))
		}
	}
	if got := fold(add(add(uint64(l.protocol)+uint64(len(transport)), addresses), transport)); got != 0xffff {
		t.Errorf("transport checksum: sum %#x", got)
	}
	return l
}

func TestAggregatesBecomePackets(t *testing.T) {
	payload := make([]byte, 3001)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	for _, c := range []struct {
		name     string
		six      bool
		protocol byte
		gso      byte
	}{
		{"TCP over IPv4", false, protocolTCP, gsoTCP4 | gsoECN}, {"TCP over IPv6", true, protocolTCP, gsoTCP6},
		{"UDP over IPv4", false, protocolUDP, gsoUDP}, {"UDP over IPv6", true, protocolUDP, gsoUDP},
	} {
		t.Run(c.name, func(t *testing.T) {
			var whole []byte
			n := 0
			err := finish(header(needsChecksum, c.gso, 1000, 0, 0), aggregate(c.six, c.protocol, payload), func(p []byte) error {
				l := verify(t, p)
				if c.protocol == protocolTCP {
					if got, want := binary.BigEndian.Uint32(p[l.transport+tcpSequence:]), uint32(0xfffffff0)+uint32(len(whole)); got != want {
						t.Errorf("packet %d has sequence %#x, want %#x", n, got, want)
					}
					want := byte(0x10)
					if n == 0 {
						want |= flagCWR
					}
					if n == 3 {
						want |= flagPSH | flagFIN
					}
					if got := p[l.transport+tcpFlags]; got != want {
						t.Errorf("packet %d has flags %#x, want %#x", n, got, want)
					}
				}
				if !c.six && binary.BigEndian.Uint16(p[l.ip+4:]) != uint16(0xffff+n) {
					t.Errorf("packet %d has id %#x", n, p[l.ip+4:l.ip+6])
				}
				whole = append(whole, p[l.payload:]...)
				n++
				return nil
			})
			if err != nil || n != 4 || !bytes.Equal(whole, payload) {
				t.Errorf("%d packets with %d bytes, %v; want 4 with the %d that went in", n, len(whole), err, len(payload))
			}
		})
	}
}

func TestAChecksumIsCompleted(t *testing.T) {
	frame := aggregate(false, protocolUDP, []byte("odd"))
	l, err := parse(frame)
	if err != nil {
		t.Fatal(err)
	}
	l.seal(frame, 1)
	want := slices.Clone(frame)
	// The kernel leaves the sum of the pseudo header in the field.
	pseudo := fold(add(uint64(protocolUDP)+uint64(len(frame)-l.transport), frame[l.ip+12:l.ip+20]))
	binary.BigEndian.PutUint16(frame[l.transport+udpChecksum:], pseudo)
	err = finish(header(needsChecksum, gsoNone, 0, l.transport, udpChecksum), frame, func(p []byte) error {
		if !bytes.Equal(p, want) {
			t.Errorf("got  %x\nwant %x", p, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeFinishedIsRefused(t *testing.T) {
	good := aggregate(false, protocolTCP, make([]byte, 100))
	arp := slices.Clone(good)
	arp[12], arp[13] = 0x08, 0x06
	short := slices.Clone(good)
	short[ethernet+24+tcpLength] = 1 << 4
	for name, c := range map[string]struct{ header, frame []byte }{
		"an aggregate of fragments":   {header(0, 3, 10, 0, 0), good},
		"segments of no size":         {header(0, gsoTCP4, 0, 0, 0), good},
		"too many segments":           {header(0, gsoTCP4, 1, 0, 0), aggregate(false, protocolTCP, make([]byte, 2000))},
		"a checksum outside":          {header(needsChecksum, 0, 0, 90, 200), good},
		"a checksum that wraps":       {header(needsChecksum, 0, 0, 65535, 65535), good},
		"no IP":                       {header(0, gsoTCP4, 10, 0, 0), arp},
		"a TCP header of four bytes":  {header(0, gsoTCP4, 10, 0, 0), short},
		"less than an Ethernet frame": {header(0, gsoTCP4, 10, 0, 0), good[:10]},
	} {
		t.Run(name, func(t *testing.T) {
			if err := finish(c.header, c.frame, func([]byte) error { return nil }); !errors.Is(err, errSegment) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzFinish holds the decoder of guests' frames to: no panic, and no more bytes out than the headers account for.
func FuzzFinish(f *testing.F) {
	f.Add(header(needsChecksum, gsoTCP4, 100, 38, 16), aggregate(false, protocolTCP, make([]byte, 300)))
	f.Add(header(needsChecksum, gsoTCP6, 100, 54, 16), aggregate(true, protocolTCP, make([]byte, 300)))
	f.Add(header(needsChecksum, gsoUDP, 100, 38, 6), aggregate(false, protocolUDP, make([]byte, 300)))
	f.Add(header(needsChecksum, 0, 0, 38, 6), aggregate(false, protocolUDP, make([]byte, 30)))
	f.Fuzz(func(t *testing.T, header, frame []byte) {
		if len(frame) > 70_000 {
			return
		}
		n, total := 0, 0
		_ = finish(header, slices.Clone(frame), func(p []byte) error {
			n++
			total += len(p)
			return nil
		})
		if n > maxSegments || total > len(frame)+n*len(frame) {
			t.Fatalf("%d packets with %d bytes out of %d", n, total, len(frame))
		}
	})
}
