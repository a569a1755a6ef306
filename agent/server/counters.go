package server

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// Counters are not part of what hosts report: they change with every packet, and etcd would carry them for nobody. Who
// asks for them has them fetched.
const (
	// countersWithin is how long a host may take to answer; one that does not is shown without counters.
	countersWithin = time.Second
	// countersAtOnce is how many hosts are asked at the same time.
	countersAtOnce = 32
)

// portsHere answers with the ports that are plugged in here.
func (s *Server) portsHere(ctx context.Context, _ *struct{}) (*answer[api.List[fabric.PortStatus]], error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	ports, err := s.o.Plugs.Ports(ctx)
	if ports == nil {
		ports = []fabric.PortStatus{}
	}
	return &answer[api.List[fabric.PortStatus]]{api.List[fabric.PortStatus]{Items: ports}}, err
}

// leftOf is a question for what a port takes along.
type leftOf struct {
	Name string `path:"name"`
	Body api.LeftSince
}

// leftHere answers with what a port that moves away takes along.
func (s *Server) leftHere(ctx context.Context, in *leftOf) (*answer[api.Left], error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	left, err := s.o.Plugs.Left(ctx, fabric.PortID(in.Name), in.Body)
	if err != nil {
		return nil, about("port/"+in.Name, err)
	}
	return &answer[api.Left]{left}, nil
}

// count fetches the counters of the ports that the view's hosts hold, or of one port alone.
func (s *Server) count(ctx context.Context, v *view, only fabric.PortID) {
	ctx, cancel := context.WithTimeout(ctx, countersWithin)
	defer cancel()
	v.statuses = maps.Clone(v.statuses) // it is the store's
	holders := map[fabric.HostID]bool{}
	for id, l := range v.snap.Locations {
		if l.Host != "" && (only == "" || only == id) {
			holders[l.Host] = true
		}
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(countersAtOnce)
	for host := range holders {
		group.Go(func() error {
			ports, err := s.portsOf(ctx, v.snap.Hosts[host])
			if err != nil {
				s.o.Logger.DebugContext(ctx, "a host's counters are not shown", "host", host, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			v.counted(host, ports)
			return nil
		})
	}
	_ = group.Wait() // the functions return nothing
}

// counted takes the counters into what the host said about itself.
func (v *view) counted(host fabric.HostID, ports []fabric.PortStatus) {
	st, reports := v.statuses[host]
	if !reports {
		return
	}
	st.Ports = slices.Clone(st.Ports)
	for _, p := range ports {
		i := slices.IndexFunc(st.Ports, func(q fabric.PortStatus) bool { return q.Name == p.Name })
		if i < 0 {
			continue
		}
		q := &st.Ports[i]
		q.RxPackets, q.RxBytes, q.TxPackets, q.TxBytes, q.Drops, q.Relayed = p.RxPackets, p.RxBytes, p.TxPackets, p.TxBytes, p.Drops, p.Relayed
		q.Rules, q.MarkedOut, q.MarkedIn, q.QueueDrops = p.Rules, p.MarkedOut, p.MarkedIn, p.QueueDrops
	}
	v.statuses[host] = st
}

// portsOf asks a host for its ports.
func (s *Server) portsOf(ctx context.Context, h *fabric.Host) ([]fabric.PortStatus, error) {
	switch {
	case h == nil:
		return nil, fabric.ErrNotFound
	case fabric.HostID(h.Metadata.Name) == s.o.Self && s.o.Plugs != nil:
		return s.o.Plugs.Ports(ctx)
	case s.o.PeerTLS == nil:
		return nil, absent("call other hosts")
	}
	resp, err := s.callPeer(ctx, h, api.PortsHere().Path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list api.List[fabric.PortStatus]
	return list.Items, json.NewDecoder(io.LimitReader(resp.Body, api.MaxBody)).Decode(&list)
}
