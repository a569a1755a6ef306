package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration"
	"github.com/weftnet/weft/migration/libvirt"
	"github.com/weftnet/weft/migration/qmp"
	"github.com/weftnet/weft/tracing"
)

var (
	_ migration.SourcePlane      = sourcePlane{}
	_ migration.Drainer          = sourcePlane{}
	_ migration.DestinationPlane = (*destinationPlane)(nil)
)

// sourcePlane is this host's forwarding, for guests that leave it.
type sourcePlane struct{ *Agent }

// Remember keeps on disk that the copy begins although it is not recorded.
func (p sourcePlane) Remember(ctx context.Context, move *fabric.Move, incoming string) error {
	return p.keeper.change(ctx, func(l *local) error {
		l.Begun[fabric.MoveID(move.Metadata.Name)] = incoming
		return nil
	})
}

// Handoff closes the ports for their guest and sends frames for them on. Closing the gates is the first thing done, and
// all that the kernel needs (plan.Wanted has named the destination beforehand); remembering it comes after.
func (p sourcePlane) Handoff(ctx context.Context, move *fabric.Move) error {
	err := p.keeper.handoff(ctx, move.Spec.Ports, move.Spec.To)
	p.leave(ctx, move)
	return err
}

// Restore opens the ports again for the guest that runs on here. As in Handoff the kernel comes first: an agent that dies before it has
// remembered that closes them once more, hears that the guest runs, and restores them again.
func (p sourcePlane) Restore(ctx context.Context, move *fabric.Move) error {
	early := p.keeper.takeBack(ctx, move.Spec.Ports)
	return errors.Join(p.keeper.change(ctx, func(l *local) error { return l.forgetHandoffs(move) }), early)
}

// Finish leaves it to the records what is forwarded.
func (p sourcePlane) Finish(ctx context.Context, move *fabric.Move) error {
	return p.keeper.change(ctx, func(l *local) error { return l.forgetHandoffs(move) })
}

