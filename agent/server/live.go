package server

import (
	"context"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/tracing"
)

// Lives are live traces.
type Lives interface {
	// StartLive begins a session on all hosts.
	StartLive(ctx context.Context, r api.LiveRequest) (tracing.LiveReport, error)
	// LiveReports are those of all sessions that were begun here; LiveReport is one of them, and the last one if it is to end.
	LiveReports() []tracing.LiveReport
	LiveReport(ctx context.Context, id uint32, end bool) (tracing.LiveReport, error)
	// Watch, Watched and Unwatch act on this host only; see tracing.Watcher.
	Watch(ctx context.Context, s tracing.LiveSession) error
	Watched(ctx context.Context, id uint32) (tracing.LiveBatch, error)
	Unwatch(ctx context.Context, id uint32) error
}

func (s *Server) liveOperations() {
	register(s, api.StartLive(), s.startLive)
	register(s, api.ListLive(), s.listLive)
	register(s, api.GetLive(), func(ctx context.Context, in *api.LiveID) (*answer[tracing.LiveReport], error) {
		return s.live(ctx, in.ID, false)
	})
	register(s, api.EndLive(), func(ctx context.Context, in *api.LiveID) (*answer[tracing.LiveReport], error) {
		return s.live(ctx, in.ID, true)
	})
	register(s, api.ArmLive(), s.armLive)
	register(s, api.CollectLive(), s.collectLive)
	register(s, api.DisarmLive(), s.disarmLive)
}

// startLive begins a session.
func (s *Server) startLive(ctx context.Context, in *struct{ Body api.LiveRequest }) (*answer[tracing.LiveReport], error) {
	if s.o.Lives == nil {
		return nil, absent("trace packets")
	}
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	r := in.Body
	r.From, r.To = v.snap.Named(r.From, r.To), v.snap.Named(r.To, r.From)
	report, err := s.o.Lives.StartLive(ctx, r)
	if err != nil {
		return nil, err
	}
	return &answer[tracing.LiveReport]{report}, nil
}

func (s *Server) listLive(context.Context, *struct{}) (*answer[api.List[tracing.LiveReport]], error) {
	if s.o.Lives == nil {
		return nil, absent("trace packets")
	}
	return &answer[api.List[tracing.LiveReport]]{api.List[tracing.LiveReport]{Items: s.o.Lives.LiveReports()}}, nil
}

func (s *Server) live(ctx context.Context, id uint32, end bool) (*answer[tracing.LiveReport], error) {
	if s.o.Lives == nil {
		return nil, absent("trace packets")
	}
	report, err := s.o.Lives.LiveReport(ctx, id, end)
	if err != nil {
		return nil, err
	}
	return &answer[tracing.LiveReport]{report}, nil
}

func (s *Server) armLive(ctx context.Context, in *struct{ Body tracing.LiveSession }) (*struct{}, error) {
	if s.o.Lives == nil {
		return nil, absent("trace packets")
	}
	return nil, s.o.Lives.Watch(ctx, in.Body)
}

func (s *Server) collectLive(ctx context.Context, in *struct{ Body tracing.LiveSession }) (*answer[tracing.LiveBatch], error) {
	if s.o.Lives == nil {
		return nil, absent("trace packets")
	}
	b, err := s.o.Lives.Watched(ctx, in.Body.ID)
	if err != nil {
		return nil, err
	}
	if b.Runs == nil {
		b.Runs = []tracing.Run{}
	}
	return &answer[tracing.LiveBatch]{b}, nil
}

func (s *Server) disarmLive(ctx context.Context, in *struct{ Body tracing.LiveSession }) (*struct{}, error) {
	if s.o.Lives == nil {
		return nil, absent("trace packets")
	}
	return nil, s.o.Lives.Unwatch(ctx, in.Body.ID)
}
