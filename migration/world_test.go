package migration

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/migration/qmp"
)

// world is everything a move consists of, small enough to look at every state it can be in. The records are kept by the
// real location.Ledger; the two hypervisors are models of QEMU, as it was measured (reference: section 2 of the notes on
// live migration, and qmp/qemu_test.go).
type world struct {
	move  fabric.Move
	loc   fabric.Location
	older []fabric.Move // earlier versions of the move that a watch may still show
	ends  [2]end
	qemu  [2]machine
	// gates are what the two planes let through.
	gates [2]gate
	// left is how much mischief may still happen.
	left int
	// stream is how far the guest's state is: nowhere, on its way, all of it sent, or torn.
	stream stream
	// ran is true once the guest has run at the destination, paused while a person has paused it.
	ran, paused bool
	// cut is true once a guest was harmed: its only copy ended, or its ports closed while it ran at the destination.
	cut bool
	// away is true while nobody can record anything.
	away bool
	// begun is true once the source remembers that it has begun to copy.
	begun bool
	// wrong says what an agent ordered that must never be ordered.
	wrong string
}

type gate uint8

const (
	shut gate = iota
	open
	relay
	closedStaged
)

type stream uint8

const (
	none stream = iota
	flowing
	delivered
	torn
	following // post-copy: the guest may run at the destination, and its memory follows
)

// end is the agent of one host.
type end struct {
	up      bool
	session Session
	// orders wait for the machine, the report for the store.
	orders []Action
	report *fabric.MoveStatus
	// told are events on their way from the monitor; connected once the monitor was asked.
	told    []qmp.Kind
	watches bool
	// results of reports and refused orders on their way to the main loop.
	results []Event
	frame   bool // a first frame is on its way
	seen    bool // the newest version of the record was seen
}

// machine is a hypervisor.
type machine struct {
	alive, runs bool
	migration   qmp.Kind
	// device is true once the migration went on after Continue: the guest stays stopped until the end; post once a person has
	// asked for post-copy.
	device, post bool
}

var (
	t0 = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	t1 = t0.Add(time.Hour)
)

// options choose what kind of world is explored.
type options struct {
	gated    bool // the hypervisor waits for Continue
	mischief int
	// earlier is what the source's hypervisor tells of a migration before this one; empty for none.
	earlier qmp.Kind
	// few are the ends of what mischief is called that there is; all of it when empty.
	few []string
	// twins lets the hypervisors do what they must not: both run.
	twins bool
	// aside has the records away from the grant on, until any later point: the destination tells the source itself.
	aside bool
	// postcopy is a person's wish to the hypervisor, as soon as it copies.
	postcopy bool
}

// newWorld is a move that has just been granted.
func newWorld(o options) world {
	w := world{left: o.mischief, away: o.aside}
	w.move = fabric.Move{
		Metadata: fabric.Metadata{Name: "m"}, Spec: fabric.MoveSpec{VM: "p", Ports: []fabric.PortID{"p"}, From: "src", To: "dst"},
		Status: fabric.MoveStatus{Phase: fabric.MoveGranted, Epoch: 2},
	}
	w.loc = fabric.Location{Port: "p", Host: "src", Epoch: 1, Grant: &fabric.Grant{Move: "m", To: "dst", Epoch: 2, Rollback: 3}}
	w.qemu[0] = machine{alive: true, runs: true, migration: cmp.Or(o.earlier, qmp.Idle)}
	w.gates[0] = open
	for i := range w.ends {
		w.start(i)
	}
	return w
}

// clone is a world of its own: what is shared is only ever appended to, and then copied.
func (w world) clone() world {
	w.older = slices.Clip(w.older)
	for i := range w.ends {
		e := &w.ends[i]
		e.orders, e.told, e.results = slices.Clip(e.orders), slices.Clip(e.told), slices.Clip(e.results)
	}
	return w
}

var roles = [2]Role{Source, Destination}

