package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func probe(p Protocol, from, to string) Probe {
	return Probe{
		Protocol: p, SourceMAC: fabric.MAC{0x52, 0x54, 0, 0, 0, 1}, DestinationMAC: fabric.MAC{0x52, 0x54, 0, 0, 0, 2},
		Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to), DestinationPort: 443,
		Nonce: Nonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
	}
}

func sized(p Probe, size int) Probe {
	p.Size = size
	return p
}

func answer(p Protocol, from, to string) Probe {
	a := probe(p, from, to)
	a.Reply = true
	return a
}

func TestAnAnswerAcknowledgesItsProbe(t *testing.T) {
	syn, err := Craft(probe(TCP, "10.10.0.11", "10.10.0.12"))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := Craft(answer(TCP, "10.10.0.12", "10.10.0.11"))
	if err != nil {
		t.Fatal(err)
	}
	if sent, acknowledged := binary.BigEndian.Uint32(syn[38:]), binary.BigEndian.Uint32(ack[42:]); acknowledged != sent+1 {
		t.Errorf("acknowledges %d of a SYN of %d", acknowledged, sent)
	}
	if flags := ack[47]; flags != 0x12 {
		t.Errorf("flags %#x, want SYN and ACK", flags)
	}
	for family, at := range map[string]int{"10.10.0.1": 34, "fd00::1": 54} {
		request, err := Craft(probe(ICMP, family+"1", family+"2"))
		if err != nil {
			t.Fatal(err)
		}
		reply, err := Craft(answer(ICMP, family+"2", family+"1"))
		if err != nil {
			t.Fatal(err)
		}
		if request[at] == reply[at] || string(request[at+4:at+8]) != string(reply[at+4:at+8]) {
			t.Errorf("%s: request %x, reply %x", family, request[at:at+8], reply[at:at+8])
		}
	}
}

func TestCraftedFramesAreWhatTheySay(t *testing.T) {
	for claim, test := range map[string]struct {
		probe Probe
		want  string
		nonce bool
	}{
		"tcp over ipv4":    {probe(TCP, "10.10.0.11", "10.10.0.12"), "tcp 10.10.0.11:53008 > 10.10.0.12:443 S, 66 bytes", false},
		"tcp over ipv6":    {probe(TCP, "fd00::11", "fd00::12"), "tcp [fd00::11]:53008 > [fd00::12]:443 S, 86 bytes", false},
		"udp over ipv4":    {probe(UDP, "10.10.0.11", "10.10.0.12"), "udp 10.10.0.11:53008 > 10.10.0.12:443, 66 bytes", true},
		"udp over ipv6":    {probe(UDP, "fd00::11", "fd00::12"), "udp [fd00::11]:53008 > [fd00::12]:443, 86 bytes", true},
		"icmp over ipv4":   {probe(ICMP, "10.10.0.11", "10.10.0.12"), "icmp 10.10.0.11 > 10.10.0.12, 66 bytes", true},
		"icmp over ipv6":   {probe(ICMP, "fd00::11", "fd00::12"), "icmp fd00::11 > fd00::12, 86 bytes", true},
		"a request by arp": {probe(ARP, "10.10.0.11", "10.10.0.12"), "arp 10.10.0.11 > 10.10.0.12, 60 bytes", false},
		"udp of a size":    {sized(probe(UDP, "10.10.0.11", "10.10.0.12"), 1450), "udp 10.10.0.11:53008 > 10.10.0.12:443, 1464 bytes", true},
		"icmp6 of a size":  {sized(probe(ICMP, "fd00::11", "fd00::12"), 1450), "icmp fd00::11 > fd00::12, 1464 bytes", true},
		"the shortest":     {sized(probe(ICMP, "10.10.0.11", "10.10.0.12"), 52), "icmp 10.10.0.11 > 10.10.0.12, 66 bytes", true},
		"the longest":      {sized(probe(ICMP, "10.10.0.11", "10.10.0.12"), 65535), "icmp 10.10.0.11 > 10.10.0.12, 65549 bytes", true},
		"tcp of a size":    {sized(probe(TCP, "10.10.0.11", "10.10.0.12"), 1450), "tcp 10.10.0.11:53008 > 10.10.0.12:443 S, 1464 bytes", false},
		"the shortest tcp": {sized(probe(TCP, "10.10.0.11", "10.10.0.12"), 52), "tcp 10.10.0.11:53008 > 10.10.0.12:443 S, 66 bytes", false},
		"an answer of tcp": {answer(TCP, "10.10.0.12", "10.10.0.11"), "tcp 10.10.0.12:53008 > 10.10.0.11:443 SA, 66 bytes", false},
		"an echo reply":    {answer(ICMP, "10.10.0.12", "10.10.0.11"), "icmp 10.10.0.12 > 10.10.0.11, 66 bytes", true},
		"an echo6 reply":   {answer(ICMP, "fd00::12", "fd00::11"), "icmp fd00::12 > fd00::11, 86 bytes", true},
		"mapped addresses": {probe(UDP, "::ffff:10.10.0.11", "10.10.0.12"), "udp 10.10.0.11:53008 > 10.10.0.12:443, 66 bytes", true},
	} {
		t.Run(claim, func(t *testing.T) {
			frame, err := Craft(test.probe)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Decode(frame)
			if err != nil || s.String() != test.want {
				t.Errorf("%s (%v), want %s", s, err, test.want)
			}
			if s.Probe != test.nonce || s.Probe && s.Nonce != test.probe.Nonce {
				t.Errorf("probe %v with nonce %x", s.Probe, s.Nonce)
			}
			if s.SourceMAC != test.probe.SourceMAC || s.DestinationMAC != test.probe.DestinationMAC {
				t.Errorf("MACs %s > %s", s.SourceMAC, s.DestinationMAC)
			}
			checkSums(t, frame)
		})
	}
}

