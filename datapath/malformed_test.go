package datapath_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/tracing"
)

func TestMalformedFramesAreDropped(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	change := func(frame []byte, at int, to ...byte) []byte {
		f := slices.Clone(frame)
		copy(f[at:], to)
		return f
	}
	u4, u6 := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data)), ip{protocol: protoUDP}.frame(1, 2, true, udp(1, 2, data))
	t4 := ip{protocol: protoTCP}.frame(1, 2, false, tcp(address4(1), address4(2), 0x10, nil, data))
	t6 := ip{protocol: protoTCP}.frame(1, 2, true, tcp(address6(1), address6(2), 0x10, nil, data))
	extension := func(first byte, bytes ...byte) []byte {
		return ip{protocol: first}.frame(1, 2, true, append(bytes, udp(1, 2, data)...))
	}
	for _, c := range []struct {
		claim  string
		frame  []byte
		reason tracing.Reason
	}{
		{"IPv4 with version 5", change(u4, 14, 0x55), tracing.ReasonL3Bad},
		{"IPv4 with a header of 16 bytes", change(u4, 14, 0x44), tracing.ReasonL3Bad},
		{"IPv4 with a header longer than the frame", change(u4, 14, 0x4f)[:40], tracing.ReasonL3Bad},
		{"IPv4 that claims more than the frame has", change(u4, 16, 0xff, 0xff), tracing.ReasonL3Bad},
		{"IPv4 that claims less than its header", change(u4, 16, 0, 19), tracing.ReasonL3Bad},
		{"IPv4 of length 0", change(u4, 16, 0, 0), tracing.ReasonL3Bad},
		{"IPv4 cut within its header", u4[:33], tracing.ReasonL3Bad},
		{"IPv4 of nothing", u4[:14], tracing.ReasonL3Bad},
		{"IPv6 with version 4", change(u6, 14, 0x40), tracing.ReasonL3Bad},
		{"IPv6 that claims more than the frame has", change(u6, 18, 0xff, 0xff), tracing.ReasonL3Bad},
		{"IPv6 of length 0", change(u6, 18, 0, 0), tracing.ReasonL3Bad},
		{"IPv6 cut within its header", u6[:53], tracing.ReasonL3Bad},
		{"UDP that claims more than the frame has", change(u4, 38, 0xff, 0xff), tracing.ReasonL4Bad},
		{"UDP that claims less than its header", change(u4, 38, 0, 7), tracing.ReasonL4Bad},
		{"UDP cut within its header", change(u4, 16, 0, 25)[:39], tracing.ReasonL4Bad},
		{"UDP cut within its header over IPv6", change(u6, 18, 0, 5)[:59], tracing.ReasonL4Bad},
		{"TCP with a header of 16 bytes", change(t4, 46, 0x40), tracing.ReasonL4Bad},
		{"TCP with a header longer than the frame", change(change(t4, 46, 0xf0), 16, 0, 50)[:64], tracing.ReasonL4Bad},
		{"TCP over IPv6 with a header of 0 bytes", change(t6, 66, 0), tracing.ReasonL4Bad},
		{"TCP cut within its header", change(t4, 16, 0, 30)[:44], tracing.ReasonL4Bad},
		{"ICMP of 7 bytes", ip{protocol: protoICMP}.frame(1, 2, false, make([]byte, 7)), tracing.ReasonL4Bad},
		{"ICMPv6 of 7 bytes", ip{protocol: protoICMPv6}.frame(1, 2, true, make([]byte, 7)), tracing.ReasonL4Bad},
		{"an extension header beyond the frame", extension(0, 17, 255, 1, 4, 0, 0, 0, 0), tracing.ReasonL4Bad},
		{"a fragment header cut short", ip{protocol: 44}.frame(1, 2, true, []byte{17, 0}), tracing.ReasonL3Bad},
		{"extension headers in a circle", extension(60, chain(20, 60)...), tracing.ReasonL3Bad},
		{"a neighbour solicitation without target", ip{protocol: protoICMPv6}.frame(1, 2, true, icmp6(address6(1), address6(2), 135, 0, 0, 0, 0)), tracing.ReasonL4Bad},
		{"a neighbour option beyond the frame", nd(address6(1), 136, append(advertisement(address6(1), mac(1)), 9, 9, 0, 0, 0, 0, 0, 0)...), tracing.ReasonL4Bad},
		{"nine neighbour options", nd(address6(1), 133, append([]byte{0, 0, 0, 0}, bytes.Repeat([]byte{9, 1, 0, 0, 0, 0, 0, 0}, 9)...)...), tracing.ReasonL4Bad},
	} {
		t.Run(c.claim, func(t *testing.T) {
			a.tb, b.tb = t, t
			a.expectDrop(c.reason, c.frame)
			b.silent()
		})
	}
	t.Run("a length of 0 means nothing else for one segment that claims to be many", func(t *testing.T) {
		a.tb, b.tb = t, t
		h, frame := bulk(1, 2, false, 3000, 1000)
		a.sendVnet(h, change(frame, 16, 0, 0))
		a.sendVnet(h, change(frame, 16, 0, 10))
		if got := a.drops(tracing.ReasonL3Bad); got == 0 {
			t.Fatal("an impossible length passes")
		}
		for b.pending() != nil {
		}
	})
}

