package server

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// longestWait is how long one request waits for a revision; the client asks again.
const longestWait = 25 * time.Second

// soonestAnswer is how long etcd may take to say how far the hosts are.
const soonestAnswer = 5 * time.Second

func (s *Server) fleetOperations() {
	register(s, api.GetStatus(), s.status)
	register(s, api.GetInForce(), s.inForce)
	register(s, api.StartMove(), s.startMove)
	register(s, api.AbortMove(), s.abortMove)
	register(s, api.Placements(), s.placements)
}

// status answers with the fabric on one page.
func (s *Server) status(ctx context.Context, _ *struct{}) (*answer[api.Status], error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	var etcd api.Etcd
	if s.o.Fleet != nil {
		ask, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if etcd, err = s.o.Fleet.Etcd(ask); err != nil && v.stale == nil {
			v.stale = err
		}
	}
	st := v.status(s.o.Self, etcd)
	if s.confirmer != nil {
		st.Pending = s.confirmer.waiting()
	}
	return &answer[api.Status]{st}, nil
}

// errDone ends a subscription that has seen what it waited for.
var errDone = errors.New("done")

// inForce waits until every host that reports has the revision in force.
func (s *Server) inForce(ctx context.Context, in *struct {
	Revision int64 `query:"revision" required:"true" minimum:"1" doc:"The revision of an apply"`
	Wait     int   `query:"wait" minimum:"0" maximum:"25" default:"25" doc:"How long to wait in seconds; 0 says how far the hosts are now"`
}) (*answer[api.InForce], error) {
	if s.o.Statuses == nil || s.o.Objects == nil {
		return nil, absent("hear what the hosts report")
	}
	snap, err := s.known(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeoutCause(ctx, min(longestWait, max(time.Duration(in.Wait)*time.Second, soonestAnswer)), errDone)
	defer stop()
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	out := &answer[api.InForce]{}
	err = s.o.Statuses.FollowStatuses(ctx, func(statuses map[fabric.HostID]fabric.HostStatus) {
		out.Body = reach(snap, statuses, fabric.Revision(in.Revision))
		if out.Body.Done || in.Wait == 0 {
			done(errDone)
		}
	})
	if err != nil && !errors.Is(context.Cause(ctx), errDone) {
		return nil, err
	}
	return out, nil
}

// known is the newest snapshot of this host, which spares etcd a full read for every change that is waited for.
func (s *Server) known(ctx context.Context) (*fabric.Snapshot, error) {
	if s.o.Fleet != nil {
		if snap := s.o.Fleet.Latest(); snap != nil {
			return snap, nil
		}
	}
	return s.o.Objects.Snapshot(ctx)
}

// reach says how far every host is with a revision. A host that reports nothing is not waited for, or one dead host would
// hold up the whole fleet; it catches up when it comes back.
func reach(snap *fabric.Snapshot, statuses map[fabric.HostID]fabric.HostStatus, r fabric.Revision) api.InForce {
	f := api.InForce{Revision: r, Done: true, Hosts: []api.HostReach{}}
	for _, id := range slices.Sorted(maps.Keys(snap.Hosts)) {
		st, reports := statuses[id]
		h := api.HostReach{Host: id, Generation: st.Generation, Alive: reports, InForce: st.Generation >= r, Problems: st.Problems}
		f.Hosts = append(f.Hosts, h)
		f.Done = f.Done && (h.InForce || !h.Alive)
	}
	return f
}

// startMove starts a live migration.
func (s *Server) startMove(ctx context.Context, in *struct{ Body api.MoveRequest }) (*answer[*fabric.Move], error) {
	if err := s.mayWrite(ctx); err != nil {
		return nil, err
	}
	if s.o.Moves == nil {
		return nil, absent("move ports")
	}
	if (in.Body.VM == "") == (in.Body.Port == "") {
		return nil, &api.Error{Code: api.CodeInvalid, Field: "vm", Message: "start a move: give either the VM or one of its ports", Next: "for example: weft migrate web-1 --to h2"}
	}
	if in.Body.To == "" {
		return nil, &api.Error{Code: api.CodeInvalid, Field: "to", Message: "start a move: it needs the host to move to", Next: "see the hosts there are: weft get hosts"}
	}
	m, err := s.o.Moves.Start(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return &answer[*fabric.Move]{m}, nil
}

// abortMove gives a move up.
func (s *Server) abortMove(ctx context.Context, in *named) (*answer[*fabric.Move], error) {
	if err := s.mayWrite(ctx); err != nil {
		return nil, err
	}
	if s.o.Moves == nil {
		return nil, absent("move ports")
	}
	m, err := s.o.Moves.Abort(ctx, fabric.MoveID(in.Name))
	if errors.Is(err, fabric.ErrNotFound) {
		return nil, missing(api.Resource{Singular: "move", Plural: "moves"}, in.Name)
	}
	if err != nil {
		return nil, err
	}
	return &answer[*fabric.Move]{m}, nil
}

// plain registers what is not part of the versioned API: probes for supervisors, and metrics.
func (s *Server) plain(mux *http.ServeMux) {
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s.o.Host == nil {
			writeError(w, absent("say whether it is ready"))
			return
		}
		if err := s.o.Host.Ready(r.Context()); err != nil {
			writeError(w, &api.Error{Code: api.CodeUnavailable, Message: "not ready: " + err.Error(), Next: "weft doctor"})
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	if s.o.Metrics != nil {
		mux.Handle("GET /metrics", s.o.Metrics)
	}
}
