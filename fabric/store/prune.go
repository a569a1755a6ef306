package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

// What is kept of moves that have ended: the last keepMoves, and all of the last keepMovesFor, whichever is more.
const (
	keepMoves    = 100
	keepMovesFor = 24 * time.Hour
	// pruneAtOnce is how many records go in one transaction; an etcd that was not configured for weft takes 128 operations.
	pruneAtOnce = 100
)

// PruneMoves deletes the records of moves that ended long ago, and returns how many. It keeps the last 100 and all of the
// last 24 hours, by the clocks of the hosts that ended them. Server hosts may do it at the same time: a record that was
// written, or deleted by another, since it was read stays for the next time.
func (s *Store) PruneMoves(ctx context.Context, now time.Time) (int, error) {
	records, err := s.newDraft(ctx).scan(kindPrefix(fabric.KindMove), false)
	if err != nil {
		return 0, err
	}
	pruned := 0
	for batch := range slices.Chunk(outdated(records, now), pruneAtOnce) {
		d := s.newDraft(ctx)
		for _, r := range batch {
			d.read[r.key] = r
			if err := d.remove(r.key); err != nil {
				return pruned, err
			}
		}
		_, done, err := d.commit("delete the records of old moves")
		if err != nil {
			return pruned, err
		}
		if done {
			pruned += len(batch)
		}
	}
	return pruned, nil
}

// outdated are the records of moves that need not be kept, the oldest last. One that cannot be read is left alone.
func outdated(records []record, now time.Time) []record {
	type ended struct {
		record
		at time.Time
	}
	var over []ended
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			continue
		}
		m := as[*fabric.Move](o)
		switch m.Status.Phase {
		case fabric.MoveSettled, fabric.MoveFailed, fabric.MoveAborted:
			over = append(over, ended{r, m.Status.At[m.Status.Phase]})
		}
	}
	slices.SortFunc(over, func(a, b ended) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.revision, a.revision)) })
	var old []record
	for i, e := range over {
		if i >= keepMoves && now.Sub(e.at) > keepMovesFor {
			old = append(old, e.record)
		}
	}
	return old
}
