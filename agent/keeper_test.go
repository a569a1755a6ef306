package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// memory is a plane in memory. Its refuse says which devices the kernel does not take.
type memory struct {
	mu      sync.Mutex
	state   datapath.State
	applied int
	refuse  map[string]bool
}

func (m *memory) Read(context.Context) (datapath.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return merge(m.state, datapath.Change{}), nil
}

func (m *memory) Apply(_ context.Context, c datapath.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied++
	for device := range c.Put.Ports {
		if m.refuse[device] {
			return fmt.Errorf("attach to %s: refused", device)
		}
	}
	m.state = merge(m.state, c)
	return nil
}

func (m *memory) Verify(context.Context) error { return nil }

// edit changes the kernel behind the agent's back.
func (m *memory) edit(change func(*datapath.State)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.state)
}

func merge(s datapath.State, c datapath.Change) datapath.State {
	if c.Put.Local != (datapath.Local{}) {
		s.Local = c.Put.Local
	}
	s.Peers = with(s.Peers, c.Put.Peers, c.Delete.Peers)
	s.Switches = with(s.Switches, c.Put.Switches, c.Delete.Switches)
	s.Ports = with(s.Ports, c.Put.Ports, c.Delete.Ports)
	s.FDB = with(s.FDB, c.Put.FDB, c.Delete.FDB)
	s.Neighbors = with(s.Neighbors, c.Put.Neighbors, c.Delete.Neighbors)
	s.Flood = with(s.Flood, c.Put.Flood, c.Delete.Flood)
	return s
}

func with[K comparable, V any](m, puts, deletes map[K]V) map[K]V {
	out := cloneMap(m)
	maps.Copy(out, puts)
	for k := range deletes {
		delete(out, k)
	}
	return out
}

// silent counts nothing.
type silent struct{}

func (silent) Reconciled(time.Duration, int, error) {}
func (silent) Repaired(string, int)                 {}
func (silent) InForce(time.Duration)                {}

// bench is a keeper on a plane in memory, whose devices exist as said.
type bench struct {
	*keeper
	plane   *memory
	devices map[string]int
	events  []fabric.Event
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{plane: &memory{refuse: map[string]bool{}}, devices: map[string]int{"tap-a": 7}}
	b.keeper = &keeper{
		host: "h1", vtep: netip.MustParseAddr("10.240.0.1"), stateDir: t.TempDir(), plane: b.plane,
		log: slog.New(slog.DiscardHandler), tracer: noop.NewTracerProvider().Tracer(""),
		emit:    func(e fabric.Event) { b.events = append(b.events, e) },
		devices: func() (map[string]int, error) { return maps.Clone(b.devices), nil },
		survey: func(func(string) bool) (map[string]int, []fabric.NICStatus, error) {
			return maps.Clone(b.devices), nil, nil
		},
		metrics: silent{}, changed: func() {}, accepted: func(*fabric.Snapshot) {},
	}
	if err := b.begin(t.Context(), local{}.clone(), false); err != nil {
		t.Fatal(err)
	}
	return b
}

// successor is a keeper that starts where this one was killed.
func (b *bench) successor() *keeper {
	k := b.keeper
	return &keeper{host: k.host, vtep: k.vtep, stateDir: k.stateDir, plane: k.plane, log: k.log, tracer: k.tracer,
		emit: k.emit, devices: k.devices, survey: k.survey, changed: k.changed, metrics: k.metrics, accepted: k.accepted}
}

