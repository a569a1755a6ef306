package datapath_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// keys are the label keys of these tests' hosts, which load uses.
var keys = [2]uint64{0x0123456789abcdef, 0xfedcba9876543210}

// arm follows a frame on every host.
func (w *world) arm(frame []byte, session uint16) (label uint64) {
	w.tb.Helper()
	label = tracing.Label(keys[0], keys[1], vni, frame)
	for _, h := range w.hosts {
		if err := h.Arm(context.Background(), label, session, time.Minute); err != nil {
			w.tb.Fatal(err)
		}
	}
	return label
}

// inject sends a frame as if the guest had.
func (s *station) inject(tb testing.TB, frame []byte) {
	tb.Helper()
	if err := s.host.ns.Do(func() error { return s.host.Inject(context.Background(), s.device, frame, 1) }); err != nil {
		tb.Fatal(err)
	}
}

// hops collects the hops of a host until one ends the frame's way there.
func (h *host) hops(tb testing.TB, last tracing.Stage) (all []tracing.Hop) {
	tb.Helper()
	for {
		hop := h.event(datapath.HopSeen).Hop
		all = append(all, hop)
		if hop.Ends() || hop.Stage == last {
			return all
		}
	}
}

// way writes hops as stage:result, for comparison.
func way(hops []tracing.Hop) string {
	var b []string
	for _, h := range hops {
		b = append(b, h.Stage.String()+":"+h.Result.String())
	}
	return strings.Join(b, " ")
}

func TestAProbeIsFollowedAndCaughtBeforeTheGuest(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	h0, h1 := w.hosts[0], w.hosts[1]
	a, b, c := w.tap(h0, 1, 0), w.tap(h0, 2, 0), w.tap(h1, 3, 0)
	const into = "port.in:pass guard:pass "
	for _, p := range []struct {
		claim       string
		frame       []byte
		here, there string
		to          *tapGuest
	}{
		{"to a neighbour", ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data)), into + "fdb:hit port.out:caught", "", b},
		{"to another host", ip{protocol: protoUDP}.frame(1, 3, false, udp(4, 5, data[1:])), into + "fdb:hit encap:pass underlay.out:pass",
			"underlay.in:pass decap:pass fdb.local:hit port.out:caught", c},
		{"over IPv6", ip{protocol: protoICMPv6}.frame(1, 3, true, icmp6(address6(1), address6(3), 128, 0, 1, 0, 7, 1, 2, 3)), into + "fdb:hit encap:pass underlay.out:pass",
			"underlay.in:pass decap:pass fdb.local:hit port.out:caught", c},
		{"by ARP to a station of another host", ether(mac(3), mac(1), typeARP, arp(2, mac(1), address4(1), mac(3), address4(3))), into + "fdb:hit encap:pass underlay.out:pass",
			"underlay.in:pass decap:pass fdb.local:hit port.out:caught", c},
		{"to nobody", ip{protocol: protoUDP}.frame(1, 99, false, udp(4, 5, data[2:])), into + "fdb:drop", "", b},
		{"from a foreign address", ip{protocol: protoUDP}.packetFrom(1, 2, address4(9)), "port.in:pass guard:drop", "", b},
		{"answered", ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), mac(0), address4(3))), into + "fdb:answered", "", b},
	} {
		t.Run(p.claim, func(t *testing.T) {
			p.to.tb, h0.tb, h1.tb = t, t, t
			label := w.arm(p.frame, 42)
			a.inject(t, p.frame)
			here := h0.hops(t, tracing.StageUnderlayOut)
			if got := way(here); got != p.here {
				t.Errorf("on the first host %s, want %s", got, p.here)
			}
			hops := here
			if p.there != "" {
				there := h1.hops(t, 0)
				if got := way(there); got != p.there {
					t.Errorf("on the second host %s, want %s", got, p.there)
				}
				for _, hop := range there {
					if hop.Peer != h0.vtep {
						t.Errorf("%s names %v, want %v", hop.Stage, hop.Peer, h0.vtep)
					}
				}
				hops = append(hops, there...)
			}
			if last := hops[len(hops)-1]; last.Stage == tracing.StagePortOut && (last.Port != p.to.port.Name || last.Device != p.to.device || last.Generation != p.to.port.Generation) {
				t.Errorf("the last hop is not at the guest: %+v", last)
			}
			for _, hop := range hops {
				if hop.Label != label || hop.Session != 42 || hop.VNI != vni || hop.Length != uint32(len(p.frame)) || time.Since(hop.Time).Abs() > time.Minute {
					t.Errorf("hop %+v", hop)
				}
			}
			if first := here[0]; first.Port != "g1" || first.Device != a.device || first.Generation != 7 {
				t.Errorf("first hop %+v", first)
			}
			p.to.silent()
			for _, h := range w.hosts {
				if err := h.Disarm(t.Context(), label); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	hop := func() tracing.Hop {
		w.arm(ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data)), 9)
		a.inject(t, ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data)))
		return h0.hops(t, 0)[0]
	}()
	if hop.Source != address4(1) || hop.Destination != address4(2) || hop.SourcePort != 4 || hop.DestinationPort != 5 || hop.Protocol != protoUDP {
		t.Errorf("addresses of %+v", hop)
	}
	if ports, _ := h0.counters(); ports["g2"].DropsOut[tracing.ReasonProbeCaught] != 2 {
		t.Errorf("caught: %+v", ports["g2"].DropsOut)
	}
	a.silent()
}

