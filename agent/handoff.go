package agent

import (
	"context"
	"fmt"
	"maps"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// handOver leaves it to the port's new host to judge what it receives.
func (k *keeper) handOver(ctx context.Context, port fabric.PortID) error {
	return k.change(ctx, func(l *local) error {
		if h, handed := l.Handoffs[port]; handed {
			h.Judges = false
			l.Handoffs[port] = h
		}
		return nil
	})
}

// takeOver has this host judge what the ports receive. A guest stands still meanwhile, so nobody waits for the disk: an agent that dies
// before it has remembered takes the source at its word again, which by then gives none.
func (k *keeper) takeOver(ctx context.Context, ports ...fabric.PortID) error {
	if !k.expects(ports) {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.local.clone()
	for _, port := range ports {
		delete(next.Expects, port)
	}
	k.local, k.want = next, nil
	k.round(context.WithoutCancel(ctx))
	k.remember(func() {})
	return k.failure
}

// remember makes what was changed in the kernel first durable, after more has been done. Nobody waits for it. The caller holds mu.
func (k *keeper) remember(first func()) {
	k.remembering.Go(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		first()
		if err := k.local.save(k.stateDir); err != nil {
			k.log.Error("how far a move is, is in force, but would be forgotten by a restart of the agent", "error", err)
		}
	})
}

// expects reports whether another host judges what one of the ports receives.
func (k *keeper) expects(ports []fabric.PortID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, port := range ports {
		if k.local.Expects[port] != "" {
			return true
		}
	}
	return false
}

func (l *local) forgetHandoffs(move *fabric.Move) error {
	for _, port := range move.Spec.Ports {
		delete(l.Handoffs, port)
	}
	return nil
}

// takeBack opens the gates of ports that the records give to this host, and nothing else.
func (k *keeper) takeBack(ctx context.Context, ports []fabric.PortID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	open := map[string]datapath.Port{}
	for _, port := range ports {
		h, handed := k.local.Handoffs[port]
		if k.snap == nil || !handed || k.snap.Locations[port].Host != k.host || k.snap.Locations[port].Epoch != h.Epoch {
			continue
		}
		device := k.local.Attachments[port].Device
		if p, there := k.have.Ports[device]; there && p.Name == port && p.Gate == datapath.Relay {
			p.Gate, p.Handover = datapath.Open, false
			open[device] = p
		}
	}
	if len(open) == 0 {
		return nil
	}
	if err := k.plane.Apply(ctx, datapath.Change{Put: datapath.State{Ports: open}}); err != nil {
		return fmt.Errorf("take %v back: %w", ports, err)
	}
	k.have.Ports = cloneMap(k.have.Ports)
	maps.Copy(k.have.Ports, open)
	return nil
}

// handoff closes gates, and keeps the books after: the guest stands still until this returns.
func (k *keeper) handoff(ctx context.Context, ports []fabric.PortID, to fabric.HostID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.snap == nil {
		return fmt.Errorf("hand off %v: the wanted state is not known yet", ports)
	}
	next := k.local.clone()
	shut := map[string]datapath.Port{}
	for _, port := range ports {
		loc := k.snap.Locations[port]
		if loc.Host != k.host {
			continue // the records say already where the port is
		}
		h, again := next.Handoffs[port]
		h = plan.Handoff{To: to, Epoch: loc.Epoch, Judges: !again || h.Epoch != loc.Epoch || h.Judges}
		next.Handoffs[port] = h
		device := k.local.Attachments[port].Device
		if p, there := k.have.Ports[device]; there && p.Name == port && p.Gate != datapath.Relay {
			p.Gate, p.Handover = datapath.Relay, h.Judges && !p.Policy.IsZero()
			shut[device] = p
		}
	}
	if len(shut) > 0 {
		if err := k.plane.Apply(ctx, datapath.Change{Put: datapath.State{Ports: shut}}); err != nil {
			return fmt.Errorf("hand off %v: %w", ports, err)
		}
		k.have.Ports = cloneMap(k.have.Ports)
		maps.Copy(k.have.Ports, shut)
	}
	k.local, k.want = next, nil
	k.remember(func() { k.round(context.WithoutCancel(ctx)) })
	return nil
}
