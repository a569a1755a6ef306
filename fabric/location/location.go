// Package location answers which host holds a port, and lets a host take, keep or give up a port without two of them
// ever holding it: every write is one transaction that compares what it was decided on, and every change of holder raises
// the epoch that the data plane checks (ADR 0005).
package location

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// Store is where location and move records live. Reads are linearizable; two reads may see two revisions.
type Store interface {
	// Get returns an object with its revision in the metadata, or fabric.ErrNotFound.
	Get(ctx context.Context, kind fabric.Kind, name string) (fabric.Object, error)
	// GetLocation returns the location of a port; one with no host and revision 0 when nobody ever held it, and
	// fabric.ErrNotFound when there is no such port.
	GetLocation(ctx context.Context, port fabric.PortID) (fabric.Location, error)
	// Snapshot is everything as of one revision.
	Snapshot(ctx context.Context) (*fabric.Snapshot, error)
	// UpdateLocations writes the location records, and the move when it is not nil, in one transaction that compares each
	// record's revision: 0 means that it must not exist yet. A mismatch is fabric.ErrConflict and writes nothing.
	UpdateLocations(ctx context.Context, move *fabric.Move, locations ...fabric.Location) error
}

// Ledger keeps the locations of a fabric.
type Ledger struct {
	store Store
}

// New returns the ledger kept in the store.
func New(store Store) *Ledger { return &Ledger{store: store} }

// attempts bounds how often a write is decided anew because somebody else wrote in between. Each loss means that another
// writer got through, so the bound is reached only under a storm of writes to one record.
const attempts = 32

// decide reads and computes what to write; nothing to write means that it is already so.
type decide func(ctx context.Context) (*fabric.Move, []fabric.Location, error)

// errAgain: what was read does not belong together, because somebody wrote in between.
var errAgain = errors.New("the records changed while they were read")

// update decides and writes until nobody wrote in between.
func (l *Ledger) update(ctx context.Context, what string, fn decide) error {
	var last error
	for range attempts {
		move, locations, err := fn(ctx)
		switch {
		case errors.Is(err, errAgain):
			last = err
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case move == nil && len(locations) == 0:
			return nil
		}
		last = l.store.UpdateLocations(ctx, move, locations...)
		if !errors.Is(last, fabric.ErrConflict) {
			return wrap(what, last)
		}
	}
	return fmt.Errorf("%s: others wrote the record %d times in between: try again: %w", what, attempts, errors.Join(last, fabric.ErrConflict))
}

// wrap says what was tried when it failed.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Claim makes the host the holder of a port that nobody holds, and returns the record. A port that the host holds already
// stays as it is. Errors: fabric.ErrNotFound (no such port or host), fabric.ErrConflict (another host holds it, or a move
// is taking it elsewhere).
func (l *Ledger) Claim(ctx context.Context, port fabric.PortID, host fabric.HostID) (fabric.Location, error) {
	var out fabric.Location
	err := l.update(ctx, fmt.Sprintf("claim port %s for host %s", port, host), func(ctx context.Context) (*fabric.Move, []fabric.Location, error) {
		loc, err := l.location(ctx, port)
		if err != nil {
			return nil, nil, err
		}
		if loc.Host == host {
			out = loc
			return nil, nil, nil
		}
		if loc.Host != "" {
			return nil, nil, l.held(ctx, loc, host)
		}
		if err := l.mayHold(ctx, port, host); err != nil {
			return nil, nil, err
		}
		if _, err := l.store.Get(ctx, fabric.KindHost, string(host)); err != nil {
			return nil, nil, fmt.Errorf("host %s is not registered: see 'weft get hosts': %w", host, err)
		}
		out = fabric.Location{Port: port, Switch: loc.Switch, Host: host, Epoch: loc.Epoch + 1, Revision: loc.Revision}
		return nil, []fabric.Location{out}, nil
	})
	if err != nil {
		return fabric.Location{}, err
	}
	return out, nil
}

// mayHold keeps the port of a host from any other, and every port from hosts that its switch is not on.
func (l *Ledger) mayHold(ctx context.Context, port fabric.PortID, host fabric.HostID) error {
	o, err := l.store.Get(ctx, fabric.KindPort, string(port))
	if err != nil {
		return err
	}
	p, ok := o.(*fabric.Port)
	if !ok {
		return nil
	}
	if p.IsHost() && p.Spec.Host != host {
		return fmt.Errorf("it is the port of host %s itself, which no other host holds: %w", p.Spec.Host, fabric.ErrConflict)
	}
	o, err = l.store.Get(ctx, fabric.KindSwitch, string(p.Spec.Switch))
	if errors.Is(err, fabric.ErrNotFound) {
		return nil
	}
	if sw, ok := o.(*fabric.Switch); err == nil && ok && !sw.Covers(host) {
		return offScope(sw, host)
	}
	return err
}

