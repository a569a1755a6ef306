package store

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/fabric"
)

// catchUp is how long a Snapshot waits for a follow to catch up before it reads everything itself.
const catchUp = 250 * time.Millisecond

// position says how far a follow has come, so that a Snapshot of the same store need not read everything again.
type position struct {
	ask chan struct{} // makes the watch ask how far it is

	mu       sync.Mutex
	revision int64            // up to which snap is complete; 0 while nothing is followed
	snap     *fabric.Snapshot // nil while nothing is followed
	moved    chan struct{}    // closed at the next change of the position
}

func newPosition() *position {
	return &position{ask: make(chan struct{}, 1), moved: make(chan struct{})}
}

// set moves the position; a nil snapshot says that the follow is interrupted.
func (p *position) set(revision int64, snap *fabric.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision, p.snap = revision, snap
	close(p.moved)
	p.moved = make(chan struct{})
}

// get returns the position and a channel that is closed when it moves.
func (p *position) get() (int64, *fabric.Snapshot, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revision, p.snap, p.moved
}

// reach returns a snapshot that is complete up to a revision, nil when the follow does not get there in time.
func (p *position) reach(ctx context.Context, revision int64) *fabric.Snapshot {
	late := time.NewTimer(catchUp)
	defer late.Stop()
	for {
		at, snap, moved := p.get()
		if snap == nil || at >= revision {
			return snap
		}
		select {
		case p.ask <- struct{}{}:
		default:
		}
		select {
		case <-moved:
		case <-late.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// followed returns the state as of now from a follow that runs on this store; nil when there is none that is up to date.
func (s *Store) followed(ctx context.Context) *fabric.Snapshot {
	s.mu.Lock()
	positions := slices.Clone(s.positions)
	s.mu.Unlock()
	for _, p := range positions {
		if _, snap, _ := p.get(); snap == nil {
			continue
		}
		d := s.newDraft(ctx) // a linearizable read says which revision is the current one
		if _, err := d.get(incarnationKey); err != nil {
			return nil
		}
		return p.reach(ctx, d.rev)
	}
	return nil
}

func (s *Store) addPosition(p *position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.positions = append(s.positions, p)
}

func (s *Store) removePosition(p *position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.positions = slices.DeleteFunc(s.positions, func(q *position) bool { return q == p })
}
