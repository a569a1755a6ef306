package plan_test

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// external is the fleet with switch blue on eth1 of the hosts.
func external(hosts ...fabric.HostID) *fabric.Snapshot {
	s := fleet()
	blue := s.Switches["blue"]
	blue.Spec.Type = fabric.External
	for _, h := range hosts {
		blue.Spec.Uplinks = append(blue.Spec.Uplinks, fabric.Uplink{Host: h, NIC: "eth1"})
	}
	return s
}

// wired is what a host knows that has eth1.
func wired(host fabric.HostID, ports ...fabric.PortID) plan.Local {
	l := plan.Local{VTEP: vtep[host], NICs: map[string]bool{"eth1": true}, Attachments: map[fabric.PortID]plan.Attachment{}}
	for _, p := range ports {
		l.Attachments[p] = plan.Attachment{Device: "tap-" + string(p), Kind: datapath.Tap}
	}
	return l
}

// floods are the hosts that VNI 7 is flooded to, in order.
func floods(s datapath.State) (to []fabric.HostID) {
	for _, h := range slices.Sorted(maps.Keys(vtep)) {
		if _, there := s.Flood[datapath.FloodKey{VNI: 7, Peer: vtep[h]}]; there {
			to = append(to, h)
		}
	}
	return to
}

func TestGroupFramesReachHostsWithAnUplinkByTheWireAlone(t *testing.T) {
	snap := external("h1", "h2")
	snap.Ports["c"] = &fabric.Port{Metadata: fabric.Metadata{Name: "c"}, Spec: fabric.PortSpec{Switch: "blue", MAC: fabric.MAC{2, 0, 0, 0, 0, 0xc}}}
	snap.Locations["c"] = fabric.Location{Port: "c", Switch: "blue", Host: "h3", Epoch: 1}
	for _, c := range []struct {
		host   fabric.HostID
		port   fabric.PortID
		wire   datapath.Wire
		floods []fabric.HostID
	}{
		{"h1", "a", datapath.Wire{Device: "eth1", Carries: true}, []fabric.HostID{"h3"}},
		{"h2", "b", datapath.Wire{Device: "eth1"}, nil},
		{"h3", "c", datapath.Wire{Carrier: vtep["h1"]}, []fabric.HostID{"h1"}},
	} {
		got := plan.Wanted(snap, c.host, wired(c.host, c.port))
		if got.Wires[7] != c.wire || !reflect.DeepEqual(floods(got), c.floods) {
			t.Errorf("%s: wire %+v, flood to %v; want %+v and %v", c.host, got.Wires[7], floods(got), c.wire, c.floods)
		}
		station := got.FDB[datapath.FDBKey{VNI: 7, MAC: fabric.MAC{2, 0, 0, 0, 0, 0xc}}]
		if station.Carried != (c.host == "h1") {
			t.Errorf("%s: the station on h3 is carried: %v", c.host, station.Carried)
		}
	}
}

func TestAHostWithAnUplinkHasTheSwitchWithoutPorts(t *testing.T) {
	got := plan.Wanted(external("h3"), "h3", wired("h3"))
	if got.Switches[7].MTU == 0 || got.Uplinks["eth1"] != (datapath.Uplink{HostAccess: true}) || !got.Wires[7].Carries {
		t.Fatalf("switches %v, uplinks %v, wires %v", got.Switches, got.Uplinks, got.Wires)
	}
	if len(got.FDB) != 2 {
		t.Fatalf("it knows %d of two stations", len(got.FDB))
	}
}

func TestTheCarrierIsTheFirstThatReports(t *testing.T) {
	snap := external("h1", "h2", "h3")
	snap.Switches["blue"].Spec.Uplinks = snap.Switches["blue"].Spec.Uplinks[:2]
	eth1 := map[string]bool{"eth1": true}
	for _, c := range []struct {
		claim   string
		others  map[fabric.HostID]map[string]bool
		carrier fabric.HostID
		// h1 is taken for one with an uplink
		uplinked bool
	}{
		{"all report", map[fabric.HostID]map[string]bool{"h1": eth1, "h2": eth1}, "h1", true},
		{"the first is silent, and keeps its uplink", map[fabric.HostID]map[string]bool{"h2": eth1}, "h2", true},
		{"the first has lost its NIC", map[fabric.HostID]map[string]bool{"h1": {}, "h2": eth1}, "h2", false},
		{"nobody reports", nil, "h1", true},
	} {
		l := wired("h3")
		l.Others = c.others
		snap.Locations["a"] = fabric.Location{Port: "a", Switch: "blue", Host: "h3", Epoch: 1}
		l.Attachments["a"] = plan.Attachment{Device: "tap-a", Kind: datapath.Tap}
		snap.Locations["b"] = fabric.Location{Port: "b", Switch: "blue", Host: "h1", Epoch: 1}
		got := plan.Wanted(snap, "h3", l)
		if got.Wires[7] != (datapath.Wire{Carrier: vtep[c.carrier]}) {
			t.Errorf("%s: the way to the wire is %+v, want by %s", c.claim, got.Wires[7], c.carrier)
		}
		if direct := slices.Contains(floods(got), "h1") && c.carrier != "h1"; direct == c.uplinked && c.carrier != "h1" {
			t.Errorf("%s: frames to all go to h1 by VXLAN: %v", c.claim, direct)
		}
	}
}

