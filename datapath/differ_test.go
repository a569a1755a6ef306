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
const fewestPackets = 4_000_000

// TestTheCoreDecidesAsTheModel draws policies and packets at random and compares what the core does with what policy.Model
// says (docs/reference/proof.md). WEFT_SEED repeats a run, WEFT_DIFFER says for how long to go on.
func TestTheCoreDecidesAsTheModel(t *testing.T) {
	seed, length := uint64(20261122), time.Duration(0)
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
	began, busy, episodes := time.Now(), processorTime(t), uint64(0)
	for ; length == 0 && d.packets < fewestPackets || length != 0 && time.Since(began) < length; episodes++ {
		d.episode(rand.New(rand.NewPCG(seed, episodes)), episodes)
		if t.Failed() {
			t.Fatalf("seed %d, episode %d, packet %d", seed, episodes, d.packets)
		}
	}
	took := time.Since(began)
	t.Logf("seed %d: %d packets in %d episodes and %v, %.0f a second, %.0f in a second of processor time: %v", seed, d.packets, episodes,
		took.Round(time.Millisecond), float64(d.packets)/took.Seconds(), float64(d.packets)/(processorTime(t)-busy).Seconds(), d.seen)
}

// processorTime is how long this thread has been on a processor.
func processorTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// sizes are how many rules the policies of an episode have, and for how many packets they last.
var sizes = []struct{ rules, packets int }{
	{0, 4000}, {3, 8000}, {10, 16000}, {30, 16000}, {100, 24000}, {100, 24000}, {600, 40000}, {2000, 80000},
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
	for range 4 {
		size := pick(d.u, sizes)
		s := d.u.snapshot(size.rules)
		if size.rules == 10 && d.u.IntN(3) == 0 {
			d.u.lengthen(s, 8300+d.u.IntN(4000))
		}
		d.replace(s)
		d.play(size.packets / 2)
		for range 4 {
			s = d.u.amend(s)
			d.replace(s)
			if d.u.IntN(3) == 0 { // flows that other rules have allowed are idle now, or would be under these
				d.age(pick(d.u, ages))
			}
			d.play(size.packets / 8)
		}
		if d.tb.Failed() {
			return
		}
	}
	d.compareHits()
	d.compareDrops()
}

// play plays so many packets under the policies in force.
func (d *differ) play(packets int) {
	for i := range packets {
		if i%64 == 0 {
			d.refill()
		}
		switch n := d.u.IntN(8000); {
		case n < 4:
			d.age(pick(d.u, ages))
		case n < 40:
			d.newTalk()
		case n < 48:
			d.adopt()
		}
		d.step(pick(d.u, d.talks[:]))
		if d.tb.Failed() {
			return
		}
	}
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

// trip is how a packet goes: from a station's device or out of a tunnel, past the guarded ports of both.
type trip struct {
	frame    []byte // as the sender sends it
	sender   *guarded
	receiver *guarded
	ran      uint32
	left     []byte // what the program made of it
	packets  int    // that the frame becomes on a wire,
	wire     int    // and their bytes
}

// step plays one packet.
func (d *differ) step(t *talk) {
	from := d.u.IntN(2)
	src, dst := t.ends[from].number, t.ends[1-from].number
	w := trip{sender: d.ports[src], receiver: d.ports[dst]}
	to := mac(dst)
	if d.u.IntN(64) == 0 {
		to = pick(d.u, groups)
	}
	frame := d.u.appendFrame(d.buffer[:tunnelHead], t, from, to, t.ends[from].mac)
	w.frame = frame[tunnelHead:]
	if d.u.IntN(80) == 0 {
		d.u.shorten(w.frame)
	}
	d.load(&w, src != remoteGuest && d.u.IntN(16) == 0)
	d.packets++
	if d.packets%8 == 0 {
		d.witness.Poison()
	}
	d.docket.Turn = 0
	if src == remoteGuest {
		d.wrap(frame)
		w.ran, w.left = d.run(d.tb, d.ul, d.index["eth0"], frame)
	} else {
		w.ran, w.left = d.run(d.tb, d.in, d.devices[src], w.frame)
	}
	if src == remoteGuest && w.ran == tcxNext {
		return // the kernel's device unpacks it
	}
	if d.docket.Turn != 0 {
		d.clock = time.Unix(0, int64(d.docket.Now)).Add(d.skew)
	}
	p, bad := policy.Parse(w.frame)
	if bad != nil {
		d.expectRefused(&w, bad)
		return
	}
	if p.Group() {
		d.judgeGroup(&w, p)
	} else {
		d.judge(&w, p)
	}
}

// judge compares what the core did with what the model says of both ports.
func (d *differ) judge(w *trip, p policy.Packet) {
	asked, direction := 0, fabric.Out
	var want policy.Verdict
	var by *guarded
	for i, g := range []*guarded{w.sender, w.receiver} {
		if g == nil || asked > 0 && !want.Allowed() {
			continue
		}
		at := []fabric.Direction{fabric.Out, fabric.In}[i]
		v, judged := d.ask(w, g, at, p)
		if v.Reason == policy.ByNeighbor {
			return // the guards and the fabric answer or drop it
		}
		if judged {
			asked, want, by, direction = asked+1, v, g, at
		}
	}
	if asked == 0 {
		if d.docket.Turn != 0 || w.ran != tcxRedirect {
			d.fail(w, "verdict %d, judged %v; want a packet that nobody judges to pass", w.ran, d.docket.Turn != 0)
		}
		return
	}
	d.compareJudgement(w, by, direction, want)
	if want.Action == fabric.Reject {
		d.compareAnswer(w, p)
	} else {
		d.compareFate(w, want)
	}
}

// expectRefused fails unless the core drops a frame that is no packet, before any rule is asked about it.
func (d *differ) expectRefused(w *trip, bad error) {
	judged := w.sender != nil && d.h.Judges(w.sender.slot, false) || w.receiver != nil && d.h.Judges(w.receiver.slot, true)
	if !judged {
		return // some is seen by a judgement alone, such as a transport header in Ethernet's padding
	}
	if w.ran != tcxDrop || d.docket.Turn != 0 {
		d.fail(w, "a frame that is no packet (%v): verdict %d, judged %v", bad, w.ran, d.docket.Turn != 0)
	}
}

// fail tells what was last.
func (d *differ) fail(w *trip, format string, args ...any) {
	d.tb.Helper()
	text := fmt.Sprintf(format, args...)
	if w != nil {
		text += "\n" + hex.EncodeToString(w.frame)
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
