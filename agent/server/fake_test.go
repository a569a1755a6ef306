package server_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/tracing"
)

// memory is the parts of an agent in memory, for what the protocol makes of them. What the parts do is tested with them.
type memory struct {
	mu       sync.Mutex
	snap     *fabric.Snapshot
	statuses map[fabric.HostID]fabric.HostStatus
	changed  chan struct{}
	fail     error
	applied  []fabric.Object
	reported []fabric.HostID
	events   []fabric.Event
	// here is what the host says about itself.
	here fabric.HostStatus
}

func newMemory() *memory {
	m := &memory{changed: make(chan struct{}), statuses: map[fabric.HostID]fabric.HostStatus{}}
	m.snap = &fabric.Snapshot{
		Revision: 1, Hosts: map[fabric.HostID]*fabric.Host{}, Switches: map[fabric.SwitchID]*fabric.Switch{}, Ports: map[fabric.PortID]*fabric.Port{},
		Profiles: map[string]*fabric.Profile{}, Groups: map[string]*fabric.Group{}, Moves: map[fabric.MoveID]*fabric.Move{}, Locations: map[fabric.PortID]fabric.Location{},
	}
	return m
}

// change writes the wanted state or the statuses, and wakes those who follow.
func (m *memory) change(do func(*fabric.Snapshot)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := *m.snap
	next.Revision++
	next.Switches, next.Ports, next.Hosts = maps.Clone(next.Switches), maps.Clone(next.Ports), maps.Clone(next.Hosts)
	next.Locations, next.Moves = maps.Clone(next.Locations), maps.Clone(next.Moves)
	m.statuses = maps.Clone(m.statuses)
	do(&next)
	m.snap = &next
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) now() (*fabric.Snapshot, map[fabric.HostID]fabric.HostStatus, chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snap, m.statuses, m.changed, m.fail
}

func (m *memory) Apply(_ context.Context, objects []fabric.Object, o store.ApplyOptions) (store.ApplyResult, error) {
	if _, _, _, err := m.now(); err != nil {
		return store.ApplyResult{}, err
	}
	m.change(func(s *fabric.Snapshot) {
		m.applied = objects
		for _, o := range objects {
			if sw, ok := o.(*fabric.Switch); ok {
				s.Switches[fabric.SwitchID(sw.Metadata.Name)] = sw
			}
		}
	})
	res := store.ApplyResult{Revision: 7}
	for _, obj := range objects {
		res.Objects = append(res.Objects, store.Applied{Object: obj, Outcome: store.Created})
	}
	return res, nil
}

func (m *memory) Delete(_ context.Context, kind fabric.Kind, name string) (fabric.Revision, error) {
	snap, _, _, _ := m.now()
	if kind == fabric.KindPort && snap.Ports[fabric.PortID(name)] != nil {
		m.change(func(s *fabric.Snapshot) { delete(s.Ports, fabric.PortID(name)) })
		return 8, nil
	}
	if kind == fabric.KindGroup {
		return 0, fabric.ErrNotFound
	}
	return 0, fmt.Errorf("delete %s %s: ports a, b are plugged in: %w", kind, name, fabric.ErrConflict)
}

func (m *memory) RenameSwitch(_ context.Context, from, to fabric.SwitchID, _ string) (fabric.Revision, error) {
	if snap, _, _, _ := m.now(); snap.Switches[from] == nil {
		return 0, fabric.ErrNotFound
	}
	m.change(func(s *fabric.Snapshot) { s.Switches[to] = s.Switches[from]; delete(s.Switches, from) })
	return 9, nil
}

func (m *memory) Snapshot(context.Context) (*fabric.Snapshot, error) {
	snap, _, _, err := m.now()
	return snap, err
}

func (m *memory) SnapshotAt(_ context.Context, rev fabric.Revision) (*fabric.Snapshot, error) {
	snap, _, _, err := m.now()
	if rev > snap.Revision {
		return nil, fabric.ErrNotFound
	}
	return snap, err
}

