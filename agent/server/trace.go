package server

import (
	"context"
	"fmt"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func (s *Server) traceOperations() {
	register(s, api.TracePacket(), s.tracePacket)
	register(s, api.WhyNot(), s.why)
	register(s, api.ListDrops(), s.drops)
	register(s, api.DropsHere(), s.dropsHere)
	register(s, api.ArmProbe(), s.arm)
	register(s, api.InjectProbe(), s.inject)
	register(s, api.CollectProbe(), s.hops)
	register(s, api.DisarmProbe(), s.disarm)
	register(s, api.TryNetwork(), s.try)
}

// tracePacket follows one probe through the fabric.
func (s *Server) tracePacket(ctx context.Context, in *struct{ Body api.TraceRequest }) (*answer[*tracing.Path], error) {
	if in.Body.Explain && in.Body.BothWays {
		return nil, &api.Error{Code: api.CodeInvalid, Field: "bothWays", Message: "trace a packet: the model judges the first packet of a connection; whether its answer comes back a probe shows", Next: "ask without explain, or explain the way back by itself"}
	}
	if in.Body.Explain {
		return s.explain(ctx, in.Body)
	}
	if in.Body.Revision != 0 || len(in.Body.With) > 0 {
		return nil, &api.Error{Code: api.CodeInvalid, Field: "revision", Message: "trace a packet: a probe meets what is in force; only the model knows past and proposed records", Next: "ask with explain"}
	}
	_, r, err := s.traced(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	path, err := s.o.Prober.Trace(ctx, r)
	if err != nil {
		return nil, about("port/"+string(r.Source), err)
	}
	return &answer[*tracing.Path]{path}, nil
}

// traced is a request with its ports' names in full, after a check that packets can be sent for it.
func (s *Server) traced(ctx context.Context, r api.TraceRequest) (*view, api.TraceRequest, error) {
	if s.o.Prober == nil {
		return nil, r, absent("trace packets")
	}
	v, err := s.view(ctx)
	if err != nil {
		return nil, r, err
	}
	r, err = addressed(v.snap, r)
	return v, r, err
}

// addressed is a request with its ports' names in full, if the records let packets be sent for it.
func addressed(snap *fabric.Snapshot, r api.TraceRequest) (api.TraceRequest, error) {
	r.Source = snap.Named(r.Source, fabric.PortID(r.Destination))
	r.Destination = string(snap.Named(fabric.PortID(r.Destination), r.Source))
	return r, traceable(snap, r)
}

// traceable checks that both ends exist and that there is somewhere to send from.
func traceable(snap *fabric.Snapshot, r api.TraceRequest) error {
	ports := api.Resource{Singular: "port", Plural: "ports"}
	if _, ok := snap.Ports[r.Source]; !ok {
		return missing(ports, string(r.Source))
	}
	if _, isAddress := r.Address(); !isAddress {
		if _, ok := snap.Ports[fabric.PortID(r.Destination)]; !ok {
			e := missing(ports, r.Destination)
			e.Next += "; an address works too"
			return e
		}
	}
	if snap.Locations[r.Source].Host == "" {
		return &api.Error{
			Code: api.CodeConflict, Object: "port/" + string(r.Source),
			Message: fmt.Sprintf("trace from port %s: it is plugged in nowhere", r.Source),
			Next:    fmt.Sprintf("start its guest, in a lab with: weft lab vm %s --host HOST --switch SWITCH", r.Source),
		}
	}
	return nil
}

func (s *Server) arm(ctx context.Context, in *struct{ Body tracing.Session }) (*struct{}, error) {
	if s.o.Prober == nil {
		return nil, absent("trace packets")
	}
	return nil, s.o.Prober.Arm(ctx, in.Body)
}

func (s *Server) inject(ctx context.Context, in *struct{ Body api.Injection }) (*struct{}, error) {
	if s.o.Prober == nil {
		return nil, absent("trace packets")
	}
	return nil, s.o.Prober.Inject(ctx, in.Body.Port, in.Body.Frame, max(1, in.Body.Times))
}

func (s *Server) hops(ctx context.Context, in *struct{ Body tracing.Session }) (*answer[api.List[tracing.Hop]], error) {
	if s.o.Prober == nil {
		return nil, absent("trace packets")
	}
	hops, err := s.o.Prober.Hops(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	if hops == nil {
		hops = []tracing.Hop{}
	}
	return &answer[api.List[tracing.Hop]]{api.List[tracing.Hop]{Items: hops}}, nil
}

func (s *Server) disarm(ctx context.Context, in *struct{ Body tracing.Session }) (*struct{}, error) {
	if s.o.Prober == nil {
		return nil, absent("trace packets")
	}
	return nil, s.o.Prober.Disarm(ctx, in.Body)
}

// try lets a throw-away guest try the network.
func (s *Server) try(ctx context.Context, in *struct{ Body api.TrialRequest }) (*answer[api.List[api.TrialCheckResult]], error) {
	if s.o.Trials == nil {
		return nil, absent("try the network")
	}
	results, err := s.o.Trials.Try(ctx, in.Body)
	if err != nil {
		return nil, about("port/"+string(in.Body.Port), err)
	}
	if results == nil {
		results = []api.TrialCheckResult{}
	}
	return &answer[api.List[api.TrialCheckResult]]{api.List[api.TrialCheckResult]{Items: results}}, nil
}