// plug attaches a device.
func (b *bench) plug(t *testing.T, port fabric.PortID, device string) {
	t.Helper()
	err := b.change(t.Context(), func(l *local) error {
		l.Attachments[port] = attachment{Attachment: plan.Attachment{Device: device, Kind: datapath.Tap}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// told counts events of a type.
func (b *bench) told(kind string) int {
	n := 0
	for _, e := range b.events {
		if e.Type == kind {
			n++
		}
	}
	return n
}

// blue is a fabric with one switch and n ports p0…, held by h1 where named, else by h2; and port a held by h1.
func blue(r fabric.Revision, n int) *fabric.Snapshot {
	s := &fabric.Snapshot{
		Revision: r,
		Hosts: map[fabric.HostID]*fabric.Host{
			"h1": {Metadata: fabric.Metadata{Name: "h1"}, Spec: fabric.HostSpec{VTEP: netip.MustParseAddr("10.240.0.1"), UnderlayMTU: 1500}},
			"h2": {Metadata: fabric.Metadata{Name: "h2"}, Spec: fabric.HostSpec{VTEP: netip.MustParseAddr("10.240.0.2"), UnderlayMTU: 1500}},
		},
		Switches: map[fabric.SwitchID]*fabric.Switch{"blue": {Metadata: fabric.Metadata{Name: "blue", Revision: 1},
			Spec: fabric.SwitchSpec{Type: fabric.Private, VNI: 7}}},
		Ports: map[fabric.PortID]*fabric.Port{}, Locations: map[fabric.PortID]fabric.Location{}, Moves: map[fabric.MoveID]*fabric.Move{},
	}
	add := func(name string, host fabric.HostID, i int) {
		id := fabric.PortID(name)
		s.Ports[id] = &fabric.Port{Metadata: fabric.Metadata{Name: name, Revision: 2}, Spec: fabric.PortSpec{
			Switch: "blue", MAC: fabric.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}}}
		s.Locations[id] = fabric.Location{Port: id, Switch: "blue", Host: host, Epoch: 1}
	}
	add("a", "h1", 0xffff)
	for i := range n {
		add(fmt.Sprintf("p%d", i), "h2", i)
	}
	return s
}

func TestASnapshotIsInForceWhenReadBack(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 3))
	b.plug(t, "a", "tap-a")
	if b.inForce != 10 || b.failure != nil {
		t.Fatalf("in force %d, failure %v", b.inForce, b.failure)
	}
	if p := b.plane.state.Ports["tap-a"]; p.Gate != datapath.Open || len(b.plane.state.FDB) != 4 {
		t.Fatalf("the kernel holds %+v", b.plane.state)
	}
	if b.told("port.active") != 1 {
		t.Fatalf("told %v", b.events)
	}
}

func TestWhatSomebodyElseChangedIsRepairedAndTold(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 3))
	b.plug(t, "a", "tap-a")
	b.plane.edit(func(s *datapath.State) {
		s.FDB = map[datapath.FDBKey]datapath.FDB{}
		p := s.Ports["tap-a"]
		p.Guards = 0
		s.Ports["tap-a"] = p
	})
	b.check(t.Context())
	if p := b.plane.state.Ports["tap-a"]; p.Guards == 0 || len(b.plane.state.FDB) != 4 {
		t.Fatalf("not repaired: %+v", b.plane.state)
	}
	if b.told("datapath.repaired") != 1 {
		t.Fatalf("told %v", b.events)
	}
	b.check(t.Context())
	if b.told("datapath.repaired") != 1 {
		t.Fatal("a repair was told twice")
	}
}

func TestNothingIsInForceThatTheKernelRefuses(t *testing.T) {
	b := newBench(t)
	b.devices["tap-p0"] = 8
	b.plane.refuse["tap-p0"] = true
	snap := blue(10, 3)
	snap.Locations["p0"] = fabric.Location{Port: "p0", Switch: "blue", Host: "h1", Epoch: 1}
	b.plug(t, "a", "tap-a")
	b.plug(t, "p0", "tap-p0")
	b.accept(t.Context(), snap)
	if s := b.status(); s.Generation != 0 || !strings.HasPrefix(s.Problems[0], "generation 10 failed: put the change in force: attach to tap-p0") {
		t.Fatalf("in force %d, %q", s.Generation, s.Problems)
	}
	if b.plane.state.Ports["tap-a"].Gate != datapath.Open {
		t.Fatal("one device that is refused keeps another port closed")
	}
	b.plane.refuse = nil
	b.check(t.Context())
	if b.inForce != 10 || b.failure != nil || b.told("generation.failed") != 1 || b.told("generation.recovered") != 1 {
		t.Fatalf("in force %d, failure %v, events %+v", b.inForce, b.failure, b.events)
	}
}

func TestAVanishedDeviceIsAbsentAndComesBack(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 1))
	b.plug(t, "a", "tap-a")
	delete(b.devices, "tap-a")
	b.check(t.Context())
	if s := b.port("a"); s.State != fabric.PortAbsent || len(b.plane.state.Ports) != 0 {
		t.Fatalf("state %v, kernel %v", s, b.plane.state.Ports)
	}
	if b.inForce != 10 {
		t.Fatal("a missing device keeps the host from being ready")
	}
	b.devices["tap-a"] = 9
	b.check(t.Context())
	if s := b.port("a"); s.State != fabric.PortActive {
		t.Fatalf("state %v", s)
	}
	if b.told("datapath.repaired") != 0 {
		t.Fatal("a device that comes and goes is no repair")
	}
}

