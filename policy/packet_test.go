package policy

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// bytesOf reads hexadecimal with blanks.
func bytesOf(tb testing.TB, words ...string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(words, ""), " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

const (
	ether4 = "525400000002 525400000001 0800"
	ether6 = "525400000002 525400000001 86dd"
	addrs4 = "0a0a000b 0a0a0016"
	addrs6 = "fd000000000000000000000000000011 fd000000000000000000000000000022"
)

// ip4 is an IPv4 header without options; the length fits what follows.
func ip4(tb testing.TB, protocol byte, fragment uint16, payload []byte) []byte {
	tb.Helper()
	h := bytesOf(tb, "45000000 12340000 40000000", addrs4)
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[6:], fragment)
	h[9] = protocol
	return append(h, payload...)
}

func ip6(tb testing.TB, next byte, payload []byte) []byte {
	tb.Helper()
	h := bytesOf(tb, "60000000 00000040", addrs6)
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	h[6] = next
	return append(h, payload...)
}

func frame4(tb testing.TB, ip []byte) []byte { tb.Helper(); return append(bytesOf(tb, ether4), ip...) }
func frame6(tb testing.TB, ip []byte) []byte { tb.Helper(); return append(bytesOf(tb, ether6), ip...) }

func TestFramesAreReadAsTheirProtocolsSay(t *testing.T) {
	syn := bytesOf(t, "03e8 01bb 00000064 00000032 5012 0000 0000 0000 616263")
	udp := bytesOf(t, "03e8 0035 000b 0000 616263")
	echo := bytesOf(t, "0800 0000 0007 0001")
	base := out(6, 1000, 443)
	long := out(17, 1000, 53)
	v6 := func(p Packet) Packet {
		p.EtherType, p.Source, p.Destination = 0x86dd, six, sixFar
		return p
	}
	quote := Packet{Source: addrVM, Destination: addrFar, Protocol: 17, SourcePort: 1000, DestinationPort: 53}
	for claim, c := range map[string]struct {
		frame []byte
		want  Packet
	}{
		"tcp": {frame4(t, ip4(t, 6, 0x4000, syn)), change(base, func(p *Packet) {
			p.TCPFlags, p.Sequence, p.Acknowledgment, p.Payload = FlagSYN|FlagACK, 100, 50, 3
		})},
		"udp":                          {frame4(t, ip4(t, 17, 0, udp)), long},
		"padding is no payload":        {append(frame4(t, ip4(t, 6, 0, syn[:20])), 1, 2, 3), change(base, func(p *Packet) { p.TCPFlags, p.Sequence, p.Acknowledgment = FlagSYN|FlagACK, 100, 50 })},
		"a first fragment":             {frame4(t, ip4(t, 17, 0x2000, udp)), change(long, func(p *Packet) { p.Fragment, p.FragmentID = true, 0x1234 })},
		"a later fragment":             {frame4(t, ip4(t, 17, 0x0010, udp)), change(out(17, 0, 0), func(p *Packet) { p.Fragment, p.Later, p.FragmentID = true, true, 0x1234 })},
		"an echo":                      {frame4(t, ip4(t, 1, 0, echo)), change(out(1, 0, 0), func(p *Packet) { p.ICMPType, p.Echo = 8, 7 })},
		"another protocol":             {frame4(t, ip4(t, 47, 0, nil)), out(47, 0, 0)},
		"udp in IPv6":                  {frame6(t, ip6(t, 17, udp)), v6(long)},
		"udp behind extensions":        {frame6(t, ip6(t, 0, slices.Concat(bytesOf(t, "3c00 0000 0000 0000  1101 0000 00000000 00000000 00000000"), udp))), v6(long)},
		"udp behind a fragment header": {frame6(t, ip6(t, 44, slices.Concat(bytesOf(t, "1100 0001 0000 0009"), udp))), change(v6(long), func(p *Packet) { p.Fragment, p.FragmentID = true, 9 })},
		"a later fragment of IPv6":     {frame6(t, ip6(t, 44, slices.Concat(bytesOf(t, "1100 0008 0000 0009"), udp))), change(v6(out(17, 0, 0)), func(p *Packet) { p.Fragment, p.Later, p.FragmentID = true, true, 9 })},
		"an ICMPv6 echo":               {frame6(t, ip6(t, 58, bytesOf(t, "8000 0000 0007 0001"))), change(v6(out(58, 0, 0)), func(p *Packet) { p.ICMPType, p.Echo = 128, 7 })},
		"an error with its quote":      {frame4(t, ip4(t, 1, 0, append(bytesOf(t, "0301 0000 0000 0000"), ip4(t, 17, 0, udp)[:28]...))), change(out(1, 0, 0), func(p *Packet) { p.ICMPType, p.ICMPCode, p.Quote = 3, 1, &quote })},
		"an error with half a quote":   {frame4(t, ip4(t, 1, 0, append(bytesOf(t, "0301 0000 0000 0000"), ip4(t, 17, 0, udp)[:27]...))), change(out(1, 0, 0), func(p *Packet) { p.ICMPType, p.ICMPCode = 3, 1 })},
		"a frame of LLDP":              {bytesOf(t, "0180c200000e 525400000001 88cc"), Packet{SourceMAC: macVM, DestinationMAC: [6]byte{1, 0x80, 0xc2, 0, 0, 0xe}, EtherType: 0x88cc}},
		"a frame with a length":        {bytesOf(t, "525400000002 525400000001 0002 4242"), Packet{SourceMAC: macVM, DestinationMAC: macPeer}},
	} {
		t.Run(claim, func(t *testing.T) {
			got, err := Parse(c.frame)
			if err != nil {
				t.Fatal(err)
			}
			if q, w := got.Quote, c.want.Quote; (q == nil) != (w == nil) || q != nil && *q != *w {
				t.Errorf("quotes %+v, want %+v", q, w)
			}
			got.Quote, c.want.Quote = nil, nil
			if got != c.want {
				t.Errorf("read as %+v\n  want %+v", got, c.want)
			}
		})
	}
}

