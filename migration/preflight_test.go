package migration

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// fleet is a fabric in which VM a, with ports a-0 and a-1 on switch blue, can move from h1 to h2.
func fleet() (*fabric.Snapshot, map[fabric.HostID]fabric.HostStatus) {
	s := &fabric.Snapshot{
		Hosts:     map[fabric.HostID]*fabric.Host{},
		Switches:  map[fabric.SwitchID]*fabric.Switch{"blue": {Spec: fabric.SwitchSpec{VNI: 1, MTU: 1450}}},
		Ports:     map[fabric.PortID]*fabric.Port{},
		Locations: map[fabric.PortID]fabric.Location{},
	}
	statuses := map[fabric.HostID]fabric.HostStatus{}
	for i, id := range []fabric.HostID{"h1", "h2"} {
		s.Hosts[id] = &fabric.Host{Spec: fabric.HostSpec{VTEP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), UnderlayMTU: 1500}}
		statuses[id] = fabric.HostStatus{Ready: true, Moves: Forms()}
	}
	for _, id := range []fabric.PortID{"a-0", "a-1"} {
		s.Ports[id] = &fabric.Port{Spec: fabric.PortSpec{VM: "a", Switch: "blue"}}
		s.Locations[id] = fabric.Location{Port: id, Host: "h1", Epoch: 1}
	}
	return s, statuses
}

func TestPreflight(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(*fabric.Snapshot, map[fabric.HostID]fabric.HostStatus)
		vm, to string
		codes  string
	}{
		{"all is well", nil, "a", "h2", ""},
		{"the VM is unknown", nil, "b", "h2", "vm-unknown"},
		{"it is a host's own port", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Ports["host-h1-blue"] = &fabric.Port{Metadata: fabric.Metadata{Name: "host-h1-blue"}, Spec: fabric.PortSpec{Role: fabric.RoleHost, Switch: "blue", Host: "h1"}}
		}, "host-h1-blue", "h2", "host-port"},
		{"the host is unknown", nil, "a", "h9", "host-unknown"},
		{"neither is known", nil, "b", "h9", "vm-unknown host-unknown"},
		{"it is there already", nil, "a", "h1", "same-host"},
		{"the destination is silent", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) { delete(st, "h2") }, "a", "h2", "host-silent"},
		{"the source is silent", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) { delete(st, "h1") }, "a", "h2", "host-silent"},
		{"the destination is not ready", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			st["h2"] = fabric.HostStatus{Problems: []string{"no tcx"}, Moves: Forms()}
		}, "a", "h2", "host-not-ready"},
		{"it is moving already", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Locations["a-0"] = fabric.Location{Host: "h1", Grant: &fabric.Grant{Move: "m", To: "h2"}}
		}, "a", "h2", "move-running"},
		{"no port is held", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) { clear(s.Locations) }, "a", "h2", "port-not-held port-not-held"},
		{"a port that is not plugged in needs no move", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) { delete(s.Locations, "a-1") }, "a", "h2", ""},
		{"the ports are on two hosts", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Locations["a-1"] = fabric.Location{Host: "h3"}
		}, "a", "h2", "ports-apart"},
		{"the destination's underlay is too narrow", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Hosts["h2"].Spec.UnderlayMTU = 1499
		}, "a", "h2", "mtu-small"},
		{"the underlays are of two families", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Hosts["h2"].Spec.VTEP, s.Hosts["h2"].Spec.UnderlayMTU = netip.MustParseAddr("fd00::2"), 1520
		}, "a", "h2", "underlay-family"},
		{"the destination has too little left of what it sends", func(s *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			s.Hosts["h2"].Spec.Capacity = 1e9
			s.Ports["a-0"].Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Min: 900e6}}
			st["h2"] = fabric.HostStatus{Ready: true, Moves: Forms(), Capabilities: fabric.Features()}
		}, "a", "h2", "minimum-exceeds"},
		{"the destination has enough left", func(s *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			s.Hosts["h2"].Spec.Capacity = 1e9
			s.Ports["a-0"].Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Min: 400e6}}
			s.Ports["a-1"].Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Min: 400e6}}
			st["h2"] = fabric.HostStatus{Ready: true, Moves: Forms(), Capabilities: fabric.Features()}
		}, "a", "h2", ""},
		{"a named feature is missing there", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Ports["a-1"].Spec.Requires = []string{"storm"}
		}, "a", "h2", "feature-missing"},
		{"a used feature is missing there", func(s *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			s.Ports["a-0"].Spec.Rate = &fabric.Rates{In: &fabric.Rate{Max: 1e6}}
			st["h2"] = fabric.HostStatus{Ready: true, Moves: Forms(), Capabilities: []string{"tcx", "storm"}}
		}, "a", "h2", "feature-missing"},
		{"all features are there", func(s *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			s.Ports["a-0"].Spec.Rate, s.Ports["a-1"].Spec.Requires = &fabric.Rates{In: &fabric.Rate{Max: 1e6}}, []string{"storm"}
			st["h2"] = fabric.HostStatus{Ready: true, Moves: Forms(), Capabilities: []string{"storm", "rate"}}
		}, "a", "h2", ""},
		{"the destination's release is newer, and has the form of this one", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			st["h2"] = fabric.HostStatus{Ready: true, Version: "v9", Moves: fabric.MoveForms{Least: 1, Most: 3}}
		}, "a", "h2", ""},
		{"the destination's release is newer, and has it no more", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			st["h2"] = fabric.HostStatus{Ready: true, Version: "v9", Moves: fabric.MoveForms{Least: 2, Most: 3}}
		}, "a", "h2", "release-other"},
		{"the source's release is newer", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			st["h1"] = fabric.HostStatus{Ready: true, Version: "v9", Moves: fabric.MoveForms{Least: 2, Most: 2}}
		}, "a", "h2", "release-other"},
		{"the destination's release does not say", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			st["h2"] = fabric.HostStatus{Ready: true}
		}, "a", "h2", "release-other"},
		{"the switch is on other hosts", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Switches["blue"].Spec.Hosts = []fabric.HostID{"h1"}
		}, "a", "h2", "switch-scope"},
		{"the switch is on both hosts", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Switches["blue"].Spec.Hosts = []fabric.HostID{"h1", "h2"}
		}, "a", "h2", ""},
		{"the switch is gone", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) { delete(s.Switches, "blue") }, "a", "h2", "switch-missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, statuses := fleet()
			if c.spoil != nil {
				c.spoil(s, statuses)
			}
			var codes []string
			for _, f := range Preflight(s, statuses, c.vm, fabric.HostID(c.to)) {
				codes = append(codes, f.Code)
				if f.Object == "" || f.What == "" || f.Fix == "" || !strings.HasSuffix(f.Fix, ".") {
					t.Errorf("incomplete: %+v", f)
				}
			}
			if got := strings.Join(codes, " "); got != c.codes {
				t.Errorf("found %q, want %q", got, c.codes)
			}
		})
	}
}