// checkSums verifies the checksums with an implementation of its own (RFC 1071).
func checkSums(t *testing.T, frame []byte) {
	t.Helper()
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		ip := frame[14:]
		if sum(ip[:20], 0) != 0xffff {
			t.Error("IPv4 header checksum is wrong")
		}
		pseudo := uint32(0)
		if ip[9] != 1 {
			pseudo = pairs(ip[12:20]) + uint32(ip[9]) + uint32(len(ip)-20)
		}
		if sum(ip[20:], pseudo) != 0xffff {
			t.Error("transport checksum is wrong")
		}
		if int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
			t.Error("IPv4 total length is wrong")
		}
	case 0x86DD:
		ip := frame[14:]
		if sum(ip[40:], pairs(ip[8:40])+uint32(ip[6])+uint32(len(ip)-40)) != 0xffff {
			t.Error("transport checksum is wrong")
		}
		if int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-40 {
			t.Error("IPv6 payload length is wrong")
		}
	}
}

func pairs(b []byte) (n uint32) {
	for ; len(b) > 1; b = b[2:] {
		n += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		n += uint32(b[0]) << 8
	}
	return n
}

func sum(b []byte, start uint32) uint16 {
	n := start + pairs(b)
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return uint16(n)
}

func TestEachNonceHasItsOwnLabel(t *testing.T) {
	for _, p := range []Protocol{TCP, UDP, ICMP} {
		for _, ends := range [][2]string{{"10.10.0.11", "10.10.0.12"}, {"fd00::11", "fd00::12"}} {
			seen := map[uint64]bool{}
			for range 100 {
				pr := probe(p, ends[0], ends[1])
				pr.Nonce = NewNonce()
				frame, err := Craft(pr)
				if err != nil {
					t.Fatal(err)
				}
				label := tracing.Label(1, 2, 4711, frame)
				if label == 0 || seen[label] {
					t.Fatalf("%s probe to %s has label %x, again: %v", p, ends[1], label, seen[label])
				}
				seen[label] = true
			}
		}
	}
	frame, err := Craft(probe(ARP, "10.10.0.11", "10.10.0.12"))
	if err != nil || tracing.Label(1, 2, 4711, frame) == 0 {
		t.Fatalf("an ARP probe has no label (%v)", err)
	}
}