func TestImpossibleFramesAreRefused(t *testing.T) {
	for claim, frame := range map[string][]byte{
		"no Ethernet header":             bytesOf(t, "525400000002 525400000001 08"),
		"a length beyond the frame":      bytesOf(t, "525400000002 525400000001 0003 4242"),
		"a length that is no length":     bytesOf(t, "525400000002 525400000001 05ff 4242"),
		"half an IPv4 header":            frame4(t, ip4(t, 6, 0, nil)[:19]),
		"an IPv4 length beyond":          frame4(t, ip4(t, 47, 0, []byte{1})[:20]),
		"a header of 16 bytes":           frame4(t, append([]byte{0x44}, ip4(t, 47, 0, nil)[1:]...)),
		"version 5":                      frame4(t, append([]byte{0x55}, ip4(t, 47, 0, nil)[1:]...)),
		"half a TCP header":              frame4(t, ip4(t, 6, 0, make([]byte, 19))),
		"a TCP header that is too short": frame4(t, ip4(t, 6, 0, make([]byte, 20))),
		"half a UDP header":              frame4(t, ip4(t, 17, 0, make([]byte, 7))),
		"a UDP length beyond":            frame4(t, ip4(t, 17, 0, bytesOf(t, "0001 0002 0009 0000"))),
		"half an SCTP header":            frame4(t, ip4(t, 132, 0, make([]byte, 11))),
		"half an ICMP header":            frame4(t, ip4(t, 1, 0, make([]byte, 7))),
		"an extension beyond":            frame6(t, ip6(t, 0, bytesOf(t, "3b05 0000 0000 0000"))),
		"seven extensions":               frame6(t, ip6(t, 0, bytes.Repeat(bytesOf(t, "0000 0000 0000 0000"), 8))),
		"an IPv6 length beyond":          frame6(t, ip6(t, 47, []byte{1})[:40]),
		"a jumbogram":                    frame6(t, ip6(t, 0, nil)),
	} {
		if p, err := Parse(frame); err == nil {
			t.Errorf("%s was read as %+v", claim, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(frame4(f, ip4(f, 6, 0, make([]byte, 20))))
	f.Add(frame6(f, ip6(f, 44, bytesOf(f, "1100 0001 0000 0009"))))
	f.Add(frame4(f, ip4(f, 1, 0, append(bytesOf(f, "0301 0000 0000 0000"), ip4(f, 17, 0, make([]byte, 8))...))))
	f.Fuzz(func(t *testing.T, frame []byte) {
		p, err := Parse(frame)
		if err != nil {
			return
		}
		if p.HasIP() != p.Destination.IsValid() || p.HasIP() && p.Source.BitLen() != p.Destination.BitLen() {
			t.Errorf("%s → %s", p.Source, p.Destination)
		}
		if q, err := Parse(slices.Concat(frame, make([]byte, 4))); p.EtherType != 0 && (err != nil || q.Source != netip.Addr(p.Source)) {
			t.Errorf("four bytes of padding change it: %+v, %v", q, err)
		}
	})
}
