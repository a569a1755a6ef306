package datapathtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// Plane is what the suite tests.
type Plane interface {
	Read(ctx context.Context) (datapath.State, error)
	Apply(ctx context.Context, c datapath.Change) error
}

// Rig is one datapath under test, empty and of a host with an IPv4 tunnel end point.
type Rig struct {
	Plane Plane
	// Devices are at least four devices that carry no port.
	Devices []string
}

// Test runs the suite; open makes a fresh Rig each time and cleans it up with the test.
func Test(t *testing.T, open func(t *testing.T) Rig) {
	for name, claim := range map[string]func(*testing.T, Rig){
		"what is put is read back":                           putIsRead,
		"putting twice equals once":                          twiceIsOnce,
		"deleting nothing succeeds":                          deleteNothing,
		"a station's older epoch is ignored":                 olderStation,
		"an older epoch never opens a port, but closes one":  olderPort,
		"a staged port that was opened stays open":           stagedStaysOpen,
		"a port takes its stations with it":                  portTakesStations,
		"what refers to nothing is refused":                  danglingRefused,
		"impossible values are refused":                      impossibleRefused,
		"a port whose rules are not there keeps what it has": missingRules,
		"a table that a port names stays":                    namedTableStays,
		"many entries are put, read and deleted":             many,
		"random changes":                                     random,
	} {
		t.Run(name, func(t *testing.T) { claim(t, open(t)) })
	}
}

const vni = fabric.VNI(70)

func peer(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}) }

func station(n int) datapath.FDBKey {
	return datapath.FDBKey{VNI: vni, MAC: fabric.MAC{2, 0, 0, 0, byte(n >> 8), byte(n)}}
}

// sample is a state that uses every kind of entry, on the first devices of the rig.
func (r Rig) sample() datapath.State {
	port := datapath.Port{
		Name: "web-1", VNI: vni, Kind: datapath.Tap, Gate: datapath.Open, MAC: station(1).MAC, Epoch: 3, Generation: 12,
		Guards: datapath.GuardMAC | datapath.GuardVXLAN,
	}
	port.Addresses[0], port.Addresses[1] = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	source := &policy.Source{Default: fabric.Deny}
	port.Policy = source.Digest()
	port.MACs.Listed = [datapath.MaxPortMACs]datapath.StationMAC{{MAC: station(8).MAC}, {MAC: station(9).MAC, Sibling: true}}
	port.MACs.Shared, port.Priority.DSCP, port.Trunk = true, true, true
	port.Limits.Out = datapath.Limit{Rate: 10e6, Burst: 1 << 20}
	port.Limits.Storm[datapath.Multicast].Bits = datapath.Limit{Rate: 5e9, Burst: 1 << 23}
	other := datapath.Port{Name: "db", Kind: datapath.Veth}
	private := datapath.Port{Name: "private", VNI: vni + 1, Receives: vni, Kind: datapath.Tap, MAC: station(4).MAC}
	return datapath.State{
		Peers:    map[netip.Addr]datapath.Peer{peer(2): {MTU: 1600}, peer(3): {MTU: 9000}},
		Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 1450}, vni + 1: {MTU: 576}},
		Ports:    map[string]datapath.Port{r.Devices[0]: port, r.Devices[1]: other, r.Devices[2]: private},
		Segments: map[datapath.SegmentKey]datapath.Segment{
			{Device: r.Devices[0], VNI: vni}: {QinQ: true}, {Device: r.Devices[0], VNI: vni + 1}: {Tag: 30}, {Device: r.Devices[0], VNI: 99}: {Tag: 4094, QinQ: true},
			{Device: r.Devices[2], VNI: 98}: {},
		},
		Tables: map[policy.Digest]*policy.Source{port.Policy: source},
		FDB: map[datapath.FDBKey]datapath.FDB{
			station(1): {Device: r.Devices[0], Epoch: 3, Peer: peer(2)},
			station(2): {Peer: peer(2), Alt: peer(3), Epoch: 9},
			station(3): {Peer: peer(3), Relay: true, Epoch: 1},
			station(4): {Source: true, Epoch: 2},
			station(5): {Source: true, Peer: peer(3), Epoch: 2},
		},
		Neighbors: map[datapath.NeighborKey]fabric.MAC{
			{VNI: vni, Addr: netip.MustParseAddr("10.0.0.1")}: station(1).MAC,
			{VNI: vni, Addr: netip.MustParseAddr("fd00::2")}:  station(2).MAC,
		},
		Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: peer(2)}: {}, {VNI: vni, Peer: peer(3)}: {}, {VNI: vni + 1, Peer: peer(3)}: {}},
	}
}

func (r Rig) put(t testing.TB, s datapath.State) {
	t.Helper()
	if err := r.Plane.Apply(t.Context(), datapath.Change{Put: s}); err != nil {
		t.Fatal(err)
	}
}

