// Package datapathtest has a datapath in memory, for tests of what plans and drives one, and the suite that every datapath
// passes.
package datapathtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// Memory is a datapath without a kernel: it holds what it is told, by the rules of the real one, and forwards nothing. Every
// device exists unless it was unplugged. The zero value is not usable; see New.
type Memory struct {
	events chan datapath.Event

	mu    sync.Mutex
	state datapath.State
	gone  map[string]bool
}

// New returns an empty datapath of a host with this tunnel end point.
func New(vtep netip.Addr) *Memory {
	return &Memory{
		events: make(chan datapath.Event, 64), gone: map[string]bool{},
		state: datapath.State{
			Local: datapath.Local{VTEP: vtep}, Peers: map[netip.Addr]datapath.Peer{}, Switches: map[fabric.VNI]datapath.Switch{},
			Ports: map[string]datapath.Port{}, FDB: map[datapath.FDBKey]datapath.FDB{},
			Neighbors: map[datapath.NeighborKey]fabric.MAC{}, Flood: map[datapath.FloodKey]struct{}{},
			Uplinks: map[string]datapath.Uplink{}, Wires: map[fabric.VNI]datapath.Wire{},
			Mirrors: map[fabric.VNI]datapath.Mirror{}, Sinks: map[fabric.VNI]datapath.Sink{},
			Tables: map[policy.Digest]*policy.Source{}, Segments: map[datapath.SegmentKey]datapath.Segment{},
		},
	}
}

// Read returns a copy of what is held.
func (m *Memory) Read(ctx context.Context) (datapath.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	s.Peers, s.Switches, s.Ports = maps.Clone(s.Peers), maps.Clone(s.Switches), maps.Clone(s.Ports)
	s.FDB, s.Neighbors, s.Flood = maps.Clone(s.FDB), maps.Clone(s.Neighbors), maps.Clone(s.Flood)
	s.Tables, s.Uplinks, s.Wires = maps.Clone(s.Tables), maps.Clone(s.Uplinks), maps.Clone(s.Wires)
	s.Segments, s.Mirrors, s.Sinks = maps.Clone(s.Segments), maps.Clone(s.Mirrors), maps.Clone(s.Sinks)
	return s, ctx.Err()
}

// Apply carries a change out as the kernel's datapath does.
func (m *Memory) Apply(ctx context.Context, c datapath.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	err := errors.Join(m.putHost(c.Put), m.putMirrors(c.Put), m.putPorts(c.Put), m.putSegments(c.Put), m.putSinks(c.Put), m.putStations(c.Put), m.putWires(c.Put))
	m.remove(c.Delete)
	return err
}

// Events returns the channel of events.
func (m *Memory) Events() <-chan datapath.Event { return m.events }

// FirstFrame is what a guest's first frame does to the port of the device: a staged one opens. It reports whether it did.
func (m *Memory) FirstFrame(device string, at time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, there := m.state.Ports[device]
	if !there || p.Gate != datapath.Staged || p.Generation == 0 {
		return false
	}
	p.Gate = datapath.Open
	m.state.Ports[device] = p
	m.events <- datapath.Event{Kind: datapath.PortOpened, Time: at, Port: p.Name, Device: device}
	return true
}

// Unplug makes the device vanish with its port.
func (m *Memory) Unplug(device string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone[device] = true
	m.removePort(device)
}

func (m *Memory) putHost(put datapath.State) error {
	var errs []error
	if put.Local.VTEP.IsValid() {
		m.state.Local = put.Local
	}
	for vtep, p := range put.Peers {
		if err := p.Check(vtep); err != nil {
			errs = append(errs, err)
			continue
		}
		m.state.Peers[vtep] = p
	}
	for vni, s := range put.Switches {
		if err := s.Check(vni); err != nil {
			errs = append(errs, err)
			continue
		}
		m.state.Switches[vni] = s
	}
	for digest, source := range put.Tables {
		if _, there := m.state.Tables[digest]; there {
			continue
		}
		if source == nil {
			errs = append(errs, fmt.Errorf("put table %s: it has no rules to be made of", digest))
			continue
		}
		if _, err := policy.Compile(*source); err != nil {
			errs = append(errs, fmt.Errorf("put table %s: %w", digest, err))
			continue
		}
		m.state.Tables[digest] = nil
	}
	return errors.Join(errs...)
}

