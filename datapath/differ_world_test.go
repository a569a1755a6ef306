package datapath_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// remoteGuest is the guest that lives on another host.
const remoteGuest = 50

// tunnelHead is how many bytes VXLAN over IPv4 puts before a frame.
const tunnelHead = 50

// differ compares the core with the model, packet by packet, on one host with two ports that have rules and one that has none.
type differ struct {
	runner
	tb      testing.TB
	h       *host
	x       *wire
	in, ul  *ebpf.Program // vp_in and ul_in
	tagging *ebpf.Program // vp_in of frames with a tag
	witness *datapath.Witness
	docket  *datapath.Docket
	frags   *ebpf.Map
	flows   *ebpf.Map // maps of flows by slot
	index   map[string]uint32
	devices [4]uint32                 // by guest
	ports   [remoteGuest + 1]*guarded // by guest; nil for those without rules
	guarded []*guarded
	slots   [4]uint32              // by guest
	members [len(segmentIDs)][]int // guests by segment, in the order in which they get copies of a group frame
	// onSegments are those that ports with rules are on beside their own.
	onSegments map[datapath.SegmentKey]datapath.Segment
	under      fabric.MAC

	u        *universe
	talks    [16]*talk
	next     int
	model    *policy.Model
	snap     *fabric.Snapshot
	budget   bool          // rejected packets may be answered
	skew     time.Duration // by which the model's time is ahead
	clock    time.Time     // the model's, when the core judged last
	apart    time.Duration // by which the clocks of core and model may differ
	ids      map[policy.RuleRef]policy.RuleID
	story    story
	packets  int
	changed  int    // packets when the policies in force were put
	compared int    // entries of flows
	loose    uint64 // group frames that need not be copied
	replaced int
	seen     map[policy.Reason]int
	buffer   []byte

	heldFlows held[datapath.FlowKey, datapath.Flow]
}

// guarded is a port with rules.
type guarded struct {
	*tapGuest
	id    fabric.PortID
	slot  uint32
	flows *ebpf.Map // nil until rules open any
	hits  map[policy.RuleID]datapath.Hits
	// drops are how many frames of it, and for it, rules have dropped; copies how many of group frames it got.
	drops  map[fabric.Direction]uint64
	copies uint64
}

func newDiffer(t *testing.T) *differ {
	w := newWorld(t, 1, false)
	w.load()
	w.unbalanced = true // nobody sends what the programs redirect
	d := &differ{tb: t, apart: clocks, h: w.hosts[0], x: w.newWire(), index: map[string]uint32{}, seen: map[policy.Reason]int{}, ids: map[policy.RuleRef]policy.RuleID{}}
	d.buffer = make([]byte, 4096)
	for _, n := range []int{1, 2} {
		g := &guarded{tapGuest: w.tap(d.h, n, 0), hits: map[policy.RuleID]datapath.Hits{}, drops: map[fabric.Direction]uint64{}}
		g.id, g.port.Guards = g.port.Name, 0
		d.ports[n], d.guarded = g, append(d.guarded, g)
	}
	other := w.bareTap(d.h, 3, 0)
	other.port.Guards = 0
	w.plug(&other.station)
	d.h.remote(remoteGuest, d.x.vteps[0], netip.Addr{})
	witness, err := d.h.Witness()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { witness.Close() })
	d.witness, d.in, d.ul, d.docket = witness, witness.Programs["vp_in"], witness.Programs["ul_in"], witness.Docket
	d.tagging = tagging(t, d.in)
	d.frags, d.flows, d.under = mapOf(t, d.in, "fragments_v2"), mapOf(t, d.in, "flows_v2"), d.h.underlayMAC()
	for i, device := range []string{"eth0", "tap1", "tap2", "tap3"} {
		w.in(d.h.ns, func() error {
			found, err := nic.Find(device)
			d.index[device] = uint32(found.Index)
			d.devices[i] = uint32(found.Index)
			return err
		})
	}
	d.joinAll()
	d.settle()
	return d
}

// settle keeps the test in the host's namespace: test runs look for their devices where they are called.
func (d *differ) settle() {
	runtime.LockOSThread()
	ns, err := os.Open(filepath.Join("/run/netns", d.h.ns.Name))
	if err != nil {
		d.tb.Fatal(err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		d.tb.Fatal(err)
	}
	head := ether(d.under, d.x.mac, typeIPv4, vxlan(d.x.vteps[0], d.h.vtep, vni, ip{}, nil))
	copy(d.buffer, head)
}

// wrap writes the lengths of the tunnel's headers, which stand before the frame.
func (d *differ) wrap(f []byte) {
	binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
	binary.BigEndian.PutUint16(f[38:], uint16(len(f)-34))
	f[24], f[25] = 0, 0
	binary.BigEndian.PutUint16(f[24:], ^checksum(f[14:34], 0))
}

// replug takes the guarded ports out and puts them in again, open and without rules: the first rules that they get then adopt
// connections.
func (d *differ) replug() {
	d.loose, d.onSegments = 0, nil
	for _, g := range d.guarded {
		key := datapath.FDBKey{VNI: vni, MAC: g.port.MAC}
		g.port.Gate = datapath.Open
		d.h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{g.device: {}}}})
		g.port.Trunk = false
		g.judge(d.tb, nil)
		d.h.apply(datapath.Change{Put: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{key: {Device: g.device, Epoch: 1}}}})
		g.hits, g.drops, g.copies = map[policy.RuleID]datapath.Hits{}, map[fabric.Direction]uint64{}, 0
	}
	d.joinAll()
}

