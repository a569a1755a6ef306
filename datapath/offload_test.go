package datapath_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// bulk is a TCP frame of guest src with so many bytes of payload, as a guest with offloads sends it: a pseudo-header
// checksum and segments of mss bytes; mss 0 is one segment.
func bulk(src, dst int, v6 bool, payload, mss int) (vnet, []byte) {
	from, to := address4(src), address4(dst)
	h := vnet{Flags: needsCsum, Type: gsoTCP4, HeaderLen: 54, Size: uint16(mss), CsumStart: 34, CsumAt: 16}
	if v6 {
		from, to = address6(src), address6(dst)
		h.Type, h.HeaderLen, h.CsumStart = gsoTCP6, 74, 54
	}
	if mss == 0 {
		h.Type, h.HeaderLen = 0, 0
	}
	body := make([]byte, payload)
	for i := range body {
		body[i] = byte(i * 7)
	}
	return h, ip{protocol: protoTCP, df: true}.frame(src, dst, v6, tcp(from, to, 0x10, nil, body))
}

// received takes TCP frames until so many bytes of payload have come, and returns the payload and the headers.
func (g *tapGuest) received(payload int) (got []byte, headers []vnet, frames [][]byte) {
	g.tb.Helper()
	for len(got) < payload {
		h, frame := g.receiveVnet(time.Second)
		if frame == nil {
			g.tb.Fatalf("%d bytes of %d arrived, in %d frames", len(got), payload, len(frames))
		}
		offset := 54
		if be16(frame, 12) == typeIPv6 {
			offset = 74
		}
		got, headers, frames = append(got, frame[offset:]...), append(headers, h), append(frames, frame)
	}
	return got, headers, frames
}

func TestSuperPacketsStayWholeUpToTheGuest(t *testing.T) {
	for name, ipv6 := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, ipv6)
			w.load()
			a, b, c := w.tap(w.hosts[0], 1, nic.FullOffload), w.tap(w.hosts[0], 2, nic.FullOffload), w.tap(w.hosts[1], 3, nic.FullOffload)
			for _, to := range []*tapGuest{b, c} {
				for _, v6 := range []bool{false, true} {
					for _, payload := range []int{2800, 20001, 60000} {
						superPacket(t, a, to, v6, payload)
					}
				}
			}
			const packets = 2 + 15 + 43
			for i, name := range []string{"g1", "g2", "g3"} {
				ports, _ := w.hosts[i/2].counters()
				c, want := ports[fabric.PortID(name)], uint64(2*packets)
				if i == 0 && (c.Rx.Frames != 12 || c.Rx.Packets != 2*want) {
					t.Errorf("from the sender %d frames and %d packets, want 12 and %d", c.Rx.Frames, c.Rx.Packets, 2*want)
				}
				if i > 0 && (c.Tx.Frames != 6 || c.Tx.Packets != want) {
					t.Errorf("to %s %d frames and %d packets, want 6 and %d", name, c.Tx.Frames, c.Tx.Packets, want)
				}
			}
		})
	}
}

// superPacket sends a GSO frame of segments of 1400 bytes and checks that it arrives as it left.
func superPacket(t *testing.T, from, to *tapGuest, v6 bool, payload int) {
	t.Helper()
	h, frame := bulk(1, int(to.port.MAC[5]), v6, payload, 1400)
	from.sendVnet(h, frame)
	got, headers, frames := to.received(payload)
	if len(frames) != 1 || headers[0].Type != h.Type || headers[0].Size != 1400 || headers[0].Flags&needsCsum == 0 {
		t.Fatalf("%d bytes to %s, IPv6 %v: %d frames, the first with %+v: it was segmented in software", payload, to.port.Name, v6, len(frames), headers[0])
	}
	if !bytes.Equal(got, frame[len(frame)-payload:]) {
		t.Fatalf("%d bytes to %s, IPv6 %v: the payload is changed", payload, to.port.Name, v6)
	}
}