func (m *Memory) putPorts(put datapath.State) error {
	var errs []error
	for device, p := range put.Ports {
		errs = append(errs, m.putPort(device, p))
	}
	return errors.Join(errs...)
}

func (m *Memory) putPort(device string, p datapath.Port) error {
	if err := p.Check(device); err != nil {
		return err
	}
	if m.gone[device] {
		return fmt.Errorf("put port %s: no device %s", p.Name, device)
	}
	now, there := m.state.Ports[device]
	if _, made := m.state.Tables[p.Policy]; !made && !p.Policy.IsZero() {
		if there && p.Gate.Openness() < now.Gate.Openness() {
			now.Gate = p.Gate
			m.state.Ports[device] = now
		}
		return fmt.Errorf("put port %s on %s: its rules (table %s) are not in force here", p.Name, device, p.Policy)
	}
	if err := m.copies(p); err != nil {
		return err
	}
	switch {
	case !there:
	case p.Epoch < now.Epoch && p.Gate.Openness() > now.Gate.Openness():
		return fmt.Errorf("put port %s on %s with epoch %d: it has epoch %d: %w", p.Name, device, p.Epoch, now.Epoch, fabric.ErrStaleEpoch)
	case p.Epoch == now.Epoch && p.Gate == datapath.Staged && now.Gate == datapath.Open:
		p.Gate = datapath.Open
	}
	if there && p.Name != now.Name {
		maps.DeleteFunc(m.state.Segments, func(k datapath.SegmentKey, _ datapath.Segment) bool { return k.Device == device })
		m.removeSinks(device)
	}
	m.state.Ports[device] = p
	return nil
}

// putSegments puts ports on segments.
func (m *Memory) putSegments(put datapath.State) error {
	var errs []error
	for key, s := range put.Segments {
		if err := s.Check(key); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, there := m.state.Ports[key.Device]; !there {
			errs = append(errs, fmt.Errorf("put VNI %d on %s: it carries no port", key.VNI, key.Device))
			continue
		}
		m.state.Segments[key] = s
	}
	return errors.Join(errs...)
}

func (m *Memory) putStations(put datapath.State) error {
	var errs []error
	for key, e := range put.FDB {
		if e.Epoch < m.state.FDB[key].Epoch {
			continue
		}
		if e.Source && (e.Device != "" || e.Relay) {
			errs = append(errs, fmt.Errorf("put station %s: it receives nothing, and has a device or is a relay's", key.MAC))
			continue
		}
		if _, there := m.state.Ports[e.Device]; e.Device != "" && !there {
			errs = append(errs, fmt.Errorf("put station %s: device %s carries no port", key.MAC, e.Device))
			continue
		}
		if !m.knows(e.Peer) || !m.knows(e.Alt) {
			errs = append(errs, fmt.Errorf("put station %s: %s or %s is not a peer", key.MAC, e.Peer, e.Alt))
			continue
		}
		m.state.FDB[key] = e
	}
	for key, mac := range put.Neighbors {
		if !key.Addr.IsValid() {
			errs = append(errs, fmt.Errorf("put neighbor with MAC %s: it has no address", mac))
			continue
		}
		m.state.Neighbors[key] = mac
	}
	for key := range put.Flood {
		if _, there := m.state.Switches[key.VNI]; !there || !key.Peer.IsValid() || !m.knows(key.Peer) {
			errs = append(errs, fmt.Errorf("flood VNI %d to %s: no such switch or peer", key.VNI, key.Peer))
			continue
		}
		m.state.Flood[key] = struct{}{}
	}
	return errors.Join(errs...)
}