func TestProbesThatCannotBe(t *testing.T) {
	for claim, spoil := range map[string]func(*Probe){
		"an unknown protocol":     func(p *Probe) { p.Protocol = "sctp" },
		"two families":            func(p *Probe) { p.Source = netip.MustParseAddr("fd00::1") },
		"no source":               func(p *Probe) { p.Source = netip.Addr{} },
		"no destination":          func(p *Probe) { p.Destination = netip.Addr{} },
		"no destination port":     func(p *Probe) { p.DestinationPort = 0 },
		"no destination MAC":      func(p *Probe) { p.DestinationMAC = fabric.MAC{} },
		"a group MAC as source":   func(p *Probe) { p.SourceMAC[0] = 1 },
		"ARP for an IPv6 address": func(p *Probe) { *p = probe(ARP, "fd00::1", "fd00::2") },
		"too short":               func(p *Probe) { *p = sized(probe(ICMP, "10.10.0.11", "10.10.0.12"), 51) },
		"too long":                func(p *Probe) { *p = sized(probe(UDP, "10.10.0.11", "10.10.0.12"), 65536) },
		"a size of ARP":           func(p *Probe) { *p = sized(probe(ARP, "10.10.0.11", "10.10.0.12"), 100) },
		"no source MAC":           func(p *Probe) { p.SourceMAC = fabric.MAC{} },
	} {
		t.Run(claim, func(t *testing.T) {
			p := probe(TCP, "10.10.0.11", "10.10.0.12")
			spoil(&p)
			if frame, err := Craft(p); !errors.Is(err, fabric.ErrInvalid) {
				t.Fatalf("%x, %v", frame, err)
			}
		})
	}
}

func TestArpWithoutDestinationIsBroadcast(t *testing.T) {
	p := probe(ARP, "10.10.0.11", "10.10.0.12")
	p.DestinationMAC = fabric.MAC{}
	frame, err := Craft(p)
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := Decode(frame); s.DestinationMAC.String() != "ff:ff:ff:ff:ff:ff" {
		t.Fatalf("sent to %s", s.DestinationMAC)
	}
}

func TestDecodeTellsWhatIsThere(t *testing.T) {
	frame, err := Craft(probe(TCP, "10.10.0.11", "10.10.0.12"))
	if err != nil {
		t.Fatal(err)
	}
	for claim, test := range map[string]struct {
		frame []byte
		want  string
	}{
		"cut behind the IP header":       {frame[:34], "10.10.0.11 > 10.10.0.12, 34 bytes"},
		"cut behind the Ethernet header": {frame[:14], "ethertype 0x0800 52:54:00:00:00:01 > 52:54:00:00:00:02, 14 bytes"},
		"an unknown ether type":          {append(append([]byte{}, frame[:12]...), 0x88, 0xcc, 1, 2), "ethertype 0x88cc 52:54:00:00:00:01 > 52:54:00:00:00:02, 16 bytes"},
	} {
		t.Run(claim, func(t *testing.T) {
			s, err := Decode(test.frame)
			if err != nil || s.String() != test.want {
				t.Fatalf("%q (%v), want %q", s, err, test.want)
			}
		})
	}
	if _, err := Decode(make([]byte, MaxFrame+1)); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("a frame that is too long gave %v", err)
	}
	if _, err := Decode(frame[:13]); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("a frame without an Ethernet header gave %v", err)
	}
}

// FuzzDecode checks that no bytes crash the decoder and that it invents nothing beyond them.
func FuzzDecode(f *testing.F) {
	for _, p := range []Protocol{TCP, UDP, ICMP} {
		for _, ends := range [][2]string{{"10.10.0.11", "10.10.0.12"}, {"fd00::11", "fd00::12"}} {
			frame, err := Craft(probe(p, ends[0], ends[1]))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(frame)
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		s, err := Decode(frame)
		if err != nil {
			if len(frame) >= 14 && len(frame) <= MaxFrame {
				t.Fatalf("a frame of %d bytes: %v", len(frame), err)
			}
			return
		}
		if s.Length != len(frame) || s.String() == "" {
			t.Fatalf("%+v", s)
		}
	})
}

// FuzzCraft checks that whatever is asked for is either refused or read back as asked.
func FuzzCraft(f *testing.F) {
	f.Add(uint8(0), []byte{10, 10, 0, 11}, []byte{10, 10, 0, 12}, uint16(0), uint16(443), []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, proto uint8, from, to []byte, sport, dport uint16, nonce []byte) {
		p := probe([]Protocol{TCP, UDP, ICMP, ARP}[proto%4], "10.10.0.11", "10.10.0.12")
		p.Source, _ = netip.AddrFromSlice(from)
		p.Destination, _ = netip.AddrFromSlice(to)
		p.SourcePort, p.DestinationPort = sport, dport
		copy(p.Nonce[:], nonce)
		frame, err := Craft(p)
		if err != nil {
			if !errors.Is(err, fabric.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		s, err := Decode(frame)
		if err != nil || s.Protocol != p.Protocol || s.Source != p.Source.Unmap() || s.Destination != p.Destination.Unmap() {
			t.Fatalf("%+v became %+v (%v)", p, s, err)
		}
	})
}
