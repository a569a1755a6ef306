package datapath_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// opinion asks nftables and the core about the same frames under the same rules.
type opinion struct {
	tb       testing.TB
	w        *world
	h        *host
	guests   [2]*tapGuest // the ports g1 and g50 of the core
	linear   *filteredBridge
	sets     *filteredBridge
	u        *universe
	snap     *fabric.Snapshot
	numbers  uint32 // given so far
	firsts   map[fragmentOf]bool
	allowed  int // of those compared
	answered int
	compared int
	excluded map[string]int
}

// Every run of the test asks at least this much.
const (
	opinionRuleSets = 40
	opinionBatches  = 8
	opinionBatch    = 100
)

// TestNftablesDecidesAsTheCore draws policies and frames at random, has nftables decide about them on a Linux bridge, once by a
// linear chain and once by sets, and compares frame by frame with what the core lets through between two taps. What is not compared
// is in docs/reference/second-opinion.md, with the reasons. WEFT_SEED repeats a run, WEFT_OPINION says for how long to go on.
func TestNftablesDecidesAsTheCore(t *testing.T) {
	seed, length := opinionSettings(t)
	o := newOpinion(t)
	o.linear, o.sets = o.w.filteredBridge("nl"), o.w.filteredBridge("ns")
	o.run(seed, length, opinionRuleSets, o.ruleSet)
}