func TestAGroupProbeIsCaughtAtEveryMember(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	a, b, c, d := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[1], 3, 0), w.tap(w.hosts[1], 4, 0)
	frame := ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), mac(0), address4(99)))
	w.arm(frame, 1)
	a.inject(t, frame)
	for _, h := range w.hosts {
		eventually(t, "every copy is caught", func() bool {
			ports, _ := h.counters()
			n := uint64(0)
			for _, c := range ports {
				n += c.DropsOut[tracing.ReasonProbeCaught]
			}
			return n == map[*host]uint64{w.hosts[0]: 1, w.hosts[1]: 2}[h]
		})
	}
	for _, g := range []*tapGuest{a, b, c, d} {
		g.silent()
	}
}

func TestAProbeIsCaughtBeforeTheWire(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	l, h := w.newLAN(), w.hosts[0]
	l.quiet()
	a := w.tap(h, 1, 0)
	h.adopt(true)
	machine := l.listen("eth0", l.machine)
	for _, p := range []struct {
		claim string
		frame []byte
		way   string
	}{
		{"for one station", ip{protocol: protoUDP}.frame(1, 100, false, udp(4, 5, data)), "port.in:pass guard:pass fdb:miss wire.out:caught"},
		{"for the host itself", ip{protocol: protoUDP}.frame(1, 200, false, udp(4, 5, data)), "port.in:pass guard:pass fdb:miss wire.out:caught"},
		{"for all", ether(broadcast, mac(1), typeARP, arp(1, mac(1), address4(1), mac(0), address4(100))), "port.in:pass guard:pass fdb:flood wire.out:caught"},
	} {
		label := w.arm(p.frame, 42)
		a.inject(t, p.frame)
		if got := way(h.hops(t, 0)); got != p.way {
			t.Errorf("%s: %s, want %s", p.claim, got, p.way)
		}
		if n := machine.count(p.frame); n != 0 {
			t.Errorf("%s: the probe was on the wire", p.claim)
		}
		if err := h.Disarm(t.Context(), label); err != nil {
			t.Fatal(err)
		}
		if p.claim == "for the host itself" {
			continue
		}
		a.send(p.frame)
		eventually(t, "what is no probe is on the wire", func() bool { return machine.count(p.frame) == 1 })
	}
}