// emptySnapshot is a fabric in which no port has rules.
func (d *differ) emptySnapshot() *fabric.Snapshot { return d.u.snapshot(0) }

// replace puts the rules of a snapshot in force at the ports.
func (d *differ) replace(s *fabric.Snapshot) {
	d.story.note("new policies")
	judged := d.judgesAll()
	d.snap = s
	local := plan.Local{VTEP: d.h.vtep, Attachments: map[fabric.PortID]plan.Attachment{}}
	for _, g := range d.guarded {
		local.Attachments[g.id] = plan.Attachment{Device: g.device, Kind: datapath.Tap}
	}
	want := plan.Wanted(s, "h", local)
	c := datapath.Change{Put: datapath.State{Tables: want.Tables, Ports: map[string]datapath.Port{}}}
	if d.replaced++; d.replaced%4 == 0 { // what waits for a grace period of the kernel's
		have, err := d.h.Read(context.Background())
		if err != nil {
			d.tb.Fatal(err)
		}
		c.Delete.Tables = have.Tables
	}
	for _, g := range d.guarded {
		g.port.Policy, g.port.Gate, g.port.Guards = want.Ports[g.device].Policy, want.Ports[g.device].Gate, 0
		g.port.Trunk = want.Ports[g.device].Trunk
		c.Put.Ports[g.device] = g.port
	}
	d.resegment(want.Segments, &c)
	d.h.apply(c)
	if !judged || !d.judgesAll() {
		d.age(31531 * time.Millisecond) // what is not judged is not remembered for later fragments either
	}
	d.model.Replace(s)
	d.changed = d.packets
	d.look()
}

// look learns where the ports are now.
func (d *differ) look() {
	for n := 1; n <= 3; n++ {
		d.slots[n] = d.h.SlotOf(fmt.Sprintf("tap%d", n))
	}
	d.lookAtMembers()
	for _, g := range d.guarded {
		g.slot = d.h.SlotOf(g.device)
		g.openFlows(d)
		d.model.Adopt(g.id, d.h.Adopting(g.slot))
	}
}

func (d *differ) judgesAll() bool {
	for _, g := range d.guarded {
		if !d.h.Judges(g.slot, true) || !d.h.Judges(g.slot, false) {
			return false
		}
	}
	return true
}

// adopt has a port take connections on, or no longer.
func (d *differ) adopt() {
	g := pick(d.u, d.guarded)
	on := d.u.IntN(2) == 0
	d.story.note("%s adopts: %v", g.id, on)
	d.h.SetAdopting(g.slot, on)
	d.model.Adopt(g.id, on)
}

// forget ends all flows and forgets all fragments.
func (d *differ) forget() {
	d.skew, d.clock = 0, monotonicTime(d.tb)
	d.eachFragment(func(key *datapath.FragmentKey, _ *datapath.Fragment) error { return d.frags.Delete(key) })
	d.look()
	for _, g := range d.guarded {
		if g.flows != nil {
			d.heldFlows.forget(d.tb, g.flows)
		}
	}
}

// monotonicTime is the time on the clock that the core reads.
func monotonicTime(tb testing.TB) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		tb.Fatal(err)
	}
	return time.Unix(0, now.Nano())
}

// age lets time pass: for the model by its clock, for the core by what it has written down.
func (d *differ) age(by time.Duration) {
	d.story.note("%v later", by)
	for _, g := range d.guarded {
		if g.flows != nil {
			g.ageFlows(d, by)
		}
	}
	d.eachFragment(func(key *datapath.FragmentKey, f *datapath.Fragment) error {
		f.At, f.Again = f.At-uint64(by), f.Again-uint64(by)
		return d.frags.Update(key, f, ebpf.UpdateExist)
	})
	d.skew, d.clock = d.skew+by, d.clock.Add(by)
}

// eachFragment calls do with every first fragment that the ports remember.
func (d *differ) eachFragment(do func(*datapath.FragmentKey, *datapath.Fragment) error) {
	var held datapath.Fragment
	for _, g := range d.guarded {
		for place := range uint8(64) {
			key := datapath.FragmentKey{Slot: g.slot, In: place >> 5, Place: place & 31}
			if d.frags.Lookup(&key, &held) != nil {
				continue
			}
			if err := do(&key, &held); err != nil {
				d.tb.Fatal(err)
			}
		}
	}
}