func (r Rig) read(t testing.TB) datapath.State {
	t.Helper()
	s, err := r.Plane.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// holds fails unless the plane holds exactly s, Local apart.
func (r Rig) holds(t testing.TB, want datapath.State) {
	t.Helper()
	if diff := difference(want, r.read(t)); diff != "" {
		t.Fatal(diff)
	}
}

// difference says where two states differ, Local apart; empty when they do not.
func difference(want, have datapath.State) string {
	for _, part := range []struct {
		name       string
		want, have any
	}{
		{"peers", filled(want.Peers), filled(have.Peers)},
		{"switches", filled(want.Switches), filled(have.Switches)},
		{"ports", filled(want.Ports), filled(have.Ports)},
		{"stations", filled(want.FDB), filled(have.FDB)},
		{"neighbors", filled(want.Neighbors), filled(have.Neighbors)},
		{"segments", filled(want.Segments), filled(have.Segments)},
		{"flood", filled(want.Flood), filled(have.Flood)},
		{"uplinks", filled(want.Uplinks), filled(have.Uplinks)},
		{"wires", filled(want.Wires), filled(have.Wires)},
		{"tables", names(want.Tables), names(have.Tables)},
	} {
		if !reflect.DeepEqual(part.want, part.have) {
			return fmt.Sprintf("%s:\nwant %+v\nhave %+v", part.name, part.want, part.have)
		}
	}
	return ""
}

// names are the tables that are there; what is read has no sources.
func names(tables map[policy.Digest]*policy.Source) map[policy.Digest]bool {
	there := map[policy.Digest]bool{}
	for digest := range tables {
		there[digest] = true
	}
	return there
}

func filled[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return m
}

func putIsRead(t *testing.T, r Rig) {
	if !r.read(t).Local.VTEP.Is4() {
		t.Fatalf("an empty datapath has no tunnel end point: %+v", r.read(t).Local)
	}
	r.holds(t, datapath.State{})
	r.put(t, r.sample())
	r.holds(t, r.sample())
	r.put(t, datapath.State{Local: datapath.Local{VTEP: peer(9)}})
	if got := r.read(t).Local.VTEP; got != peer(9) {
		t.Fatalf("tunnel end point %v, want %v", got, peer(9))
	}
	if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: r.sample()}); err != nil {
		t.Fatal(err)
	}
	r.holds(t, datapath.State{})
}

func twiceIsOnce(t *testing.T, r Rig) {
	r.put(t, r.sample())
	r.put(t, r.sample())
	r.holds(t, r.sample())
}

func deleteNothing(t *testing.T, r Rig) {
	if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: r.sample()}); err != nil {
		t.Fatal(err)
	}
	r.holds(t, datapath.State{})
}

func olderStation(t *testing.T, r Rig) {
	r.put(t, r.sample())
	older := datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{station(2): {Peer: peer(3), Epoch: 8}}}
	r.put(t, older)
	r.holds(t, r.sample())
	if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: older}); err != nil {
		t.Fatal(err)
	}
	r.holds(t, r.sample())
	same := datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{station(2): {Peer: peer(3), Epoch: 9}}}
	r.put(t, same)
	if got := r.read(t).FDB[station(2)]; got != same.FDB[station(2)] {
		t.Fatalf("an entry of the same epoch must replace: have %+v", got)
	}
}

func olderPort(t *testing.T, r Rig) {
	s := r.sample()
	r.put(t, s)
	p := s.Ports[r.Devices[0]]
	p.Gate, p.Epoch = datapath.Closed, 2
	r.put(t, datapath.State{Ports: map[string]datapath.Port{r.Devices[0]: p}})
	if got := r.read(t).Ports[r.Devices[0]]; got.Gate != datapath.Closed {
		t.Fatalf("not closed: %+v", got)
	}
	p.Gate, p.Epoch = datapath.Open, 1
	err := r.Plane.Apply(t.Context(), datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{r.Devices[0]: p}}})
	if !errors.Is(err, fabric.ErrStaleEpoch) {
		t.Fatalf("opened by an older epoch: %v", err)
	}
	if got := r.read(t).Ports[r.Devices[0]]; got.Gate != datapath.Closed {
		t.Fatalf("opened by an older epoch: %+v", got)
	}
}

func stagedStaysOpen(t *testing.T, r Rig) {
	s := r.sample()
	p := s.Ports[r.Devices[0]]
	for _, gate := range []datapath.Gate{datapath.Staged, datapath.Open, datapath.Staged} {
		p.Gate = gate
		r.put(t, datapath.State{Switches: s.Switches, Tables: s.Tables, Ports: map[string]datapath.Port{r.Devices[0]: p}})
	}
	if got := r.read(t).Ports[r.Devices[0]].Gate; got != datapath.Open {
		t.Fatalf("gate %d after staging an open port of the same epoch, want open", got)
	}
	p.Epoch++
	r.put(t, datapath.State{Ports: map[string]datapath.Port{r.Devices[0]: p}})
	if got := r.read(t).Ports[r.Devices[0]].Gate; got != datapath.Staged {
		t.Fatalf("gate %d after staging under a later epoch, want staged", got)
	}
}

