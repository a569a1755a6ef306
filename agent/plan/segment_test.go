package plan_test

import (
	"reflect"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// listedVLANs are those of switch blue, whose own VNI is 7; vlanSettings what its ports may say.
var (
	listedVLANs = []fabric.SwitchVLAN{{ID: 10, VNI: 110}, {ID: 20, VNI: 120}, {ID: 100, VNI: 200},
		{ID: 101, VNI: 201, Primary: 100, Mode: fabric.Isolated}, {ID: 102, VNI: 202, Primary: 100, Mode: fabric.Community}}
	vlanSettings = []string{"untagged", "10", "20", "30", "10+qinq", "trunk:native=10,allowed=20", "trunk:native=0,allowed=all+qinq",
		"isolated:primary=100,secondary=101", "community:primary=100,secondary=102", "promiscuous:primary=100,secondary=101/102"}
)

// onVLAN is the port with another VLAN setting.
func onVLAN(port *fabric.Port, vlan string, revision fabric.Revision) *fabric.Port {
	v, err := fabric.ParseVLAN(vlan)
	if err != nil {
		panic(err)
	}
	changed := *port
	changed.Metadata.Revision, changed.Spec.VLAN = revision, v
	return &changed
}

// divided is the fleet with ports a (on h1) and b (on h2) on these VLANs.
func divided(a, b string) *fabric.Snapshot {
	s := fleet()
	s.Switches["blue"].Spec.VLANs = listedVLANs
	s.Ports["a"], s.Ports["b"] = onVLAN(s.Ports["a"], a, 30), onVLAN(s.Ports["b"], b, 31)
	return s
}

func TestAPortIsOnItsSegments(t *testing.T) {
	key := func(vni fabric.VNI) datapath.SegmentKey { return datapath.SegmentKey{Device: "tap-a", VNI: vni} }
	for vlan, want := range map[string]struct {
		sends, receives fabric.VNI
		also            map[datapath.SegmentKey]datapath.Segment
	}{
		"untagged":                              {7, 0, nil},
		"10":                                    {110, 0, nil},
		"10+qinq":                               {110, 0, map[datapath.SegmentKey]datapath.Segment{key(110): {QinQ: true}}},
		"trunk:native=10,allowed=20":            {110, 0, map[datapath.SegmentKey]datapath.Segment{key(120): {Tag: 20}}},
		"trunk:native=0,allowed=all,pruned=20":  {7, 0, map[datapath.SegmentKey]datapath.Segment{key(110): {Tag: 10}}},
		"isolated:primary=100,secondary=101":    {201, 200, nil},
		"community:primary=100,secondary=102":   {202, 200, map[datapath.SegmentKey]datapath.Segment{key(202): {}}},
		"promiscuous:primary=100,secondary=101": {200, 0, map[datapath.SegmentKey]datapath.Segment{key(201): {}}},
	} {
		got := plan.Wanted(divided(vlan, "untagged"), "h1", holding("h1", "a"))
		port := got.Ports["tap-a"]
		if port.VNI != want.sends || port.Receives != want.receives || len(got.Segments) != len(want.also) || len(want.also) > 0 && !reflect.DeepEqual(got.Segments, want.also) {
			t.Errorf("%s: sends on %d, receives on %d and %+v; want %+v", vlan, port.VNI, port.Receives, got.Segments, want)
		}
		for vni := range got.Switches {
			if _, also := want.also[key(vni)]; vni != want.sends && vni != want.receives && !also {
				t.Errorf("%s: VNI %d is in force", vlan, vni)
			}
		}
	}
	if port := plan.Wanted(divided("30", "untagged"), "h1", holding("h1", "a")).Ports["tap-a"]; port.Gate != datapath.Closed {
		t.Errorf("a port on a VLAN that the switch does not list: %+v", port)
	}
}

func TestAnIsolatedStationIsHeardOnItsSecondaryAndReachedOnThePrimary(t *testing.T) {
	got := plan.Wanted(divided("promiscuous:primary=100,secondary=101", "isolated:primary=100,secondary=101"), "h1", holding("h1", "a"))
	at := func(vni fabric.VNI, mac fabric.MAC) datapath.FDBKey { return datapath.FDBKey{VNI: vni, MAC: mac} }
	want := map[datapath.FDBKey]datapath.FDB{
		at(200, macA): {Device: "tap-a", Epoch: 1}, at(201, macA): {Device: "tap-a", Epoch: 1},
		at(200, macB): {Peer: vtep["h2"], Epoch: 1}, at(201, macB): {Peer: vtep["h2"], Epoch: 1, Source: true},
	}
	if !reflect.DeepEqual(got.FDB, want) {
		t.Errorf("stations %+v", got.FDB)
	}
	// What is sent on the secondary does not go to the host of an isolated port; questions about its address are not answered there.
	if flood := map[datapath.FloodKey]struct{}{{VNI: 200, Peer: vtep["h2"]}: {}}; !reflect.DeepEqual(got.Flood, flood) {
		t.Errorf("flooded to %+v", got.Flood)
	}
	for key, mac := range got.Neighbors {
		if key.VNI == 201 && mac == macB {
			t.Errorf("%v is answered for", key)
		}
	}
}

func TestADeviceLeavesItsSegmentsBeforeItCarriesAnotherPort(t *testing.T) {
	snap := divided("trunk:native=0,allowed=10/20", "untagged")
	have := plan.Wanted(snap, "h1", holding("h1", "a"))
	snap = divided("trunk:native=0,allowed=10/20", "trunk:native=0,allowed=10")
	snap.Locations["b"] = fabric.Location{Port: "b", Switch: "blue", Host: "h1", Epoch: 2}
	local := holding("h1", "b")
	local.Attachments["b"] = plan.Attachment{Device: "tap-a", Kind: datapath.Tap}
	want := plan.Wanted(snap, "h1", local)
	steps := plan.Changes(want, have)
	if len(steps) == 0 || len(steps[0].Delete.Segments) != 2 || len(steps[0].Put.Segments) != 0 {
		t.Fatalf("the first step is %+v", steps)
	}
	for _, step := range steps[1:] {
		if len(step.Delete.Segments) > 0 {
			t.Errorf("segments are left after the port was opened: %+v", step.Delete.Segments)
		}
	}
}

func TestARulesVNIIsThatOfAVLAN(t *testing.T) {
	snap := divided("10", "20")
	snap.Policies = map[string]*fabric.Policy{"p": {Metadata: fabric.Metadata{Name: "p"}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{
		{Name: "no", Weight: 1, Direction: fabric.Out, Action: fabric.Deny, VNI: 110}}}}}
	snap.Switches["blue"].Spec.Policies = []string{"p"}
	for port, denied := range map[fabric.PortID]bool{"a": true, "b": false} {
		if v := policy.Decide(snap, port, fabric.Out, policy.Packet{EtherType: 0x800}); v.Allowed() == denied {
			t.Errorf("port %s: %+v", port, v)
		}
		local := holding("h1", port)
		snap.Locations[port] = fabric.Location{Port: port, Switch: "blue", Host: "h1", Epoch: 1}
		wanted := plan.Wanted(snap, "h1", local)
		if table := wanted.Tables[wanted.Ports["tap-"+string(port)].Policy]; table.VNI != snap.Switches["blue"].VNIOf(map[fabric.PortID]fabric.VLANID{"a": 10, "b": 20}[port]) {
			t.Errorf("port %s is judged by rules for VNI %d", port, table.VNI)
		}
	}
}
