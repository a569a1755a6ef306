package server

import (
	"context"
	"maps"
	"slices"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/tracing"
)

// dropsHere answers with what this host has dropped.
func (s *Server) dropsHere(ctx context.Context, _ *struct{}) (*answer[api.List[tracing.Drop]], error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	drops, err := s.o.Plugs.Drops(ctx)
	if drops == nil {
		drops = []tracing.Drop{}
	}
	return &answer[api.List[tracing.Drop]]{api.List[tracing.Drop]{Items: drops}}, err
}

// drops asks all hosts at once; one that does not answer in time is named.
func (s *Server) drops(ctx context.Context, _ *struct{}) (*answer[api.Drops], error) {
	hosts := s.hosts(ctx)
	found, silent := askAll(ctx, s, hosts, s.askDrops())
	out := api.Drops{Items: []tracing.Drop{}}
	for _, id := range slices.Sorted(maps.Keys(hosts)) {
		if err := silent[id]; err != nil {
			out.Silent = append(out.Silent, api.SilentHost{Host: id, Error: err.Error()})
		}
		out.Items = append(out.Items, found[id]...)
	}
	return &answer[api.Drops]{out}, nil
}

// askDrops asks a host for its drops.
func (s *Server) askDrops() question[tracing.Drop] {
	q := question[tracing.Drop]{path: api.DropsHere().Path}
	if s.o.Plugs != nil {
		q.here = s.o.Plugs.Drops
	}
	return q
}
