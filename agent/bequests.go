package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration"
	"github.com/weftnet/weft/tracing"
)

// bequests are what ports take along that move away from here.
type bequests struct {
	// changed is told whenever a guest's last part is packed, or has arrived.
	changed *news

	mu sync.Mutex
	// packed is the last part of each port whose guest has stopped.
	packed map[fabric.PortID]bequest
	// told is the mark of the last answer about each port while its guest ran.
	told map[fabric.PortID]datapath.Mark
	// taken names, per port, the move by which the last part has arrived.
	taken map[fabric.PortID]fabric.MoveID
	// begun is, per port that comes here, what became of the first part.
	begun map[fabric.PortID]firstPart
}

// firstPart is what became here of the first part of what a port takes along; err says why it was refused.
type firstPart struct {
	move fabric.MoveID
	err  error
}

// bequest is what a port had when its guest stopped: what has met a packet from one mark to the other, read at that time.
type bequest struct {
	api.Left
	from, mark datapath.Mark
	at         time.Time
}

func newBequests() *bequests {
	return &bequests{changed: newNews(), packed: map[fabric.PortID]bequest{}, told: map[fabric.PortID]datapath.Mark{}, taken: map[fabric.PortID]fabric.MoveID{}, begun: map[fabric.PortID]firstPart{}}
}

// begin forgets what earlier moves of the ports have left, and everything about ports that there are no more.
func (b *bequests) begin(ports []fabric.PortID, snap *fabric.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, port := range ports {
		delete(b.packed, port)
		delete(b.taken, port)
	}
	if snap == nil {
		return
	}
	for port := range b.packed {
		if snap.Ports[port] == nil {
			delete(b.packed, port)
			delete(b.told, port)
			delete(b.taken, port)
		}
	}
}

// first notes what became of a port's first part; what is noted of a move stays.
func (b *bequests) first(port fabric.PortID, move fabric.MoveID, err error) {
	b.mu.Lock()
	if b.begun[port].move != move {
		b.begun[port] = firstPart{move, err}
	}
	b.mu.Unlock()
	b.changed.tell()
}

// firsts reports whether the first part of each of the move's ports is here; the error names one that was refused.
func (b *bequests) firsts(move *fabric.Move) (all bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all = true
	for _, port := range move.Spec.Ports {
		f := b.begun[port]
		if here := f.move == fabric.MoveID(move.Metadata.Name); !here {
			all = false
		} else if f.err != nil {
			return false, fmt.Errorf("take over what port %s has on host %s: %w: the guest stays there; bring both hosts to one release", port, move.Spec.From, f.err)
		}
	}
	return all, nil
}

// pack keeps a port's last part.
func (b *bequests) pack(port fabric.PortID, q bequest) {
	b.mu.Lock()
	b.packed[port] = q
	b.mu.Unlock()
	b.changed.tell()
}

// take notes that a port's last part has arrived.
func (b *bequests) take(port fabric.PortID, move fabric.MoveID) {
	b.mu.Lock()
	b.taken[port] = move
	b.mu.Unlock()
	b.changed.tell()
}

// since is what a port's last part has that is newer than mark.
func (b *bequests) since(port fabric.PortID, mark datapath.Mark) (api.Left, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q, packed := b.packed[port]
	if !packed || mark < q.from {
		return api.Left{}, false
	}
	q.Flows = datapath.FlowsSince(q.Flows, q.mark, mark)
	q.Mark, q.AgeMs = uint64(q.mark), time.Since(q.at).Milliseconds()
	return q.Left, true
}

// arrived reports whether all that the move's ports take along is at its destination.
func (b *bequests) arrived(move *fabric.Move) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, port := range move.Spec.Ports {
		if b.taken[port] != fabric.MoveID(move.Metadata.Name) {
			return false
		}
	}
	return true
}

// leave packs what the move's ports take along, once their guest has stopped: their devices may be gone before anybody asks. It
// does not keep the guest waiting.
func (a *Agent) leave(ctx context.Context, move *fabric.Move) {
	a.bequests.begin(move.Spec.Ports, a.Latest())
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inheritWithin)
		defer cancel()
		if err := a.pack(ctx, move); err != nil {
			a.log.Error("what the ports of a move have met and let pass is not taken along", tracing.KeyMove, move.Metadata.Name, "error", err)
		}
	}()
}

