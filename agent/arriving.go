package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration"
	"github.com/weftnet/weft/migration/libvirt"
)

// hearLibvirt listens to libvirt as long as it uses the fabric: what is said before a move begins cannot be asked for later.
func (a *Agent) hearLibvirt(ctx context.Context) error {
	for a.await(ctx, a.keeper.usesLibvirt) {
		inner, cancel := context.WithCancel(ctx)
		go func() {
			a.await(inner, func() bool { return !a.keeper.usesLibvirt() })
			cancel()
		}()
		a.libvirt.Run(inner)
		cancel()
	}
	return nil
}

// errGivenUp: libvirt has ended the machine that waited for the guest.
var errGivenUp = errors.New("libvirt has ended the machine that waited for it")

// awaitArriving waits until libvirt has plugged in all of the move's ports here, and they are in force, closed until the guest speaks.
func (p *destinationPlane) awaitArriving(ctx context.Context, move *fabric.Move) (migration.Staged, error) {
	guest := p.visitor(fabric.MoveID(move.Metadata.Name), move.Spec.VM)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-guest.Ended():
			cancel(errGivenUp)
		case <-ctx.Done():
		}
	}()
	if !p.await(ctx, func() bool { return p.keeper.staged(move) }) {
		return migration.Staged{}, fmt.Errorf("wait for the NICs of %s: %w", move.Spec.VM, context.Cause(ctx))
	}
	if err := p.awaitStaged(ctx, move); err != nil {
		return migration.Staged{}, err
	}
	return migration.Staged{Incoming: string(fabric.DriverLibvirt), Guest: guest}, nil
}

// visitor is the guest of a move as libvirt sees it; there is one for each move.
func (p *destinationPlane) visitor(move fabric.MoveID, vm string) *libvirt.Guest {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.visitors[move]; g != nil {
		return g
	}
	if p.visitors == nil {
		p.visitors = map[fabric.MoveID]*libvirt.Guest{}
	}
	g := p.libvirt.Watch(vm, true)
	p.visitors[move] = g
	return g
}

// plugArriving plugs a port in that libvirt brings here, closed until its guest speaks.
func (p *destinationPlane) plugArriving(ctx context.Context, port fabric.PortID, device string, move fabric.MoveID) error {
	want := attachment{Attachment: plan.Attachment{Device: device, Kind: datapath.Tap}, Adopted: true}
	err := p.keeper.change(ctx, func(l *local) error {
		if _, err := l.plug(port, want, p.keeper.present); err != nil {
			return err
		}
		if l.Staged[port] != move {
			l.Staged[port], l.Expects[port] = move, move
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("stage port %s on %s: %w", port, device, err)
	}
	p.news.tell()
	return nil
}
