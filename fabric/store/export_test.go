package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/fabric"
)

// Hasten shortens all waiting of a store.
func Hasten(s *Store) {
	s.timing = timing{
		request: 2 * time.Second, progress: 100 * time.Millisecond, stale: time.Second, compare: time.Hour,
		retry: 20 * time.Millisecond, hold: 50 * time.Millisecond, lease: 10 * time.Second,
	}
}

// ShortenLease makes a status disappear sooner after its last report; etcd grants no less than two seconds.
func ShortenLease(s *Store) { s.timing.lease = 2 * time.Second }

// Raw is the client below a store.
func Raw(s *Store) *clientv3.Client { return s.client }

// Follower is a follow that a test drives by hand.
type Follower struct{ f *follower }

// NewFollower makes one that has read nothing.
func NewFollower(s *Store) Follower {
	return Follower{&follower{store: s, table: newTable(nil), latest: make(chan *fabric.Snapshot, 1), position: newPosition()}}
}

// Sync compares everything at the revision the follower is at.
func (f Follower) Sync(ctx context.Context, values bool) error {
	return f.f.sync(ctx, f.f.table.revision, values)
}

// Lose makes the follower as if etcd had never sent it what a key holds.
func (f Follower) Lose(k string) {
	next := &edit{Snapshot: *f.f.table.current, words: f.f.table.words}
	next.remove(k)
	f.f.table.current = &next.Snapshot
	delete(f.f.table.marks, k)
}

// Forge makes the follower as if a key had held something else at the same revision.
func (f Follower) Forge(k string) {
	m := f.f.table.marks[k]
	m.sum++
	f.f.table.marks[k] = m
}

// Snapshot is what the follower would hand out.
func (f Follower) Snapshot() *fabric.Snapshot { return f.f.table.snapshot() }

// Followed is what Snapshot gets from a follow that runs; nil when it must read everything itself.
func Followed(ctx context.Context, s *Store) *fabric.Snapshot { return s.followed(ctx) }
