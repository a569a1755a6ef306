package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// nicOn is a NIC on the façade of switch blue.
func nicOn(last byte, device string) api.GuestNIC {
	return api.GuestNIC{MAC: fabric.MAC{0x52, 0x54, 0, 9, 0, last}, Bridge: "sw-blue", Device: device}
}

func TestAHypervisorsGuestComesAndGoes(t *testing.T) {
	h := newHouse(t, "tap-a", "vnet0", "vnet1")
	n := h.settled()
	guest := "Web-1"
	call := func(act api.HypervisorAct, nics ...api.GuestNIC) {
		t.Helper()
		if err := n.Client.CallHypervisor(t.Context(), api.HypervisorCall{Act: act, VM: guest, NICs: nics}); err != nil {
			t.Fatalf("%s: %v", act, err)
		}
	}
	other := api.GuestNIC{MAC: fabric.MAC{0x52, 0x54, 0, 9, 0, 9}, Bridge: "br0", Device: "vnet9"}
	call(api.GuestPlug, nicOn(1, ""), nicOn(2, ""), other)
	call(api.GuestPlug, nicOn(1, ""))
	snap := n.Latest()
	if len(snap.Ports) != 3 || snap.Ports["web-1"] == nil || snap.Ports["web-1-090002"] == nil || snap.Ports["web-1"].Spec.VM != guest || len(snap.Ports["web-1"].Spec.Addresses) != 1 {
		t.Fatalf("the ports are %+v", snap.Ports)
	}
	call(api.GuestBegin, nicOn(1, "vnet0"), nicOn(2, "vnet1"), other)
	if !h.open("vnet0") || !h.open("vnet1") {
		t.Fatal("a guest was let start before its ports were in force")
	}
	call(api.GuestEnded, nicOn(1, "vnet0"))
	call(api.GuestUnplug, nicOn(2, ""))
	n.until(t, "the second NIC's port is held by no host", func() bool { return n.Latest().Locations["web-1-090002"].Host == "" })
	if loc := n.Latest().Locations["web-1"]; loc.Host != "h1" {
		t.Errorf("the first NIC's port went along: %+v", loc)
	}
	h.ground.unplug("vnet0")
	n.until(t, "absent", func() bool { return n.keeper.portStatus("web-1").State == fabric.PortAbsent })
	if got := n.keeper.orphans(); !slices.Equal(got, []fabric.PortID{"web-1"}) {
		t.Errorf("the ports whose devices their hypervisor took away are %v", got)
	}
	call(api.GuestRelease, nicOn(1, "vnet0"), other)
	n.until(t, "the first NIC's port is held by no host", func() bool { return n.Latest().Locations["web-1"].Host == "" })
	if n.Latest().Ports["web-1"] == nil {
		t.Error("the port was deleted with its guest")
	}
}

