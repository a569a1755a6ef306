package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// inheritWithin is for how long the destination of a move asks the source what the ports' rules had met there.
const inheritWithin = 30 * time.Second

// leave remembers what the rules of the move's ports have met here, once their guest has stopped: their devices may be gone
// before anybody asks. It does not keep the guest waiting.
func (a *Agent) leave(ctx context.Context, move *fabric.Move) {
	snap := a.Latest()
	a.mu.Lock()
	for port := range a.left {
		if snap != nil && snap.Ports[port] == nil {
			delete(a.left, port)
		}
	}
	for _, port := range move.Spec.Ports {
		delete(a.left, port) // of an earlier move
	}
	a.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inheritWithin)
		defer cancel()
		hits, err := a.machine.RuleHits(ctx)
		if err != nil {
			a.log.Error("what the rules of moving ports have met is not taken along", tracing.KeyMove, move.Metadata.Name, "error", err)
			return
		}
		names := a.rules.of(a.Latest())
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, port := range move.Spec.Ports {
			a.left[port] = append([]fabric.RuleHits{}, named(hits[port], names)...)
		}
	}()
}

// Left is what the rules of a port had met when it moved away; see server.Plugs.
func (a *Agent) Left(_ context.Context, port fabric.PortID) ([]fabric.RuleHits, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hits, known := a.left[port]
	if !known {
		return nil, fmt.Errorf("port %s has not moved away from this host, or its agent was started since: %w", port, fabric.ErrNotFound)
	}
	return hits, nil
}

// inherit goes on with the counts of the ports' rules where the source has left off.
func (a *Agent) inherit(ctx context.Context, move *fabric.Move) {
	ctx, cancel := context.WithTimeout(ctx, inheritWithin)
	defer cancel()
	for _, port := range move.Spec.Ports {
		for {
			err := a.inheritPort(ctx, move.Spec.From, port)
			if err == nil {
				break
			}
			if pause(ctx, retryEvery); ctx.Err() != nil {
				a.log.Warn("what the rules of a port had met before its move is not known here", tracing.KeyMove, move.Metadata.Name, "port", port, "error", err)
				break
			}
		}
	}
}

func (a *Agent) inheritPort(ctx context.Context, from fabric.HostID, port fabric.PortID) error {
	source, err := a.prober.client(from)
	if err != nil {
		return err
	}
	left, err := source.Left(ctx, port)
	if err != nil {
		return err
	}
	hits := make(map[policy.RuleID]datapath.Hits, len(left))
	for _, r := range left {
		hits[ruleID(r)] = datapath.Hits{Packets: r.Packets, Bytes: r.Bytes, Last: r.Last}
	}
	return a.machine.InheritHits(ctx, port, hits)
}

// ruleID is the number of the rule whose hits these are, or of the default action.
func ruleID(r fabric.RuleHits) policy.RuleID {
	for _, d := range []fabric.Direction{fabric.In, fabric.Out} {
		if r.Policy == "" && r.Rule == defaultName(d) {
			return policy.DefaultID(d)
		}
	}
	return policy.ID(r.Policy, r.Rule)
}
