package datapath_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// mtuWorld is guest 1 on a switch of 1450 bytes, guest 2 beside it, guest 50 at a peer behind an underlay of 1500.
func mtuWorld(t *testing.T, ipv6 bool, offload int) (*world, *wire, *tapGuest, *tapGuest) {
	w := newWorld(t, 1, ipv6)
	w.load()
	x, h := w.newWire(), w.hosts[0]
	a, b := w.tap(h, 1, offload), w.tap(h, 2, 0)
	h.remote(50, x.vteps[0], netip.Addr{})
	h.apply(datapath.Change{Put: datapath.State{
		Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 1450}},
		Peers:    map[netip.Addr]datapath.Peer{x.vteps[0]: {MTU: 1500}},
	}})
	return w, x, a, b
}

// sized is a UDP packet of so many bytes.
func sized(n int, v6, df bool, to int) []byte {
	headers := 28
	if v6 {
		headers = 48
	}
	return ip{protocol: protoUDP, df: df}.frame(1, to, v6, udp(7, 9, make([]byte, n-headers)))
}

func TestEverySizeAroundTheMTU(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		limit := 1450
		if ipv6 {
			limit = 1430 // 1500 less 70 for the IPv6 tunnel
		}
		t.Run(fmt.Sprintf("a path of %d", limit), func(t *testing.T) {
			_, x, a, _ := mtuWorld(t, ipv6, 0)
			for n := limit - 2; n <= limit+12; n++ {
				for _, v6 := range []bool{false, true} {
					frame := sized(n, v6, true, 50)
					a.send(frame)
					if n <= limit {
						if u := unpack(t, x.receive()); !bytes.Equal(u.inner, frame) {
							t.Fatalf("%d bytes did not pass whole", n)
						}
						continue
					}
					expectTooBig(t, a.receive(), frame, limit)
				}
			}
			if got := a.drops(tracing.ReasonMTUExceeded); got != 24 {
				t.Fatalf("%d drops for mtu_exceeded, want 24", got)
			}
		})
	}
}

// expectTooBig checks an ICMP error about a frame of guest 1 that met an MTU.
func expectTooBig(tb testing.TB, got, about []byte, mtu int) {
	tb.Helper()
	if got == nil {
		tb.Fatal("nobody told the sender")
	}
	if !bytes.Equal(got[0:6], about[6:12]) || !bytes.Equal(got[6:12], about[0:6]) || !transportOK(got) {
		tb.Fatalf("not a good frame back: % x", got)
	}
	p := got[14:]
	if be16(about, 12) == typeIPv6 {
		if p[6] != protoICMPv6 || p[40] != 2 || binary.BigEndian.Uint32(p[44:]) != uint32(mtu) || !bytes.Equal(p[48:], about[14:14+len(p)-48]) {
			tb.Fatalf("not packet too big with MTU %d (RFC 4443 3.2): % x", mtu, p)
		}
		if !bytes.Equal(p[8:24], about[38:54]) || !bytes.Equal(p[24:40], about[22:38]) {
			tb.Fatalf("from and to the wrong addresses: % x", p[:40])
		}
		return
	}
	if p[9] != protoICMP || p[20] != 3 || p[21] != 4 || int(be16(p, 26)) != mtu || checksum(p[:20], 0) != 0xffff ||
		!bytes.Equal(p[28:], about[14:14+len(p)-28]) || int(be16(p, 2)) != len(p) {
		tb.Fatalf("not fragmentation needed with MTU %d (RFC 1191): % x", mtu, p)
	}
	if !bytes.Equal(p[12:16], about[30:34]) || !bytes.Equal(p[16:20], about[26:30]) {
		tb.Fatalf("from and to the wrong addresses: % x", p[:20])
	}
}

func TestTooLargeForTheSwitchOnOneHost(t *testing.T) {
	_, _, a, b := mtuWorld(t, false, 0)
	for _, v6 := range []bool{false, true} {
		frame := sized(1451, v6, true, 2)
		a.send(frame)
		expectTooBig(t, a.receive(), frame, 1450)
		frame = sized(1450, v6, true, 2)
		a.send(frame)
		if !bytes.Equal(b.receive(), frame) {
			t.Fatal("a packet of just the MTU did not pass")
		}
	}
	frame := sized(1460, false, false, 2)
	a.send(frame)
	if !bytes.Equal(b.receive(), frame) {
		t.Fatal("an IPv4 packet that may be fragmented passes between neighbours")
	}
}

func TestAPacketThatMayBeFragmentedIsCarriedInFragments(t *testing.T) {
	_, x, a, _ := mtuWorld(t, false, 0)
	a.host.tb = t
	if out := a.hostRun("ip", "link", "set", "eth0", "mtu", "1500"); out != "" {
		t.Log(out)
	}
	frame := sized(1490, false, false, 50)
	a.send(frame)
	first, second := x.receive(), x.receive()
	if first == nil || second == nil || first[6]&0x20 == 0 || len(first) > 1500 {
		t.Fatalf("the outer packet is not in fragments: %d and %d bytes", len(first), len(second))
	}
	whole := append(append([]byte{}, first[20:]...), second[20:]...)
	if !bytes.Equal(whole[16:], frame) {
		t.Fatal("the fragments do not carry the frame")
	}
}

