package server

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// statusHere answers with what this host says about itself.
func (s *Server) statusHere(context.Context, *struct{}) (*answer[fabric.HostStatus], error) {
	if s.o.Host == nil {
		return nil, absent("say how it is")
	}
	return &answer[fabric.HostStatus]{s.o.Host.Status()}, nil
}

// askAll asks the hosts themselves how they are, which they cannot report while etcd is away. A host that does not answer is
// left out.
func (s *Server) askAll(ctx context.Context, v *view) map[fabric.HostID]fabric.HostStatus {
	out := map[fabric.HostID]fabric.HostStatus{}
	if s.o.Host != nil {
		out[s.o.Self] = s.o.Host.Status()
	}
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(countersAtOnce)
	for host := range maps.Keys(v.snap.Hosts) {
		if host == s.o.Self || s.o.PeerTLS == nil {
			continue
		}
		group.Go(func() error {
			st, err := s.askOne(ctx, v.snap.Hosts[host])
			if err != nil {
				s.o.Logger.DebugContext(ctx, "a host does not say how it is", "host", host, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out[host] = st
			return nil
		})
	}
	_ = group.Wait() // the functions return nothing
	return out
}

func (s *Server) askOne(ctx context.Context, h *fabric.Host) (st fabric.HostStatus, err error) {
	resp, err := s.callPeer(ctx, h, api.StatusHere().Path)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	return st, json.NewDecoder(io.LimitReader(resp.Body, api.MaxBody)).Decode(&st)
}
