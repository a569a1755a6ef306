package migration

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
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
	// offered is what the destination tells the source itself.
	offered string
}

func newBook() *book {
	return &book{world: newWorld(options{}), changed: make(chan struct{})}
}

func (b *book) Follow(ctx context.Context, _ fabric.MoveID, fn func(*fabric.Move)) error {
	for {
		b.mu.Lock()
		m, changed := b.world.move, b.changed
		if b.offered != "" && m.Status.Phase == fabric.MoveGranted {
			m.Status.Phase, m.Status.Incoming = fabric.MoveStaged, b.offered
		}
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

// offer has the destination tell the source where it waits.
func (b *book) offer(incoming string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offered = incoming
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
	// inherited is closed when the destination has what the ports take along.
	inherited chan struct{}
	fails     map[string]error
	counts    Counts
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

func (p *plane) Remember(_ context.Context, _ *fabric.Move, incoming string) error {
	return p.did("remember " + incoming)
}
func (p *plane) Handoff(context.Context, *fabric.Move) error { return p.did("handoff") }
func (p *plane) Restore(context.Context, *fabric.Move) error { return p.did("restore") }
func (p *plane) Finish(context.Context, *fabric.Move) error  { return p.did("finish") }
func (p *plane) Unstage(context.Context, *fabric.Move) error { return p.did("unstage") }
func (p *plane) Opened(context.Context, *fabric.Move) <-chan FirstFrame {
	return p.frames
}
func (p *plane) Inherited(context.Context, *fabric.Move) <-chan struct{} {
	return p.inherited
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
