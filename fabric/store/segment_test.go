package store_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// onVLAN is a port of switch blue with a VLAN setting as the command line takes it.
func onVLAN(t testing.TB, name, vlan string) *fabric.Port {
	t.Helper()
	v, err := fabric.ParseVLAN(vlan)
	if err != nil {
		t.Fatal(err)
	}
	return with(newPort(name, "blue"), func(p *fabric.PortSpec) { p.VLAN = v })
}

// blue is the switch as it is stored.
func blue(t testing.TB, s *store.Store) *fabric.Switch {
	t.Helper()
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap.Switches["blue"]
}

func TestAPortAddsItsVLANToItsSwitch(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	guests := &fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("guests")}
	guests.Spec.VLAN = &fabric.VLAN{Access: 20}
	apply(t, s, newSwitch("blue", "10.10.0.0/24"), guests, onVLAN(t, "a", "10"), with(newPort("b", "blue"), func(p *fabric.PortSpec) { p.Profile = "guests" }))
	apply(t, s, onVLAN(t, "c", "10"), onVLAN(t, "d", "5001"))
	sw := blue(t, s)
	if len(sw.Spec.VLANs) != 3 || sw.VNIOf(5001) != 5001 {
		t.Fatalf("the switch lists %+v", sw.Spec.VLANs)
	}
	seen := map[fabric.VNI]bool{sw.Spec.VNI: true}
	for _, v := range sw.Spec.VLANs {
		if seen[v.VNI] || v.VNI == 0 {
			t.Errorf("VLAN %d has VNI %d, as another segment has", v.ID, v.VNI)
		}
		seen[v.VNI] = true
	}
	// A document of the switch without the list leaves it, and a profile that changes takes its ports along.
	apply(t, s, newSwitch("blue", "10.10.0.0/24"))
	guests.Spec.VLAN = &fabric.VLAN{Access: 30}
	apply(t, s, guests)
	if sw = blue(t, s); len(sw.Spec.VLANs) != 4 || sw.VNIOf(30) == 0 {
		t.Errorf("after the profile has changed, the switch lists %+v", sw.Spec.VLANs)
	}
	// Nobody is on 20 any more; 10 has ports.
	drop := func(id fabric.VLANID) error {
		next := newSwitch("blue", "10.10.0.0/24")
		for _, v := range blue(t, s).Spec.VLANs {
			if v.ID != id {
				next.Spec.VLANs = append(next.Spec.VLANs, v)
			}
		}
		_, err := s.Apply(t.Context(), []fabric.Object{next}, store.ApplyOptions{})
		return err
	}
	if err := drop(10); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "port a is on VLAN 10") {
		t.Errorf("VLAN 10 goes although ports are on it: %v", err)
	}
	if err := drop(20); err != nil {
		t.Errorf("VLAN 20 stays: %v", err)
	}
	other := newSwitch("red")
	other.Spec.VNI = 5001
	if _, err := s.Apply(t.Context(), []fabric.Object{other}, store.ApplyOptions{}); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "belongs to blue") {
		t.Errorf("another switch takes a VLAN's VNI: %v", err)
	}
}

