package location

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// Grant begins a move: in one transaction it writes the move record and, on every port of the VM, the only legal next
// owner with the epochs granted in advance: the source holds E, the destination may become E+1, a rollback E+2. It fills
// what the caller left out: the ports, the source and the epoch; the name must be given, and granting the same move twice
// returns the first. Errors: fabric.ErrNotFound, fabric.ErrInvalid, fabric.ErrConflict (another move of the VM is running,
// or its ports are not all on one host).
func (l *Ledger) Grant(ctx context.Context, move *fabric.Move) (*fabric.Move, error) {
	var out *fabric.Move
	what := fmt.Sprintf("grant move %s of %s to host %s", move.Metadata.Name, move.Spec.VM, move.Spec.To)
	err := l.update(ctx, what, func(ctx context.Context) (*fabric.Move, []fabric.Location, error) {
		s, err := l.store.Snapshot(ctx)
		if err != nil {
			return nil, nil, err
		}
		if known := s.Moves[fabric.MoveID(move.Metadata.Name)]; known != nil {
			out = clone(known)
			return nil, nil, same(known, move)
		}
		granted, err := complete(s, move)
		if err != nil {
			return nil, nil, err
		}
		locations, err := grants(s, granted)
		if err != nil {
			return nil, nil, err
		}
		out = granted
		return granted, locations, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// complete fills what follows from the records.
func complete(s *fabric.Snapshot, move *fabric.Move) (*fabric.Move, error) {
	if move.Metadata.Name == "" || move.Spec.VM == "" {
		return nil, fmt.Errorf("the move has no name or names no VM: %w", fabric.ErrInvalid)
	}
	if s.Hosts[move.Spec.To] == nil {
		return nil, fmt.Errorf("there is no host %s: see 'weft get hosts': %w", move.Spec.To, fabric.ErrNotFound)
	}
	m := clone(move)
	m.TypeMeta = fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindMove}
	m.Metadata.Revision = 0
	m.Spec.Ports = MovingPorts(s, m.Spec.VM)
	if p := s.Ports[fabric.PortID(m.Spec.VM)]; len(m.Spec.Ports) == 0 && p != nil && p.IsHost() {
		return nil, fmt.Errorf("%s is the port of host %s itself, and stays there: name a VM: %w", m.Spec.VM, p.Spec.Host, fabric.ErrInvalid)
	}
	if len(m.Spec.Ports) == 0 {
		return nil, fmt.Errorf("no port belongs to a VM %s: see 'weft get ports': %w", m.Spec.VM, fabric.ErrNotFound)
	}
	for _, p := range m.Spec.Ports {
		if sw := s.Switches[s.Ports[p].Spec.Switch]; sw != nil && !sw.Covers(m.Spec.To) {
			return nil, fmt.Errorf("port %s: %w", p, offScope(sw, m.Spec.To))
		}
		loc := s.Locations[p]
		switch {
		case loc.Host == "":
			return nil, fmt.Errorf("no host holds port %s: start the VM first: %w", p, fabric.ErrConflict)
		case m.Spec.From == "":
			m.Spec.From = loc.Host
		case m.Spec.From != loc.Host:
			return nil, fmt.Errorf("host %s holds port %s, not %s: a VM moves with all its ports from one host: %w", loc.Host, p, m.Spec.From, fabric.ErrConflict)
		}
	}
	if m.Spec.From == m.Spec.To {
		return nil, fmt.Errorf("host %s already holds its ports: name another host: %w", m.Spec.To, fabric.ErrInvalid)
	}
	m.Status = fabric.MoveStatus{Phase: fabric.MoveGranted, Epoch: s.Locations[m.Spec.Ports[0]].Epoch + 1, At: maps.Clone(move.Status.At)}
	return m, nil
}

// grants are the locations of the move's ports with the grant in them.
func grants(s *fabric.Snapshot, m *fabric.Move) ([]fabric.Location, error) {
	locations := make([]fabric.Location, 0, len(m.Spec.Ports))
	for _, p := range m.Spec.Ports {
		loc := s.Locations[p]
		if loc.Grant != nil {
			return nil, fmt.Errorf("port %s is at host %s at epoch %d and move %s is taking it to %s: wait for that move, or abort it: %w",
				p, loc.Host, loc.Epoch, loc.Grant.Move, loc.Grant.To, fabric.ErrConflict)
		}
		loc.Grant = &fabric.Grant{Move: fabric.MoveID(m.Metadata.Name), To: m.Spec.To, Epoch: loc.Epoch + 1, Rollback: loc.Epoch + 2}
		loc.Trace = m.Metadata.Trace
		locations = append(locations, loc)
	}
	return locations, nil
}

// same refuses a second move of the same name that asks for something else.
func same(known, asked *fabric.Move) error {
	if known.Spec.VM == asked.Spec.VM && known.Spec.To == asked.Spec.To {
		return nil
	}
	return fmt.Errorf("move %s takes %s to %s already: choose another name: %w", known.Metadata.Name, known.Spec.VM, known.Spec.To, fabric.ErrConflict)
}

// clone copies a move, so that a snapshot stays as it is.
func clone(m *fabric.Move) *fabric.Move {
	c := *m
	c.Spec.Ports = slices.Clone(m.Spec.Ports)
	c.Status.At = maps.Clone(m.Status.At)
	return &c
}
