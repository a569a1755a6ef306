package plan_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

var (
	vtep = map[fabric.HostID]netip.Addr{
		"h1": netip.MustParseAddr("10.240.0.1"), "h2": netip.MustParseAddr("10.240.0.2"), "h3": netip.MustParseAddr("10.240.0.3"),
	}
	macA = fabric.MAC{2, 0, 0, 0, 0, 0xa}
	macB = fabric.MAC{2, 0, 0, 0, 0, 0xb}
	keyA = datapath.FDBKey{VNI: 7, MAC: macA}
	keyB = datapath.FDBKey{VNI: 7, MAC: macB}
)

// fleet is three hosts, switch blue with ports a (held by h1) and b (held by h2), and switch red without ports.
func fleet() *fabric.Snapshot {
	s := &fabric.Snapshot{
		Revision: 20,
		Hosts:    map[fabric.HostID]*fabric.Host{},
		Switches: map[fabric.SwitchID]*fabric.Switch{
			"blue": {Metadata: fabric.Metadata{Name: "blue", Revision: 10}, Spec: fabric.SwitchSpec{
				Type: fabric.Private, VNI: 7, Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")}}},
			"red": {Metadata: fabric.Metadata{Name: "red", Revision: 11}, Spec: fabric.SwitchSpec{Type: fabric.Private, VNI: 8}},
		},
		Ports:     map[fabric.PortID]*fabric.Port{},
		Profiles:  map[string]*fabric.Profile{},
		Locations: map[fabric.PortID]fabric.Location{},
	}
	for id, a := range vtep {
		s.Hosts[id] = &fabric.Host{Metadata: fabric.Metadata{Name: string(id)}, Spec: fabric.HostSpec{VTEP: a, UnderlayMTU: 1500}}
	}
	s.Ports["a"] = &fabric.Port{Metadata: fabric.Metadata{Name: "a", Revision: 12}, Spec: fabric.PortSpec{
		Switch: "blue", MAC: macA, Addresses: []netip.Addr{netip.MustParseAddr("10.10.0.11")}}}
	s.Ports["b"] = &fabric.Port{Metadata: fabric.Metadata{Name: "b", Revision: 13}, Spec: fabric.PortSpec{
		Switch: "blue", MAC: macB, Addresses: []netip.Addr{netip.MustParseAddr("10.10.0.12")}}}
	s.Locations["a"] = fabric.Location{Port: "a", Switch: "blue", Host: "h1", Epoch: 1}
	s.Locations["b"] = fabric.Location{Port: "b", Switch: "blue", Host: "h2", Epoch: 1}
	return s
}

// holding is what a host knows that carries one port.
func holding(host fabric.HostID, port fabric.PortID) plan.Local {
	return plan.Local{VTEP: vtep[host], Attachments: map[fabric.PortID]plan.Attachment{port: {Device: "tap-" + string(port), Kind: datapath.Tap}}}
}

func TestAHeldPortIsOpenWithEverythingItNeeds(t *testing.T) {
	got := plan.Wanted(fleet(), "h1", holding("h1", "a"))
	all := datapath.GuardMAC | datapath.GuardIP | datapath.GuardARP | datapath.GuardDHCPServer | datapath.GuardRA |
		datapath.GuardL2Control | datapath.GuardVXLAN
	want := datapath.State{
		Local:    datapath.Local{VTEP: vtep["h1"]},
		Peers:    map[netip.Addr]datapath.Peer{vtep["h2"]: {MTU: 1500}, vtep["h3"]: {MTU: 1500}},
		Switches: map[fabric.VNI]datapath.Switch{7: {MTU: 1450}},
		Ports: map[string]datapath.Port{"tap-a": {Name: "a", VNI: 7, Kind: datapath.Tap, Gate: datapath.Open, MAC: macA,
			Addresses: [8]netip.Addr{netip.MustParseAddr("10.10.0.11")}, Guards: all, Epoch: 1, Generation: 12}},
		FDB: map[datapath.FDBKey]datapath.FDB{keyA: {Device: "tap-a", Epoch: 1}, keyB: {Peer: vtep["h2"], Epoch: 1}},
		Neighbors: map[datapath.NeighborKey]fabric.MAC{
			{VNI: 7, Addr: netip.MustParseAddr("10.10.0.11")}: macA, {VNI: 7, Addr: netip.MustParseAddr("10.10.0.12")}: macB},
		Flood:   map[datapath.FloodKey]struct{}{{VNI: 7, Peer: vtep["h2"]}: {}},
		Uplinks: map[string]datapath.Uplink{}, Wires: map[fabric.VNI]datapath.Wire{},
		Mirrors: map[fabric.VNI]datapath.Mirror{}, Sinks: map[fabric.VNI]datapath.Sink{},
		Segments: map[datapath.SegmentKey]datapath.Segment{},
		Tables:   map[policy.Digest]*policy.Source{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestAHostWithoutPortsKnowsItsPeersAndNothingElse(t *testing.T) {
	got := plan.Wanted(fleet(), "h3", plan.Local{VTEP: vtep["h3"]})
	if len(got.Peers) != 2 || len(got.Switches)+len(got.Ports)+len(got.FDB)+len(got.Neighbors)+len(got.Flood) != 0 {
		t.Fatalf("got %+v", got)
	}
}

// view is what one host wants for port a at one moment of a move from h1 to h3.
type view struct {
	gate  datapath.Gate // of its own device, when it has one
	epoch fabric.Epoch
	fdb   datapath.FDB
}

func TestAMoveFromH1ToH3SeenByEveryHost(t *testing.T) {
	grant := &fabric.Grant{Move: "m1", To: "h3", Epoch: 2, Rollback: 3}
	h1, h3 := vtep["h1"], vtep["h3"]
	atSource, atOther, atTarget := holding("h1", "a"), holding("h2", "b"), holding("h3", "a")
	stopped := holding("h1", "a")
	stopped.Handoffs = map[fabric.PortID]plan.Handoff{"a": {To: "h3", Epoch: 1}}
	prepared := holding("h3", "a")
	prepared.Staged = map[fabric.PortID]fabric.MoveID{"a": "m1"}
	gone := plan.Local{VTEP: h1}
	left := plan.Local{VTEP: h1, Handoffs: stopped.Handoffs}

	for _, moment := range []struct {
		name  string
		loc   fabric.Location
		host  fabric.HostID
		local plan.Local
		want  view
	}{
		{"granted: the source goes on, and hears the guest from the destination too",
			fabric.Location{Host: "h1", Epoch: 1, Grant: grant}, "h1", atSource,
			view{datapath.Open, 1, datapath.FDB{Device: "tap-a", Peer: h3, Epoch: 1}}},
		{"granted: others send to the source, and may hear the guest from the destination",
			fabric.Location{Host: "h1", Epoch: 1, Grant: grant}, "h2", atOther,
			view{fdb: datapath.FDB{Peer: h1, Alt: h3, Epoch: 1}}},
		{"granted: a device at the destination stays closed until the move has prepared it",
			fabric.Location{Host: "h1", Epoch: 1, Grant: grant}, "h3", atTarget,
			view{datapath.Closed, 1, datapath.FDB{Peer: h1, Epoch: 1}}},
		{"staged: the destination opens with the granted epoch, and takes what the source relays",
			fabric.Location{Host: "h1", Epoch: 1, Grant: grant}, "h3", prepared,
			view{datapath.Staged, 2, datapath.FDB{Device: "tap-a", Peer: h1, Epoch: 1}}},
		{"staged by another move: closed",
			fabric.Location{Host: "h1", Epoch: 1, Grant: &fabric.Grant{Move: "m2", To: "h3", Epoch: 2, Rollback: 3}}, "h3", prepared,
			view{datapath.Closed, 1, datapath.FDB{Peer: h1, Epoch: 1}}},
		{"switched: the source shuts the device, and its station is at the destination",
			fabric.Location{Host: "h1", Epoch: 1, Grant: grant}, "h1", stopped,
			view{datapath.Relay, 1, datapath.FDB{Device: "tap-a", Peer: h3, Epoch: 1}}},
		{"switched: the source relays even when its device goes at once",
			fabric.Location{Host: "h1", Epoch: 1, Grant: grant}, "h1", left,
			view{fdb: datapath.FDB{Peer: h3, Relay: true, Epoch: 1}}},
		{"committed: the destination holds the port, and still takes what the source relays",
			fabric.Location{Host: "h3", Epoch: 2, From: "h1"}, "h3", prepared,
			view{datapath.Open, 2, datapath.FDB{Device: "tap-a", Peer: h1, Epoch: 2}}},
		{"committed: others send to the destination alone",
			fabric.Location{Host: "h3", Epoch: 2, From: "h1"}, "h2", atOther,
			view{fdb: datapath.FDB{Peer: h3, Epoch: 2}}},
		{"committed: the source relays even after its device has gone",
			fabric.Location{Host: "h3", Epoch: 2, From: "h1"}, "h1", gone,
			view{fdb: datapath.FDB{Peer: h3, Relay: true, Epoch: 2}}},
		{"committed: the source's device is shut, and the relay does not depend on it",
			fabric.Location{Host: "h3", Epoch: 2, From: "h1"}, "h1", stopped,
			view{datapath.Relay, 2, datapath.FDB{Peer: h3, Relay: true, Epoch: 2}}},
		{"settled: a device left at the source is closed",
			fabric.Location{Host: "h3", Epoch: 2}, "h1", stopped,
			view{datapath.Closed, 2, datapath.FDB{Peer: h3, Epoch: 2}}},
		{"rolled back: the source is open again by the rollback epoch, whatever it handed off before",
			fabric.Location{Host: "h1", Epoch: 3}, "h1", stopped,
			view{datapath.Open, 3, datapath.FDB{Device: "tap-a", Epoch: 3}}},
		{"rolled back: the destination's device is closed",
			fabric.Location{Host: "h1", Epoch: 3}, "h3", prepared,
			view{datapath.Closed, 3, datapath.FDB{Peer: h1, Epoch: 3}}},
	} {
		t.Run(moment.name, func(t *testing.T) {
			snap := fleet()
			moment.loc.Port, moment.loc.Switch = "a", "blue"
			snap.Locations["a"] = moment.loc
			got := plan.Wanted(snap, moment.host, moment.local)
			seen := view{fdb: got.FDB[keyA]}
			if p, ok := got.Ports["tap-a"]; ok {
				seen.gate, seen.epoch = p.Gate, p.Epoch
			}
			if seen != moment.want {
				t.Fatalf("got  %+v\nwant %+v", seen, moment.want)
			}
		})
	}
}

func TestStoppingTheGuestAtTheSourceChangesOneWord(t *testing.T) {
	snap := fleet()
	loc := snap.Locations["a"]
	loc.Grant = &fabric.Grant{Move: "m1", To: "h3", Epoch: 2, Rollback: 3}
	snap.Locations["a"] = loc
	stopped := holding("h1", "a")
	stopped.Handoffs = map[fabric.PortID]plan.Handoff{"a": {To: "h3", Epoch: 1}}
	steps := plan.Changes(plan.Wanted(snap, "h1", stopped), plan.Wanted(snap, "h1", holding("h1", "a")))
	if len(steps) != 1 || plan.Entries(steps[0].Put) != 1 || plan.Entries(steps[0].Delete) != 0 || steps[0].Put.Ports["tap-a"].Gate != datapath.Relay {
		t.Fatalf("got %+v", steps)
	}
}

func TestAGrantedHostIsFloodedTo(t *testing.T) {
	snap := fleet()
	loc := snap.Locations["a"]
	loc.Grant = &fabric.Grant{Move: "m1", To: "h3", Epoch: 2, Rollback: 3}
	snap.Locations["a"] = loc
	got := plan.Wanted(snap, "h2", holding("h2", "b"))
	want := map[datapath.FloodKey]struct{}{{VNI: 7, Peer: vtep["h1"]}: {}, {VNI: 7, Peer: vtep["h3"]}: {}}
	if !reflect.DeepEqual(got.Flood, want) {
		t.Fatalf("flooded to %v, want %v", got.Flood, want)
	}
}

func TestADeviceWithoutAUsablePortIsClosed(t *testing.T) {
	for name, change := range map[string]func(*fabric.Snapshot){
		"the port is deleted":         func(s *fabric.Snapshot) { delete(s.Ports, "a") },
		"the switch is deleted":       func(s *fabric.Snapshot) { delete(s.Switches, "blue") },
		"the VNI is not allocated":    func(s *fabric.Snapshot) { s.Switches["blue"].Spec.VNI = 0 },
		"nobody holds the port":       func(s *fabric.Snapshot) { delete(s.Locations, "a") },
		"another host holds the port": func(s *fabric.Snapshot) { s.Locations["a"] = fabric.Location{Host: "h2", Epoch: 4} },
	} {
		t.Run(name, func(t *testing.T) {
			snap := fleet()
			change(snap)
			got := plan.Wanted(snap, "h1", holding("h1", "a")).Ports
			if p, kept := got["tap-a"]; !kept || p.Name != "a" || p.Gate != datapath.Closed {
				t.Fatalf("got %+v", got)
			}
		})
	}
}

func TestGuardsOfPortOverrideProfileOverrideOn(t *testing.T) {
	on, off := true, false
	snap := fleet()
	snap.Profiles["gold"] = &fabric.Profile{Metadata: fabric.Metadata{Name: "gold", Revision: 30},
		Spec: fabric.ProfileSpec{Settings: fabric.Settings{Guards: fabric.Guards{MAC: &off, RA: &off}}}}
	snap.Switches["blue"].Spec.Profile = "gold"
	snap.Ports["a"].Spec.Guards = fabric.Guards{MAC: &on, VXLAN: &off}
	p := plan.Wanted(snap, "h1", holding("h1", "a")).Ports["tap-a"]
	want := datapath.GuardMAC | datapath.GuardIP | datapath.GuardARP | datapath.GuardDHCPServer | datapath.GuardL2Control
	if p.Guards != want {
		t.Errorf("guards %07b, want %07b", p.Guards, want)
	}
	if p.Generation != 30 {
		t.Errorf("generation %d: a change of the profile must show", p.Generation)
	}
}

func TestWhereTheSwitchHasNoSubnetAddressesAreNotGuarded(t *testing.T) {
	snap := fleet()
	snap.Switches["blue"].Spec.Subnets = nil
	if p := plan.Wanted(snap, "h1", holding("h1", "a")).Ports["tap-a"]; p.Guards&datapath.GuardIP == 0 {
		t.Error("a port that was given addresses is held to them")
	}
	snap.Ports["a"].Spec.Addresses = nil
	if p := plan.Wanted(snap, "h1", holding("h1", "a")).Ports["tap-a"]; p.Guards&(datapath.GuardIP|datapath.GuardARP) != 0 {
		t.Error("nothing is known of the addresses, yet they are guarded")
	}
}

func TestPathMTUIsTheSmallerEnd(t *testing.T) {
	snap := fleet()
	snap.Hosts["h1"].Spec.UnderlayMTU = 1600
	snap.Hosts["h2"].Spec.UnderlayMTU = 9000
	got := plan.Wanted(snap, "h1", holding("h1", "a"))
	if got.Peers[vtep["h2"]].MTU != 1600 || got.Peers[vtep["h3"]].MTU != 1500 {
		t.Fatalf("got %v", got.Peers)
	}
}

func TestPeersOfAnotherFamilyAreOutOfReach(t *testing.T) {
	snap := fleet()
	snap.Hosts["h2"].Spec.VTEP = netip.MustParseAddr("fd00::2")
	got := plan.Wanted(snap, "h1", holding("h1", "a"))
	if _, there := got.FDB[keyB]; there || len(got.Peers) != 1 || len(got.Flood) != 0 {
		t.Fatalf("got %+v", got)
	}
}

func TestTheResultDoesNotDependOnMapOrder(t *testing.T) {
	snap := fleet()
	// Two ports with the same MAC and address cannot come out of the store; should they, every host must decide alike.
	twin := *snap.Ports["b"]
	twin.Spec.MAC = macA
	twin.Spec.Addresses = snap.Ports["a"].Spec.Addresses
	snap.Ports["twin"] = &twin
	snap.Locations["twin"] = fabric.Location{Port: "twin", Host: "h3", Epoch: 1}
	first := plan.Wanted(snap, "h2", holding("h2", "b"))
	for range 50 {
		if again := plan.Wanted(snap, "h2", holding("h2", "b")); !reflect.DeepEqual(first, again) {
			t.Fatalf("first %+v\nagain %+v", first, again)
		}
	}
}

// big is a switch with n ports, spread over 50 hosts, 20 of them here on h1.
func big(n int) (*fabric.Snapshot, plan.Local) {
	s := fleet()
	local := plan.Local{VTEP: vtep["h1"], Attachments: map[fabric.PortID]plan.Attachment{}}
	for i := range 50 {
		id := fabric.HostID(fmt.Sprintf("n%d", i))
		s.Hosts[id] = &fabric.Host{Spec: fabric.HostSpec{VTEP: netip.AddrFrom4([4]byte{10, 240, 1, byte(i)}), UnderlayMTU: 1500}}
	}
	for i := range n {
		id := fabric.PortID(fmt.Sprintf("p%d", i))
		s.Ports[id] = &fabric.Port{Metadata: fabric.Metadata{Name: string(id), Revision: 5}, Spec: fabric.PortSpec{Switch: "blue",
			MAC:       fabric.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 11, byte(i >> 8), byte(i)})}}}
		loc := fabric.Location{Port: id, Switch: "blue", Host: fabric.HostID(fmt.Sprintf("n%d", i%50)), Epoch: 1}
		if i < 20 {
			loc.Host = "h1"
			local.Attachments[id] = plan.Attachment{Device: "tap-" + string(id), Kind: datapath.Tap}
		}
		s.Locations[id] = loc
	}
	return s, local
}

func BenchmarkWanted10000Ports(b *testing.B) {
	snap, local := big(10000)
	for b.Loop() {
		plan.Wanted(snap, "h1", local)
	}
}

func BenchmarkChanges10000Ports(b *testing.B) {
	snap, local := big(10000)
	want, have := plan.Wanted(snap, "h1", local), plan.Wanted(snap, "h1", local)
	for b.Loop() {
		if len(plan.Changes(want, have)) != 0 {
			b.Fatal("equal states differ")
		}
	}
}
