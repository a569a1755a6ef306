package plan_test

import (
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// teamed is the fleet with a second port, a2, of the VM of port a, on the same host.
func teamed(sibling bool) *fabric.Snapshot {
	s := fleet()
	twin := *s.Ports["a"]
	twin.Metadata.Name, twin.Spec.MAC, twin.Spec.Addresses = "a2", fabric.MAC{0x52, 0x54, 0, 9, 9, 9}, nil
	twin.Spec.VM, s.Ports["a"].Spec.VM = "vm-a", "vm-a"
	twin.Spec.MACs = &fabric.MACs{Sibling: &sibling}
	s.Ports["a2"] = &twin
	s.Locations["a2"] = s.Locations["a"]
	return s
}

// both is what h1 knows when both ports are plugged in there.
func both() plan.Local {
	l := holding("h1", "a")
	l.Attachments["a2"] = plan.Attachment{Device: "tap-a2", Kind: datapath.Tap}
	return l
}

func TestAPortThatStandsInKeepsItsPlace(t *testing.T) {
	s := teamed(true)
	want := plan.Wanted(s, "h1", both())
	first, second := want.Ports["tap-a"], want.Ports["tap-a2"]
	mac := s.Ports["a"].Spec.MAC
	if !first.MACs.Shared || !second.MACs.Shared || second.MACs.Listed[0] != (datapath.StationMAC{MAC: mac, Sibling: true}) || first.MACs.Listed[0].Sibling {
		t.Fatalf("the first may use %+v, the second %+v", first.MACs, second.MACs)
	}
	if second.Addresses[0] != s.Ports["a"].Spec.Addresses[0] {
		t.Errorf("the second stands in without the first's addresses: %v", second.Addresses)
	}
	have := plan.Wanted(s, "h1", both())
	key := datapath.FDBKey{VNI: first.VNI, MAC: mac}
	claimed := have.FDB[key]
	claimed.Device = "tap-a2"
	have.FDB[key] = claimed
	if steps := plan.Changes(want, have); len(steps) != 0 {
		t.Errorf("what the kernel has decided is changed: %+v", steps)
	}
	alone := plan.Wanted(teamed(false), "h1", both())
	if p := alone.Ports["tap-a2"]; p.MACs != (datapath.MACs{}) {
		t.Fatalf("a port that may not stand in may use %+v", p.MACs)
	}
	back := false
	for _, step := range plan.Changes(alone, have) {
		back = back || step.Put.FDB[key].Device == "tap-a"
	}
	if !back {
		t.Error("a port that may not stand in any more keeps the other's place")
	}
}

func TestAllowedMACsAreStationsOfThePort(t *testing.T) {
	s := fleet()
	more := fabric.MAC{2, 0, 0, 0, 0, 0x77}
	s.Ports["a"].Spec.MACs = &fabric.MACs{Allowed: []fabric.MAC{more}, Limit: 5}
	want := plan.Wanted(s, "h1", holding("h1", "a"))
	p := want.Ports["tap-a"]
	if p.MACs.Listed[0].MAC != more || p.MACs.Learned != 0 || want.FDB[datapath.FDBKey{VNI: p.VNI, MAC: more}].Device != "tap-a" {
		t.Errorf("the port may use %+v, the stations are %+v", p.MACs, want.FDB)
	}
	on := true
	s.Ports["a"].Spec.MACs.Spoofing = &on
	if p := plan.Wanted(s, "h1", holding("h1", "a")).Ports["tap-a"]; p.Guards&datapath.GuardMAC != 0 || p.MACs.Learned != 5 {
		t.Errorf("with spoofing its guards are %b, and it may learn %d", p.Guards, p.MACs.Learned)
	}
}
