package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

const (
	// inheritWithin is for how long the destination of a move asks the source what its ports have left behind there. What is older
	// says nothing about connections that have gone on since.
	inheritWithin = 30 * time.Second
	// inheritEvery is the time from one question to the next.
	inheritEvery = 20 * time.Millisecond
)

// leftBehind is what a port has left behind here when its guest had stopped.
type leftBehind struct {
	api.Left
	at time.Time
}

// leave remembers what the move's ports leave behind here, once their guest has stopped: their devices may be gone before anybody
// asks. It does not keep the guest waiting.
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
		if err := a.pack(ctx, move); err != nil {
			a.log.Error("what the ports of a move have met and let pass is not taken along", tracing.KeyMove, move.Metadata.Name, "error", err)
		}
	}()
}

// pack reads what is to be taken along; the flows first, because the guest may run on already.
func (a *Agent) pack(ctx context.Context, move *fabric.Move) error {
	flows, used, at := map[fabric.PortID][]byte{}, map[fabric.PortID]datapath.Backlog{}, time.Now()
	var failed error
	for _, port := range move.Spec.Ports {
		var err, err2 error
		flows[port], err = a.machine.ExportFlows(ctx, port)
		used[port], err2 = a.machine.ExportBacklog(ctx, port)
		failed = errors.Join(failed, err, err2)
	}
	hits, err := a.machine.RuleHits(ctx)
	if err != nil {
		return errors.Join(failed, err)
	}
	names := a.rules.of(a.Latest())
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, port := range move.Spec.Ports {
		left := api.Left{Rules: append([]fabric.RuleHits{}, named(hits[port], names)...), Flows: flows[port]}
		for _, long := range used[port] {
			left.BacklogNs = append(left.BacklogNs, int64(long))
		}
		a.left[port] = leftBehind{left, at}
	}
	return failed
}

// Left is what a port has left behind here; see server.Plugs.
func (a *Agent) Left(_ context.Context, port fabric.PortID) (api.Left, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	left, known := a.left[port]
	if !known {
		return api.Left{}, fmt.Errorf("port %s has not moved away from this host, or its agent was started since: %w", port, fabric.ErrNotFound)
	}
	left.AgeMs = time.Since(left.at).Milliseconds()
	return left.Left, nil
}

// inherit waits until the guest has stopped at the source, and then takes over what its ports have left behind there: their
// connections, and the counts of their rules.
func (a *Agent) inherit(ctx context.Context, move *fabric.Move) {
	if !a.awaitSwitch(ctx, fabric.MoveID(move.Metadata.Name)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, inheritWithin)
	defer cancel()
	for _, port := range move.Spec.Ports {
		for {
			err := a.inheritPort(ctx, move.Spec.From, port)
			if err == nil {
				break
			}
			if pause(ctx, inheritEvery); ctx.Err() != nil {
				a.log.Warn("what a port has left behind before its move is not known here", tracing.KeyMove, move.Metadata.Name, "port", port, "error", err)
				break
			}
		}
	}
}

// awaitSwitch waits until the source's guest has stopped; false when the move ends before.
func (a *Agent) awaitSwitch(ctx context.Context, id fabric.MoveID) bool {
	for {
		change := a.news.wait()
		if snap := a.Latest(); snap != nil {
			move := snap.Moves[id]
			switch {
			case move == nil, move.Status.Phase == fabric.MoveFailed, move.Status.Phase == fabric.MoveAborted:
				return false
			case move.Status.Phase == fabric.MoveSwitched, move.Status.Phase == fabric.MoveActive, move.Status.Phase == fabric.MoveSettled:
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-change:
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
	if age := time.Duration(left.AgeMs) * time.Millisecond; age < inheritWithin {
		n, err := a.machine.ImportFlows(ctx, port, left.Flows, age)
		if err != nil {
			return err
		}
		a.log.Debug("connections go on where they were", "port", port, "from", from, "connections", n)
		var used datapath.Backlog
		for i := range min(len(used), len(left.BacklogNs)) {
			used[i] = time.Duration(left.BacklogNs[i])
		}
		if err := a.machine.ImportBacklog(ctx, port, used, age); err != nil {
			return err
		}
	}
	hits := make(map[policy.RuleID]datapath.Hits, len(left.Rules))
	for _, r := range left.Rules {
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