// start starts an agent: it finds the record, and its monitor tells how things stand.
func (w *world) start(i int) {
	e := end{up: true}
	move := w.move
	if i == 0 && w.begun && (move.Status.Phase == fabric.MoveGranted || move.Status.Phase == fabric.MoveStaged) {
		move.Status.Phase, move.Status.Incoming = fabric.MoveCopying, "there"
	}
	session, actions := Begin(roles[i], &move, Limits{}, t0)
	e.session = settleTimes(session)
	e.frame = i == 1 && w.gates[1] == open
	w.ends[i] = e
	if i == 0 {
		w.watch(0)
	}
	w.carry(i, actions, false)
}

// watch connects the monitor.
func (w *world) watch(i int) {
	e := &w.ends[i]
	e.watches, e.told = true, nil
	if !w.qemu[i].alive {
		e.told = []qmp.Kind{qmp.Gone}
		return
	}
	state := qmp.Stops
	if w.qemu[i].runs {
		state = qmp.Runs
	}
	e.told = []qmp.Kind{w.qemu[i].migration, state}
}

// tell has the monitor say something.
func (w *world) tell(i int, kinds ...qmp.Kind) {
	if w.ends[i].up && w.ends[i].watches {
		w.ends[i].told = append(w.ends[i].told, kinds...)
	}
}

// settleTimes makes times comparable: the explorer knows only "not yet" and "then".
func settleTimes(s Session) Session {
	for _, t := range []*time.Time{&s.Stopped, &s.Resumed, &s.Framed, &s.Active} {
		if !t.IsZero() {
			*t = t0
		}
	}
	for _, t := range []*time.Time{&s.Deadline, &s.Until} {
		if !t.IsZero() {
			*t = t1
		}
	}
	return s
}

// step has an agent take an event and carry out what follows, as its main loop does. Reports and orders wait beside it. A
// crash between two of these actions is the same as one after all of them, because it loses what waits. If fails is set,
// the first change of the plane fails; it reports whether there was one.
func (w *world) step(i int, e Event, fails bool) bool {
	e.Now = t0
	if e.Kind == Clock {
		e.Now = t1
	}
	if e.At.IsZero() {
		e.At = t0
	}
	session, actions := Step(w.ends[i].session, e)
	w.ends[i].session = settleTimes(session)
	changed := w.carry(i, actions, fails)
	if e := &w.ends[i]; e.session.State == Ended {
		e.session = Session{Role: e.session.Role, State: Ended, Outcome: e.session.Outcome}
		e.told, e.results, e.watches, e.frame, e.seen = nil, nil, false, false, true
	}
	return changed
}

// carry carries actions out, with what follows from their results.
func (w *world) carry(i int, actions []Action, fails bool) (changed bool) {
	e := &w.ends[i]
	for len(actions) > 0 {
		a := actions[0]
		actions = actions[1:]
		switch a.Do {
		case Report:
			status := a.Status
			e.report = &status
		case Migrate, Continue, Cancel, Resume, Announce, Quit:
			if a.Do == Cancel && e.session.Past {
				w.wrong = "the migration is cancelled past the point of no return"
			}
			e.orders = append(e.orders, a)
		case Alarm, Drain:
		default:
			kind := Done
			if fails {
				fails, kind = false, Undone
			} else {
				w.forward(a.Do)
			}
			changed = true
			session, more := Step(e.session, Event{Kind: kind, Do: a.Do, Incoming: "there", Text: "why", Now: t0, At: t0})
			e.session = settleTimes(session)
			actions = append(actions, more...)
		}
	}
	return changed
}

// forward changes a plane.
func (w *world) forward(do Do) {
	switch do {
	case Remember:
		w.begun = true
	case Handoff:
		w.gates[0] = relay
	case Restore:
		w.gates[0] = open
	case Stage:
		waits := w.move.Status.Phase == fabric.MoveGranted || w.move.Status.Phase == fabric.MoveStaged
		switch {
		case w.qemu[1].alive:
		case waits:
			w.qemu[1] = machine{alive: true, migration: qmp.Idle}
		}
		if w.gates[1] != open {
			w.gates[1] = closedStaged
		}
		w.watch(1)
	case Finish:
		w.gates[0] = open
		if w.loc.Host != "src" {
			w.gates[0] = shut
		}
	case Unstage:
		if w.qemu[1].runs {
			w.cut = true
		}
		w.gates[1] = shut
	}
}

