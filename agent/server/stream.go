package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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

// objects lists everything of a snapshot, referred-to kinds first, names in order.
func objects(snap *fabric.Snapshot) []fabric.Object {
	var out []fabric.Object
	add := func(more []fabric.Object) { out = append(out, more...) }
	add(pointers(sorted(snap.Groups)))
	add(pointers(sorted(snap.Policies)))
	add(pointers(sorted(snap.Profiles)))
	add(pointers(sorted(snap.Hosts)))
	add(pointers(sorted(snap.Switches)))
	add(pointers(sorted(snap.Ports)))
	add(pointers(sorted(snap.Mirrors)))
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
