package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/agent/trial"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

var (
	_ server.Trials = (*Agent)(nil)
	_ trial.Plugs   = (*Agent)(nil)
)

// Try lets a throw-away guest try the network, on this host or, through its API, on the one that is named.
func (a *Agent) Try(ctx context.Context, r api.TrialRequest) (results []api.TrialCheckResult, err error) {
	err = hosts{a.prober}.on(r.Host, func(*prober) (err error) { results, err = a.tryHere(ctx, r); return err },
		func(c *client.Client) (err error) { results, err = c.Try(ctx, r); return err })
	return results, err
}

func (a *Agent) tryHere(ctx context.Context, r api.TrialRequest) ([]api.TrialCheckResult, error) {
	switch r.Act {
	case api.TrialBegin:
		return nil, a.beginTrial(ctx, r.Port)
	case api.TrialCheck:
		return a.trials.Check(ctx, r.Port, r.Peer)
	case api.TrialEnd:
		return nil, a.trials.End(ctx, r.Port)
	}
	return nil, fmt.Errorf("%q is no act of a trial: write begin, check or end: %w", r.Act, fabric.ErrInvalid)
}

// beginTrial gives the guest what the records say of its port.
func (a *Agent) beginTrial(ctx context.Context, name fabric.PortID) error {
	a.await(ctx, func() bool { s := a.Latest(); return s != nil && s.Ports[name] != nil })
	snap := a.Latest()
	if snap == nil || snap.Ports[name] == nil || snap.Switches[snap.Ports[name].Spec.Switch] == nil {
		return fmt.Errorf("begin a trial at port %s: host %s does not know the port or its switch: %w", name, a.config.Host, fabric.ErrNotFound)
	}
	port := snap.Ports[name]
	sw := snap.Switches[port.Spec.Switch]
	w := trial.Wanted{MTU: snap.SwitchMTU(sw)}
	for _, address := range port.Spec.Addresses {
		for _, subnet := range sw.Spec.Subnets {
			if subnet.Contains(address) {
				w.Addresses = append(w.Addresses, netip.PrefixFrom(address, subnet.Bits()))
				if address.Is4() && sw.ServesDHCP() && snap.Settings(port).VLAN.Home() == 0 {
					w.Lease = address
				}
			}
		}
	}
	return a.trials.Begin(ctx, port, w)
}
