package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
)

// undoPause is the time between two attempts to undo a change while etcd is away.
const undoPause = 2 * time.Second

// pending is a change that is undone unless it is confirmed, with all that undoing it needs. It is on disk before the
// change is made, so that an agent that was killed still undoes it.
type pending struct {
	api.Pending
	// Trace is that of the change. An object that carries another one was changed again, and is left as it is.
	Trace string `json:"trace"`
	// Before are the objects as they were; Created did not exist.
	Before  []json.RawMessage `json:"before"`
	Created []created         `json:"created"`
}

type created struct {
	Kind fabric.Kind `json:"kind"`
	Name string      `json:"name"`
}

// confirmer keeps the one change that waits for its confirmation.
type confirmer struct {
	objects Objects
	log     *slog.Logger
	// path is the file that outlives the agent.
	path string
	// wake is told when there is another change to wait for, or none.
	wake chan struct{}

	mu  sync.Mutex
	now *pending
}

// begin notes what a change is about to replace. The error wraps fabric.ErrConflict while another change waits.
func (c *confirmer) begin(snap *fabric.Snapshot, objects []fabric.Object, trace string, until time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil {
		return &api.Error{
			Code: api.CodeConflict, Message: fmt.Sprintf("another change (revision %d) waits for its confirmation until %s", c.now.Revision, c.now.UndoneAt.Format(time.TimeOnly)),
			Next: "keep it with weft confirm, or wait until it is undone",
		}
	}
	p := &pending{Pending: api.Pending{UndoneAt: until}, Trace: trace}
	for _, o := range objects {
		p.Objects = append(p.Objects, fabric.Ref(o))
		have := find(snap, o.Type().Kind, o.Meta().Name)
		if have == nil {
			p.Created = append(p.Created, created{o.Type().Kind, o.Meta().Name})
			continue
		}
		b, err := json.Marshal(have)
		if err != nil {
			return fmt.Errorf("note %s as it is: %w", fabric.Ref(o), err)
		}
		p.Before = append(p.Before, b)
	}
	return c.keep(p)
}

// made notes the revision of the change, or that it came to nothing.
func (c *confirmer) made(revision fabric.Revision, err error) (*api.Pending, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, c.keep(nil))
	}
	p := *c.now
	p.Revision = revision
	return &p.Pending, c.keep(&p)
}

// confirm keeps the change.
func (c *confirmer) confirm() (api.Pending, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		return api.Pending{}, &api.Error{Code: api.CodeNotFound, Message: "no change waits for its confirmation on this host", Next: "ask the host that took the change: weft confirm --host NAME"}
	}
	p := c.now.Pending
	return p, c.keep(nil)
}

// waiting is the change that waits, nil when there is none.
func (c *confirmer) waiting() *api.Pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		return nil
	}
	p := c.now.Pending
	return &p
}

// keep writes what waits to disk, then to memory. The caller holds mu.
func (c *confirmer) keep(p *pending) error {
	if p == nil {
		if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget the change that waited: %w", err)
		}
	} else {
		b, err := json.Marshal(p)
		if err != nil {
			return fmt.Errorf("note the change that waits: %w", err)
		}
		if err := replaceFile(c.path, b); err != nil {
			return fmt.Errorf("note the change that waits: %w", err)
		}
	}
	c.now = p
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// replaceFile writes a file that is whole or not there, and on disk when it returns.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".pending")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// run undoes what nobody confirmed in time, also what an agent before this one had noted.
func (c *confirmer) run(ctx context.Context) error {
	if err := c.load(); err != nil {
		c.log.Error("the change that waited for its confirmation cannot be read, and stays", "file", c.path, "error", err)
	}
	for {
		timer := time.NewTimer(time.Hour)
		c.mu.Lock()
		p := c.now
		c.mu.Unlock()
		if p != nil {
			timer.Reset(max(time.Until(p.UndoneAt), 0))
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.wake:
		case <-timer.C:
			if p != nil {
				c.expire(ctx, p)
			}
		}
		timer.Stop()
	}
}

// load reads what was noted before.
func (c *confirmer) load() error {
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := readPending(b)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = p
	}
	return nil
}

// readPending reads a change as keep wrote it: whole, or it could be undone only in part.
func readPending(b []byte) (*pending, error) {
	var p pending
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	if p.UndoneAt.IsZero() {
		return nil, errors.New("it does not say when the change is to be undone")
	}
	for _, before := range p.Before {
		if _, err := api.Decode(before); err != nil {
			return nil, fmt.Errorf("read an object as it was: %w", err)
		}
	}
	return &p, nil
}

// expire undoes a change; while etcd is away it is tried again.
func (c *confirmer) expire(ctx context.Context, p *pending) {
	err := c.undo(ctx, p)
	if errors.Is(err, store.ErrUnavailable) {
		c.log.Warn("a change that was not confirmed cannot be undone yet", "revision", p.Revision, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(undoPause):
		}
		return
	}
	if ctx.Err() != nil {
		return // the next agent undoes it
	}
	if err != nil {
		c.log.Error("a change that was not confirmed could not be undone wholly", "revision", p.Revision, "error", err)
	} else {
		c.log.Info("a change was not confirmed and is undone", "revision", p.Revision, "objects", p.Objects)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil || c.now.Trace != p.Trace {
		return
	}
	if err := c.keep(nil); err != nil {
		c.log.Error("a change that is undone cannot be forgotten", "error", err)
	}
}

// undo puts back what the change replaced and deletes what it created, except what was changed again since.
func (c *confirmer) undo(ctx context.Context, p *pending) error {
	snap, err := c.objects.Snapshot(ctx)
	if err != nil {
		return err
	}
	var back []fabric.Object
	for _, b := range p.Before {
		o, err := api.Decode(b)
		if err != nil {
			return fmt.Errorf("read an object as it was: %w", err)
		}
		have := find(snap, o.Type().Kind, o.Meta().Name)
		if have == nil || have.Meta().Trace != p.Trace {
			continue
		}
		o.Meta().Revision = have.Meta().Revision
		back = append(back, o)
	}
	if len(back) > 0 {
		if _, err := c.objects.Apply(ctx, back, store.ApplyOptions{}); err != nil {
			return err
		}
	}
	// What refers goes before what it refers to.
	slices.SortStableFunc(p.Created, func(a, b created) int {
		return cmp.Compare(slices.Index(fabric.Kinds(), b.Kind), slices.Index(fabric.Kinds(), a.Kind))
	})
	var all error
	for _, n := range p.Created {
		have := find(snap, n.Kind, n.Name)
		if have == nil || have.Meta().Trace != p.Trace {
			continue
		}
		_, err := c.objects.Delete(ctx, n.Kind, n.Name)
		all = errors.Join(all, err)
	}
	return all
}

// find is an object of a snapshot, nil when it is not there.
func find(snap *fabric.Snapshot, kind fabric.Kind, name string) fabric.Object {
	for _, o := range objects(snap) {
		if o.Type().Kind == kind && o.Meta().Name == name {
			return o
		}
	}
	return nil
}