func TestAHypervisorIsRefusedWhatTheRecordsDoNotGive(t *testing.T) {
	h := newHouse(t, "tap-a", "vnet0")
	n := h.settled()
	web, taken := prt("web"), prt("taken")
	web.Spec.VM, web.Spec.MAC, taken.Spec.MAC = "web", nicOn(1, "").MAC, nicOn(2, "").MAC
	n.put(t, web, taken)
	asks := nicOn(1, "")
	asks.Profile = "gold"
	unknown := nicOn(3, "")
	unknown.Profile = "gold"
	away := nicOn(4, "vnet7")
	for _, c := range []struct {
		name string
		call api.HypervisorCall
		want string
	}{
		{"another profile", api.HypervisorCall{Act: api.GuestPlug, VM: "web", NICs: []api.GuestNIC{asks}}, `asks for profile "gold"`},
		{"another guest's MAC", api.HypervisorCall{Act: api.GuestPlug, VM: "web", NICs: []api.GuestNIC{nicOn(2, "")}}, "belongs to taken"},
		{"another guest's MAC, late", api.HypervisorCall{Act: api.GuestBegin, VM: "web", NICs: []api.GuestNIC{nicOn(2, "vnet0")}}, "belongs to taken"},
		{"a profile that is not", api.HypervisorCall{Act: api.GuestPlug, VM: "new", NICs: []api.GuestNIC{unknown}}, "gold"},
		{"a device that is not", api.HypervisorCall{Act: api.GuestBegin, VM: "new", NICs: []api.GuestNIC{away}}, "vnet7"},
		{"a guest that is here already", api.HypervisorCall{Act: api.GuestReceive, VM: "a", NICs: []api.GuestNIC{{MAC: n.Latest().Ports["a"].Spec.MAC, Network: "blue"}}}, "same-host"},
		{"a guest without the NIC of a port", api.HypervisorCall{Act: api.GuestReceive, VM: "a", NICs: []api.GuestNIC{nicOn(5, "")}}, "without the NIC of its port a"},
		{"nothing that a hypervisor does", api.HypervisorCall{Act: "dance", VM: "a", NICs: nil}, "act"},
	} {
		if err := n.Client.CallHypervisor(t.Context(), c.call); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
	if err := n.Client.CallHypervisor(t.Context(), api.HypervisorCall{Act: api.GuestReceive, VM: "web", NICs: []api.GuestNIC{nicOn(1, "")}}); err != nil {
		t.Errorf("a guest that no host holds has nothing to move: %v", err)
	}
	if s := h.ground.state(t); len(s.Ports) != 1 || len(n.Latest().Moves) != 0 {
		t.Errorf("something was left: %+v, %+v", s.Ports, n.Latest().Moves)
	}
}

// TestAHostWelcomesNoPortThatIsThere holds a host's right to make ports to what it is for.
func TestAHostWelcomesNoPortThatIsThere(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	before := n.Latest().Ports["a"]
	report := api.LocationReport{Host: "h1", Act: api.Welcome, Switch: "blue", VM: "thief", MAC: before.Spec.MAC, Profile: ""}
	if loc, err := n.reports.ReportLocation(t.Context(), report); err != nil || loc.Host != "h1" {
		t.Errorf("the location of a port that is there is %+v, %v", loc, err)
	}
	report.VM, report.MAC = "a", nicOn(7, "").MAC
	loc, err := n.reports.ReportLocation(t.Context(), report)
	if err != nil || loc.Port != "a-090007" {
		t.Errorf("a second NIC of a got port %+v, %v", loc, err)
	}
	report.Switch = "nosuch"
	report.MAC = nicOn(8, "").MAC
	if _, err := n.reports.ReportLocation(t.Context(), report); err == nil {
		t.Error("a port was made on a switch that is not")
	}
	if _, err := n.reports.ReportLocation(t.Context(), api.LocationReport{Host: "h1", Act: api.Receive, VM: "nobody"}); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("a guest that is not was received: %v", err)
	}
	n.until(t, "the new port is known", func() bool { return n.Latest().Ports["a-090007"] != nil })
	if after := n.Latest().Ports["a"]; after.Spec.VM != before.Spec.VM || after.Metadata.Revision != before.Metadata.Revision {
		t.Errorf("port a was %+v, and is %+v", before, after)
	}
}

func TestPortNames(t *testing.T) {
	mac := fabric.MAC{0x52, 0x54, 0, 1, 2, 3}
	for vm, want := range map[string]string{
		"web": "web", "Web_1.example": "web-1-example", "--": "guest", strings.Repeat("x", 200): strings.Repeat("x", 56),
	} {
		names := portNames(vm, mac)
		if len(names) != 2 || names[0] != want || names[1] != want+"-010203" {
			t.Errorf("%s: %v", vm, names)
		}
		for _, name := range names {
			if err := fabric.CheckName(name); err != nil {
				t.Errorf("%s: %v", vm, err)
			}
		}
	}
}