func TestUnfinishedChecksumsArriveUsable(t *testing.T) {
	for name, offload := range map[string]int{"to a guest with offloads": nic.FullOffload, "to a guest without": 0} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, false)
			w.load()
			a, b, c := w.tap(w.hosts[0], 1, nic.FullOffload), w.tap(w.hosts[0], 2, offload), w.tap(w.hosts[1], 3, offload)
			for _, to := range []*tapGuest{b, c} {
				for _, v6 := range []bool{false, true} {
					for _, payload := range []int{0, 1, 1000, 1001} {
						h, frame := bulk(1, int(to.port.MAC[5]), v6, payload, 0)
						a.sendVnet(h, frame)
						got, out := to.receiveVnet(time.Second)
						if out == nil {
							t.Fatal("nothing arrived")
						}
						if got.Flags&needsCsum != 0 {
							if offload == 0 || got.CsumStart != h.CsumStart || got.CsumAt != 16 || !bytes.Equal(out, frame) {
								t.Fatalf("%+v for %+v", got, h)
							}
						} else if !transportOK(out) {
							t.Fatalf("the checksum of %d bytes is wrong", payload)
						}
					}
				}
			}
		})
	}
}

func TestSuperPacketsAreCutForAGuestWithoutOffloads(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b, c := w.tap(w.hosts[0], 1, nic.FullOffload), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[1], 3, 0)
	for _, to := range []*tapGuest{b, c} {
		for _, v6 := range []bool{false, true} {
			h, frame := bulk(1, int(to.port.MAC[5]), v6, 10000, 1400)
			a.sendVnet(h, frame)
			got, _, frames := to.received(10000)
			if len(frames) != 8 || !bytes.Equal(got, frame[len(frame)-10000:]) {
				t.Fatalf("%d frames, want 8 with the same payload", len(frames))
			}
			for _, f := range frames {
				if !transportOK(f) {
					t.Fatal("a segment's checksum is wrong")
				}
			}
		}
	}
}

func TestASegmentedUnderlayIsPutTogetherAgain(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	for i, h := range w.hosts {
		w.in(h.ns, func() error {
			return firstError(nic.ForceSegmentation("eth0"), nic.SetFeatures("eth0", map[nic.Feature]bool{nic.GRO: true}))
		})
		w.in(w.under, func() error { return nic.ForceSegmentation(fmt.Sprintf("u%d", i)) })
	}
	a, c := w.tap(w.hosts[0], 1, nic.FullOffload), w.tap(w.hosts[1], 3, nic.FullOffload)
	h, frame := bulk(1, 3, false, 28000, 1400)
	a.sendVnet(h, frame)
	got, headers, frames := c.received(28000)
	if !bytes.Equal(got, frame[len(frame)-28000:]) {
		t.Fatal("the payload is changed")
	}
	if len(frames) > 4 || headers[0].Size != 1400 {
		t.Fatalf("20 segments arrive as %d frames, the first with %+v: nothing puts them together", len(frames), headers[0])
	}
}

func TestUDPSuperPacketsArriveWhole(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b, c := w.tap(w.hosts[0], 1, nic.FullOffload), w.tap(w.hosts[0], 2, nic.FullOffload), w.tap(w.hosts[1], 3, nic.FullOffload)
	for _, to := range []*tapGuest{b, c} {
		segment := udp(1, 2, bytes.Repeat(data, 100))
		n := int(to.port.MAC[5])
		binary.BigEndian.PutUint16(segment[6:], pseudo(address4(1), address4(n), protoUDP, len(segment)))
		a.sendVnet(vnet{Flags: needsCsum, Type: gsoUDPL4, HeaderLen: 42, Size: 800, CsumStart: 34, CsumAt: 6}, ip{protocol: protoUDP, df: true}.frame(1, n, false, segment))
		h, frame := to.receiveVnet(time.Second)
		if h.Type != gsoUDPL4 || h.Size != 800 || len(frame) != 42+3200 {
			t.Fatalf("to %s: %d bytes with %+v", to.port.Name, len(frame), h)
		}
	}
}

