package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
)

// named is the input of operations on one object.
type named struct {
	Name string `path:"name" doc:"Name of the object"`
}

// deletion is the input of deletes.
type deletion struct {
	Name  string `path:"name" doc:"Name of the object"`
	Force bool   `query:"force" doc:"Delete a port although it is plugged in"`
}

// listing is the input of lists.
type listing struct {
	Counters bool `query:"counters" doc:"Fetch the ports' counters from their hosts"`
}

// answer is an output with a body.
type answer[T any] struct{ Body T }

func (s *Server) objectOperations() {
	kind(s, fabric.KindHost, func(v *view) []fabric.Host { return v.hosts() })
	kind(s, fabric.KindSwitch, func(v *view) []fabric.Switch { return v.switches() })
	kind(s, fabric.KindPort, func(v *view) []fabric.Port { return v.ports() })
	kind(s, fabric.KindProfile, func(v *view) []fabric.Profile { return v.profiles() })
	kind(s, fabric.KindGroup, func(v *view) []fabric.Group { return v.groups() })
	kind(s, fabric.KindPolicy, func(v *view) []fabric.Policy { return v.policies() })
	kind(s, fabric.KindMirror, func(v *view) []fabric.Mirror { return v.mirrors() })
	kind(s, fabric.KindMove, func(v *view) []fabric.Move { return v.moves() })
	register(s, api.ApplyObjects(), s.apply)
	register(s, api.Confirm(), s.confirm)
	register(s, api.RenameSwitch(), s.rename)
}

// kind registers list, get and delete of one kind.
func kind[T any, P interface {
	*T
	fabric.Object
}](s *Server, k fabric.Kind, list func(*view) []T) {
	r, err := api.ResourceOf(string(k))
	if err != nil {
		panic(err) // a kind of this release that api.Resources does not list is a defect of the build
	}
	register(s, api.ListOf(r), func(ctx context.Context, in *listing) (*answer[api.List[T]], error) {
		v, err := s.view(ctx)
		if err != nil {
			return nil, err
		}
		if k == fabric.KindMirror {
			s.countMirrors(ctx, v)
		} else if in.Counters {
			s.count(ctx, v)
		}
		return &answer[api.List[T]]{api.List[T]{Items: list(v), Revision: v.snap.Revision, Stale: v.staleness()}}, nil
	})
	register(s, api.GetOf(r), func(ctx context.Context, in *named) (*answer[P], error) {
		v, err := s.view(ctx)
		if err != nil {
			return nil, err
		}
		if k == fabric.KindMirror {
			s.countMirrors(ctx, v)
		}
		if k == fabric.KindPort {
			s.count(ctx, v, fabric.PortID(in.Name))
		}
		for _, o := range list(v) {
			if P(&o).Meta().Name != in.Name {
				continue
			}
			if m, moves := any(&o).(*fabric.Move); moves {
				s.countMove(ctx, v, m)
			}
			return &answer[P]{&o}, nil
		}
		return nil, missing(r, in.Name)
	})
	if !r.Deletable {
		return
	}
	register(s, api.DeleteOf(r), func(ctx context.Context, in *deletion) (*answer[api.ApplyResult], error) {
		return s.delete(ctx, r, in)
	})
}

// missing is the answer for an object that does not exist.
func missing(r api.Resource, name string) *api.Error {
	if len(name) > fabric.MaxName {
		name = name[:24] + "…" // it cannot be one; enough to know it by
	}
	return &api.Error{
		Code: api.CodeNotFound, Object: r.Singular + "/" + name,
		Message: fmt.Sprintf("there is no %s %q", r.Singular, name), Next: "see what there is: weft get " + r.Plural,
	}
}

