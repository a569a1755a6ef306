package server

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

func (s *Server) stationOperations() {
	register(s, api.StationsHere(), s.stationsHere)
	register(s, api.ListStations(), s.stations)
}

// stationsHere answers with what this host has heard on the wire.
func (s *Server) stationsHere(ctx context.Context, _ *struct{}) (*answer[api.List[api.Station]], error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	heard, err := s.o.Plugs.Stations(ctx)
	if heard == nil {
		heard = []api.Station{}
	}
	return &answer[api.List[api.Station]]{api.List[api.Station]{Items: heard}}, err
}

// stations are those of the records, and what all hosts have heard; one that does not answer in time is named.
func (s *Server) stations(ctx context.Context, _ *struct{}) (*answer[api.Stations], error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	out := api.Stations{Items: []api.Station{}}
	for id, p := range v.snap.Ports {
		for _, mac := range append([]fabric.MAC{p.Spec.MAC}, p.Spec.AllowedMACs()...) {
			out.Items = append(out.Items, api.Station{Switch: p.Spec.Switch, VNI: v.snap.Segments(p).Sends, MAC: mac, Host: v.snap.Locations[id].Host, Port: id})
		}
	}
	q := question[api.Station]{path: api.StationsHere().Path}
	if s.o.Plugs != nil {
		q.here = s.o.Plugs.Stations
	}
	found, silent := askAll(ctx, s, v.snap.Hosts, q)
	for _, id := range slices.Sorted(maps.Keys(v.snap.Hosts)) {
		if err := silent[id]; err != nil {
			out.Silent = append(out.Silent, api.SilentHost{Host: id, Error: err.Error()})
		}
		out.Items = append(out.Items, found[id]...)
	}
	slices.SortStableFunc(out.Items, func(a, b api.Station) int {
		return cmp.Or(cmp.Compare(a.Switch, b.Switch), slices.Compare(a.MAC[:], b.MAC[:]), cmp.Compare(a.Host, b.Host))
	})
	return &answer[api.Stations]{out}, nil
}