func (m *Memory) putWires(put datapath.State) error {
	var errs []error
	for device, u := range put.Uplinks {
		if err := u.Check(device); err != nil {
			errs = append(errs, err)
			continue
		}
		if m.gone[device] {
			errs = append(errs, fmt.Errorf("put uplink %s: no such device", device))
			continue
		}
		if _, there := put.Uplinks[u.Leader]; u.Leader != "" && !there {
			if _, there = m.state.Uplinks[u.Leader]; !there {
				errs = append(errs, fmt.Errorf("put uplink %s: %s is no uplink", device, u.Leader))
				continue
			}
		}
		m.state.Uplinks[device] = u
	}
	for vni, w := range put.Wires {
		if err := w.Check(vni); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, there := m.state.Uplinks[w.Device]; w.Device != "" && !there || !m.knows(w.Carrier) {
			errs = append(errs, fmt.Errorf("put the way of VNI %d to the wire: no uplink %q, or no peer %s", vni, w.Device, w.Carrier))
			continue
		}
		m.state.Wires[vni] = w
	}
	return errors.Join(errs...)
}

func (m *Memory) knows(vtep netip.Addr) bool {
	_, there := m.state.Peers[vtep]
	return there || !vtep.IsValid()
}

func (m *Memory) remove(del datapath.State) {
	for vni := range del.Wires {
		delete(m.state.Wires, vni)
	}
	for device := range del.Uplinks {
		delete(m.state.Uplinks, device)
		maps.DeleteFunc(m.state.Wires, func(_ fabric.VNI, w datapath.Wire) bool { return w.Device == device })
	}
	for key := range del.Flood {
		delete(m.state.Flood, key)
	}
	for key := range del.Neighbors {
		delete(m.state.Neighbors, key)
	}
	for key, e := range del.FDB {
		if m.state.FDB[key].Epoch <= e.Epoch {
			delete(m.state.FDB, key)
		}
	}
	for key := range del.Segments {
		delete(m.state.Segments, key)
	}
	for vni := range del.Sinks {
		delete(m.state.Sinks, vni)
	}
	for device := range del.Ports {
		m.removePort(device)
	}
	for vni := range del.Mirrors {
		m.removeMirror(vni)
	}
	for digest := range del.Tables {
		m.removeTable(digest)
	}
	for vni := range del.Switches {
		delete(m.state.Switches, vni)
		maps.DeleteFunc(m.state.Flood, func(k datapath.FloodKey, _ struct{}) bool { return k.VNI == vni })
	}
	for vtep := range del.Peers {
		m.removePeer(vtep)
	}
}

// removePort takes the stations with it whose place the device is.
func (m *Memory) removePort(device string) {
	delete(m.state.Ports, device)
	m.removeSinks(device)
	maps.DeleteFunc(m.state.Segments, func(k datapath.SegmentKey, _ datapath.Segment) bool { return k.Device == device })
	maps.DeleteFunc(m.state.FDB, func(_ datapath.FDBKey, e datapath.FDB) bool { return e.Device == device && device != "" })
}

// removeTable takes a table away that no port is judged by.
func (m *Memory) removeTable(digest policy.Digest) {
	for _, p := range m.state.Ports {
		if p.Policy == digest {
			return
		}
	}
	delete(m.state.Tables, digest)
}

// removePeer takes it out of whatever names it.
func (m *Memory) removePeer(vtep netip.Addr) {
	delete(m.state.Peers, vtep)
	maps.DeleteFunc(m.state.Flood, func(k datapath.FloodKey, _ struct{}) bool { return k.Peer == vtep })
	for key, e := range m.state.FDB {
		if e.Peer == vtep {
			e.Peer = netip.Addr{}
		}
		if e.Alt == vtep {
			e.Alt = netip.Addr{}
		}
		m.state.FDB[key] = e
	}
}