func TestShortFramesOfAContainer(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	s := w.veth(w.hosts[0], 1)
	b := w.tap(w.hosts[0], 2, 0)
	full := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	if err := s.ns.Do(func() error {
		for n := 1; n <= len(full); n++ {
			if err := sendFrom("eth0", 0, full[:n]); err != nil && !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	arrived := 0
	for f := b.receive(); f != nil; f = b.pending() {
		if be16(f, 12) != typeIPv4 {
			continue // the container's own stack announces itself
		}
		if !bytes.Equal(f, full) {
			t.Errorf("% x arrived", f)
		}
		arrived++
	}
	if arrived != 1 {
		t.Errorf("%d frames arrived, want the whole one", arrived)
	}
}

// TestRandomFramesNeverBypassAGuard sends mutations of good and bad frames and looks at what comes out: whatever a neighbour
// receives speaks of the sender alone, the host's own stack sees nothing, and every frame is accounted for.
func TestRandomFramesNeverBypassAGuard(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, nic.FullOffload), w.tap(h, 2, nic.FullOffload)
	var corpus [][]byte
	for _, c := range guardCases(h.vtep, netip.MustParseAddr("10.66.0.9")) {
		corpus = append(corpus, c.frame)
	}
	_, big := bulk(1, 2, false, 3000, 1000)
	_, big6 := bulk(1, 2, true, 3000, 1000)
	corpus = append(corpus, big, big6)
	before := hostReceived(t, h)
	random := rand.New(rand.NewPCG(1, 2))
	passed := 0
	for range 30_000 {
		frame := mutate(random, corpus[random.IntN(len(corpus))])
		header := vnet{}
		if random.IntN(4) == 0 {
			header = vnet{
				Flags: uint8(random.IntN(2)), Type: []uint8{0, gsoTCP4, gsoTCP6, gsoUDPL4}[random.IntN(4)], HeaderLen: uint16(random.IntN(120)),
				Size: uint16(random.IntN(1600)), CsumStart: uint16(random.IntN(80)), CsumAt: uint16(random.IntN(20)),
			}
		}
		var raw bytes.Buffer
		if err := binary.Write(&raw, binary.LittleEndian, header); err != nil {
			t.Fatal(err)
		}
		raw.Write(frame)
		if _, err := a.file.Write(raw.Bytes()); err != nil {
			continue // the tap itself refuses some
		}
		for {
			got := b.pending()
			if got == nil {
				break
			}
			passed++
			speaksOfSender(t, got)
		}
		for a.pending() != nil { // answers
		}
	}
	if passed < 1000 {
		t.Fatalf("only %d frames passed: the test looks at nothing", passed)
	}
	if after := hostReceived(t, h); after != before {
		t.Fatalf("%d packets reached the host's own stack", after-before)
	}
	if got := h.gateOf(t, a.device); got != datapath.Open {
		t.Fatalf("gate %d", got)
	}
}

// mutate changes a few bytes, cuts the frame or makes it longer.
func mutate(random *rand.Rand, frame []byte) []byte {
	f := slices.Clone(frame)
	for range random.IntN(4) {
		switch random.IntN(8) {
		case 0:
			f = f[:14+random.IntN(len(f)-13)]
		case 1:
			f = append(f, make([]byte, random.IntN(64))...)
		default:
			at := 12 + random.IntN(min(len(f)-12, 80))
			f[at] = []byte{0, 1, 0x7f, 0x80, 0xff, byte(random.IntN(256))}[random.IntN(6)]
		}
	}
	return f
}

// speaksOfSender fails when a frame that the guards let pass claims another sender.
func speaksOfSender(tb testing.TB, f []byte) {
	tb.Helper()
	m := mac(1)
	if !bytes.Equal(f[6:12], m[:]) {
		tb.Fatalf("from a foreign MAC: % x", f)
	}
	switch be16(f, 12) {
	case typeIPv4:
		src, _ := netip.AddrFromSlice(f[26:30])
		if src != address4(1) && src != any4 {
			tb.Fatalf("from a foreign address: % x", f)
		}
	case typeIPv6:
		src, _ := netip.AddrFromSlice(f[22:38])
		if src != address6(1) && !src.IsUnspecified() && src != local6 {
			tb.Fatalf("from a foreign address: % x", f)
		}
		if f[20] == protoICMPv6 && (f[54] == 134 || f[54] == 137) {
			tb.Fatalf("a router's message: % x", f)
		}
	case typeARP:
		src, _ := netip.AddrFromSlice(f[28:32])
		if !bytes.Equal(f[22:28], m[:]) || src != address4(1) && src != any4 {
			tb.Fatalf("ARP of somebody else: % x", f)
		}
	case 0x8100, 0x88a8, 0x9100:
		tb.Fatalf("a tagged frame: % x", f)
	}
}

func TestRandomPacketsFromTheUnderlay(t *testing.T) {
	for name, ipv6 := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, ipv6)
			w.load()
			x, h := w.newWire(), w.hosts[0]
			g := w.tap(h, 1, 0)
			w.tap(h, 2, 0)
			h.remote(50, x.vteps[0], netip.Addr{})
			h.remote(51, x.vteps[1], x.vteps[0])
			var corpus [][]byte
			for _, a := range arrivals(x, h) {
				m := h.underlayMAC()
				kind := uint16(typeIPv4)
				if ipv6 {
					kind = typeIPv6
				}
				corpus = append(corpus, ether(m, x.mac, kind, a.packet))
			}
			random := rand.New(rand.NewPCG(3, 4))
			passed := 0
			for range 10_000 {
				frame := mutate(random, corpus[random.IntN(len(corpus))])
				x.sendFrame(frame)
				for {
					got := g.pending()
					if got == nil {
						break
					}
					passed++
					if m := got[6:12]; !bytes.Equal(m[:5], []byte{0x52, 0x54, 0, 0, 0}) || m[5] != 50 && m[5] != 51 {
						t.Fatalf("from nobody who lives there: % x", got)
					}
				}
			}
			if passed < 500 {
				t.Fatalf("only %d frames passed: the test looks at nothing", passed)
			}
		})
	}
}
