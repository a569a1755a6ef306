package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// Ports are the ports attached here, with their counters and those of their rules; see server.Plugs.
func (a *Agent) Ports(ctx context.Context) ([]fabric.PortStatus, error) {
	counters, _, err := a.counters(ctx)
	if err != nil {
		return nil, err
	}
	hits, err := a.machine.RuleHits(ctx)
	if err != nil {
		return nil, err
	}
	kernel, err := a.kernelDropsHere()
	if err != nil {
		return nil, err
	}
	ports := withKernel(counted(a.Status().Ports, counters), kernel)
	for i := range ports {
		if at, attached := a.keeper.attachment(ports[i].Name); attached && at.Kind == datapath.Tap {
			ports[i].QueueDrops = queueDrops(at.Device)
		}
	}
	if len(hits) == 0 {
		return ports, nil
	}
	names := a.ruleNames()
	for i := range ports {
		ports[i].Rules = named(hits[ports[i].Name], names)
	}
	return ports, nil
}

// named are a port's hits under the names of their rules, in the order of names; rules that were deleted are left out.
func named(hits map[policy.RuleID]datapath.Hits, names map[policy.RuleID]fabric.RuleHits) []fabric.RuleHits {
	var all []fabric.RuleHits
	for id, h := range hits {
		r, known := names[id]
		if !known {
			continue
		}
		r.Packets, r.Bytes, r.Last = h.Packets, h.Bytes, h.Last
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b fabric.RuleHits) int {
		return cmp.Or(cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Rule, b.Rule))
	})
	return all
}

// Drops are what this host has dropped, at its ports and at none; see server.Plugs. A probe's end is no drop of anybody's packet.
func (a *Agent) Drops(ctx context.Context) ([]tracing.Drop, error) {
	counters, host, err := a.counters(ctx)
	if err != nil {
		return nil, err
	}
	out := a.dropsOf("", hostDrops(host))
	for _, port := range slices.Sorted(maps.Keys(counters)) {
		out = append(out, a.dropsOf(port, byName(counters[port].DropsIn, counters[port].DropsOut))...)
	}
	kernel, err := a.kernelDropsHere()
	return append(out, kernel...), err
}

// Remembered is what the rules of these ports remember, of those that are here.
func (a *Agent) Remembered(ctx context.Context, ports []fabric.PortID) ([]api.Remembered, error) {
	found, err := a.machine.Remembered(ctx, ports)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	counters, _, err := a.counters(ctx)
	if err != nil {
		return nil, err
	}
	var out []api.Remembered
	for _, port := range ports {
		r, here := found[port]
		if !here {
			continue
		}
		c := counters[port]
		out = append(out, api.Remembered{
			Port: port, Connections: r.Connections, Room: r.Room, Full: r.Full,
			StraysOut: c.DropsIn[tracing.ReasonCtNoFlow], StraysIn: c.DropsOut[tracing.ReasonCtNoFlow],
		})
	}
	return out, nil
}

// dropsOf lists drops in the order of their reasons' numbers.
func (a *Agent) dropsOf(port fabric.PortID, drops map[string]uint64) (out []tracing.Drop) {
	for _, r := range tracing.Reasons() {
		if n := drops[r.String()]; n > 0 && r != tracing.ReasonProbeCaught {
			out = append(out, tracing.Drop{Host: a.config.Host, Port: port, Reason: r, Packets: n})
		}
	}
	return out
}
