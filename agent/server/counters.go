package server

import (
	"context"
	"maps"
	"slices"
	"time"

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

// asideHere takes what the destination of a move from here says.
func (s *Server) asideHere(ctx context.Context, in *struct{ Body api.MoveReport }) (*struct{}, error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	if err := s.self(ctx, in.Body.Host); err != nil {
		return nil, err
	}
	if err := s.o.Plugs.Aside(ctx, in.Body); err != nil {
		return nil, about("move/"+string(in.Body.Move), err)
	}
	return nil, nil
}

// count fetches the counters of the ports that the view's hosts hold, or of some ports alone, from their hosts at once.
func (s *Server) count(ctx context.Context, v *view, only ...fabric.PortID) {
	v.statuses = maps.Clone(v.statuses) // it is the store's
	holders := map[fabric.HostID]*fabric.Host{}
	for id, l := range v.snap.Locations {
		if l.Host != "" && (len(only) == 0 || slices.Contains(only, id)) {
			holders[l.Host] = v.snap.Hosts[l.Host]
		}
	}
	answers, _ := askAll(ctx, s, holders, s.askPorts())
	for host, ports := range answers {
		v.counted(host, ports)
	}
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
		q.Rules, q.MarkedOut, q.MarkedIn, q.Waiting, q.QueueDrops = p.Rules, p.MarkedOut, p.MarkedIn, p.Waiting, p.QueueDrops
	}
	v.statuses[host] = st
}

// askPorts asks a host for its ports.
func (s *Server) askPorts() question[fabric.PortStatus] {
	q := question[fabric.PortStatus]{path: api.PortsHere().Path}
	if s.o.Plugs != nil {
		q.here = s.o.Plugs.Ports
	}
	return q
}

// portsOf asks one host for its ports.
func (s *Server) portsOf(ctx context.Context, h *fabric.Host) ([]fabric.PortStatus, error) {
	return ask(ctx, s, h, s.askPorts())
}