func TestASwitchThatWasNotConfirmedLosesItsUplinks(t *testing.T) {
	l := wired("h1", "a")
	l.Unconfirmed = map[fabric.SwitchID]bool{"blue": true}
	got := plan.Wanted(external("h1"), "h1", l)
	if len(got.Uplinks)+len(got.Wires) != 0 || got.Ports["tap-a"].Gate != datapath.Open {
		t.Fatalf("uplinks %v, wires %v, port %+v", got.Uplinks, got.Wires, got.Ports["tap-a"])
	}
	if !reflect.DeepEqual(floods(got), []fabric.HostID{"h2"}) {
		t.Fatalf("without a wire it floods to %v", floods(got))
	}
}

func TestAVLANOfAnExternalSwitchIsATagAndAnIsolationIDIsNone(t *testing.T) {
	snap := external("h1")
	snap.Switches["blue"].Spec.VLANs = []fabric.SwitchVLAN{{ID: 10, VNI: 20}, {ID: 5001, VNI: 5001}}
	got := plan.Wanted(snap, "h1", wired("h1", "a"))
	want := map[fabric.VNI]datapath.Wire{7: {Device: "eth1", Carries: true}, 20: {Device: "eth1", VLAN: 10, Carries: true}}
	if !reflect.DeepEqual(got.Wires, want) {
		t.Fatalf("wires %+v, want %+v", got.Wires, want)
	}
}

func TestOneNICHasOneSwitch(t *testing.T) {
	snap := external("h1")
	red := snap.Switches["red"]
	red.Spec.Type, red.Spec.Uplinks = fabric.External, []fabric.Uplink{{Hosts: map[string]string{"rack": "a"}, NIC: "eth1"}}
	snap.Hosts["h1"].Metadata.Labels = map[string]string{"rack": "a"}
	got := plan.Wanted(snap, "h1", wired("h1", "a"))
	if len(got.Uplinks) != 1 || got.Wires[7].Device != "eth1" || got.Wires[8].Device != "" {
		t.Fatalf("uplinks %v, wires %v", got.Uplinks, got.Wires)
	}
}

// several puts blue on eth1 and eth2 of the host.
func several(mode fabric.UplinkMode) *fabric.Snapshot {
	snap := external()
	snap.Switches["blue"].Spec.Uplinks = []fabric.Uplink{{Host: "h1", NICs: []string{"eth1", "eth2"}, Mode: mode}}
	return snap
}

func TestTheBestNICThatLeadsSomewhereLeads(t *testing.T) {
	set := func(names ...string) map[string]bool {
		out := map[string]bool{}
		for _, name := range names {
			out[name] = true
		}
		return out
	}
	for _, c := range []struct {
		name                      string
		fit, idle, settled, leads map[string]bool
		leader                    string
		others                    map[string]datapath.Uplink
	}{
		{"both have a link", set("eth1", "eth2"), nil, nil, nil, "eth1", map[string]datapath.Uplink{"eth2": {HostAccess: true, Leader: "eth1"}}},
		{"the leader has lost its link", set("eth2"), set("eth1"), nil, set("eth1"), "eth2", map[string]datapath.Uplink{"eth1": {HostAccess: true, Leader: "eth2", Down: true}}},
		{"the best one has just come back", set("eth1", "eth2"), nil, set("eth2"), set("eth2"), "eth2", map[string]datapath.Uplink{"eth1": {HostAccess: true, Leader: "eth2"}}},
		{"the best one has been back for a while", set("eth1", "eth2"), nil, set("eth1", "eth2"), set("eth2"), "eth1", map[string]datapath.Uplink{"eth2": {HostAccess: true, Leader: "eth1"}}},
		{"one is not there", set("eth1"), nil, nil, nil, "eth1", map[string]datapath.Uplink{}},
		{"none leads anywhere", nil, set("eth1", "eth2"), nil, set("eth1"), "", map[string]datapath.Uplink{}},
	} {
		local := wired("h1")
		local.NICs, local.Idle, local.Settled, local.Leads = c.fit, c.idle, c.settled, c.leads
		got := plan.Wanted(several(""), "h1", local)
		if got.Wires[7].Device != c.leader {
			t.Errorf("%s: %q leads, want %q", c.name, got.Wires[7].Device, c.leader)
		}
		delete(got.Uplinks, c.leader)
		if !maps.Equal(got.Uplinks, c.others) {
			t.Errorf("%s: the others are %+v, want %+v", c.name, got.Uplinks, c.others)
		}
	}
}

func TestTheModeSaysHowSeveralNICsShare(t *testing.T) {
	for mode, want := range map[fabric.UplinkMode]datapath.Share{"": datapath.Standby, fabric.ActiveStandby: datapath.Standby, fabric.HashPort: datapath.ByPort, fabric.HashFlow: datapath.ByFlow} {
		local := wired("h1")
		local.NICs["eth2"] = true
		got := plan.Wanted(several(mode), "h1", local).Uplinks
		if got["eth1"].Share != want || got["eth2"].Share != want || got["eth2"].Leader != "eth1" {
			t.Errorf("%q: uplinks %+v, want share %d", mode, got, want)
		}
	}
}
