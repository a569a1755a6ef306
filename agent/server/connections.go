package server

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// connectionsHere answers with what the rules of some ports remember here.
func (s *Server) connectionsHere(ctx context.Context, in *struct {
	Ports []fabric.PortID `query:"ports" required:"true" minItems:"1" maxItems:"16" doc:"Names of ports"`
}) (*answer[api.List[api.Remembered]], error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	all, err := s.o.Plugs.Remembered(ctx, in.Ports)
	if all == nil {
		all = []api.Remembered{}
	}
	return &answer[api.List[api.Remembered]]{api.List[api.Remembered]{Items: all}}, err
}

// askRemembered asks a host for what the rules of ports remember.
func (s *Server) askRemembered(ports []fabric.PortID) question[api.Remembered] {
	names := make([]string, len(ports))
	for i, p := range ports {
		names[i] = string(p)
	}
	q := question[api.Remembered]{path: api.ConnectionsHere().Path + "?ports=" + url.QueryEscape(strings.Join(names, ","))}
	if s.o.Plugs != nil {
		q.here = func(ctx context.Context) ([]api.Remembered, error) { return s.o.Plugs.Remembered(ctx, ports) }
	}
	return q
}

// forgetful are the ports whose rules drop packets now that belong to no connection, because they had room for no more of them.
func (s *Server) forgetful(ctx context.Context, v *view, drops []tracing.Drop) (out []tracing.Cause) {
	var ports []fabric.PortID
	hosts := map[fabric.HostID]*fabric.Host{}
	for _, d := range drops {
		if d.Reason == tracing.ReasonCtNoFlow && d.Now > 0 && d.Port != "" {
			ports, hosts[d.Host] = append(ports, d.Port), v.snap.Hosts[d.Host]
		}
	}
	if len(ports) == 0 {
		return nil
	}
	answers, _ := askAll(ctx, s, hosts, s.askRemembered(ports))
	for _, d := range drops {
		i := slices.IndexFunc(answers[d.Host], func(r api.Remembered) bool { return r.Port == d.Port && r.Full })
		if d.Reason != tracing.ReasonCtNoFlow || d.Now == 0 || i < 0 {
			continue
		}
		out = append(out, fullOf(d, answers[d.Host][i], v))
	}
	return out
}

// fullOf is the cause of drops at a port that has no room for more connections.
func fullOf(d tracing.Drop, r api.Remembered, v *view) tracing.Cause {
	stage := tracing.StagePolicyIn
	if r.StraysOut > r.StraysIn {
		stage = tracing.StagePolicyOut
	}
	c := tracing.Cause{
		Fault: tracing.FaultConnections, Host: d.Host, Port: d.Port, Stage: stage, Reason: d.Reason, Change: v.changeOf("port/" + string(d.Port)),
		Message: fmt.Sprintf("The rules of port %s have room for %d connections and remember %d: each new one makes them forget an old one, whose packets host %s then drops at %s (%d while this was asked).", d.Port, r.Room, r.Connections, d.Host, stage, d.Now),
		Next:    fmt.Sprintf("weft set port %s connections=%d, or find out what opens so many", d.Port, min(2*r.Room, fabric.MaxConnections)),
	}
	p := v.snap.Ports[d.Port]
	if profile := v.snap.Profiles[v.snap.Settings(p).Profile]; p.Spec.Connections == 0 && profile != nil && profile.Spec.Connections != 0 {
		c.Change = v.changeOf("profile/" + profile.Metadata.Name)
		c.Next = fmt.Sprintf("weft set profile %s connections=%d, or find out what opens so many", profile.Metadata.Name, min(2*r.Room, fabric.MaxConnections))
	}
	return c
}