func TestNobodyIsToldWhereICMPForbids(t *testing.T) {
	_, _, a, b := mtuWorld(t, false, 0)
	big := make([]byte, 1440)
	icmpError := append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, big...)
	for claim, frame := range map[string][]byte{
		"about an ICMP error":         ip{protocol: protoICMP, df: true}.frame(1, 50, false, icmpError),
		"about a later fragment":      ip{protocol: protoUDP, df: true, offset: 10}.frame(1, 50, false, append(big, data...)),
		"about an ICMPv6 error":       ip{protocol: protoICMPv6}.frame(1, 50, true, icmp6(address6(1), address6(50), 1, append(make([]byte, 4), big...)...)),
		"about what is not IP":        ether(mac(50), mac(1), 0x88b5, append(big, data...)),
		"about a packet to the group": ether(multi6, mac(1), typeIPv6, ip{protocol: protoUDP}.packet(address6(1), all6, udp(1, 2, big))),
	} {
		t.Run(claim, func(t *testing.T) {
			a.tb, b.tb = t, t
			a.expectDrop(tracing.ReasonMTUExceeded, frame)
			a.silent()
			b.silent()
		})
	}
}

func TestErrorsAreRateLimited(t *testing.T) {
	_, _, a, _ := mtuWorld(t, false, 0)
	const sent = 400
	frame := sized(1480, false, true, 50)
	begin := time.Now()
	for range sent {
		a.send(frame)
	}
	allowed := 66 + int(time.Since(begin)/time.Millisecond)
	told := 0
	for {
		_, got := a.receiveVnet(time.Millisecond)
		if got == nil {
			break
		}
		told++
	}
	if told < 50 || told > allowed {
		t.Fatalf("%d of %d packets were answered, want 50 to %d", told, sent, allowed)
	}
	if got := a.drops(tracing.ReasonMTUExceeded); got != sent {
		t.Fatalf("%d drops, want %d", got, sent)
	}
}

func TestMSSIsLowered(t *testing.T) {
	_, x, a, b := mtuWorld(t, false, 0)
	option := func(mss uint16) []byte { return binary.BigEndian.AppendUint16([]byte{2, 4}, mss) }
	for _, c := range []struct {
		claim   string
		v6      bool
		flags   uint8
		options []byte
		want    []byte
	}{
		{"of a SYN", false, 2, option(1460), option(1410)},
		{"of a SYN and ACK", false, 0x12, option(1460), option(1410)},
		{"of a SYN over IPv6", true, 2, option(1440), option(1390)},
		{"at an odd place", false, 2, append([]byte{1}, append(option(1460), 1, 1, 1)...), append([]byte{1}, append(option(1410), 1, 1, 1)...)},
		{"behind other options", false, 2, append([]byte{3, 3, 7, 1, 4, 2}, append(option(9000), 1, 1)...), append([]byte{3, 3, 7, 1, 4, 2}, append(option(1410), 1, 1)...)},
		{"not when it is small enough", false, 2, option(536), option(536)},
		{"not without SYN", false, 0x10, option(1460), option(1460)},
		{"not after the end of options", false, 2, append([]byte{0, 0, 0, 0}, option(1460)...), append([]byte{0, 0, 0, 0}, option(1460)...)},
		{"not when the options are nonsense", false, 2, []byte{8, 1, 2, 4, 5, 0xb4, 0, 0}, []byte{8, 1, 2, 4, 5, 0xb4, 0, 0}},
		{"not when it is cut", false, 2, []byte{1, 1, 2, 4}, []byte{1, 1, 2, 4}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			x.tb, a.tb, b.tb = t, t, t
			src, dst := address4(1), address4(50)
			if c.v6 {
				src, dst = address6(1), address6(50)
			}
			for _, to := range []int{50, 2} {
				segment := complete(src, dst, tcp(src, dst, c.flags, c.options, nil))
				frame := ip{protocol: protoTCP, df: true}.frame(1, to, c.v6, segment)
				a.send(frame)
				got := b.receiveIf(to == 2)
				if to == 50 {
					got = unpack(t, x.receive()).inner
				}
				if len(got) != len(frame) {
					t.Fatalf("%d bytes arrive of %d", len(got), len(frame))
				}
				end := len(frame)
				if !bytes.Equal(got[end-len(c.want):], c.want) {
					t.Errorf("options % x, want % x", got[end-len(c.want):], c.want)
				}
				if to == 50 && !transportOK(got) {
					t.Error("the checksum is wrong")
				}
			}
		})
	}
}
