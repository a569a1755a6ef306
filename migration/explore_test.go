package migration

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/migration/qmp"
)

// next are the worlds that can follow, with what happened.
func (w world) next(o options) (worlds []world, names []string) {
	add := func(name string, change func(*world)) {
		n := w.clone()
		change(&n)
		worlds, names = append(worlds, n), append(names, name)
	}
	mischief := func(name string, change func(*world)) {
		if w.left > 0 && (len(o.few) == 0 || slices.ContainsFunc(o.few, func(end string) bool { return strings.HasSuffix(name, end) })) {
			add(name, func(n *world) { n.left--; change(n) })
		}
	}
	for i := range w.ends {
		w.agent(i, o, add, mischief)
	}
	w.hypervisors(o, add, mischief)
	if w.away {
		add("the records are back", func(n *world) { n.away = false })
	}
	if w.left > 0 && !w.move.Spec.Abort && !w.away {
		mischief("a person aborts", func(n *world) {
			_, _ = location.New(n).Abort(context.Background(), "m", "asked", t0)
		})
	}
	return worlds, names
}

type addFunc func(name string, change func(*world))

// agent is what one agent can do next.
func (w world) agent(i int, o options, add, mischief addFunc) {
	e, role := &w.ends[i], string(roles[i])
	if !e.up {
		add(role+" restarts", func(n *world) { n.start(i) })
		return
	}
	mischief(role+" crashes", func(n *world) { n.ends[i] = end{} })
	if e.report != nil && !w.away {
		name := role + " reports " + string(e.report.Phase)
		add(name, func(n *world) { n.step(i, n.advance(i), false) })
		mischief(name+" and waits for the answer", func(n *world) { n.ends[i].results = append(n.ends[i].results, n.advance(i)) })
	}
	if len(e.orders) > 0 {
		a := e.orders[0]
		pop := func(n *world) { n.ends[i].orders = n.ends[i].orders[1:] }
		add(role+" orders "+string(a.Do), func(n *world) { pop(n); n.order(i, a, o) })
		mischief(role+" loses the answer to "+string(a.Do), func(n *world) {
			pop(n)
			n.order(i, a, o)
			if a.Do == Migrate {
				n.ends[i].results = append(n.ends[i].results, Event{Kind: Undone, Do: Migrate, Unsure: true, Text: "lost"})
			}
			n.watch(i)
		})
		mischief(role+" loses the order "+string(a.Do), func(n *world) {
			pop(n)
			if a.Do == Migrate {
				n.ends[i].results = append(n.ends[i].results, Event{Kind: Undone, Do: Migrate, Unsure: true, Text: "lost"})
			}
			n.watch(i)
		})
	}
	if e.session.State == Ended {
		return
	}
	w.hears(i, add, mischief)
	if w.away && i == 0 {
		w.aside(add)
	}
}

// hears is what an agent's main loop can learn next.
func (w world) hears(i int, add, mischief addFunc) {
	e, role := &w.ends[i], string(roles[i])
	take := func(name string, before func(*world), event Event) {
		touched := false
		add(name, func(n *world) { before(n); touched = n.step(i, event, false) })
		if touched {
			mischief(name+", and the plane fails", func(n *world) { before(n); n.step(i, event, true) })
		}
	}
	if len(e.told) > 0 {
		told := Event{Kind: Told, Guest: e.told[0], Text: "why"}
		take(role+" is told "+string(e.told[0]), func(n *world) { n.ends[i].told = n.ends[i].told[1:] }, told)
		mischief(role+" is told "+string(e.told[0])+" twice", func(n *world) { n.step(i, told, false) })
	}
	if e.watches {
		mischief(role+" connects anew", func(n *world) { n.watch(i) })
	}
	if len(e.results) > 0 {
		r := e.results[0]
		take(role+" learns "+string(r.Kind)+" "+string(r.Do)+" "+string(r.Phase), func(n *world) { n.ends[i].results = n.ends[i].results[1:] }, r)
	}
	if e.frame {
		take(role+" sees the first frame", func(n *world) { n.ends[i].frame = false }, Event{Kind: Opened})
	}
	if i == 0 && w.gates[0] == relay && w.gates[1] != shut && w.ends[1].up && !e.session.Inherited {
		take("the destination has what the ports take along", func(*world) {}, Event{Kind: Inherited})
	}
	now := w.move
	if !e.seen {
		take(role+" sees the record "+string(now.Status.Phase), func(n *world) { n.ends[i].seen = true }, Event{Kind: Saw, Record: &now})
	}
	for _, old := range w.older {
		mischief(role+" sees the record as it was: "+string(old.Status.Phase), func(n *world) { n.step(i, Event{Kind: Saw, Record: &old}, false) })
	}
	// Deadlines are long: they pass when nothing else is left to happen at the host, and otherwise only by mischief. The main
	// loop takes what the monitor told before the time; a frozen agent can miss that once, but not twice in a row.
	if !e.session.Deadline.IsZero() {
		if len(e.told)+len(w.ends[0].orders)+len(w.ends[1].orders)+len(e.results) == 0 && (e.report == nil || w.away) && !e.frame {
			take(role+" waits in vain", func(*world) {}, Event{Kind: Clock})
		} else if len(e.told) == 0 || !e.session.Warned {
			mischief(role+" is late", func(n *world) { n.step(i, Event{Kind: Clock}, false) })
		}
	}
}

