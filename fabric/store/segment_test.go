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
