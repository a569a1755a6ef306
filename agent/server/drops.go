package server

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
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
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	var mu sync.Mutex
	found, failed := map[fabric.HostID][]tracing.Drop{}, map[fabric.HostID]error{}
	var group errgroup.Group
	group.SetLimit(countersAtOnce)
	for id, host := range hosts {
		group.Go(func() error {
			drops, err := s.dropsOf(ctx, host)
			mu.Lock()
			defer mu.Unlock()
			found[id], failed[id] = drops, err
			return nil
		})
	}
	_ = group.Wait() // the functions return nothing
	out := api.Drops{Items: []tracing.Drop{}}
	for _, id := range slices.Sorted(maps.Keys(hosts)) {
		if err := failed[id]; err != nil {
			out.Silent = append(out.Silent, api.SilentHost{Host: id, Error: err.Error()})
		}
		out.Items = append(out.Items, found[id]...)
	}
	return &answer[api.Drops]{out}, nil
}

// dropsOf asks one host.
func (s *Server) dropsOf(ctx context.Context, h *fabric.Host) ([]tracing.Drop, error) {
	switch {
	case fabric.HostID(h.Metadata.Name) == s.o.Self && s.o.Plugs != nil:
		return s.o.Plugs.Drops(ctx)
	case s.o.PeerTLS == nil:
		return nil, absent("call other hosts")
	}
	resp, err := s.callPeer(ctx, h, api.DropsHere().Path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list api.List[tracing.Drop]
	return list.Items, json.NewDecoder(io.LimitReader(resp.Body, api.MaxBody)).Decode(&list)
}