func TestErrorsAboutUnfinishedPacketsAreGood(t *testing.T) {
	for name, offload := range map[string]int{"with offloads": nic.FullOffload, "sending unfinished, receiving finished": 0} {
		t.Run(name, func(t *testing.T) {
			_, _, a, _ := mtuWorld(t, false, offload)
			for _, v6 := range []bool{false, true} {
				for _, mss := range []int{0, 1460} {
					h, frame := bulk(1, 50, v6, 1460, 0)
					if mss != 0 {
						h, frame = bulk(1, 50, v6, 14600, mss)
					}
					a.sendVnet(h, frame)
					got, back := a.receiveVnet(time.Second)
					if got.Flags&needsCsum != 0 || got.Type != 0 {
						t.Fatalf("the answer needs more work: %+v", got)
					}
					expectTooBig(t, back, frame, 1450)
				}
			}
		})
	}
}

func TestOneFlowHasOneSourcePort(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	x := w.newWire()
	a := w.tap(w.hosts[0], 1, nic.FullOffload)
	w.hosts[0].remote(50, x.vteps[0], netip.Addr{})
	ports := map[uint16]bool{}
	for _, payload := range []int{10, 10000} { // the first is encapsulated by the core, the second by the kernel
		mss := 0
		if payload > 1400 {
			mss = 1400
		}
		h, frame := bulk(1, 50, false, payload, mss)
		a.sendVnet(h, frame)
		p := x.receive()
		if p == nil {
			t.Fatal("nothing left")
		}
		ports[be16(p, 20)] = true
	}
	if len(ports) != 1 {
		t.Fatalf("one flow leaves by source ports %v: the underlay would reorder it", ports)
	}
}

func TestAChecksumIsWrittenOnlyInItsPlace(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, nic.FullOffload), w.tap(w.hosts[0], 2, nic.FullOffload)
	u := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 1001, data))
	u6 := ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 1001, data))
	_, segment := bulk(1, 2, false, 100, 0)
	_, segment6 := bulk(1, 2, true, 100, 0)
	sctp := ip{protocol: 132}.frame(1, 2, false, make([]byte, 40))
	for _, c := range []struct {
		claim         string
		frame         []byte
		start, offset uint16
		passes        bool
	}{
		{"TCP's", segment, 34, 16, true},
		{"TCP's over IPv6", segment6, 54, 16, true},
		{"UDP's", u, 34, 6, true},
		{"UDP's over IPv6", u6, 54, 6, true},
		{"of a frame in the guest's own tunnel", u, 34 + 8 + 10, 6, true},
		{"SCTP's", sctp, 34, 8, true},
		{"over the IPv4 source", u, 20, 8, false},
		{"over the IPv6 destination", u6, 40, 0, false},
		{"over UDP's ports", u, 34, 2, false},
		{"over TCP's flags", segment, 34, 12, false},
		{"in TCP's options or data", segment, 54, 6, false},
		{"over an ARP sender", ether(broadcast, mac(1), typeARP, append(arp(1, mac(1), address4(1), mac(0), address4(99)), make([]byte, 20)...)), 20, 8, false},
		{"in neighbour discovery", nd(address6(1), 136, advertisement(address6(1), mac(1))...), 54, 2, false},
		{"in a fragment", ip{protocol: protoUDP, offset: 9}.frame(1, 2, false, data), 34, 6, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			a.tb, b.tb = t, t
			dropped := a.drops(tracing.ReasonOffloadBad)
			a.sendVnet(vnet{Flags: needsCsum, CsumStart: c.start, CsumAt: c.offset}, c.frame)
			if c.passes {
				if b.receive() == nil {
					t.Fatal("dropped")
				}
				return
			}
			if got := a.drops(tracing.ReasonOffloadBad); got != dropped+1 {
				t.Fatalf("%d drops for it, want 1", got-dropped)
			}
			b.silent()
		})
	}
}

func TestAFrameIsNotCutIntoThousands(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, nic.FullOffload), w.tap(w.hosts[0], 2, nic.FullOffload)
	for mss, passes := range map[int]bool{1: false, 58: false, 60: true, 536: true} {
		h, frame := bulk(1, 2, false, 60000, mss)
		dropped := a.drops(tracing.ReasonOffloadBad)
		a.sendVnet(h, frame)
		if passes {
			b.received(60000)
		} else if got := a.drops(tracing.ReasonOffloadBad); got != dropped+1 {
			t.Errorf("segments of %d bytes: %d drops, want 1", mss, got-dropped)
		}
		b.silent()
	}
}
