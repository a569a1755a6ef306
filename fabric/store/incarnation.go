package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// ErrRolledBack: etcd holds older data than was seen before, as after a restore from a backup. What is in force stays in
// force until an operator confirms the older data, or etcd has the newer data again.
var ErrRolledBack = errors.New("etcd went back in time")

// incarnation identifies the data of one etcd: it is written once, and again when an operator confirms a restore.
type incarnation struct {
	ID string `json:"id"`
	// Replaces are the incarnations, the latest first, that an operator declared over when he confirmed a restore.
	Replaces []string `json:"replaces,omitempty"`
}

// maxReplaced bounds the list.
const maxReplaced = 16

// replaces reports whether data of the incarnation was declared over.
func (i incarnation) replaces(id string) bool { return id != "" && slices.Contains(i.Replaces, id) }

// ensureIncarnation gives new data its incarnation.
func (d *draft) ensureIncarnation() error {
	r, err := d.get(incarnationKey)
	if err != nil || r.revision != 0 {
		return err
	}
	return d.putIncarnation(nil)
}

func (d *draft) putIncarnation(replaces []string) error {
	value, err := json.Marshal(incarnation{ID: rand.Text(), Replaces: replaces})
	if err != nil {
		return fmt.Errorf("encode the incarnation: %w", err)
	}
	return d.put(incarnationKey, value)
}

// incarnation reads which data etcd holds; the zero value when it says nothing, or nothing that can be read.
func (d *draft) incarnation() (incarnation, error) {
	var now incarnation
	r, err := d.get(incarnationKey)
	if err != nil || r.revision == 0 {
		return now, err
	}
	if err := json.Unmarshal(r.value, &now); err != nil {
		d.store.log.Warn("the record that identifies etcd's data cannot be read", "key", r.key, "error", err)
		return incarnation{}, nil
	}
	return now, nil
}

// ConfirmRestore says that etcd's data is to be taken although it is older than what hosts have seen: every Follow that
// holds goes on with it. Without a hold it changes nothing but the incarnation.
func (s *Store) ConfirmRestore(ctx context.Context) error {
	const doing = "confirm the restored data"
	for attempt := range attempts {
		if err := s.pause(ctx, attempt); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		d := s.newDraft(ctx)
		now, err := d.incarnation()
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		replaces := append([]string{now.ID}, now.Replaces...)
		if err := d.putIncarnation(replaces[:min(len(replaces), maxReplaced)]); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if _, done, err := d.commit(doing); err != nil || done {
			return err
		}
	}
	return fmt.Errorf("%s: others wrote it in between: try again: %w", doing, fabric.ErrConflict)
}

// Held is nil, or ErrRolledBack with the reason while a Follow of this store holds.
func (s *Store) Held() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold == "" {
		return nil
	}
	return fmt.Errorf("%s: %w", s.hold, ErrRolledBack)
}

func (s *Store) setHold(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = why
}