// order has a machine do what it is told.
func (w *world) order(i int, a Action, o options) {
	q := &w.qemu[i]
	sending := q.migration == qmp.Copying || q.migration == qmp.Waiting
	past := q.migration == qmp.NoReturn || q.migration == qmp.Broken
	moving := sending || past
	switch {
	case !q.alive:
		if a.Do == Migrate {
			w.ends[i].results = append(w.ends[i].results, Event{Kind: Undone, Do: Migrate, Text: "gone"})
		}
	case a.Do == Migrate && (moving || !w.qemu[1].alive):
		w.ends[i].results = append(w.ends[i].results, Event{Kind: Undone, Do: Migrate, Text: "refused"})
	case a.Do == Migrate:
		q.migration, q.device, q.post, w.stream = qmp.Copying, false, o.postcopy, flowing
		w.tell(i, qmp.Copying)
		w.qemu[1].migration = qmp.Copying
		w.tell(1, qmp.Copying)
	case a.Do == Continue && q.migration == qmp.Waiting && q.post:
		q.migration, q.device = qmp.NoReturn, true
		w.tell(i, qmp.NoReturn)
	case a.Do == Continue && q.migration == qmp.Waiting:
		q.migration, q.device = qmp.Copying, true
		w.tell(i, qmp.Copying)
	case a.Do == Cancel && sending: // qmp.Guest refuses it past the point of no return
		w.failed(qmp.Cancelled, true)
	case a.Do == Resume && !q.runs && !moving:
		q.runs = true
		w.tell(i, qmp.Runs)
	case a.Do == Quit:
		w.cut = w.cut || i == 0 && (!w.ran || past) || i == 1 && q.runs
		w.kill(i)
	}
}

// failed ends the migration at the source; the guest runs on unless a person has paused it.
func (w *world) failed(how qmp.Kind, runsFirst bool) {
	q := &w.qemu[0]
	told := []qmp.Kind{how}
	if !q.runs && !w.paused {
		q.runs = true
		told = []qmp.Kind{how, qmp.Runs}
		if runsFirst {
			told = []qmp.Kind{qmp.Runs, how}
		}
	}
	q.migration, w.stream = how, torn
	w.tell(0, told...)
}

// tear breaks the stream of a post-copy migration.
func (w *world) tear() {
	if q := &w.qemu[0]; q.alive {
		q.migration = qmp.Broken
		w.tell(0, qmp.Broken)
	}
	if !w.ran {
		w.stream = torn
	}
}

// kill ends a machine.
func (w *world) kill(i int) {
	w.qemu[i] = machine{migration: w.qemu[i].migration}
	if w.stream == flowing {
		w.stream = torn
	}
	w.tell(i, qmp.Gone)
	if w.stream == following {
		w.tear()
	}
}

// Get, GetLocation, Snapshot and UpdateLocations let the real ledger keep the world's records.
func (w *world) Get(_ context.Context, kind fabric.Kind, _ string) (fabric.Object, error) {
	if kind == fabric.KindHost {
		return &fabric.Host{}, nil
	}
	if kind != fabric.KindMove {
		return nil, fabric.ErrNotFound
	}
	m := w.move
	return &m, nil
}

func (w *world) GetLocation(context.Context, fabric.PortID) (fabric.Location, error) {
	return w.loc, nil
}

func (w *world) Snapshot(context.Context) (*fabric.Snapshot, error) {
	return nil, errors.New("not needed")
}

func (w *world) UpdateLocations(_ context.Context, move *fabric.Move, locations ...fabric.Location) error {
	w.older = append(w.older, w.move)
	for i := range w.ends {
		w.ends[i].seen = false
	}
	w.move = *move
	for _, l := range locations {
		w.loc = l
	}
	return nil
}

// advance makes an agent's report and returns the answer.
func (w *world) advance(i int) Event {
	e := &w.ends[i]
	status := *e.report
	status.At, status.Result, status.Reason = nil, fabric.MoveResult{}, ""
	e.report = nil
	host := fabric.HostID("src")
	if i == 1 {
		host = "dst"
	}
	m, err := location.New(w).Advance(context.Background(), "m", host, status)
	result := Event{Kind: Done, Do: Report, Phase: status.Phase, Record: m}
	if err != nil {
		result.Kind, result.Text = Undone, err.Error()
	}
	return result
}
