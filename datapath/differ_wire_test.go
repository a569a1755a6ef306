package datapath_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// wired compares the core with the model where frames are really sent, between three guests on two hosts: what a test run of a
// program refuses, and what the kernel's VXLAN device hands to the core.
type wired struct {
	*differ
	hosts []*host
	sent  map[string]int // frames by kind
}

// frames that the test sends under each of its policies, and how many policies there are.
const (
	wiredPolicies = 16
	wiredFrames   = 200
)

// TestFramesOnAWireAreDecidedAsTheModel sends short frames, whole ones and aggregates of TCP and UDP from taps, to guests of the
// same host, of another one and of both, and compares what arrives, the flows, and the packets and bytes that rules have counted
// (ADR 11, 6), with what policy.Model says. WEFT_SEED repeats a run.
func TestFramesOnAWireAreDecidedAsTheModel(t *testing.T) {
	seed := seedOf(t)
	for name, ipv6 := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			v := newWired(t, ipv6)
			for i := range uint64(wiredPolicies) {
				if v.policy(rand.New(rand.NewPCG(seed, i))); t.Failed() {
					t.Fatalf("seed %d, policy %d", seed, i)
				}
			}
			v.sent["flow"] = v.compared
			t.Logf("seed %d: %v frames: %v", seed, v.sent, v.seen)
			for _, kind := range []string{"short", "aggregate", "group", "aggregate to a group", "passes", "dropped", "flow"} {
				if v.sent[kind] < 10 {
					t.Errorf("%d of kind %s: this tells nothing", v.sent[kind], kind)
				}
			}
		})
	}
}

// policy sends frames under rules of its own.
func (v *wired) policy(r *rand.Rand) {
	v.u = newUniverse(r)
	v.put(v.u.snapshot(pick(v.u, []int{0, 3, 10, 30, 100})))
	for i := range v.talks {
		v.talks[i] = v.u.talk(pick(v.u, [][2]int{{1, 2}, {2, 1}, {1, 3}, {3, 1}, {2, 3}, {3, 2}}))
		for j := range v.talks[i].ends { // another host hears a MAC from where it is at home alone
			v.talks[i].ends[j].mac = mac(v.talks[i].ends[j].number)
		}
	}
	for range wiredFrames {
		if v.play(pick(v.u, v.talks[:])); v.tb.Failed() {
			return
		}
	}
	v.clock = monotonicTime(v.tb)
	v.compareFlows()
	v.compareHits()
}

func newWired(t *testing.T, ipv6 bool) *wired {
	w := newWorld(t, 2, ipv6)
	w.load()
	v := &wired{hosts: w.hosts, sent: map[string]int{}, differ: &differ{tb: t, apart: time.Hour, seen: map[policy.Reason]int{}, ids: map[policy.RuleRef]policy.RuleID{}}}
	for n, h := range []*host{1: w.hosts[0], 2: w.hosts[0], 3: w.hosts[1]} {
		if h == nil {
			continue
		}
		g := &guarded{tapGuest: w.bareTap(h, n, nic.FullOffload), hits: map[policy.RuleID]datapath.Hits{}, drops: map[fabric.Direction]uint64{}}
		g.id, g.port.Guards = g.port.Name, 0
		w.plug(&g.station)
		g.slot = h.SlotOf(g.device)
		v.ports[n], v.guarded = g, append(v.guarded, g)
	}
	return v
}

