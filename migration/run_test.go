package migration

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/migration/qmp"
)

// book is the fabric's memory in these tests: the real ledger over one move and one port.
type book struct {
	mu      sync.Mutex
	world   world
	changed chan struct{}
	// away makes every report fail, as when etcd is away.
	away bool
}

func newBook() *book {
	return &book{world: newWorld(options{}), changed: make(chan struct{})}
}

func (b *book) Follow(ctx context.Context, _ fabric.MoveID, fn func(*fabric.Move)) error {
	for {
		b.mu.Lock()
		m, changed := b.world.move, b.changed
		b.mu.Unlock()
		fn(&m)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (b *book) Advance(ctx context.Context, id fabric.MoveID, host fabric.HostID, s fabric.MoveStatus) (*fabric.Move, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return nil, errors.New("etcd is away")
	}
	m, err := location.New(&b.world).Advance(ctx, id, host, s)
	close(b.changed)
	b.changed = make(chan struct{})
	return m, err
}

func (b *book) abort(t *testing.T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := location.New(&b.world).Abort(t.Context(), "m", "asked", time.Now()); err != nil {
		t.Error(err)
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *book) setAway(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

func (b *book) move() fabric.Move {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.world.move
}

// guest is a machine that does what a test tells it to.
type guest struct {
	events chan qmp.Event
	mu     sync.Mutex
	orders []string
	// on is called for each order.
	on func(order string) error
}

func newGuest(kinds ...qmp.Kind) *guest {
	g := &guest{events: make(chan qmp.Event, 16)}
	g.tell(kinds...)
	return g
}

func (g *guest) tell(kinds ...qmp.Kind) {
	for _, k := range kinds {
		g.events <- qmp.Event{Kind: k, Time: time.Now()}
	}
}

func (g *guest) order(name string) error {
	g.mu.Lock()
	g.orders = append(g.orders, name)
	on := g.on
	g.mu.Unlock()
	if on != nil {
		return on(name)
	}
	return nil
}

// answer has fn called for each order from now on.
func (g *guest) answer(fn func(order string) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on = fn
}

func (g *guest) was(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.orders, name)
}

func (g *guest) Events() <-chan qmp.Event                   { return g.events }
func (g *guest) Announce(context.Context) error             { return g.order("announce") }
func (g *guest) Quit(context.Context) error                 { return g.order("quit") }
func (g *guest) Migrate(_ context.Context, to string) error { return g.order("migrate " + to) }
func (g *guest) Continue(context.Context) error             { return g.order("continue") }
func (g *guest) Cancel(context.Context) error               { return g.order("cancel") }
func (g *guest) Resume(context.Context) error               { return g.order("resume") }

// plane is the forwarding of either host.
type plane struct {
	mu      sync.Mutex
	done    []string
	waiting *guest
	frames  chan FirstFrame
	fails   map[string]error
	counts  Counts
	// earlier is what was counted before the move.
	earlier Counts
	// stages holds Stage up until it is closed.
	stages chan struct{}
}

func (p *plane) did(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = append(p.done, name)
	return p.fails[name]
}

func (p *plane) has(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.done, name)
}

func (p *plane) Handoff(context.Context, *fabric.Move) error { return p.did("handoff") }
func (p *plane) Restore(context.Context, *fabric.Move) error { return p.did("restore") }
func (p *plane) Finish(context.Context, *fabric.Move) error  { return p.did("finish") }
func (p *plane) Unstage(context.Context, *fabric.Move) error { return p.did("unstage") }
func (p *plane) Opened(context.Context, *fabric.Move) <-chan FirstFrame {
	return p.frames
}
func (p *plane) Counted(context.Context, *fabric.Move) (Counts, error) {
	if p.has("handoff") || p.has("stage") {
		return p.counts, nil
	}
	return p.earlier, nil
}
func (p *plane) Stage(ctx context.Context, _ *fabric.Move) (Staged, error) {
	if p.stages != nil {
		select {
		case <-p.stages:
		case <-ctx.Done():
			return Staged{}, ctx.Err()
		}
	}
	return Staged{Incoming: "unix:/there", Guest: p.waiting}, p.did("stage")
}

// pair is a move with both ends, in a bubble of fake time.
type pair struct {
	book             *book
	src, dst         *guest
	srcPlane, plane  *plane
	srcEnd, dstEnd   chan fabric.Phase
	cancelS, cancelD context.CancelFunc
}

func newPair(t *testing.T, prepare ...func(*pair)) *pair {
	p := &pair{
		book: newBook(), src: newGuest(qmp.Idle, qmp.Runs), dst: newGuest(qmp.Idle, qmp.Stops),
		srcPlane: &plane{fails: map[string]error{}, earlier: Counts{Relayed: 5, Lost: 9}, counts: Counts{Relayed: 12, Lost: 10}},
		plane:    &plane{fails: map[string]error{}, frames: make(chan FirstFrame, 1), counts: Counts{Lost: 2}},
	}
	p.plane.waiting = p.dst
	for _, f := range prepare {
		f(p)
	}
	p.startSource(t)
	p.startDestination(t)
	return p
}

func (p *pair) startSource(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p.cancelS, p.srcEnd = cancel, make(chan fabric.Phase, 1)
	m := p.book.move()
	go func() {
		phase, err := RunSource(ctx, Options{Move: &m, Host: "src", Records: p.book}, p.src, p.srcPlane)
		if err != nil && ctx.Err() == nil {
			t.Errorf("source: %v", err)
		}
		p.srcEnd <- phase
	}()
}

func (p *pair) startDestination(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p.cancelD, p.dstEnd = cancel, make(chan fabric.Phase, 1)
	m := p.book.move()
	go func() {
		phase, err := RunDestination(ctx, Options{Move: &m, Host: "dst", Records: p.book}, p.plane)
		if err != nil && ctx.Err() == nil {
			t.Errorf("destination: %v", err)
		}
		p.dstEnd <- phase
	}()
}

// at waits until nothing moves any more and checks the recorded phase.
func (p *pair) at(t *testing.T, phase fabric.Phase) {
	t.Helper()
	synctest.Wait()
	if got := p.book.move().Status.Phase; got != phase {
		t.Fatalf("the move is %q, want %q", got, phase)
	}
}

func bubble(t *testing.T, fn func(t *testing.T)) { t.Helper(); synctest.Test(t, fn) }

func TestRunAWholeMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t)
		p.at(t, fabric.MoveCopying)
		if !p.src.was("migrate unix:/there") {
			t.Fatalf("orders %v", p.src.orders)
		}
		p.src.answer(func(order string) error {
			if order == "continue" && !p.srcPlane.has("handoff") {
				t.Error("the switchover was allowed before the frames went to the destination")
			}
			return nil
		})
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
		p.at(t, fabric.MoveSwitched)
		if !p.src.was("continue") {
			t.Fatalf("orders %v", p.src.orders)
		}
		time.Sleep(40 * time.Millisecond)
		p.src.tell(qmp.Completed)
		p.dst.tell(qmp.Runs)
		p.at(t, fabric.MoveActive)
		p.plane.frames <- FirstFrame{Port: "p", Time: time.Now().Add(2 * time.Millisecond)}
		p.at(t, fabric.MoveActive)
		if got := <-p.dstEnd; got != fabric.MoveActive {
			t.Errorf("the destination ended %q", got)
		}
		relayed := time.Now()
		if got := <-p.srcEnd; got != fabric.MoveSettled {
			t.Errorf("the source ended %q", got)
		}
		if took := time.Since(relayed); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("late packets were sent on for %v", took)
		}
		p.at(t, fabric.MoveSettled)
		if !p.src.was("quit") || p.dst.was("quit") {
			t.Errorf("orders %v and %v", p.src.orders, p.dst.orders)
		}
		want := fabric.MoveResult{GuestPauseMs: 40, FabricGapMs: 2, Relayed: 7, Lost: 3}
		if got := p.book.move().Status.Result; got != want {
			t.Errorf("result %+v, want %+v", got, want)
		}
	})
}

func TestRunWithTheRecordsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t)
		p.at(t, fabric.MoveCopying)
		p.book.setAway(true)
		p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting, qmp.Completed)
		synctest.Wait()
		if !p.srcPlane.has("handoff") || !p.src.was("continue") {
			t.Fatalf("the switchover waited for the records: plane %v, orders %v", p.srcPlane.done, p.src.orders)
		}
		p.dst.tell(qmp.Runs)
		p.plane.frames <- FirstFrame{Port: "p", Time: time.Now()}
		time.Sleep(time.Minute)
		p.at(t, fabric.MoveCopying)
		p.book.setAway(false)
		time.Sleep(3 * time.Second)
		p.at(t, fabric.MoveActive)
		if got := <-p.srcEnd; got != fabric.MoveSettled {
			t.Errorf("the source ended %q", got)
		}
		<-p.dstEnd
	})
}

func TestRunAgainAfterBothAgentsWereAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t)
		p.at(t, fabric.MoveCopying)
		p.src.tell(qmp.Copying)
		synctest.Wait()
		p.cancelS()
		p.cancelD()
		<-p.srcEnd
		<-p.dstEnd
		// Meanwhile the guest moved; the monitors say so when they are asked again.
		p.src.tell(qmp.Completed, qmp.Stops)
		p.dst.tell(qmp.Completed, qmp.Runs)
		p.plane.frames <- FirstFrame{Port: "p"}
		p.startSource(t)
		p.startDestination(t)
		if got := <-p.dstEnd; got != fabric.MoveActive {
			t.Errorf("the destination ended %q", got)
		}
		if !p.srcPlane.has("handoff") {
			t.Error("late packets are not sent on")
		}
		if got := <-p.srcEnd; got != fabric.MoveSettled {
			t.Errorf("the source ended %q", got)
		}
	})
}

