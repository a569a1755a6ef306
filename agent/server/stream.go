package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// slowest is how long one line of a stream may take to leave; a reader slower than that is cut off.
const slowest = 30 * time.Second

func (s *Server) streamOperations() {
	register(s, api.GetEvents(), s.events)
	register(s, api.EventsHere(), s.eventsHere)
	register(s, api.GetWatch(), s.watch)
}

// watch streams objects and their changes.
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
		w := watcher{kinds: kinds, sent: map[string]fabric.Revision{}, out: l.write}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		return s.o.Objects.Follow(ctx, func(snap *fabric.Snapshot) {
			if err := w.update(snap); err != nil {
				cancel(err)
			}
		})
	}), nil
}

// streamed answers with lines until the writer returns. An error after the first line has nowhere to go but the end.
func (s *Server) streamed(body func(context.Context, *lines) error) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := unwrap(hc)
		l := &lines{w: w, control: http.NewResponseController(w), sse: strings.Contains(r.Header.Get("Accept"), "text/event-stream")}
		w.Header().Set("Content-Type", "application/x-ndjson")
		if l.sse {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
		_ = l.control.Flush()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go func() {
			select {
			case <-s.stopping:
				cancel()
			case <-ctx.Done():
			}
		}()
		_ = body(ctx, l) // the reader left, or the agent stops: both end the stream
	}}
}

// lines writes one JSON value a line, as NDJSON or server-sent events.
type lines struct {
	w       http.ResponseWriter
	control *http.ResponseController
	sse     bool
}

func (l *lines) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write a line of the stream: %w", err)
	}
	if l.sse {
		b = append(append([]byte("data: "), b...), '\n')
	}
	_ = l.control.SetWriteDeadline(time.Now().Add(slowest)) // unsupported only where tests record the answer
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write a line of the stream: %w", err)
	}
	return l.control.Flush()
}

// watcher turns snapshots into changes: it remembers the revision of each object it has told of.
type watcher struct {
	kinds  []fabric.Kind
	sent   map[string]fabric.Revision
	synced bool
	out    func(any) error
}

// update tells what differs from what was told before.
func (w *watcher) update(snap *fabric.Snapshot) error {
	there := map[string]bool{}
	for _, o := range objects(snap) {
		if len(w.kinds) > 0 && !slices.Contains(w.kinds, o.Type().Kind) {
			continue
		}
		key := fabric.Ref(o)
		there[key] = true
		if rev, told := w.sent[key]; told && rev == o.Meta().Revision {
			continue
		}
		b, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("write %s as JSON: %w", key, err)
		}
		w.sent[key] = o.Meta().Revision
		if err := w.out(api.WatchedChange{Type: api.Put, Kind: o.Type().Kind, Name: o.Meta().Name, Revision: o.Meta().Revision, Object: b}); err != nil {
			return err
		}
	}
	if err := w.forget(there, snap.Revision); err != nil {
		return err
	}
	if w.synced {
		return nil
	}
	w.synced = true
	return w.out(api.WatchedChange{Type: api.Synced, Revision: snap.Revision})
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

// objects lists everything of a snapshot, referred-to kinds first, names in order.
func objects(snap *fabric.Snapshot) []fabric.Object {
	var out []fabric.Object
	add := func(more []fabric.Object) { out = append(out, more...) }
	add(pointers(sorted(snap.Profiles)))
	add(pointers(sorted(snap.Groups)))
	add(pointers(sorted(snap.Hosts)))
	add(pointers(sorted(snap.Switches)))
	add(pointers(sorted(snap.Ports)))
	add(pointers(sorted(snap.Moves)))
	return out
}

// pointers are the elements as objects.
func pointers[T any, P interface {
	*T
	fabric.Object
}](in []T) []fabric.Object {
	out := make([]fabric.Object, len(in))
	for i := range in {
		out[i] = P(&in[i])
	}
	return out
}