// put puts the rules of a snapshot in force at all three guests, who begin without connections.
func (v *wired) put(s *fabric.Snapshot) {
	third := *s.Ports["g2"]
	third.Metadata.Name, third.Spec.MAC = "g3", mac(3)
	s.Ports["g3"], s.Locations["g3"] = &third, fabric.Location{Port: "g3", Switch: "sw", Host: "h1", Epoch: 1}
	for _, empty := range []bool{true, false} {
		for i, name := range []fabric.HostID{"h", "h1"} {
			local := plan.Local{VTEP: v.hosts[i].vtep, Attachments: map[fabric.PortID]plan.Attachment{}}
			c := datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{}}}
			for _, g := range v.guarded {
				if g.host == v.hosts[i] {
					local.Attachments[g.id] = plan.Attachment{Device: g.device, Kind: datapath.Tap}
				}
			}
			want := plan.Wanted(s, name, local)
			c.Put.Tables = want.Tables
			for _, g := range v.guarded {
				if g.host != v.hosts[i] {
					continue
				}
				if g.port.Policy = want.Ports[g.device].Policy; empty {
					g.port.Policy = policy.Digest{}
				}
				c.Put.Ports[g.device] = g.port
			}
			v.hosts[i].apply(c)
		}
	}
	v.snap, v.model = s, policy.NewModel(s)
	for _, g := range v.guarded {
		g.host.SetAdopting(g.slot, false)
	}
	for _, h := range v.hosts { // fragments of before are not remembered by the new model
		v.in = h.program(v.tb, "vp_in")
		v.frags, v.flows = mapOf(v.tb, v.in, "fragments_v2"), mapOf(v.tb, v.in, "flows_v2")
		for _, g := range v.guarded {
			if g.host == h {
				g.openFlows(v.differ)
			}
		}
		v.eachFragment(func(key *datapath.FragmentKey, _ *datapath.Fragment) error { return v.frags.Delete(key) })
	}
	v.frags = nil
}

// play sends one frame.
func (v *wired) play(t *talk) {
	from := v.u.IntN(2)
	w := trip{src: t.ends[from].number, dst: t.ends[1-from].number, group: v.u.IntN(16) == 0, vni: vni, packets: 1}
	to := mac(w.dst)
	if w.group {
		to = pick(v.u, groups)
	}
	var head vnet
	kind := "whole"
	switch n := v.u.IntN(6); {
	case n == 0:
		head, w.frame = v.aggregate(t, from, to)
		w.packets, kind = v.packetsOf(head, w.frame), "aggregate"
	default:
		w.frame = v.u.appendFrame(nil, t, from, to, t.ends[from].mac)
		if n == 1 {
			w.frame, kind = w.frame[:14+v.u.IntN(min(46, len(w.frame)-14))], "short"
		}
	}
	w.wire = len(w.frame) + (w.packets-1)*int(head.HeaderLen)
	p, bad := policy.Parse(w.frame)
	if bad == nil && isNeighbor(&p) {
		return // the guards and the fabric answer or drop it
	}
	v.sent[kind]++
	if w.group {
		v.sent["group"]++
		if kind == "aggregate" {
			v.sent["aggregate to a group"]++
		}
	}
	v.send(&w, head, &p, bad != nil)
}

// send sends a frame and compares where it arrives with what the model says.
func (v *wired) send(w *trip, head vnet, p *policy.Packet, malformed bool) {
	sender := v.ports[w.src]
	before := v.refusals()
	for _, g := range v.guarded {
		g.host.SetBudgets(g.slot, false) // an answer would be one more frame, under rules of its own
	}
	sender.sendVnet(head, w.frame)
	passes := !malformed
	v.clock = monotonicTime(v.tb)
	if passes {
		found := v.ask(w, sender, fabric.Out, p)
		passes = found.passes()
	}
	if !passes {
		v.expectRefusals(w, before+1)
	}
	for _, g := range v.guarded {
		if g == sender || !w.group && g != v.ports[w.dst] {
			continue
		}
		arrives := passes
		if passes {
			found := v.ask(w, g, fabric.In, p)
			if arrives = found.passes(); !arrives {
				before++
				v.expectRefusals(w, before)
			}
		}
		v.expectArrival(w, g, head, arrives)
	}
}