// hypervisors is what the two machines can do next.
func (w world) hypervisors(o options, add, mischief addFunc) {
	src := w.qemu[0]
	if src.alive && src.migration == qmp.Copying && src.runs {
		add("the guest stops for the switchover", func(n *world) {
			if n.qemu[0].post && !o.gated { // first it says that there is no return
				n.qemu[0].migration = qmp.NoReturn
				n.tell(0, qmp.NoReturn)
				return
			}
			n.qemu[0].runs = false
			n.tell(0, qmp.Stops)
			if o.gated {
				n.qemu[0].migration = qmp.Waiting
				n.tell(0, qmp.Waiting)
			}
		})
		mischief("a person pauses the guest", func(n *world) { n.qemu[0].runs, n.paused = false, true; n.tell(0, qmp.Stops) })
	}
	if src.alive && w.paused && !src.runs && (src.migration == qmp.Copying && !src.device || src.migration == qmp.Idle) {
		add("a person lets the guest run", func(n *world) { n.qemu[0].runs, n.paused = true, false; n.tell(0, qmp.Runs) })
	}
	if src.alive && src.migration == qmp.Copying && !src.runs && o.gated && !src.device {
		add("the migration of a guest that stands still waits", func(n *world) { n.qemu[0].migration = qmp.Waiting; n.tell(0, qmp.Waiting) })
	}
	if src.alive && src.migration == qmp.Copying && !src.runs && w.stream == flowing && (src.device || !o.gated) {
		add("the last byte is sent", func(n *world) {
			n.qemu[0].migration, n.stream = qmp.Completed, delivered
			if !n.qemu[1].alive {
				n.stream = torn
			}
			n.tell(0, qmp.Completed)
		})
	}
	if src.alive && (src.migration == qmp.Copying || src.migration == qmp.Waiting) {
		fail := mischief
		if w.stream == torn {
			fail = add
		}
		fail("the migration fails", func(n *world) { n.failed(qmp.Failed, false) })
		fail("the guest runs on and the migration fails", func(n *world) { n.failed(qmp.Failed, true) })
	}
	w.arrival(src, w.qemu[1], o, add, mischief)
	if o.postcopy && src.alive {
		w.postcopy(o, add, mischief)
	}
}

// arrival is what can happen once the guest's state is on its way, and the deaths of machines.
func (w world) arrival(src, dst machine, o options, add, mischief addFunc) {
	if dst.alive && !dst.runs && (w.stream == delivered || w.stream == following) && !w.ran && !w.paused {
		add("the guest runs at the destination", func(n *world) { n.qemu[1].runs, n.ran = true, true; n.tell(1, qmp.Runs) })
	}
	if dst.alive && !dst.runs && (w.stream == delivered || w.stream == following) && w.paused {
		add("a person lets the guest run at the destination", func(n *world) { n.qemu[1].runs, n.ran, n.paused = true, true, false; n.tell(1, qmp.Runs) })
	}
	if dst.alive && !dst.runs && w.stream == torn {
		add("the destination's machine gives up", func(n *world) { n.kill(1) })
	}
	if dst.runs && w.gates[1] == closedStaged {
		add("the first frame passes", func(n *world) {
			n.gates[1] = open
			n.ends[1].frame = n.ends[1].up
		})
	}
	if src.alive {
		mischief("the source's machine dies", func(n *world) { n.kill(0) })
	}
	if dst.alive {
		mischief("the destination's machine dies", func(n *world) { n.kill(1) })
	}
	if o.twins && src.alive && src.migration == qmp.Completed && !src.runs {
		mischief("the source runs on although all was sent", func(n *world) {
			n.qemu[0].runs = true
			n.tell(0, qmp.Failed, qmp.Runs)
			n.qemu[0].migration = qmp.Failed
		})
	}
}