func (m *memory) Follow(ctx context.Context, each func(*fabric.Snapshot)) error {
	for {
		snap, _, changed, _ := m.now()
		each(snap)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

func (m *memory) Statuses(context.Context) (map[fabric.HostID]fabric.HostStatus, error) {
	_, st, _, err := m.now()
	return st, err
}

func (m *memory) FollowStatuses(ctx context.Context, each func(map[fabric.HostID]fabric.HostStatus)) error {
	for {
		_, st, changed, _ := m.now()
		each(st)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

func (m *memory) Alive() map[fabric.HostID]bool {
	return map[fabric.HostID]bool{"h1": true, "h2": true}
}
func (m *memory) Latest() *fabric.Snapshot { snap, _, _, _ := m.now(); return snap }
func (m *memory) Etcd(context.Context) (api.Etcd, error) {
	return api.Etcd{Members: []api.EtcdMember{{Name: "h1", Healthy: true, Leader: true}}}, nil
}

func (m *memory) Attach(_ context.Context, port fabric.PortID, a api.Attachment) (fabric.PortStatus, error) {
	return fabric.PortStatus{Name: port, Device: a.Device, State: fabric.PortActive}, nil
}
func (m *memory) Aside(_ context.Context, r api.MoveReport) error {
	return fmt.Errorf("move %s is not known: %w", r.Move, fabric.ErrNotFound)
}
func (m *memory) Left(_ context.Context, port fabric.PortID, _ api.LeftSince) (api.Left, error) {
	return api.Left{}, fmt.Errorf("port %s has not moved away: %w", port, fabric.ErrNotFound)
}

func (m *memory) Ports(context.Context) ([]fabric.PortStatus, error) {
	return []fabric.PortStatus{{Name: "a", RxPackets: 42, Relayed: 5, Drops: map[string]uint64{"guard_src_ip": 3, "port_staged": 2}}}, nil
}
func (m *memory) Detach(context.Context, fabric.PortID) error { return nil }

func (m *memory) Doctor(context.Context) ([]api.Finding, error) { panic("doctor fell ill") }
func (m *memory) Status() fabric.HostStatus                     { return m.here }
func (m *memory) Ready(context.Context) error                   { return errors.New("the first snapshot has not come") }

func (m *memory) Confirm(context.Context) (string, error) { return "The change is put in force.", nil }
func (m *memory) Events(ctx context.Context, after uint64, follow bool, each func(uint64, fabric.Event) error) error {
	for {
		m.mu.Lock()
		events, changed := m.events, m.changed
		m.mu.Unlock()
		for ; after < uint64(len(events)); after++ {
			if err := each(after+1, events[after]); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (m *memory) Trace(_ context.Context, r api.TraceRequest) (*tracing.Path, error) {
	return &tracing.Path{Verdict: tracing.Delivered, Mode: tracing.ModeProbe, Label: 1 << 63, Hops: []tracing.Step{}}, nil
}
func (m *memory) Explain(snap *fabric.Snapshot, _ api.TraceRequest) (*tracing.Path, error) {
	return &tracing.Path{Verdict: tracing.Delivered, Mode: tracing.ModeExplain, Generation: snap.Revision, Hops: []tracing.Step{}}, nil
}
func (m *memory) Examine(ctx context.Context, r api.TraceRequest) (*tracing.Examination, error) {
	p, err := m.Trace(ctx, r)
	return &tracing.Examination{Source: r.Source, Destination: r.Destination, From: "h1", Probe: p}, err
}
func (m *memory) Stations(context.Context) ([]api.Station, error) {
	return []api.Station{{Switch: "blue", VNI: 7, MAC: fabric.MAC{2, 9}, Host: "h1", NIC: "eth1", AgoSeconds: 3}}, nil
}
func (m *memory) Remembered(_ context.Context, ports []fabric.PortID) (out []api.Remembered, err error) {
	for _, p := range ports {
		out = append(out, api.Remembered{Port: p, Connections: 1000, Room: 1024, Full: true, StraysIn: 3})
	}
	return out, nil
}
func (m *memory) Drops(context.Context) ([]tracing.Drop, error) {
	return []tracing.Drop{{Host: "h1", Port: "a", Reason: tracing.ReasonGuardSrcMAC, Packets: 3}}, nil
}
func (m *memory) Arm(_ context.Context, s tracing.Session) error {
	if s.Label != 1<<63 {
		return fmt.Errorf("label %d: %w", s.Label, fabric.ErrInvalid)
	}
	return nil
}
func (m *memory) Inject(context.Context, fabric.PortID, []byte, int) error         { return nil }
func (m *memory) Hops(context.Context, tracing.Session) ([]tracing.Hop, error)     { return nil, nil }
func (m *memory) Disarm(context.Context, tracing.Session) error                    { return nil }
func (m *memory) ReportHost(context.Context, *fabric.Host) error                   { return nil }
func (m *memory) ReportMove(context.Context, api.MoveReport) (*fabric.Move, error) { return nil, nil }
func (m *memory) ReportLocation(context.Context, api.LocationReport) (fabric.Location, error) {
	return fabric.Location{}, fmt.Errorf("claim: %w", fabric.ErrStaleEpoch)
}

func (m *memory) ReportStatus(_ context.Context, host fabric.HostID, _ fabric.HostStatus) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reported = append(m.reported, host)
	return nil
}
