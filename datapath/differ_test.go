package datapath_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// differ compares the core with the model, packet by packet, at the port g1 of one host.
type differ struct {
	tb     testing.TB
	h      *host
	x      *wire
	g      *tapGuest
	in     *ebpf.Program // vp_in
	ul     *ebpf.Program // ul_in
	docket *ebpf.Map
	frags  *ebpf.Map
	flows  *ebpf.Map // of the port
	index  map[string]uint32
	under  fabric.MAC
	slot   uint32
	last   uint64 // the core's last judgement

	u       *universe
	snap    *fabric.Snapshot
	model   *policy.Model
	skew    time.Duration // by which the model's time is ahead
	hits    map[policy.RuleID]datapath.Hits
	story   []func() string // what was last, and is told when it matters
	packets int
	seen    map[policy.Reason]int
}

// TestTheCoreDecidesAsTheModel draws policies and packets at random and compares verdict, reason, rule, meter and counters of
// the core with those of policy.Model. WEFT_SEED repeats a run, WEFT_DIFFER says for how long to go on.
func TestTheCoreDecidesAsTheModel(t *testing.T) {
	seed, length := uint64(20261122), 45*time.Second
	if s := os.Getenv("WEFT_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	if s := os.Getenv("WEFT_DIFFER"); s != "" {
		n, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		length = n
	}
	d := newDiffer(t)
	began, episodes := time.Now(), 0
	for ; time.Since(began) < length; episodes++ {
		d.episode(rand.New(rand.NewPCG(seed, uint64(episodes))))
		if t.Failed() {
			t.Fatalf("seed %d, episode %d, packet %d", seed, episodes, d.packets)
		}
	}
	t.Logf("seed %d: %d packets in %d episodes, %.0f a second: %v", seed, d.packets, episodes, float64(d.packets)/time.Since(began).Seconds(), d.seen)
}

func newDiffer(t *testing.T) *differ {
	w := newWorld(t, 1, false)
	w.load()
	w.unbalanced = true // nobody sends what the programs redirect
	d := &differ{tb: t, h: w.hosts[0], x: w.newWire(), index: map[string]uint32{}, seen: map[policy.Reason]int{}}
	d.g = w.tap(d.h, 1, 0)
	other := w.bareTap(d.h, 3, 0)
	other.port.Guards = 0
	w.plug(&other.station)
	d.h.remote(50, d.x.vteps[0], netip.Addr{})
	d.in, d.ul = d.h.program(t, "vp_in"), d.h.program(t, "ul_in")
	d.frags = mapOf(t, d.in, "fragments_v1")
	d.docket, d.under = mapOf(t, d.in, "docket"), d.h.underlayMAC()
	for _, device := range []string{"tap1", "tap3", "eth0"} {
		w.in(d.h.ns, func() error {
			found, err := nic.Find(device)
			d.index[device] = uint32(found.Index)
			return err
		})
	}
	runtime.LockOSThread() // the docket is this CPU's
	var one unix.CPUSet
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(filepath.Join("/run/netns", d.h.ns.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil { // test runs look for their devices where they are called
		t.Fatal(err)
	}
	return d
}

// episode begins with an empty port, and plays packets under a few policies one after another.
func (d *differ) episode(r *rand.Rand) {
	d.u, d.skew, d.story = newUniverse(r), 0, nil
	d.hits = map[policy.RuleID]datapath.Hits{}
	d.h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{d.g.device: {}}}})
	rules := pick(d.u, []int{3, 10, 30, 30, 100, 600})
	if d.u.IntN(6) == 0 { // connections are adopted by the first rules of a port that was open without any
		d.g.judge(d.tb, nil)
	}
	d.snap = d.u.snapshot(rules)
	d.model = policy.NewModel(d.snap)
	d.put()
	d.slot = d.h.SlotOf(d.g.device)
	d.openFlows()
	forget(d.tb, d.frags)
	d.g.host.apply(datapath.Change{Put: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(1)}: {Device: d.g.device, Epoch: 1}}}})
	d.model.Adopt("g1", d.h.Adopting(d.slot))
	talks := make([]*talk, 12)
	for i := range talks {
		talks[i] = d.u.talk()
	}
	for range 20000 {
		switch n := d.u.IntN(4000); {
		case n == 0:
			d.snap = d.u.snapshot(rules)
			d.note("new policies")
			judged := d.judgesAll()
			d.put()
			if !judged || !d.judgesAll() {
				d.age(31500 * time.Millisecond) // what is not judged is not remembered for later fragments either
			}
			d.model.Replace(d.snap)
			d.model.Adopt("g1", d.h.Adopting(d.slot))
		case n < 20:
			// No few of them add up to an idle time: the clocks of core and model differ by some milliseconds.
			d.age(pick(d.u, []time.Duration{4370, 9370, 20370, 31370, 65370, 200370, 8001370}) * time.Millisecond)
		case n < 60:
			talks[d.u.IntN(len(talks))] = d.u.talk()
		}
		d.step(pick(d.u, talks))
		if d.tb.Failed() {
			return
		}
	}
	d.compareHits()
}