// Inherited waits for the destination to have what the ports take along.
func (p sourcePlane) Inherited(ctx context.Context, move *fabric.Move) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		for {
			changed := p.bequests.changed.wait()
			if p.bequests.arrived(move) {
				close(done)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

// Counted is what was relayed for the move's ports, and lost at them for the move's sake.
func (p sourcePlane) Counted(ctx context.Context, move *fabric.Move) (migration.Counts, error) {
	return p.counts(ctx, move)
}

// Drain sends on what the taps of the stopped guest still hold.
func (p sourcePlane) Drain(ctx context.Context, move *fabric.Move, process int) (migration.Counts, error) {
	var sum migration.Counts
	var failed error
	for _, left := range p.keeper.leftovers(move, process) {
		counts, err := left.SendOn(ctx)
		sum.Relayed += counts.Relayed
		sum.Lost += counts.Lost
		failed = errors.Join(failed, err)
	}
	return sum, failed
}

// tags are the VNIs of the VLANs that the port carries by their tags.
func (k *keeper) tags(port fabric.PortID) map[fabric.VLANID]fabric.VNI {
	if p := k.snap.Ports[port]; p != nil {
		seg := k.snap.Segments(p)
		return seg.Tags
	}
	return nil
}

// leftovers are the move's taps here, and where their frames belong.
func (k *keeper) leftovers(move *fabric.Move, process int) []migration.Leftovers {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.snap == nil || k.snap.Hosts[move.Spec.To] == nil {
		return nil
	}
	var all []migration.Leftovers
	for _, port := range move.Spec.Ports {
		at, attached := k.local.Attachments[port]
		p, there := k.have.Ports[at.Device]
		if attached && there && at.Kind == datapath.Tap {
			all = append(all, migration.Leftovers{Process: process, Device: at.Device, VNI: cmp.Or(p.Receives, p.VNI), Tags: k.tags(port), From: k.vtep, To: k.snap.Hosts[move.Spec.To].Spec.VTEP})
		}
	}
	return all
}

// destinationPlane is this host's forwarding, for guests that come to it.
type destinationPlane struct {
	*Agent

	mu sync.Mutex
	// guests are the machines that wait here, by move.
	guests map[fabric.MoveID]*qmp.Guest
	// visitors are those that libvirt brings.
	visitors map[fabric.MoveID]*libvirt.Guest
}

// Stage has a machine started that waits for the guest, and stages its ports.
func (p *destinationPlane) Stage(ctx context.Context, move *fabric.Move) (migration.Staged, error) {
	if move.Spec.Driver == fabric.DriverLibvirt {
		return p.awaitArriving(ctx, move)
	}
	id := fabric.MoveID(move.Metadata.Name)
	waiting, there := p.keeper.incoming(id)
	if !there {
		answer, err := runIncoming(ctx, p.config.Hooks.Incoming, move)
		if err != nil {
			return migration.Staged{}, err
		}
		if waiting, err = p.stage(ctx, id, answer); err != nil {
			return migration.Staged{}, err
		}
	}
	if err := p.awaitStaged(ctx, move); err != nil {
		return migration.Staged{}, err
	}
	return migration.Staged{Incoming: waiting.URI, Guest: p.guest(id, waiting)}, nil
}

// awaitStaged waits until the move's ports are in force here, primes their taps, and has the first part of what they take along.
func (p *destinationPlane) awaitStaged(ctx context.Context, move *fabric.Move) error {
	for _, port := range move.Spec.Ports {
		var status fabric.PortStatus
		done := p.await(ctx, func() bool {
			status = p.keeper.portStatus(port)
			return status.State == fabric.PortStaged || status.State == fabric.PortActive
		})
		if !done {
			return fmt.Errorf("stage port %s: it is %s (%s): %w", port, status.State, status.Reason, context.Cause(ctx))
		}
		if at, attached := p.keeper.attachment(port); attached && at.Kind == datapath.Tap && status.State == fabric.PortStaged {
			if err := nic.Prime(at.Device); err != nil {
				p.log.Warn("the move may lose a packet more: its tap is not primed", tracing.KeyPort, port, "error", err)
			}
		}
	}
	if move.Status.Phase != fabric.MoveGranted {
		return nil // the guest may be on its way, or here
	}
	return p.awaitFirst(ctx, move)
}

// awaitFirst waits until this host has begun to take over what the move's ports have at the source, so that what it cannot take stops the
// move while the guest runs there.
func (p *destinationPlane) awaitFirst(ctx context.Context, move *fabric.Move) error {
	within, cancel := context.WithTimeout(ctx, firstWithin)
	defer cancel()
	for {
		changed := p.bequests.changed.wait()
		all, err := p.bequests.firsts(move)
		if err != nil || all {
			return err
		}
		select {
		case <-changed:
		case <-within.Done():
			p.log.Warn("the source of a move has not said what its ports take along: their connections may have to be made anew", tracing.KeyMove, move.Metadata.Name, "host", move.Spec.From)
			return ctx.Err()
		}
	}
}

// stage plugs in what the hook has prepared.
func (p *destinationPlane) stage(ctx context.Context, move fabric.MoveID, answer incomingAnswer) (incoming, error) {
	waiting := incoming{URI: answer.URI}
	plugged := map[fabric.PortID]attachment{}
	for _, a := range answer.Attachments {
		want, err := p.attachment(a.Attachment)
		if err != nil {
			return waiting, fmt.Errorf("stage port %s on %s: %w", a.Port, a.Device, err)
		}
		plugged[a.Port] = want
		if waiting.QMP == "" {
			waiting.QMP = a.QMP
		}
	}
	if waiting.QMP == "" {
		return waiting, fmt.Errorf("the incoming hook names no QMP socket: it is needed to know when the guest runs")
	}
	return waiting, p.keeper.change(ctx, func(l *local) error {
		for port, want := range plugged {
			if _, err := l.plug(port, want, p.keeper.present); err != nil {
				return fmt.Errorf("stage port %s on %s: %w", port, want.Device, err)
			}
			l.Staged[port], l.Expects[port] = move, move
		}
		l.Moves[move] = waiting
		return nil
	})
}

// incoming is the machine that waits for a move.
func (k *keeper) incoming(move fabric.MoveID) (incoming, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	waiting, there := k.local.Moves[move]
	return waiting, there
}

// guest is the monitor of the machine that waits; there is one connection for each move.
func (p *destinationPlane) guest(move fabric.MoveID, waiting incoming) *qmp.Guest {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.guests[move]; g != nil {
		return g
	}
	if p.guests == nil {
		p.guests = map[fabric.MoveID]*qmp.Guest{}
	}
	g := qmp.Watch(waiting.QMP, qmp.Options{Logger: p.log})
	p.guests[move] = g
	return g
}

// letGo ends the connection to the monitor of a move that is over here.
func (p *destinationPlane) letGo(move fabric.MoveID) {
	p.mu.Lock()
	g := p.guests[move]
	delete(p.guests, move)
	visitor := p.visitors[move]
	delete(p.visitors, move)
	p.mu.Unlock()
	if visitor != nil {
		_ = visitor.Close()
	}
	if g != nil {
		_ = g.Close() // the machine runs on; there is nothing to lose
	}
}

// Unstage takes the ports off the devices that were staged for the move.
func (p *destinationPlane) Unstage(ctx context.Context, move *fabric.Move) error {
	id := fabric.MoveID(move.Metadata.Name)
	p.letGo(id)
	return p.keeper.change(ctx, func(l *local) error {
		for _, port := range move.Spec.Ports {
			if l.Staged[port] == id {
				delete(l.Staged, port)
				delete(l.Expects, port)
				delete(l.Attachments, port)
			}
		}
		delete(l.Moves, id)
		return nil
	})
}

// Opened tells when each of the move's ports was opened by its guest's first frame.
func (p *destinationPlane) Opened(ctx context.Context, move *fabric.Move) <-chan migration.FirstFrame {
	out := make(chan migration.FirstFrame, len(move.Spec.Ports))
	var all sync.WaitGroup
	for _, port := range move.Spec.Ports {
		all.Go(func() {
			opened, done := p.opened.wait(port)
			defer done()
			if s := p.keeper.portStatus(port); s.State == fabric.PortActive {
				out <- migration.FirstFrame{Port: port} // before anybody asked: when, is not known
				return
			}
			select {
			case <-ctx.Done():
			case at := <-opened:
				out <- migration.FirstFrame{Port: port, Time: at}
			}
		})
	}
	go func() {
		all.Wait()
		<-ctx.Done()
		close(out)
	}()
	return out
}

// Counted is what was lost at the move's ports here.
func (p *destinationPlane) Counted(ctx context.Context, move *fabric.Move) (migration.Counts, error) {
	return p.counts(ctx, move)
}

// counts sums what the datapath has counted at the move's ports, and what their devices had no room for.
func (a *Agent) counts(ctx context.Context, move *fabric.Move) (migration.Counts, error) {
	counters, err := a.machine.Counters(ctx)
	if err != nil {
		return migration.Counts{}, fmt.Errorf("count the packets of move %s: %w", move.Metadata.Name, err)
	}
	var sum migration.Counts
	for _, port := range move.Spec.Ports {
		c := counters[port]
		sum.Relayed += c.SentOn
		for _, drops := range []map[tracing.Reason]uint64{c.DropsIn, c.DropsOut} {
			for reason, n := range drops {
				if reason.Class() == tracing.ClassMigration {
					sum.Lost += n
				}
			}
		}
		if at, attached := a.keeper.attachment(port); attached && at.Kind == datapath.Tap {
			sum.Lost += queueDrops(at.Device)
		}
	}
	return sum, nil
}

// queueDrops is how many packets a tap had no room for; 0 when it is gone.
func queueDrops(device string) uint64 {
	n, err := nic.Refused(device)
	if err != nil {
		return 0
	}
	return n
}