func TestRunFailures(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(p *pair)
		story   func(t *testing.T, p *pair)
		phase   fabric.Phase
		order   string // the source must have given
	}{
		{"the destination cannot be staged", func(p *pair) { p.plane.fails["stage"] = errors.New("no room") }, func(*testing.T, *pair) {}, fabric.MoveAborted, ""},
		{"a person aborts the copy", func(*pair) {}, func(t *testing.T, p *pair) {
			p.at(t, fabric.MoveCopying)
			p.src.tell(qmp.Copying)
			p.book.abort(t)
			synctest.Wait()
			p.src.tell(qmp.Cancelled)
		}, fabric.MoveAborted, "cancel"},
		{"the hypervisor fails after the stop", func(*pair) {}, func(t *testing.T, p *pair) {
			p.at(t, fabric.MoveCopying)
			p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
			p.at(t, fabric.MoveSwitched)
			p.src.tell(qmp.Failed, qmp.Runs)
		}, fabric.MoveFailed, "announce"},
		{"the destination dies after everything was sent", func(*pair) {}, func(t *testing.T, p *pair) {
			p.at(t, fabric.MoveCopying)
			p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting, qmp.Completed)
			p.at(t, fabric.MoveSwitched)
			p.src.answer(func(order string) error {
				if order == "resume" {
					p.src.tell(qmp.Runs)
				}
				return nil
			})
			p.dst.tell(qmp.Gone)
		}, fabric.MoveFailed, "resume"},
		{"the frames cannot be sent on", func(p *pair) { p.srcPlane.fails["handoff"] = errors.New("the kernel refuses") }, func(t *testing.T, p *pair) {
			p.src.answer(func(order string) error {
				if order == "cancel" {
					p.src.tell(qmp.Runs, qmp.Cancelled)
				}
				return nil
			})
			p.at(t, fabric.MoveCopying)
			p.src.tell(qmp.Copying, qmp.Stops, qmp.Waiting)
		}, fabric.MoveFailed, "cancel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := newPair(t, c.prepare)
				c.story(t, p)
				if got := <-p.srcEnd; got != c.phase {
					t.Errorf("the source ended %q", got)
				}
				if got := <-p.dstEnd; got != c.phase {
					t.Errorf("the destination ended %q", got)
				}
				if !p.srcPlane.has("finish") || !p.plane.has("unstage") || !p.srcPlane.has("restore") {
					t.Errorf("planes %v and %v", p.srcPlane.done, p.plane.done)
				}
				if c.order != "" && !p.src.was(c.order) {
					t.Errorf("orders %v", p.src.orders)
				}
				m := p.book.move()
				if m.Status.Phase != c.phase || m.Status.Reason == "" {
					t.Errorf("record %+v", m.Status)
				}
			})
		})
	}
}

func TestRunRefusesAPausedGuest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPair(t, func(p *pair) { p.src = newGuest(qmp.Idle, qmp.Stops) })
		if got := <-p.srcEnd; got != fabric.MoveAborted || p.src.was("migrate unix:/there") {
			t.Errorf("the source ended %q, orders %v", got, p.src.orders)
		}
		<-p.dstEnd
	})
}

func TestAHookThatHangsIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		begun := time.Now()
		p := newPair(t, func(p *pair) { p.plane.stages = make(chan struct{}) })
		if got := <-p.srcEnd; got != fabric.MoveAborted {
			t.Errorf("the source ended %q", got)
		}
		<-p.dstEnd
		if took := time.Since(begun); took < time.Minute || took > 70*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