// refusals are how many frames were dropped at the ports of all hosts, by rules or before them.
func (v *wired) refusals() (n uint64) {
	for _, h := range v.hosts {
		ports, _ := h.counters()
		for _, c := range ports {
			for _, drops := range []map[tracing.Reason]uint64{c.DropsIn, c.DropsOut} {
				for _, count := range drops {
					n += count
				}
			}
		}
	}
	return n
}

// expectRefusals waits until so many frames were dropped.
func (v *wired) expectRefusals(w *trip, n uint64) {
	if v.sent["dropped"]++; !await(5*time.Second, func() bool { return v.refusals() >= n }) {
		v.fail(w, "%d frames are refused, want %d", v.refusals(), n)
	}
}

// expectArrival fails unless a guest receives the frame, if it should.
func (v *wired) expectArrival(w *trip, g *guarded, head vnet, arrives bool) {
	if !arrives {
		if got := g.pending(); got != nil {
			v.fail(w, "%s receives what it should not: %x", g.id, got[:min(len(got), 100)])
		}
		return
	}
	v.sent["passes"]++
	h, got := g.receiveVnet(5 * time.Second)
	if !bytes.Equal(got, w.frame) || h.Type != head.Type || h.Size != head.Size {
		v.fail(w, "%s receives %d bytes with %+v, want %d with %+v:\n%x", g.id, len(got), h, len(w.frame), head, got[:min(len(got), 100)])
	}
}

// aggregate draws a frame of a talk's addresses that is several TCP or UDP packets on a wire.
func (v *wired) aggregate(t *talk, from int, dst fabric.MAC) (vnet, []byte) {
	src, to := t.ends[from], t.ends[1-from]
	payload := make([]byte, 200+v.u.IntN(20000))
	size := pick(v.u, []int{100, 199, 536, 1000, 1400})
	size = min(size, len(payload)-1)
	for len(payload)/size > 60 {
		size *= 2
	}
	ethertype, offset := uint16(typeIPv4), 34
	if src.address.Is6() {
		ethertype, offset = typeIPv6, 54
	}
	h := vnet{Flags: needsCsum, Size: uint16(min(size, 1400)), CsumStart: uint16(offset)}
	var segment []byte
	protocol := uint8(protoTCP)
	if v.u.IntN(3) == 0 {
		protocol = protoUDP
		segment = udp(src.port, to.port, payload)
		h.Type, h.CsumAt, h.HeaderLen = gsoUDPL4, 6, uint16(offset+8)
		binary.BigEndian.PutUint16(segment[6:], pseudo(src.address, to.address, protoUDP, len(segment)))
	} else {
		segment = v.segmentOf(t, from, payload)
		h.Type, h.CsumAt, h.HeaderLen = gsoTCP4, 16, uint16(offset+20)
		if src.address.Is6() {
			h.Type = gsoTCP6
		}
	}
	packet := ip{protocol: protocol, df: true}.packet(src.address, to.address, segment)
	return h, ether(dst, src.mac, ethertype, packet)
}

// segmentOf is a talk's next data, as much as is wanted, with the checksum of the pseudo header.
func (v *wired) segmentOf(t *talk, from int, payload []byte) []byte {
	h := &t.tcp
	s := tcp(t.ends[from].address, t.ends[1-from].address, pick(v.u, []uint8{ack, ack | psh, ack | fin}), nil, payload)
	binary.BigEndian.PutUint16(s, t.ends[from].port)
	binary.BigEndian.PutUint16(s[2:], t.ends[1-from].port)
	binary.BigEndian.PutUint32(s[4:], h.seq[from])
	binary.BigEndian.PutUint32(s[8:], h.seq[1-from])
	h.seq[from] += uint32(len(payload)) + uint32(s[13]&fin)
	return s
}

// packetsOf is how many packets an aggregate is on a wire.
func (v *wired) packetsOf(h vnet, frame []byte) int {
	payload, size := len(frame)-int(h.HeaderLen), int(h.Size)
	return (payload + size - 1) / size
}