// apply writes objects in one transaction.
func (s *Server) apply(ctx context.Context, in *struct{ Body api.ApplyRequest }) (*answer[api.ApplyResult], error) {
	if err := s.mayWrite(ctx); err != nil {
		return nil, err
	}
	if len(in.Body.Objects) == 0 {
		return nil, &api.Error{Code: api.CodeInvalid, Field: "objects", Message: "apply: there are no objects in the request", Next: `send {"objects": [{"apiVersion": "weft/v1", "kind": "Switch", …}]}`}
	}
	objects, err := decode(ctx, in.Body.Objects)
	if err != nil {
		return nil, err
	}
	res, waits, err := s.write(ctx, objects, in.Body)
	if err != nil && len(objects) == 1 {
		ref := fabric.Ref(objects[0])
		e := failure(err)
		e.Object, e.Message = ref, strings.TrimPrefix(e.Message, "apply "+ref+": ") // the store's own prefix says the same
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	out := api.ApplyResult{Revision: res.Revision, Pending: waits, DryRun: in.Body.DryRun, TraceID: traceID(ctx), Items: make([]api.Applied, len(res.Objects))}
	for i, o := range res.Objects {
		b, err := json.Marshal(o.Object)
		if err != nil {
			return nil, fmt.Errorf("write %s %s as JSON: %w", o.Object.Type().Kind, o.Object.Meta().Name, err)
		}
		out.Items[i] = api.Applied{Kind: o.Object.Type().Kind, Name: o.Object.Meta().Name, Outcome: api.Outcome(o.Outcome), Object: b}
	}
	return &answer[api.ApplyResult]{out}, nil
}

// write applies the objects, for good or until nobody has confirmed them.
func (s *Server) write(ctx context.Context, objects []fabric.Object, r api.ApplyRequest) (store.ApplyResult, *api.Pending, error) {
	if r.ConfirmSeconds == 0 || r.DryRun {
		res, err := s.o.Objects.Apply(ctx, objects, store.ApplyOptions{DryRun: r.DryRun})
		return res, nil, err
	}
	parent := traceparent(ctx)
	if s.confirmer == nil || parent == "" {
		return store.ApplyResult{}, nil, absent("undo changes")
	}
	if r.ConfirmSeconds < 0 || r.ConfirmSeconds > time.Hour.Seconds() {
		return store.ApplyResult{}, nil, &api.Error{Code: api.CodeInvalid, Field: "confirmSeconds", Message: fmt.Sprintf("a change can wait up to an hour for its confirmation, not %g s", r.ConfirmSeconds)}
	}
	snap, err := s.o.Objects.Snapshot(ctx)
	if err != nil {
		return store.ApplyResult{}, nil, err
	}
	within := time.Duration(r.ConfirmSeconds * float64(time.Second))
	if err := s.confirmer.begin(snap, objects, parent, time.Now().Add(within)); err != nil {
		return store.ApplyResult{}, nil, err
	}
	res, err := s.o.Objects.Apply(ctx, objects, store.ApplyOptions{})
	waits, err := s.confirmer.made(res.Revision, err)
	return res, waits, err
}

// confirm keeps a change.
func (s *Server) confirm(ctx context.Context, _ *struct{}) (*answer[api.Pending], error) {
	if err := s.mayWrite(ctx); err != nil {
		return nil, err
	}
	if s.confirmer == nil {
		return nil, absent("undo changes")
	}
	p, err := s.confirmer.confirm()
	return &answer[api.Pending]{p}, err
}

// decode reads the objects strictly and notes the operation that wrote them in each, so that a watcher gets the cause with
// the content.
func decode(ctx context.Context, raw []json.RawMessage) ([]fabric.Object, error) {
	parent := traceparent(ctx)
	objects := make([]fabric.Object, 0, len(raw))
	for i, b := range raw {
		o, err := api.Decode(b)
		if err != nil {
			return nil, fmt.Errorf("object %d of the request: %w", i+1, err)
		}
		if r, err := api.ResourceOf(string(o.Type().Kind)); err != nil || !r.Settable {
			return nil, &api.Error{
				Code: api.CodeInvalid, Object: fabric.Ref(o), Next: "apply switches, ports, profiles and groups",
				Message: fmt.Sprintf("object %d of the request: %s: %ss are written by the hosts themselves", i+1, fabric.Ref(o), strings.ToLower(string(o.Type().Kind))),
			}
		}
		o.Meta().Trace = parent
		objects = append(objects, o)
	}
	return objects, nil
}

// delete removes one object.
func (s *Server) delete(ctx context.Context, r api.Resource, in *deletion) (*answer[api.ApplyResult], error) {
	if err := s.mayWrite(ctx); err != nil {
		return nil, err
	}
	if r.Kind == fabric.KindPort && !in.Force {
		if err := s.unplugged(ctx, in.Name); err != nil {
			return nil, err
		}
	}
	if r.Kind == fabric.KindHost {
		if err := s.gone(ctx, fabric.HostID(in.Name)); err != nil {
			return nil, err
		}
	}
	rev, err := s.o.Objects.Delete(ctx, r.Kind, in.Name)
	if errors.Is(err, fabric.ErrNotFound) {
		return nil, missing(r, in.Name)
	}
	if err != nil {
		return nil, about(r.Singular+"/"+in.Name, err)
	}
	return &answer[api.ApplyResult]{api.ApplyResult{
		Revision: rev, TraceID: traceID(ctx), Items: []api.Applied{{Kind: r.Kind, Name: in.Name, Outcome: api.Deleted}},
	}}, nil
}

// gone refuses to delete a host whose agent lives, which would register it again, and one that keeps the records.
func (s *Server) gone(ctx context.Context, id fabric.HostID) error {
	v, err := s.view(ctx)
	if err != nil {
		return err
	}
	host := v.snap.Hosts[id]
	_, reports := v.statuses[id]
	e := &api.Error{Code: api.CodeConflict, Object: "host/" + string(id)}
	switch {
	case host == nil:
		return nil // the store says so
	case host.Spec.Server:
		e.Message = fmt.Sprintf("delete host %s: it is a server host, whose etcd member keeps the records", id)
		e.Next = "make another host a server in its place first, and take server: true out of this one's configuration"
	case reports || v.alive[id]:
		e.Message = fmt.Sprintf("delete host %s: its agent lives, and would register it again", id)
		e.Next = fmt.Sprintf("move its guests away with: weft drain %s; then %s", id, onHost(id, "systemctl disable --now weft"))
	default:
		return nil
	}
	return e
}

// unplugged refuses to delete a port that a host holds: its guest would be cut off that moment.
func (s *Server) unplugged(ctx context.Context, name string) error {
	snap, err := s.o.Objects.Snapshot(ctx)
	if err != nil {
		return err
	}
	host := snap.Locations[fabric.PortID(name)].Host
	if p := snap.Ports[fabric.PortID(name)]; host == "" || p != nil && p.IsHost() { // why a host's own port stays, the store says
		return nil
	}
	return &api.Error{
		Code: api.CodeConflict, Object: "port/" + name,
		Message: fmt.Sprintf("delete port %s: it is plugged in on host %s, and its guest would be cut off", name, host),
		Next:    fmt.Sprintf("take the guest away first, in a lab with: weft lab vm %[1]s --remove; or cut it off with: weft delete port %[1]s --force", name),
	}
}

// mayWrite refuses writes on a host that is no server: its etcd certificate is for reading, and its host certificate
// must not become a way to change the fabric.
func (s *Server) mayWrite(ctx context.Context) error {
	if s.o.Objects == nil {
		return absent("keep the wanted state")
	}
	if s.o.Writes {
		return nil
	}
	return s.misdirected(ctx)
}

// misdirected names the hosts that can write. It does not pass the request on: that would take no more than the host's
// certificate, and a stolen one must not rewrite anybody's policy (ADR 9).
func (s *Server) misdirected(ctx context.Context) *api.Error {
	e := &api.Error{Code: api.CodeMisdirected, Message: fmt.Sprintf("host %s is not a server host: it cannot write to etcd", s.o.Self)}
	e.Next = "run it on a server host; weft get hosts -o wide shows which they are"
	snap, err := s.known(ctx)
	if err != nil {
		return e
	}
	var names []string
	for _, id := range slices.Sorted(maps.Keys(snap.Hosts)) {
		if h := snap.Hosts[id]; h.Spec.Server && h.Spec.API != "" {
			names, e.Servers = append(names, string(id)), append(e.Servers, h.Spec.API)
		}
	}
	if len(names) > 0 {
		e.Next = fmt.Sprintf("run it on %s, or from here with an operator's certificate: weft --server %s --cert DIR …", strings.Join(names, ", "), e.Servers[0])
	}
	return e
}

// absent is the answer of a part that this host was not given.
func absent(what string) *api.Error {
	return &api.Error{Code: api.CodeUnavailable, Message: "this agent does not " + what, Next: "ask another host: weft --host NAME …"}
}

// view reads the wanted state and what the hosts say. Without etcd it is what this host knew last.
func (s *Server) view(ctx context.Context) (*view, error) {
	v := &view{self: s.o.Self, statuses: map[fabric.HostID]fabric.HostStatus{}}
	if s.o.Fleet != nil {
		v.alive = s.o.Fleet.Alive()
	}
	if s.o.Objects == nil {
		return nil, absent("know the wanted state")
	}
	ask, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	snap, err := s.o.Objects.Snapshot(ask)
	if err == nil {
		v.snap = snap
		if s.o.Statuses != nil {
			if v.statuses, err = s.o.Statuses.Statuses(ask); err != nil {
				v.stale, v.statuses = err, s.askAll(ctx, v)
			}
		}
		return v, nil
	}
	if ctx.Err() != nil || s.o.Fleet == nil || s.o.Fleet.Latest() == nil {
		return nil, &api.Error{Code: api.CodeUnavailable, Message: "read the fabric from etcd: " + brief(err), Next: "weft status shows which members answer; traffic goes on meanwhile"}
	}
	v.snap, v.stale = s.o.Fleet.Latest(), err
	v.statuses = s.askAll(ctx, v)
	return v, nil
}

// traceparent is the W3C form of the operation's span, empty when it is not traced.
func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get("traceparent")
}

// traceID is the operation's trace, empty when it is not traced.
func traceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}