// key tells worlds apart. Texts and times do not matter; that there is one does.
func (w world) key() string {
	b := make([]byte, 0, 256)
	flags := func(all ...bool) {
		for _, f := range all {
			if f {
				b = append(b, '1')
			} else {
				b = append(b, '0')
			}
		}
	}
	record := func(m *fabric.Move) {
		b = append(b, m.Status.Phase...)
		flags(m.Spec.Abort, m.Status.Fault != "", m.Status.Incoming != "")
	}
	record(&w.move)
	for i := range w.older {
		record(&w.older[i])
	}
	b = append(b, w.loc.Host...)
	b = append(b, byte(w.loc.Epoch), byte(w.gates[0]), byte(w.gates[1]), byte(w.left), byte(w.stream))
	flags(w.loc.Grant != nil, w.loc.From != "", w.ran, w.paused, w.cut, w.begun, w.away, w.wrong != "")
	for i := range w.ends {
		e, s := &w.ends[i], &w.ends[i].session
		flags(w.qemu[i].alive, w.qemu[i].runs, w.qemu[i].device, w.qemu[i].post, e.up, e.watches, e.frame, e.seen, s.Deadline.IsZero(), s.Incoming != "", s.Fault, s.Active.IsZero(), s.Known,
			s.Running, s.Ordered, s.Handed, s.Inherited, s.Waits, s.Cancelled, s.Lost, s.Past, s.Warned, s.Switched, s.Stopped.IsZero(), s.Resumed.IsZero(), s.Framed.IsZero())
		for _, text := range []string{string(w.qemu[i].migration), string(s.State), string(s.Outcome), string(s.Migration)} {
			b = append(append(b, text...), '|')
		}
		for _, k := range e.told {
			b = append(append(b, k...), ',')
		}
		for _, a := range e.orders {
			b = append(append(b, a.Do...), ';')
		}
		if e.report != nil {
			b = append(append(b, '!'), e.report.Phase...)
			flags(e.report.Fault != "")
		}
		for _, r := range e.results {
			b = append(append(append(append(b, '?'), r.Kind...), r.Do...), r.Phase...)
			flags(r.Unsure, r.Record != nil)
			if r.Record != nil {
				record(r.Record)
			}
		}
	}
	return string(b)
}

// over reports whether the move has ended for everybody.
func (w world) over() bool {
	for _, e := range w.ends {
		if !e.up || e.session.State != Ended || e.report != nil || len(e.orders) > 0 {
			return false
		}
	}
	return location.Over(w.move.Status.Phase)
}

// bound is more states than any world here has; beyond it something grows without end.
const bound = 3_000_000

// explore visits every world that can be reached and holds each against check; then it makes sure that from every one of
// them the move can still end.
func explore(t *testing.T, o options, check func(w world, last string) error) {
	t.Helper()
	first := newWorld(o)
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	name := func(w world) [2]uint64 { // the key itself, a million times, is what the collector would look through
		k := w.key()
		return [2]uint64{maphash.String(seeds[0], k), maphash.String(seeds[1], k)}
	}
	ids := map[[2]uint64]int{name(first): 0}
	parents, steps := []int{-1}, []string{"granted"}
	before := [][]int{nil}
	queue := []world{first}
	var ends []int
	for id := 0; len(queue) > 0; id++ {
		if id == bound {
			t.Fatalf("more than %d states; one of them:\n%s\n%s", bound, story(id, parents, steps), queue[0].key())
		}
		w := queue[0]
		queue = queue[1:]
		if err := check(w, steps[id]); err != nil {
			t.Fatalf("%v\n%s", err, story(id, parents, steps))
		}
		if w.over() {
			ends = append(ends, id)
		}
		worlds, names := w.next(o)
		for i, n := range worlds {
			k := name(n)
			to, known := ids[k]
			if !known {
				to = len(parents)
				ids[k] = to
				parents, steps, before = append(parents, id), append(steps, names[i]), append(before, nil)
				queue = append(queue, n)
			}
			if to != id {
				before[to] = append(before[to], id)
			}
		}
	}
	ending := make([]bool, len(parents))
	for len(ends) > 0 {
		id := ends[len(ends)-1]
		ends = ends[:len(ends)-1]
		if ending[id] {
			continue
		}
		ending[id] = true
		ends = append(ends, before[id]...)
	}
	stuck := 0
	for id, ok := range ending {
		if !ok {
			stuck++
			if stuck == 1 {
				t.Errorf("from here the move can never end:\n%s", story(id, parents, steps))
			}
		}
	}
	t.Logf("%+v: %d states, %d of them stuck", o, len(parents), stuck)
}

// story tells how a state was reached.
func story(id int, parents []int, steps []string) string {
	var lines []string
	for ; id >= 0; id = parents[id] {
		lines = append([]string{steps[id]}, lines...)
	}
	return "  " + strings.Join(lines, "\n  ")
}
