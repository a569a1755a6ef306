package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/weftnet/weft/fabric"
)

// Follow calls fn with the state of the fabric, and again after every change, until ctx ends; it then returns nil, after
// the last call of fn. While fn runs, changes gather: the next call gets the newest state, and no state older than the one
// before. Lost connections, compacted history and events that etcd failed to send are made up for: what fn was last given
// is never more than about 15 s behind while etcd can be reached.
//
// When etcd goes back in time, fn gets the last state again with the reason in Problems, and nothing newer until an
// operator confirms (ConfirmRestore) or etcd is forward again; Held tells meanwhile.
func (s *Store) Follow(ctx context.Context, fn func(*fabric.Snapshot)) error {
	return s.FollowFrom(ctx, nil, fn)
}

// FollowFrom is Follow for somebody who has a state already, from an earlier run: fn is first called when that has been
// compared with etcd's, changed or not, and older data is held back from the start.
func (s *Store) FollowFrom(ctx context.Context, last *fabric.Snapshot, fn func(*fabric.Snapshot)) error {
	f := &follower{store: s, table: newTable(last), latest: make(chan *fabric.Snapshot, 1), position: newPosition()}
	s.addPosition(f.position)
	defer s.removePosition(f.position)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.run(ctx)
	}()
	for {
		select {
		case snap := <-f.latest:
			fn(snap)
		case <-ended:
			s.setHold("")
			return nil
		}
	}
}

// errConfirmed ends a watch whose history an operator has replaced.
var errConfirmed = errors.New("the restored data was confirmed")

// follower keeps a table equal to etcd.
type follower struct {
	store    *Store
	table    *table
	latest   chan *fabric.Snapshot // the newest state that was not yet handed out
	position *position
	held     *held // while etcd is back in time
	compared time.Time
	compares int
}

// held says why older data is not taken over.
type held struct {
	why  string
	seen string // the incarnation of the older data
	told bool
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		begin := time.Now()
		err := f.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > f.store.timing.stale {
			failures = 0
		}
		f.pause(ctx, err, failures)
		failures++
	}
}

// pause waits before the next session; half of the wait is at random, because the agents of a fleet must not come back all
// at once.
func (f *follower) pause(ctx context.Context, err error, failures int) {
	wait := min(f.store.timing.retry<<min(failures, 4), f.store.timing.hold)
	switch {
	case errors.Is(err, ErrRolledBack):
		f.publishHold()
		wait = f.store.timing.hold
	case failures == 0:
		f.store.log.Warn("following the fabric's records broke off and is taken up again; what is in force stays so", "error", err)
	default:
		f.store.log.Debug("following the fabric's records is not possible yet", "error", err)
	}
	half := time.Duration(f.store.random(uint32(wait/time.Microsecond)/2+1)) * time.Microsecond
	timer := time.NewTimer(wait/2 + half)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// session makes the table equal to etcd and keeps it so until something breaks.
func (f *follower) session(ctx context.Context) error {
	if err := f.sync(ctx, 0, false); err != nil {
		return err
	}
	f.position.set(f.table.revision, f.table.snapshot())
	defer f.position.set(0, nil)
	w := stream{below: prefix, from: f.table.revision + 1, events: f.events, tick: f.tick, ask: f.position.ask}
	return w.run(ctx, f.store)
}

// events takes changes over and hands the new state out. A response without events says that there is nothing up to its
// revision; one with events says so only up to the last of them.
func (f *follower) events(rev int64, events []*mvccpb.Event) error {
	changes := changesOf(events)
	if n := len(changes); n > 0 {
		rev = changes[n-1].revision
	}
	// A comparison may have been ahead of the watch.
	changes = slices.DeleteFunc(changes, func(c change) bool { return c.revision <= f.table.revision })
	if f.table.apply(changes, rev) {
		f.publish(f.table.snapshot())
	}
	f.position.set(f.table.revision, f.table.snapshot())
	return nil
}

// tick asks whether history is still the one that was followed, and from time to time compares everything as of the
// revision the watch is at: every tenth time with the values.
func (f *follower) tick(ctx context.Context) error {
	if err := f.probe(ctx); err != nil {
		return err
	}
	if f.table.revision == 0 {
		return errConfirmed
	}
	if time.Since(f.compared) < f.store.timing.compare {
		return nil
	}
	f.compares++
	return f.sync(ctx, f.table.revision, f.compares%10 == 0)
}

// publish makes a state the newest one; one that nobody took yet is dropped.
func (f *follower) publish(s *fabric.Snapshot) {
	select {
	case <-f.latest:
	default:
	}
	f.latest <- s
}

func (f *follower) publishHold() {
	f.store.setHold(f.held.why)
	if f.held.told {
		return
	}
	f.held.told = true
	f.store.log.Error("etcd went back in time: the last state is held", "reason", f.held.why)
	f.publish(f.table.snapshot(fmt.Sprintf(
		"%s, as after a restore from an old backup: the last state is held; restore a newer backup, or confirm the restored data with 'weft confirm --held'", f.held.why)))
}

// roll is the error that begins or continues a hold.
func (f *follower) roll(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrRolledBack)
}
