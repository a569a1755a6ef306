package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

const (
	// inheritWithin is for how long after the guest has stopped the destination of a move asks the source what its ports take
	// along. What is older says nothing about connections that have gone on since.
	inheritWithin = 30 * time.Second
	// inheritEvery is the time from one question to the next while the guest runs at the source: what is new since the last one is
	// all that has to travel once it has stopped.
	inheritEvery = 250 * time.Millisecond
	// inheritAgain is the time to the next question after one that failed.
	inheritAgain = 20 * time.Millisecond
	// firstWithin is for how long a destination that is ready waits for the first part of what its ports take along. A source that
	// cannot be asked stops no move: the ports' rules then judge their connections anew.
	firstWithin = 2 * time.Second
)

// errRefused says that this host cannot take what a source has sent: another time it could not either.
var errRefused = errors.New("it is refused")

// errLastPart says that the guest has stopped and all of it has arrived.
var errLastPart = errors.New("that was the last part")

// heir takes over what one port takes along from the host that it moves away from.
type heir struct {
	*Agent
	move   *fabric.Move
	port   fabric.PortID
	source *client.Client
	mark   uint64
	begun  bool // the first part is here
}

// inherit takes over what the ports of a move take along: their connections bit by bit while the guest runs at the source, and the
// rest, with the counts of their rules and what is used up of their limits, once it has stopped there.
func (a *Agent) inherit(ctx context.Context, move *fabric.Move) {
	var all sync.WaitGroup
	for _, port := range move.Spec.Ports {
		all.Go(func() {
			h := &heir{Agent: a, move: move, port: port}
			if err := h.run(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("what a port had before its move is not all known here", tracing.KeyMove, move.Metadata.Name, "port", port, "error", err)
			}
		})
	}
	all.Wait()
}

// run asks until the last part has arrived, the move has come to nothing, or it is too late.
func (h *heir) run(ctx context.Context) error {
	var until time.Time
	for ctx.Err() == nil {
		switch h.phase() {
		case "", fabric.MoveFailed, fabric.MoveAborted:
			return nil
		case fabric.MoveSwitched, fabric.MoveActive, fabric.MoveSettled:
			if until.IsZero() {
				until = time.Now().Add(inheritWithin)
			}
		}
		err := h.next(ctx)
		if err == nil || errors.Is(err, errLastPart) || errors.Is(err, errRefused) {
			h.bequests.first(h.port, fabric.MoveID(h.move.Metadata.Name), refused(err))
		}
		switch {
		case errors.Is(err, errLastPart):
			return nil
		case err != nil && !until.IsZero() && time.Now().After(until):
			return errors.Join(err, h.keeper.takeOver(ctx, h.port))
		case err != nil:
			pause(ctx, inheritAgain)
		}
	}
	return ctx.Err()
}

// refused is the error where it is one of what was sent.
func refused(err error) error {
	if errors.Is(err, errRefused) {
		return err
	}
	return nil
}

// phase is how far the move is; empty when its record is gone.
func (h *heir) phase() fabric.Phase {
	snap := h.Latest()
	if snap == nil {
		return h.move.Status.Phase
	}
	if move := snap.Moves[fabric.MoveID(h.move.Metadata.Name)]; move != nil {
		return move.Status.Phase
	}
	return ""
}

// next takes over the next part; errLastPart after the last.
func (h *heir) next(ctx context.Context) error {
	if s := h.keeper.portStatus(h.port); s.State != fabric.PortStaged && s.State != fabric.PortActive {
		return fmt.Errorf("port %s is %s here", h.port, s.State)
	}
	if h.source == nil {
		var err error
		if h.source, err = h.prober.client(h.move.Spec.From); err != nil {
			return err
		}
	}
	wait := inheritEvery
	if !h.begun {
		wait = 0 // the machine that waits for the guest is offered once the first part is here
	}
	left, err := h.source.Left(ctx, h.port, api.LeftSince{Mark: h.mark, WaitMs: wait.Milliseconds()})
	if err != nil {
		return err
	}
	err = h.take(ctx, left)
	h.begun = err == nil
	if err != nil || !left.Stopped {
		return err
	}
	if err := h.keeper.takeOver(ctx, h.port); err != nil {
		return err
	}
	// From here on this host judges alone. What the source has met since it packed the last part comes with its answer.
	left, err = h.source.Left(ctx, h.port, api.LeftSince{Mark: h.mark, Taken: true})
	if err != nil {
		return err
	}
	if err := h.takeFlows(ctx, left); err != nil {
		return err
	}
	return errLastPart
}

// take takes a part over.
func (h *heir) take(ctx context.Context, left api.Left) error {
	if ours := migration.Forms(); !ours.Has(left.Form) {
		return fmt.Errorf("%w: host %s moves guests in form %d, and this one in %s", errRefused, h.move.Spec.From, left.Form, ours)
	}
	if err := h.takeFlows(ctx, left); err != nil || !left.Stopped {
		return err
	}
	var used datapath.Backlog
	for i := range min(len(used), len(left.BacklogNs)) {
		used[i] = time.Duration(left.BacklogNs[i])
	}
	if err := h.machine.ImportBacklog(ctx, h.port, used, time.Duration(left.AgeMs)*time.Millisecond); err != nil {
		return err
	}
	hits := make(map[policy.RuleID]datapath.Hits, len(left.Rules))
	for _, r := range left.Rules {
		hits[ruleID(r)] = datapath.Hits{Packets: r.Packets, Bytes: r.Bytes, Last: r.Last}
	}
	return h.machine.InheritHits(ctx, h.port, hits)
}

// takeFlows takes the connections of a part over.
func (h *heir) takeFlows(ctx context.Context, left api.Left) error {
	age := time.Duration(left.AgeMs) * time.Millisecond
	if age >= inheritWithin {
		return nil
	}
	n, err := h.machine.ImportFlows(ctx, h.port, left.Flows, age)
	if err != nil && !errors.Is(err, fabric.ErrNotFound) && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if err != nil {
		return err
	}
	if n > 0 {
		h.log.Debug("connections go on where they were", "port", h.port, "from", h.move.Spec.From, "connections", n)
	}
	h.mark = left.Mark
	return nil
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
