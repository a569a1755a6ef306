package server

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// watchPause is the least time between two looks of a watch: hosts repeat their status, and most of it says nothing new.
const watchPause = 20 * time.Millisecond

// watchPatience is how long etcd may take until a watch begins without it.
const watchPatience = 2 * time.Second

// watch streams objects and their changes, those of their status as well.
func (s *Server) watch(_ context.Context, in *struct {
	Kind []string `query:"kind,explode" doc:"Only these kinds"`
}) (*huma.StreamResponse, error) {
	if s.o.Objects == nil {
		return nil, absent("know the wanted state")
	}
	var kinds []fabric.Kind
	for _, word := range in.Kind {
		r, err := api.ResourceOf(word)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, r.Kind)
	}
	return s.streamed(func(ctx context.Context, l *lines) error {
		w := &watcher{kinds: kinds, sent: map[string]seen{}, out: l.write, changed: make(chan struct{}, 1)}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			return s.o.Objects.Follow(ctx, func(snap *fabric.Snapshot) { w.take(func(v *view) { v.snap = snap }) })
		})
		if s.o.Statuses != nil {
			g.Go(func() error {
				return s.o.Statuses.FollowStatuses(ctx, func(all map[fabric.HostID]fabric.HostStatus) { w.take(func(v *view) { v.statuses = all }) })
			})
		} else {
			w.take(func(v *view) { v.statuses = map[fabric.HostID]fabric.HostStatus{} })
		}
		g.Go(func() error { s.seed(ctx, w); return nil })
		g.Go(func() error { return w.run(ctx, s.o.Fleet) })
		return g.Wait()
	}), nil
}

// seed begins a watch with what is known here and with what the hosts themselves say, when etcd does not answer.
func (s *Server) seed(ctx context.Context, w *watcher) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(watchPatience):
	}
	if s.o.Fleet == nil || s.o.Fleet.Latest() == nil {
		return
	}
	w.mu.Lock()
	v := w.now
	w.mu.Unlock()
	if v.snap == nil {
		v.snap = s.o.Fleet.Latest()
	}
	if v.statuses != nil {
		return
	}
	statuses := s.askAll(ctx, &v)
	w.take(func(now *view) {
		if now.snap == nil {
			now.snap = v.snap
		}
		if now.statuses == nil {
			now.statuses = statuses
		}
	})
}

// watcher turns snapshots and statuses into changes: it remembers what it has told of each object.
type watcher struct {
	kinds   []fabric.Kind
	sent    map[string]seen
	synced  bool
	out     func(any) error
	changed chan struct{}

	mu  sync.Mutex
	now view
}

// seen is what makes an object worth telling of again.
type seen struct {
	revision     fabric.Revision
	state        fabric.PortState
	host         fabric.HostID
	epoch        fabric.Epoch
	device       string
	reason       string
	alive, ready bool
	generation   fabric.Revision
	// hosts and ports are how many have a switch in force, and how many it has.
	hosts, ports int
}

// seenOf is what there is to see of an object; counters, which change all the time, are not.
func seenOf(o fabric.Object) seen {
	is := seen{revision: o.Meta().Revision}
	switch o := o.(type) {
	case *fabric.Port:
		p := o.Status
		is.state, is.host, is.epoch, is.device, is.reason = p.State, p.Host, p.Epoch, p.Device, p.Reason
	case *fabric.Host:
		h := o.Status
		is.alive, is.ready, is.generation, is.reason, is.ports = h.Alive, h.Ready, h.Generation, strings.Join(h.Problems, "\n"), len(h.Ports)
	case *fabric.Switch:
		is.hosts, is.ports = len(o.Status.Hosts), o.Status.Ports
	}
	return is
}

// take takes news in; what comes while the last is told is told together.
func (w *watcher) take(change func(*view)) {
	w.mu.Lock()
	change(&w.now)
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// run tells of news until ctx ends or nobody listens.
func (w *watcher) run(ctx context.Context, fleet Fleet) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.changed:
		}
		w.mu.Lock()
		v := w.now
		w.mu.Unlock()
		if fleet != nil {
			v.alive = fleet.Alive()
		}
		if v.snap != nil && v.statuses != nil {
			if err := w.update(&v); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchPause):
		}
	}
}

// update tells what differs from what was told before.
func (w *watcher) update(v *view) error {
	there := map[string]bool{}
	for _, o := range v.objects(w.kinds) {
		key, is := fabric.Ref(o), seenOf(o)
		there[key] = true
		if was, told := w.sent[key]; told && was == is {
			continue
		}
		b, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("write %s as JSON: %w", key, err)
		}
		w.sent[key] = is
		if err := w.out(api.WatchedChange{Type: api.Put, Kind: o.Type().Kind, Name: o.Meta().Name, Revision: o.Meta().Revision, Object: b}); err != nil {
			return err
		}
	}
	if err := w.forget(there, v.snap.Revision); err != nil {
		return err
	}
	if w.synced {
		return nil
	}
	w.synced = true
	return w.out(api.WatchedChange{Type: api.Synced, Revision: v.snap.Revision})
}

// forget tells of objects that are gone.
func (w *watcher) forget(there map[string]bool, rev fabric.Revision) error {
	for key := range w.sent {
		if there[key] {
			continue
		}
		delete(w.sent, key)
		word, name, _ := strings.Cut(key, "/")
		kind, err := fabric.ParseKind(word)
		if err != nil {
			return err
		}
		if err := w.out(api.WatchedChange{Type: api.Delete, Kind: kind, Name: name, Revision: rev}); err != nil {
			return err
		}
	}
	return nil
}

// objects lists everything of some kinds, all when none are given, with its status; referred-to kinds first, names in order.
func (v *view) objects(kinds []fabric.Kind) []fabric.Object {
	var out []fabric.Object
	for _, of := range []struct {
		kind fabric.Kind
		list func() []fabric.Object
	}{
		{fabric.KindGroup, func() []fabric.Object { return pointers(v.groups()) }},
		{fabric.KindPolicy, func() []fabric.Object { return pointers(v.policies()) }},
		{fabric.KindProfile, func() []fabric.Object { return pointers(v.profiles()) }},
		{fabric.KindHost, func() []fabric.Object { return pointers(v.hosts()) }},
		{fabric.KindSwitch, func() []fabric.Object { return pointers(v.switches()) }},
		{fabric.KindPort, func() []fabric.Object { return pointers(v.ports()) }},
		{fabric.KindMirror, func() []fabric.Object { return pointers(v.mirrors()) }},
		{fabric.KindMove, func() []fabric.Object { return pointers(v.moves()) }},
	} {
		if len(kinds) == 0 || slices.Contains(kinds, of.kind) {
			out = append(out, of.list()...)
		}
	}
	return out
}