// opinionSettings are the seed, and for how long to go on.
func opinionSettings(t *testing.T) (seed uint64, length time.Duration) {
	seed = 20261122
	var err error
	if s := os.Getenv("WEFT_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("WEFT_OPINION"); s != "" {
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	return seed, length
}

// run asks about one rule set after another, at least as many as given.
func (o *opinion) run(seed uint64, length time.Duration, least int, ruleSet func(*rand.Rand)) {
	began, sets := time.Now(), 0
	for ; sets < least || time.Since(began) < length; sets++ {
		ruleSet(rand.New(rand.NewPCG(seed, uint64(sets))))
		if o.tb.Failed() {
			o.tb.Fatalf("seed %d, rule set %d", seed, sets)
		}
	}
	o.account()
	o.tb.Logf("seed %d: %d frames under %d rule sets, %d compared, %d of them pass, %d are answered; not compared: %v", seed, o.numbers, sets, o.compared, o.allowed, o.answered, o.excluded)
}

func newOpinion(t *testing.T) *opinion {
	w := newWorld(t, 1, false)
	w.load()
	o := &opinion{tb: t, w: w, h: w.hosts[0], firsts: map[fragmentOf]bool{}, excluded: map[string]int{}}
	o.guests = [2]*tapGuest{w.tap(o.h, 1, 0), w.tap(o.h, 50, 0)}
	runtime.LockOSThread() // what one CPU sends keeps its order
	var one unix.CPUSet
	one.Set(0)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	return o
}

// ruleSet draws policies, puts them in force everywhere and asks about some frames.
func (o *opinion) ruleSet(r *rand.Rand) {
	o.u = newUniverse(r)
	o.u.extensions = []byte{60, 43, 44} // an authentication header is a protocol to nftables
	theme := pick(o.u, themes)
	o.snap = o.u.stateless(pick(o.u, []int{6, 30, 100, 200}), theme)
	o.put()
	var linear, sets ruleset
	for i, id := range []fabric.PortID{"g1", "g50"} {
		for _, d := range []fabric.Direction{fabric.Out, fabric.In} {
			name := []string{"guest_", "other_"}[i] + string(d)
			linear.linear(name, rulingOf(o.snap, id, d))
			sets.byTables(name, rulingOf(o.snap, id, d))
		}
	}
	o.linear.load(linear.text())
	o.sets.load(sets.text())
	talks := make([]*talk, 12)
	for range opinionBatches {
		for i := range talks {
			talks[i] = o.u.themed(theme)
		}
		o.ask(talks)
	}
}

// put puts the snapshot's rules in force in the core.
func (o *opinion) put() {
	local := plan.Local{VTEP: o.h.vtep, Attachments: map[fabric.PortID]plan.Attachment{}}
	for _, g := range o.guests {
		local.Attachments[g.port.Name] = plan.Attachment{Device: g.device, Kind: datapath.Tap}
	}
	want := plan.Wanted(o.snap, "h", local)
	have, err := o.h.Read(context.Background())
	if err != nil {
		o.tb.Fatal(err)
	}
	c := datapath.Change{Put: datapath.State{Tables: want.Tables, Ports: map[string]datapath.Port{}}, Delete: datapath.State{Tables: have.Tables}}
	for _, g := range o.guests {
		g.port.Policy, g.port.Guards = want.Ports[g.device].Policy, 0
		c.Put.Ports[g.device] = g.port
	}
	o.h.apply(c)
}

// ask sends a batch through all and compares what comes out.
func (o *opinion) ask(talks []*talk) {
	batch := make([]sample, opinionBatch)
	for i := range batch {
		batch[i] = o.draw(pick(o.u, talks))
	}
	core, linear, sets := o.pass(batch), o.linear.pass(batch), o.sets.pass(batch)
	if strangers := slices.Concat(core.strangers, linear.strangers, sets.strangers); len(strangers) > 0 {
		o.tb.Fatalf("frames nobody sent: % x", strangers)
	}
	for _, s := range batch {
		if name := o.exclude(s); name != "" {
			o.excluded[name]++
			if name == "malformed" && core.frames[s.number] != nil && (o.judges(s.from, false) || o.judges(1-s.from, true)) {
				o.tb.Errorf("the core lets a malformed frame through: %s", hex.EncodeToString(s.frame))
			}
			continue
		}
		o.compared++
		here, there, again := core.frames[s.number], linear.frames[s.number], sets.frames[s.number]
		for who, got := range map[string][]byte{"the core": here, "nftables, linear": there, "nftables, sets": again} {
			if got != nil && !bytes.Equal(got, s.frame) {
				o.tb.Errorf("%s changes a frame:\n%s\n%s", who, hex.EncodeToString(s.frame), hex.EncodeToString(got))
			}
		}
		if (here == nil) != (there == nil) || (there == nil) != (again == nil) {
			o.disagree(s, fmt.Sprintf("the core allows %v, nftables %v and by sets %v", here != nil, there != nil, again != nil))
			return
		}
		if here != nil {
			o.allowed++
		}
		if core.answered[s.number] {
			o.answered++
			if here != nil {
				o.tb.Errorf("a frame that passes is answered: %s", hex.EncodeToString(s.frame))
			}
		}
	}
}

// judges reports whether the core looks at what a guest sends or receives at all: it does not where no rule could tell.
func (o *opinion) judges(guest int, in bool) bool {
	return o.h.Judges(o.h.SlotOf(o.guests[guest].device), in)
}

// draw is the talk's next frame.
func (o *opinion) draw(t *talk) sample {
	from := o.u.IntN(2)
	dst := stations[1-from]
	if o.u.IntN(20) == 0 {
		dst = broadcast
	}
	t.fragment = uint16(o.numbers)
	o.numbers++
	return numbered(o.numbers, from, o.u.appendFrame(nil, t, from, dst, pick(o.u, o.u.macs)))
}

// pass sends a batch through the core. A tap's frame has reached the other tap when its sending ends, and so has the answer to a
// refused one its sender.
func (o *opinion) pass(batch []sample) passed {
	p := passed{frames: map[uint32][]byte{}, answered: map[uint32]bool{}}
	for _, s := range batch {
		sender, receiver := o.guests[s.from], o.guests[1-s.from]
		sender.send(s.frame)
		for frame := receiver.pending(); frame != nil; frame = receiver.pending() {
			p.take(frame)
		}
		for frame := sender.pending(); frame != nil; frame = sender.pending() {
			p.answered[s.number] = true
		}
	}
	return p
}

// disagree tells of a frame and of the rules that were asked.
func (o *opinion) disagree(s sample, how string) {
	text := fmt.Sprintf("frame %d from %d: %s\n%s", s.number, s.from, how, hex.EncodeToString(s.frame))
	for i, id := range []fabric.PortID{"g1", "g50"} {
		d := []fabric.Direction{fabric.Out, fabric.In}[(i+s.from)%2]
		l := rulingOf(o.snap, id, d)
		text += fmt.Sprintf("\n%s %s, default allows %v", id, d, l.allow)
		for _, r := range l.rules {
			all, lists := r.conditions()
			text += fmt.Sprintf("\n  %s: %v %v %s", r.Name, all, lists, r.verdict())
		}
	}
	o.tb.Error(text)
}