func TestAProbeDoesNotOpenAStagedPort(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	a.gate(datapath.Staged, 2)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	if err := h.ns.Do(func() error { return h.Inject(t.Context(), a.device, frame, 1) }); err == nil {
		t.Fatal("a probe was injected into a staged port")
	}
	b.inject(t, ip{protocol: protoUDP}.frame(2, 1, false, udp(1, 2, data))) // makes the devices for probes
	w.in(h.ns, func() error {                                               // followed or not
		d, err := nic.Find(a.device)
		return firstError(err, sendFrom("weftpr0", d.Index, frame))
	})
	eventually(t, "the probe is refused", func() bool { return a.drops(tracing.ReasonPortStaged) == 1 })
	if got := h.gateOf(t, a.device); got != datapath.Staged {
		t.Fatalf("gate %d", got)
	}
	b.silent()
}

func TestTheTimeOfAProbeEnds(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	if err := h.Arm(t.Context(), tracing.Label(keys[0], keys[1], vni, frame), 1, time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	a.inject(t, frame)
	if b.receive() == nil {
		t.Fatal("a label whose time is over is still caught")
	}
	if err := h.Arm(t.Context(), 0, 1, time.Minute); err == nil {
		t.Fatal("label 0 means no label")
	}
	if err := h.Inject(t.Context(), "nothing", frame, 1); err == nil {
		t.Fatal("injected into a device without a port")
	}
}

// TestLabelsAreThoseOfPackageTracing injects each labelled frame of the shared vectors and looks for the label the core gives
// it. Vectors of other keys are left to package tracing: the keys are the same arithmetic.
func TestLabelsAreThoseOfPackageTracing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	a.port.Guards = 0
	a.gate(datapath.Open, 1)
	h.apply(datapath.Change{Put: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: [6]byte{0x52, 0x54, 0, 0, 0, 2}}: {Device: b.device, Epoch: 1}}}})
	tested := 0
	for _, v := range vectors(t) {
		if v.keys != keys || v.vni != vni || v.label == 0 {
			continue
		}
		tested++
		if err := h.Arm(t.Context(), v.label, uint16(tested), time.Minute); err != nil {
			t.Fatal(err)
		}
		a.inject(t, v.frame)
		for _, hop := range h.hops(t, 0) {
			if hop.Label != v.label || hop.Session != uint16(tested) {
				t.Errorf("%s: hop %+v, want label %#x", v.name, hop, v.label)
			}
		}
		if err := h.Disarm(t.Context(), v.label); err != nil {
			t.Fatal(err)
		}
	}
	if tested < 20 {
		t.Fatalf("only %d vectors were tested", tested)
	}
}

// vector is a frame and its label.
type vector struct {
	name  string
	keys  [2]uint64
	vni   fabric.VNI
	frame []byte
	label uint64
}

// vectors reads the frames and labels that bind C and Go.
func vectors(tb testing.TB) (vs []vector) {
	tb.Helper()
	b, err := os.ReadFile("../tracing/testdata/labels.json")
	if err != nil {
		tb.Fatal(err)
	}
	var file []struct {
		Name, Key0, Key1, Frame, Label string
		VNI                            fabric.VNI
	}
	if err := json.Unmarshal(b, &file); err != nil {
		tb.Fatal(err)
	}
	for _, f := range file {
		v := vector{name: f.Name, vni: f.VNI}
		var errs [4]error
		v.keys[0], errs[0] = strconv.ParseUint(f.Key0, 16, 64)
		v.keys[1], errs[1] = strconv.ParseUint(f.Key1, 16, 64)
		v.label, errs[2] = strconv.ParseUint(f.Label, 16, 64)
		v.frame, errs[3] = hex.DecodeString(f.Frame)
		if i := slices.IndexFunc(errs[:], func(err error) bool { return err != nil }); i >= 0 {
			tb.Fatal(f.Name, errs[i])
		}
		vs = append(vs, v)
	}
	return vs
}