func TestRemovingManyPortsAtOnceIsHeldUntilConfirmed(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 100))
	b.plug(t, "a", "tap-a")
	few := blue(11, 91)
	b.accept(t.Context(), few)
	if b.held != nil || b.inForce != 11 {
		t.Fatal("removing 9 of 101 ports was held")
	}
	b.accept(t.Context(), blue(12, 80))
	if b.held == nil || b.inForce != 11 || !strings.Contains(b.held.reason(), "11 of 92 ports") {
		t.Fatalf("held %+v, in force %d", b.held, b.inForce)
	}
	b.check(t.Context())
	if len(b.plane.state.FDB) != 92 {
		t.Fatalf("%d stations are left", len(b.plane.state.FDB))
	}
	b.accept(t.Context(), blue(13, 85))
	if b.held != nil || b.inForce != 13 {
		t.Fatal("what no longer removes as much is still held")
	}
	b.accept(t.Context(), blue(14, 0))
	if _, held := b.confirm(t.Context()); !held || b.inForce != 14 || len(b.plane.state.FDB) != 1 {
		t.Fatalf("after the confirmation: in force %d, %d stations", b.inForce, len(b.plane.state.FDB))
	}
	if _, held := b.confirm(t.Context()); held {
		t.Fatal("confirmed twice")
	}
}

func TestASmallFabricMayLoseAllItsPorts(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 8))
	b.accept(t.Context(), blue(11, 0))
	if b.held != nil {
		t.Fatal("held")
	}
}

func TestOlderDataIsTakenWhenTheStoreWasRestored(t *testing.T) {
	b := newBench(t)
	b.plug(t, "a", "tap-a")
	moved := blue(20, 3)
	moved.Ports["a"].Metadata.Revision = 19
	moved.Locations["p0"] = fabric.Location{Port: "p0", Switch: "blue", Host: "h2", Epoch: 5}
	b.accept(t.Context(), moved)
	next := b.successor()
	next.last = moved
	if err := next.begin(t.Context(), b.local, false); err != nil {
		t.Fatal(err)
	}
	restored := blue(10, 3)
	restored.Incarnation = "confirmed"
	next.accept(t.Context(), restored)
	if next.held != nil || next.inForce != 10 || next.failure != nil {
		t.Fatalf("in force %d, %v", next.inForce, next.failure)
	}
	key := datapath.FDBKey{VNI: 7, MAC: blue(10, 3).Ports["p0"].Spec.MAC}
	if e := b.plane.state.FDB[key]; e.Epoch != 1 {
		t.Fatalf("the older location was not taken: %+v", e)
	}
	if p := b.plane.state.Ports["tap-a"]; p.Generation != 2 || p.Gate != datapath.Open {
		t.Fatalf("the older settings were not taken: %+v", p)
	}
}

func TestWithoutTheStoreTheLastGoodStateIsInForce(t *testing.T) {
	b := newBench(t)
	b.plug(t, "a", "tap-a")
	b.last = blue(10, 3)
	b.resume(t.Context())
	if b.inForce != 10 || b.plane.state.Ports["tap-a"].Gate != datapath.Open {
		t.Fatalf("in force %d", b.inForce)
	}
	b.accept(t.Context(), blue(11, 3))
	if b.inForce != 11 {
		t.Fatalf("in force %d", b.inForce)
	}
}

func TestWhatIsPluggedInSurvivesTheAgent(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 3))
	b.plug(t, "a", "tap-a")
	l, err := loadLocal(b.stateDir, noon)
	if err != nil || l.Attachments["a"].Device != "tap-a" {
		t.Fatalf("%+v, %v", l, err)
	}
	applied := b.plane.applied
	next := b.successor()
	if err := next.begin(t.Context(), l, false); err != nil {
		t.Fatal(err)
	}
	next.accept(t.Context(), blue(10, 3))
	if b.plane.applied != applied || next.inForce != 10 {
		t.Fatalf("a restart wrote %d times to the kernel", b.plane.applied-applied)
	}
}

func TestPortsAreLearnedFromTheKernelWhenTheStateFileIsLost(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 3))
	b.plug(t, "a", "tap-a")
	next := b.successor()
	if err := next.begin(t.Context(), local{}.clone(), true); err != nil {
		t.Fatal(err)
	}
	next.accept(t.Context(), blue(10, 3))
	if b.plane.state.Ports["tap-a"].Gate != datapath.Open {
		t.Fatal("the port was dropped")
	}
}

func TestAChangeThatCannotBeRememberedIsNotMade(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), blue(10, 3))
	b.stateDir += "/nowhere"
	err := b.change(t.Context(), func(l *local) error {
		l.Attachments["a"] = attachment{Attachment: plan.Attachment{Device: "tap-a", Kind: datapath.Tap}}
		return nil
	})
	if err == nil || len(b.plane.state.Ports) != 0 {
		t.Fatalf("%v, kernel %v", err, b.plane.state.Ports)
	}
	want := errors.New("no")
	if err := b.change(t.Context(), func(*local) error { return want }); !errors.Is(err, want) {
		t.Fatal(err)
	}
}
