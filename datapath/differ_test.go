package datapath_test

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// fewestPackets is how many packets `make test` plays.
const fewestPackets = 4_100_000

// TestTheCoreDecidesAsTheModel draws policies and packets at random and compares what the core does with what policy.Model
// says (docs/reference/proof.md). WEFT_SEED repeats a run, WEFT_DIFFER says for how long to go on.
func TestTheCoreDecidesAsTheModel(t *testing.T) {
	seed, length := seedOf(t), time.Duration(0)
	if s := os.Getenv("WEFT_DIFFER"); s != "" {
		n, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		length = n
	}
	d := newDiffer(t)
	began, busy, episodes := time.Now(), processorTime(t), uint64(0)
	for ; length == 0 && d.packets < fewestPackets || length != 0 && time.Since(began) < length; episodes++ {
		d.episode(rand.New(rand.NewPCG(seed, episodes)), episodes)
		if t.Failed() {
			t.Fatalf("seed %d, episode %d, packet %d", seed, episodes, d.packets)
		}
	}
	took := time.Since(began)
	t.Logf("seed %d: %d packets in %d episodes and %v, %.0f a second, %.0f in a second of processor time; %d entries of flows compared: %v", seed, d.packets, episodes,
		took.Round(time.Millisecond), float64(d.packets)/took.Seconds(), float64(d.packets)/(processorTime(t)-busy).Seconds(), d.compared, d.seen)
}

// seedOf is what random tests begin with.
func seedOf(tb testing.TB) uint64 {
	s := os.Getenv("WEFT_SEED")
	if s == "" {
		return 20261122
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// processorTime is how long this thread has been on a processor.
func processorTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// sizes are how many rules the policies of an episode have, for how many packets they last, and how often they are amended.
var sizes = []struct{ rules, packets, amends int }{
	{0, 4000, 1}, {3, 10000, 4}, {10, 20000, 4}, {30, 25000, 4}, {100, 30000, 4}, {100, 30000, 2}, {600, 60000, 2}, {2000, 120000, 2},
}

// episode begins without flows, and plays packets under a few policies one after another.
func (d *differ) episode(r *rand.Rand, number uint64) {
	d.u, d.story = newUniverse(r), story{}
	d.model = policy.NewModel(d.emptySnapshot())
	if number%8 == 0 {
		d.replug()
	}
	d.forget()
	for range d.talks {
		d.newTalk()
	}
	for i := range 4 {
		size := pick(d.u, sizes)
		long := number%16 == 1 && i == 0 // chance brings one too late, or none, into what make test plays
		if long {
			size = sizes[2]
		}
		s := d.u.snapshot(size.rules)
		d.u.rarities(s)
		d.u.segments(s)
		if size.rules == 10 && d.u.IntN(3) == 0 || long {
			size.amends = 1
			d.u.lengthen(s, 8300+d.u.IntN(4000))
		}
		d.replace(s)
		if d.play(size.packets / 2); d.tb.Failed() {
			return
		}
		for range size.amends {
			s = d.u.amend(s, d.talks[:])
			d.replace(s)
			if d.u.IntN(2) == 0 { // flows that other rules have allowed are idle now, or would be under these
				d.age(pick(d.u, ages[:6]))
			}
			if d.play(size.packets / 2 / size.amends); d.tb.Failed() {
				return
			}
		}
	}
	d.compareHits()
	d.compareCounters()
}

// play plays so many packets under the policies in force.
func (d *differ) play(packets int) {
	for i := range packets {
		if i%64 == 0 {
			d.refill()
		}
		if i%1024 == 0 {
			d.compareFlows()
		}
		switch n := d.u.IntN(8000); {
		case n < 4:
			d.age(pick(d.u, ages))
		case n < 40:
			d.newTalk()
		case n < 48:
			d.adopt()
		}
		if d.step(pick(d.u, d.talks[:])); d.tb.Failed() {
			return
		}
	}
	d.compareAllFlows()
}

// ages pass the times at which flows and fragments are forgotten.
var ages = []time.Duration{4507 * time.Millisecond, 9511 * time.Millisecond, 15517 * time.Millisecond, 20521 * time.Millisecond, 31531 * time.Millisecond, 65537 * time.Millisecond, 150539 * time.Millisecond, 200543 * time.Millisecond, 7500543 * time.Millisecond, 8001547 * time.Millisecond}

// newTalk puts another talk in the place of one.
func (d *differ) newTalk() {
	between := pick(d.u, [][2]int{{1, 2}, {2, 1}, {1, 3}, {3, 1}, {3, 2}, {1, remoteGuest}, {remoteGuest, 1}, {2, remoteGuest}, {remoteGuest, 2}})
	at := d.next % len(d.talks)
	d.talks[at] = d.u.talk(between)
	d.next++
}

// fail tells what was last.
func (d *differ) fail(w *trip, format string, args ...any) {
	d.tb.Helper()
	text := fmt.Sprintf(format, args...)
	if w != nil {
		text += fmt.Sprintf("\n%s from guest %d to %d by VNI %d, %d packets", hex.EncodeToString(w.frame), w.src, w.dst, w.vni, w.packets)
	}
	d.tb.Error(text + "\nafter:" + d.story.String())
}

// told is one event of a run.
type told struct {
	packet    policy.Packet
	port      fabric.PortID
	direction fabric.Direction
	want      policy.Verdict
	other     string // instead of a packet
}

// story is what was last, and is told when it matters.
type story struct {
	last [24]told
	next int
}

func (s *story) add(t told) {
	s.last[s.next%len(s.last)] = t
	s.next++
}

func (s *story) note(format string, args ...any) { s.add(told{other: fmt.Sprintf(format, args...)}) }

// String is one line for each event.
func (s *story) String() (text string) {
	n := min(s.next, len(s.last))
	for i := s.next - n; i < s.next; i++ {
		t := s.last[i%len(s.last)]
		if t.other != "" {
			text += "\n" + t.other
			continue
		}
		text += fmt.Sprintf("\n%s %s %+v: want %+v", t.port, t.direction, t.packet, t.want)
		if t.packet.Quote != nil {
			text += fmt.Sprintf(", quotes %+v", *t.packet.Quote)
		}
	}
	return text
}
