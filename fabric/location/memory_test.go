package location_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// memory is a store with the contract of etcd's: one revision, compare-and-swap over several records.
type memory struct {
	mu   sync.Mutex
	snap fabric.Snapshot
	// writes counts transactions that were written.
	writes int
	// before runs before each write, to let a test come in between.
	before func()
}

// newMemory is a fabric with the hosts h1 to h3, the switch blue and two VMs: a with two ports, b with one.
func newMemory(tb testing.TB) *memory {
	tb.Helper()
	m := &memory{snap: fabric.Snapshot{
		Revision: 1,
		Hosts:    map[fabric.HostID]*fabric.Host{"h1": {}, "h2": {}, "h3": {}},
		Ports:    map[fabric.PortID]*fabric.Port{},
	}}
	for id, vm := range map[fabric.PortID]string{"a-0": "a", "a-1": "a", "b": ""} {
		m.snap.Ports[id] = &fabric.Port{Metadata: fabric.Metadata{Name: string(id)}, Spec: fabric.PortSpec{VM: vm, Switch: "blue"}}
	}
	return m
}

func (m *memory) Snapshot(context.Context) (*fabric.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.snap
	s.Moves, s.Locations = maps.Clone(m.snap.Moves), maps.Clone(m.snap.Locations)
	return &s, nil
}

func (m *memory) UpdateLocations(_ context.Context, move *fabric.Move, locations ...fabric.Location) error {
	if m.before != nil {
		before := m.before
		m.before = nil
		before()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range locations {
		if m.snap.Locations[l.Port].Revision != l.Revision {
			return fmt.Errorf("location %s: %w", l.Port, fabric.ErrConflict)
		}
	}
	if move != nil {
		var have fabric.Revision
		if known := m.snap.Moves[fabric.MoveID(move.Metadata.Name)]; known != nil {
			have = known.Metadata.Revision
		}
		if have != move.Metadata.Revision {
			return fmt.Errorf("move %s: %w", move.Metadata.Name, fabric.ErrConflict)
		}
	}
	m.snap.Revision++
	m.writes++
	if m.snap.Locations == nil {
		m.snap.Locations, m.snap.Moves = map[fabric.PortID]fabric.Location{}, map[fabric.MoveID]*fabric.Move{}
	}
	for _, l := range locations {
		l.Revision = m.snap.Revision
		m.snap.Locations[l.Port] = l
	}
	if move != nil {
		c := *move
		c.Metadata.Revision = m.snap.Revision
		m.snap.Moves[fabric.MoveID(c.Metadata.Name)] = &c
	}
	return nil
}

func (m *memory) Get(_ context.Context, kind fabric.Kind, name string) (fabric.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch kind {
	case fabric.KindMove:
		if o := m.snap.Moves[fabric.MoveID(name)]; o != nil {
			c := *o
			return &c, nil
		}
	case fabric.KindHost:
		if o := m.snap.Hosts[fabric.HostID(name)]; o != nil {
			return o, nil
		}
	case fabric.KindPort:
		if o := m.snap.Ports[fabric.PortID(name)]; o != nil {
			return o, nil
		}
	}
	return nil, fmt.Errorf("%s %s: %w", kind, name, fabric.ErrNotFound)
}

func (m *memory) GetLocation(_ context.Context, port fabric.PortID) (fabric.Location, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.snap.Ports[port]
	if p == nil {
		return fabric.Location{}, fmt.Errorf("port %s: %w", port, fabric.ErrNotFound)
	}
	if l, ok := m.snap.Locations[port]; ok {
		return l, nil
	}
	return fabric.Location{Port: port, Switch: p.Spec.Switch}, nil
}