// tell notes up to where a destination has been told, and toldOf reads it.
func (b *bequests) tell(port fabric.PortID, mark datapath.Mark) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[port] = mark
}

func (b *bequests) toldOf(port fabric.PortID) datapath.Mark {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told[port]
}

// pack reads what is to be taken along: first what a destination that has asked before still lacks, because its guest waits for
// that; then everything, for one that asks anew.
func (a *Agent) pack(ctx context.Context, move *fabric.Move) error {
	hits, failed := a.machine.RuleHits(ctx)
	names := a.ruleNames()
	for _, all := range []bool{false, true} {
		for _, port := range move.Spec.Ports {
			q := bequest{at: time.Now()}
			if q.from = a.bequests.toldOf(port); all {
				if q.from == 0 {
					continue // that was all of it already
				}
				q.from = 0
			}
			q.Stopped, q.Rules = true, append([]fabric.RuleHits{}, named(hits[port], names)...)
			if err := a.read(ctx, port, &q); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			a.bequests.pack(port, q)
		}
	}
	return failed
}

// read fills a bequest in with the port's flows and what is used up of its limits.
func (a *Agent) read(ctx context.Context, port fabric.PortID, q *bequest) (err error) {
	if q.Flows, q.mark, err = a.machine.ExportFlows(ctx, port, q.from); err != nil {
		return err
	}
	used, err := a.machine.ExportBacklog(ctx, port)
	if err != nil {
		return err
	}
	for _, long := range used {
		q.BacklogNs = append(q.BacklogNs, int64(long))
	}
	return nil
}

// Left is what a port that moves away takes along; see server.Plugs. While its guest runs here that is what is new since the mark.
func (a *Agent) Left(ctx context.Context, port fabric.PortID, since api.LeftSince) (api.Left, error) {
	left, err := a.left(ctx, port, since)
	left.Form = migration.Forms().Most
	return left, err
}

func (a *Agent) left(ctx context.Context, port fabric.PortID, since api.LeftSince) (api.Left, error) {
	move := a.departure(port)
	if since.Taken {
		return a.handOver(ctx, port, move, datapath.Mark(since.Mark))
	}
	wait, cancel := context.WithTimeout(ctx, time.Duration(since.WaitMs)*time.Millisecond)
	defer cancel()
	for {
		changed := a.bequests.changed.wait()
		if left, packed := a.bequests.since(port, datapath.Mark(since.Mark)); packed {
			return left, nil
		}
		if move == "" {
			return api.Left{}, fmt.Errorf("port %s does not move away from this host, or its agent was started since: %w", port, fabric.ErrNotFound)
		}
		select {
		case <-changed:
			continue
		case <-wait.Done():
		}
		return a.leftNow(ctx, port, datapath.Mark(since.Mark))
	}
}

// departure is the move by which a port leaves this host; empty when it does not.
func (a *Agent) departure(port fabric.PortID) fabric.MoveID {
	snap := a.Latest()
	if snap == nil {
		return ""
	}
	for id, move := range snap.Moves {
		if move.Spec.From != a.config.Host || api.Over(move.Status.Phase) {
			continue
		}
		for _, p := range move.Spec.Ports {
			if p == port {
				return id
			}
		}
	}
	return ""
}

// leftNow is what is new since mark, read now.
func (a *Agent) leftNow(ctx context.Context, port fabric.PortID, mark datapath.Mark) (api.Left, error) {
	flows, next, err := a.machine.ExportFlows(ctx, port, mark)
	if err == nil {
		a.bequests.tell(port, next)
	}
	return api.Left{Flows: flows, Mark: uint64(next)}, err
}

// handOver leaves a port's packets to the judgement of its new host, and answers with what has changed here since mark.
func (a *Agent) handOver(ctx context.Context, port fabric.PortID, move fabric.MoveID, mark datapath.Mark) (api.Left, error) {
	a.bequests.take(port, move) // first: a guest waits for it
	if err := a.keeper.handOver(ctx, port); err != nil {
		return api.Left{}, err
	}
	left, err := a.leftNow(ctx, port, mark)
	if errors.Is(err, fabric.ErrNotFound) {
		err = nil // its device went with the machine: nothing has been judged since
	}
	left.Stopped = true
	return left, err
}
