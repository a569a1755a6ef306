package server

import (
	"context"
	"encoding/json"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// question is something that every host answers about itself with a list.
type question[T any] struct {
	// path is where other hosts are asked, here how this host answers; nil where it cannot.
	path string
	here func(context.Context) ([]T, error)
}

// ask asks one host.
func ask[T any](ctx context.Context, s *Server, h *fabric.Host, q question[T]) ([]T, error) {
	switch {
	case h == nil:
		return nil, fabric.ErrNotFound
	case fabric.HostID(h.Metadata.Name) == s.o.Self && q.here != nil:
		return q.here(ctx)
	case s.o.PeerTLS == nil:
		return nil, absent("call other hosts")
	}
	resp, err := s.callPeer(ctx, h, q.path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list api.List[T]
	return list.Items, json.NewDecoder(io.LimitReader(resp.Body, api.MaxBody)).Decode(&list)
}

// askAll asks hosts at the same time, and returns the answers of those that answer in time, and why the others do not.
func askAll[T any](ctx context.Context, s *Server, hosts map[fabric.HostID]*fabric.Host, q question[T]) (answers map[fabric.HostID][]T, silent map[fabric.HostID]error) {
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	answers, silent = map[fabric.HostID][]T{}, map[fabric.HostID]error{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(countersAtOnce)
	for id, host := range hosts {
		group.Go(func() error {
			items, err := ask(ctx, s, host, q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.o.Logger.DebugContext(ctx, "a host does not answer", "host", id, "path", q.path, "error", err)
				silent[id] = err
				return nil
			}
			answers[id] = items
			return nil
		})
	}
	_ = group.Wait() // the functions return nothing
	return answers, silent
}