func portTakesStations(t *testing.T, r Rig) {
	s := r.sample()
	r.put(t, s)
	device := r.Devices[0]
	if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{device: {}}}}); err != nil {
		t.Fatal(err)
	}
	delete(s.Ports, device)
	delete(s.FDB, station(1))
	maps.DeleteFunc(s.Segments, func(k datapath.SegmentKey, _ datapath.Segment) bool { return k.Device == device })
	r.holds(t, s)
}

func danglingRefused(t *testing.T, r Rig) {
	for name, s := range map[string]datapath.State{
		"a station on a device without a port": {FDB: map[datapath.FDBKey]datapath.FDB{station(1): {Device: r.Devices[2]}}},
		"a station at a host that is no peer":  {FDB: map[datapath.FDBKey]datapath.FDB{station(1): {Peer: peer(7)}}},
		"a segment of a device without a port": {Segments: map[datapath.SegmentKey]datapath.Segment{{Device: r.Devices[2], VNI: vni}: {}}},
		"flooding to a host that is no peer":   {Flood: map[datapath.FloodKey]struct{}{{VNI: vni, Peer: peer(7)}: {}}},
		"flooding on a switch that is not here": {
			Peers: map[netip.Addr]datapath.Peer{peer(2): {MTU: 1500}}, Flood: map[datapath.FloodKey]struct{}{{VNI: 99, Peer: peer(2)}: {}},
		},
	} {
		if err := r.Plane.Apply(t.Context(), datapath.Change{Put: s}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if s := r.read(t); len(s.FDB)+len(s.Flood)+len(s.Segments) != 0 {
		t.Fatalf("refused entries are held: %+v", s)
	}
}

func impossibleRefused(t *testing.T, r Rig) {
	good := r.sample().Ports[r.Devices[0]]
	good.Policy = policy.Digest{}
	port := func(change func(*datapath.Port)) datapath.State {
		p := good
		change(&p)
		return datapath.State{Ports: map[string]datapath.Port{r.Devices[2]: p}}
	}
	for name, s := range map[string]datapath.State{
		"an MTU of 575":              {Switches: map[fabric.VNI]datapath.Switch{vni: {MTU: 575}}},
		"VNI 0":                      {Switches: map[fabric.VNI]datapath.Switch{0: {MTU: 1450}}},
		"VNI 2^24":                   {Switches: map[fabric.VNI]datapath.Switch{1 << 24: {MTU: 1450}}},
		"a path MTU of 600":          {Peers: map[netip.Addr]datapath.Peer{peer(2): {MTU: 600}}},
		"a multicast peer":           {Peers: map[netip.Addr]datapath.Peer{netip.MustParseAddr("224.0.0.1"): {MTU: 1500}}},
		"a port without a name":      port(func(p *datapath.Port) { p.Name = "" }),
		"a port of no kind":          port(func(p *datapath.Port) { p.Kind = 0 }),
		"a gate that is none":        port(func(p *datapath.Port) { p.Gate = 4 }),
		"an open port without VNI":   port(func(p *datapath.Port) { p.VNI = 0 }),
		"an open port, group MAC":    port(func(p *datapath.Port) { p.MAC[0] = 1 }),
		"an epoch beyond 56 bits":    port(func(p *datapath.Port) { p.Epoch = 1 << 56 }),
		"a neighbor with no address": {Neighbors: map[datapath.NeighborKey]fabric.MAC{{VNI: vni}: good.MAC}},
		"a device name of 16":        {Ports: map[string]datapath.Port{"abcdefghijklmnop": good}},
	} {
		if err := r.Plane.Apply(t.Context(), datapath.Change{Put: s}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	r.holds(t, datapath.State{})
}

func missingRules(t *testing.T, r Rig) {
	s := r.sample()
	r.put(t, s)
	p := s.Ports[r.Devices[0]]
	p.Policy, p.Guards = policy.Digest{1}, 0
	change := datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{r.Devices[0]: p}}}
	if err := r.Plane.Apply(t.Context(), change); err == nil {
		t.Fatal("a port is put whose rules are not there")
	}
	r.holds(t, s)
	p.Gate = datapath.Closed
	change.Put.Ports[r.Devices[0]] = p
	if err := r.Plane.Apply(t.Context(), change); err == nil {
		t.Fatal("a port is put whose rules are not there")
	}
	if got := r.read(t).Ports[r.Devices[0]]; got.Gate != datapath.Closed || got.Policy != s.Ports[r.Devices[0]].Policy {
		t.Fatalf("a port is to close and its rules are not there: %+v", got)
	}
}

func namedTableStays(t *testing.T, r Rig) {
	s := r.sample()
	r.put(t, s)
	if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: datapath.State{Tables: s.Tables}}); err != nil {
		t.Fatal(err)
	}
	r.holds(t, s)
	p := s.Ports[r.Devices[0]]
	p.Policy = policy.Digest{}
	s.Ports[r.Devices[0]] = p
	r.put(t, datapath.State{Ports: s.Ports})
	if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: datapath.State{Tables: s.Tables}}); err != nil {
		t.Fatal(err)
	}
	s.Tables = nil
	r.holds(t, s)
}