func TestAVLANMayHaveSubnetsOfItsOwn(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	sw := newSwitch("blue", "10.10.0.0/24")
	sw.Spec.VLANs = []fabric.SwitchVLAN{{ID: 10, Subnets: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24")}}, {ID: 20, Subnets: []netip.Prefix{}}}
	r := apply(t, s, sw, onVLAN(t, "a", "10"), onVLAN(t, "b", "20"), onVLAN(t, "c", "untagged"))
	for i, want := range []string{"10.20.0.2", "", "10.10.0.2"} {
		got := ""
		for _, a := range r.Objects[i+1].Object.(*fabric.Port).Spec.Addresses {
			got += a.String()
		}
		if got != want {
			t.Errorf("port %d has %q, want %q", i, got, want)
		}
	}
	// A port that changes its VLAN and says nothing of addresses gets one of the new subnet.
	if r = apply(t, s, onVLAN(t, "c", "10")); r.Objects[0].Object.(*fabric.Port).Spec.Addresses[0].String() != "10.20.0.3" {
		t.Errorf("port c has %v", r.Objects[0].Object.(*fabric.Port).Spec.Addresses)
	}
	overlap := newSwitch("blue", "10.10.0.0/24")
	overlap.Spec.VLANs = append(blue(t, s).Spec.VLANs, fabric.SwitchVLAN{ID: 30, Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.128/25")}})
	if _, err := s.Apply(t.Context(), []fabric.Object{overlap}, store.ApplyOptions{}); !errors.Is(err, fabric.ErrConflict) {
		t.Errorf("two VLANs' subnets overlap: %v", err)
	}
}

func TestAVLANHasOnePartInASwitch(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newSwitch("blue"), onVLAN(t, "web", "10"), onVLAN(t, "i", "isolated:primary=100,secondary=101"),
		onVLAN(t, "c", "community:primary=100,secondary=102"), onVLAN(t, "p", "promiscuous:primary=100,secondary=101/102/103"))
	for name, c := range map[string]struct{ vlan, want string }{
		"an access port on a secondary":          {"101", "VLAN 101 would be an ordinary VLAN for this port, and is the isolated secondary of VLAN 100 for port i"},
		"an access port on the primary":          {"100", "and is the primary of a private VLAN for port"},
		"a trunk that carries a secondary":       {"trunk:native=0,allowed=100-102,pruned=100/102", "prune the VLAN from the trunk"},
		"an isolated VLAN as a community":        {"community:primary=100,secondary=101", "would be the community secondary of VLAN 100 for this port, and is the isolated secondary"},
		"a secondary of another primary":         {"isolated:primary=200,secondary=101", "would be the isolated secondary of VLAN 200"},
		"a primary that is a secondary":          {"isolated:primary=101,secondary=300", "would be the primary of a private VLAN"},
		"a secondary that is the primary":        {"isolated:primary=300,secondary=100", "and is the primary of a private VLAN"},
		"a private VLAN of an ordinary one":      {"isolated:primary=100,secondary=10", "and is an ordinary VLAN for port web"},
		"a promiscuous port of another primary":  {"promiscuous:primary=200,secondary=103", "and is a secondary of VLAN 100 for port p"},
		"a trunk whose native VLAN is a primary": {"trunk:native=100,allowed=10", "and is the primary of a private VLAN for port"},
	} {
		_, err := s.Apply(t.Context(), []fabric.Object{onVLAN(t, "x", c.vlan)}, store.ApplyOptions{})
		if !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error\n  %v\ndoes not say\n  %s", name, err, c.want)
		}
	}
	// All is what the switch lists without private VLANs; and what no port says any more is free.
	r := apply(t, s, onVLAN(t, "t", "trunk:native=0,allowed=all"))
	if seg := blue(t, s).Segments(r.Objects[0].Object.(*fabric.Port).Spec.VLAN); len(seg.Tags) != 1 || seg.Tags[10] == 0 {
		t.Errorf("the trunk carries %v", seg.Tags)
	}
	apply(t, s, onVLAN(t, "i", "10"))
	apply(t, s, onVLAN(t, "i", "community:primary=100,secondary=101"))
	if v := blue(t, s).VLAN(101); v.Mode != fabric.Community {
		t.Errorf("VLAN 101 is %+v", v)
	}
}

func TestVLANSettingsThatCannotBe(t *testing.T) {
	for vlan, want := range map[string]string{
		"4095":                                  "spec.vlan.access: 4095 cannot be",
		"16777216":                              "no VLAN",
		"trunk:native=0":                        "spec.vlan.trunk.allowed: is missing",
		"trunk:native=4095,allowed=1":           "spec.vlan.trunk.native: 4095 cannot be a tag",
		"trunk:native=1,allowed=10-5000":        "spec.vlan.trunk.allowed[0]: 10-5000 cannot be a tag",
		"trunk:native=1,allowed=20-10":          "is reversed: write 10-20",
		"trunk:native=1,allowed=10,pruned=1":    "VLAN 1 is pruned, too, and pruning wins",
		"trunk:native=1,allowed=2-1000":         "names 999 VLANs, a switch has at most 512",
		"isolated:primary=100,secondary=100":    "100 is the primary VLAN",
		"isolated:primary=100,secondary=1/2":    "names 2 VLANs, an isolated port has one",
		"isolated:primary=100":                  "spec.vlan.pvlan.secondary: is missing",
		"isolate:primary=100,secondary=101":     `did you mean "isolated"?`,
		"promiscuous:primary=0,secondary=101":   "spec.vlan.pvlan.primary: 0 cannot be a tag",
		"isolated:primary=1,secondary=2+qinq":   "carries no tags",
		"trunk:native=1,alowed=10":              `did you mean "allowed"?`,
		"promiscuous:primary=1,secondary=2/3/2": "2 is given twice",
	} {
		v, err := fabric.ParseVLAN(vlan)
		if err == nil {
			p := with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.VLAN = v })
			p.TypeMeta = head(fabric.KindPort)
			err = p.Validate()
			if v.String() == "" {
				t.Errorf("%s has no text form", vlan)
			}
		}
		if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error\n  %v\ndoes not say\n  %s", vlan, err, want)
		}
	}
	for _, vlan := range []string{"untagged", "10", "5001", "10+qinq", "trunk:native=1,allowed=10-20/30,pruned=15", "trunk:native=0,allowed=all+qinq", "promiscuous:primary=100,secondary=101/102"} {
		if v, err := fabric.ParseVLAN(vlan); err != nil || v.String() != vlan {
			t.Errorf("%s is read as %s (%v)", vlan, v, err)
		}
	}
}