// offScope says that a switch is not on a host.
func offScope(sw *fabric.Switch, host fabric.HostID) error {
	return fmt.Errorf("switch %s is not on host %s: plug the port in at one of %v, or add the host with 'weft set switch %s hosts=[…]': %w",
		sw.Metadata.Name, host, sw.Spec.Hosts, sw.Metadata.Name, fabric.ErrConflict)
}

// Release gives a port up that the host holds in the epoch; the record keeps the epoch, so that the next holder's is
// higher. A port that the host no longer holds, at the same epoch, is released already. Errors: fabric.ErrStaleEpoch
// (somebody holds it in another epoch), fabric.ErrConflict (a move of the port is running).
func (l *Ledger) Release(ctx context.Context, port fabric.PortID, host fabric.HostID, epoch fabric.Epoch) error {
	what := fmt.Sprintf("release port %s from host %s at epoch %d", port, host, epoch)
	return l.update(ctx, what, func(ctx context.Context) (*fabric.Move, []fabric.Location, error) {
		loc, err := l.location(ctx, port)
		if err != nil {
			return nil, nil, err
		}
		if loc.Host == "" && loc.Epoch == epoch {
			return nil, nil, nil
		}
		if loc.Host != host || loc.Epoch != epoch {
			return nil, nil, stale(loc, epoch)
		}
		if loc.Grant != nil {
			return nil, nil, fmt.Errorf("move %s is taking the port to %s: wait for it, or abort it: %w", loc.Grant.Move, loc.Grant.To, fabric.ErrConflict)
		}
		loc.Host, loc.From = "", ""
		return nil, []fabric.Location{loc}, nil
	})
}

// EndRelay says that the host, the source of the last move of the port, sends no late packets on any more. It succeeds
// when that is so already, or when the port has moved on. A running move is ended by Advance to settled instead.
func (l *Ledger) EndRelay(ctx context.Context, port fabric.PortID, host fabric.HostID) error {
	return l.update(ctx, fmt.Sprintf("end the relay of port %s at host %s", port, host), func(ctx context.Context) (*fabric.Move, []fabric.Location, error) {
		loc, err := l.location(ctx, port)
		if err != nil || loc.From != host {
			return nil, nil, err
		}
		loc.From = ""
		return nil, []fabric.Location{loc}, nil
	})
}

// location reads the location of a port.
func (l *Ledger) location(ctx context.Context, port fabric.PortID) (fabric.Location, error) {
	loc, err := l.store.GetLocation(ctx, port)
	if errors.Is(err, fabric.ErrNotFound) {
		return fabric.Location{}, fmt.Errorf("there is no port %s: see 'weft get ports': %w", port, err)
	}
	return loc, err
}

// held says that another host has the port, and how it can be had.
func (l *Ledger) held(ctx context.Context, loc fabric.Location, wants fabric.HostID) error {
	if loc.Grant != nil {
		return fmt.Errorf("host %s holds it at epoch %d and move %s is taking it to %s: wait for the move, or abort it: %w",
			loc.Host, loc.Epoch, loc.Grant.Move, loc.Grant.To, fabric.ErrConflict)
	}
	vm := string(loc.Port)
	if o, err := l.store.Get(ctx, fabric.KindPort, vm); err == nil {
		vm = Machine(o.(*fabric.Port))
	}
	return fmt.Errorf("host %s holds it at epoch %d: move it with 'weft migrate %s --to %s', or detach it on %s first: %w",
		loc.Host, loc.Epoch, vm, wants, loc.Host, fabric.ErrConflict)
}

// stale says which epoch is in force instead.
func stale(loc fabric.Location, epoch fabric.Epoch) error {
	holder := "nobody holds it"
	if loc.Host != "" {
		holder = fmt.Sprintf("host %s holds it", loc.Host)
	}
	return fmt.Errorf("%s at epoch %d, not at %d: read the location again and act on that: %w", holder, loc.Epoch, epoch, fabric.ErrStaleEpoch)
}

// Machine is the name of the machine that a port belongs to.
func Machine(p *fabric.Port) string {
	if p.Spec.VM != "" {
		return p.Spec.VM
	}
	return p.Metadata.Name
}

// MovingPorts are the ports that a machine takes along when it moves: those that a host holds. One that is held nowhere is not plugged in,
// and needs no move. A machine none of whose ports is held has them all, to say what is missing.
func MovingPorts(s *fabric.Snapshot, vm string) []fabric.PortID {
	all := PortsOf(s, vm)
	held := slices.DeleteFunc(slices.Clone(all), func(p fabric.PortID) bool { return s.Locations[p].Host == "" })
	if len(held) == 0 {
		return all
	}
	return held
}

// PortsOf are the ports of a machine, in the order of their names; a host's own port is no machine's.
func PortsOf(s *fabric.Snapshot, vm string) []fabric.PortID {
	var ports []fabric.PortID
	for id, p := range s.Ports {
		if Machine(p) == vm && !p.IsHost() {
			ports = append(ports, id)
		}
	}
	slices.Sort(ports)
	return ports
}