func (d *differ) judgesAll() bool { return d.h.Judges(d.slot, true) && d.h.Judges(d.slot, false) }

func (d *differ) note(format string, args ...any) {
	d.story = append(d.story[max(0, len(d.story)-8):], func() string { return fmt.Sprintf(format, args...) })
}

// put puts the snapshot's rules in force at the port.
func (d *differ) put() {
	local := plan.Local{VTEP: d.h.vtep, Attachments: map[fabric.PortID]plan.Attachment{"g1": {Device: d.g.device, Kind: datapath.Tap}}}
	want := plan.Wanted(d.snap, "h", local)
	d.g.port.Policy, d.g.port.Guards = want.Ports[d.g.device].Policy, 0
	have, err := d.h.Read(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	defer d.openFlows()
	d.h.apply(datapath.Change{Put: datapath.State{Tables: want.Tables, Ports: map[string]datapath.Port{d.g.device: d.g.port}}, Delete: datapath.State{Tables: have.Tables}})
}

// age lets time pass: for the model by its clock, for the core by what it has written down.
func (d *differ) age(by time.Duration) {
	d.note("%v later", by)
	d.skew += by
	if d.flows != nil {
		change(d.tb, d.flows, func(_ *datapath.FlowKey, f *datapath.Flow) { f.Seen -= uint64(by) })
	}
	change(d.tb, d.frags, func(_ *datapath.FragmentKey, f *datapath.Fragment) {
		f.At -= uint64(by)
		f.Again = f.At
	})
}

// openFlows opens the map of the port's flows, if it has one.
func (d *differ) openFlows() {
	if d.flows != nil {
		d.flows.Close()
		d.flows = nil
	}
	outer := mapOf(d.tb, d.in, "flows_v1")
	defer outer.Close()
	var id ebpf.MapID
	if outer.Lookup(d.slot, &id) != nil {
		return
	}
	flows, err := ebpf.NewMapFromID(id)
	if err != nil {
		d.tb.Fatal(err)
	}
	d.flows = flows
}

// step plays one packet.
func (d *differ) step(t *talk) {
	from := d.u.IntN(2)
	var frame, sent []byte
	program, device, direction := d.in, "tap1", fabric.Out
	switch {
	case from == 0:
		frame = d.u.frameOf(t, 0, mac(50), pick(d.u, d.u.macs))
		sent = frame
	case d.u.IntN(2) == 0:
		frame = d.u.frameOf(t, 1, mac(1), pick(d.u, d.u.macs))
		sent, device, direction = frame, "tap3", fabric.In
	default:
		frame = d.u.frameOf(t, 1, mac(1), mac(50))
		sent = ether(d.under, d.x.mac, typeIPv4, vxlan(d.x.vteps[0], d.h.vtep, vni, ip{}, frame))
		program, device, direction = d.ul, "eth0", fabric.In
		if k := frame[12:14]; k[0] != 0x08 || k[1] != 0 {
			if k[0] != 0x86 || k[1] != 0xdd {
				return // the kernel's device unpacks it
			}
		}
	}
	d.packets++
	ran, err := program.Run(&ebpf.RunOptions{Data: sent, Context: skbContext{Ifindex: d.index[device]}})
	if err != nil {
		d.tb.Fatal(err)
	}
	now := time.Now().Add(d.skew)
	p, bad := policy.Parse(frame)
	if bad != nil {
		// Some is seen by a judgement alone, such as a transport header in Ethernet's padding; no rule is asked about it.
		if !d.h.Judges(d.slot, direction == fabric.In) {
			return
		}
		if judged := d.judged(); ran != 2 || judged.Turn != d.last {
			d.fail("a frame that is no packet (%v): verdict %d, judged %v\n%s", bad, ran, judged.Turn != d.last, hex.EncodeToString(frame))
		}
		return
	}
	want := d.model.Judge("g1", direction, p, now)
	d.seen[want.Reason]++
	d.note("%s %+v by %s: want %+v", direction, p, device, want)
	if want.Reason == policy.ByNeighbor {
		return // the guards and the fabric answer or drop it
	}
	if !d.h.Judges(d.slot, direction == fabric.In) {
		if want.Rule != (policy.RuleRef{}) || want.Action != fabric.Allow || want.Meter != (policy.RuleRef{}) || ran != tcxRedirect {
			d.fail("not judged, verdict %d; want %+v", ran, want)
		}
		return
	}
	got := d.judged()
	d.last = got.Turn
	d.compare(want, direction, &got, ran, frame)
}

// judged is what the core found about the packet that it judged last.
func (d *differ) judged() datapath.Docket {
	var dockets []datapath.Docket
	if err := d.docket.Lookup(uint32(0), &dockets); err != nil {
		d.tb.Fatal(err)
	}
	return dockets[0]
}

var reasons = map[fabric.Action]tracing.Reason{fabric.Allow: 0, fabric.Deny: tracing.ReasonPolicyDenied, fabric.Reject: tracing.ReasonPolicyRejected}

// compare fails unless the core found what the model says.
func (d *differ) compare(want policy.Verdict, direction fabric.Direction, got *datapath.Docket, ran uint32, frame []byte) {
	reason := reasons[want.Action]
	if want.Reason == policy.ByNoFlow {
		reason = tracing.ReasonCtNoFlow
	}
	have := tracing.Reason(got.Reason)
	if want.Reason == policy.ByFragment && want.Action == fabric.Deny && have == tracing.ReasonCtNoFlow {
		have = reason
	}
	rule, meter := policy.DefaultID(direction), policy.RuleID(0)
	if want.Rule != (policy.RuleRef{}) {
		rule = policy.ID(want.Rule.Policy, want.Rule.Rule)
	}
	if want.Meter != (policy.RuleRef{}) {
		meter = policy.ID(want.Meter.Policy, want.Meter.Rule)
	}
	passes := ran == tcxRedirect || want.Action != fabric.Allow
	if have != reason || policy.RuleID(got.Rule) != rule || policy.RuleID(got.Meter) != meter || !passes {
		d.fail("the core: verdict %d, %v, rule %x, meter %x; want %v, rule %x, meter %x\nkind %d, classes %v, flow key %+v\n%s", ran, have, got.Rule, got.Meter, reason, rule, meter, got.Kind, got.Combo.Class, got.Key, hex.EncodeToString(frame))
		return
	}
	for _, id := range []policy.RuleID{rule, meter} {
		if id != 0 {
			h := d.hits[id]
			d.hits[id] = datapath.Hits{Packets: h.Packets + 1, Bytes: h.Bytes + uint64(len(frame))}
		}
	}
}

// compareHits compares the counters of all rules.
func (d *differ) compareHits() {
	all, err := d.h.RuleHits(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	got := all["g1"]
	for id := range got {
		if _, known := d.hits[id]; !known && got[id].Packets > 0 {
			d.fail("rule %x has %+v, want none", id, got[id])
		}
	}
	for id, want := range d.hits {
		if got[id].Packets != want.Packets || got[id].Bytes != want.Bytes {
			d.fail("rule %x has %+v, want %+v", id, got[id], want)
		}
	}
}

// fail tells what was last.
func (d *differ) fail(format string, args ...any) {
	d.tb.Helper()
	text := fmt.Sprintf(format, args...) + "\nafter:"
	for _, tell := range d.story {
		text += "\n" + tell()
	}
	d.tb.Error(text)
}
