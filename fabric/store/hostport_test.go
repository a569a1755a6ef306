package store_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// hostPort is a host's own port, as the host asks for it.
func hostPort(host fabric.HostID, sw fabric.SwitchID) *fabric.Port {
	p := newPort(string(fabric.HostPort(host, sw)), sw)
	p.Spec.Role, p.Spec.Host, p.Spec.VM = fabric.RoleHost, host, ""
	return p
}

func hosted(name string, subnets ...string) *fabric.Switch {
	return change(newSwitch(name, subnets...), func(s *fabric.SwitchSpec) { s.Type = fabric.Internal })
}

func TestAHostsPortComesAndGoesWithItsSwitch(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newHost("h1", "10.240.0.1"), newHost("h2", "10.240.0.2"), hosted("green"), hosted("red", "10.30.0.0/24"))
	apply(t, s, hostPort("h1", "green"), hostPort("h2", "green"), hostPort("h1", "red"), newPort("a", "green"))
	get := func(name string) *fabric.Port {
		t.Helper()
		o, err := s.Get(t.Context(), fabric.KindPort, name)
		if errors.Is(err, fabric.ErrNotFound) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		return o.(*fabric.Port)
	}
	if p := get("host-h1-red"); len(p.Spec.Addresses) != 1 || p.Spec.Addresses[0].String() != "10.30.0.254" {
		t.Errorf("the port has %v, not the last of its subnet", p.Spec.Addresses)
	}

	// A subnet that comes later gives the hosts' ports their addresses, and one that goes takes them away.
	apply(t, s, hosted("green", "10.20.0.0/24", "fd00:20::/64"))
	p := get("host-h2-green")
	want := []netip.Addr{netip.MustParseAddr("10.20.0.253"), netip.MustParseAddr("fd00:20::")}
	six := p.Spec.MAC.LinkLocal().As16()
	prefix := want[1].As16()
	copy(prefix[8:], six[8:])
	want[1] = netip.AddrFrom16(prefix)
	if other := get("host-h1-green").Spec.Addresses; len(other) == 2 && other[0] == want[0] {
		want[0] = want[0].Next()
	}
	if !slices.Equal(p.Spec.Addresses, want) {
		t.Errorf("the port has %v, want %v", p.Spec.Addresses, want)
	}
	apply(t, s, hosted("green", "10.21.0.0/24"))
	if p := get("host-h2-green"); len(p.Spec.Addresses) != 1 || !netip.MustParsePrefix("10.21.0.0/24").Contains(p.Spec.Addresses[0]) {
		t.Errorf("after its subnet has changed the port has %v", p.Spec.Addresses)
	}

	if _, err := s.Delete(t.Context(), fabric.KindPort, "host-h1-green"); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "goes with switch green or with the host") {
		t.Errorf("deleted by hand: %v", err)
	}
	if _, err := s.Delete(t.Context(), fabric.KindSwitch, "green"); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "it has port a:") {
		t.Errorf("a switch with a VM's port: %v", err)
	}
	remove(t, s, fabric.KindPort, "a")
	remove(t, s, fabric.KindSwitch, "green")
	if get("host-h1-green") != nil || get("host-h2-green") != nil {
		t.Error("a host's port outlives its switch")
	}
	remove(t, s, fabric.KindHost, "h1")
	if get("host-h1-red") != nil {
		t.Error("a host's port outlives its host")
	}
	apply(t, s, hostPort("h2", "red"))
	apply(t, s, newSwitch("red", "10.30.0.0/24"))
	if get("host-h2-red") != nil {
		t.Error("a host's port outlives the change of its switch's type")
	}
	// Everything that the ports had is free again.
	apply(t, s, hosted("green", "10.20.0.0/24"), with(newPort("b", "green"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.20.0.254") }))
}

func remove(t *testing.T, s *store.Store, kind fabric.Kind, name string) {
	t.Helper()
	if _, err := s.Delete(t.Context(), kind, name); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAHostsPortCannotBe(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	h := newHost("h1", "10.240.0.1")
	h.Spec.Networks = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}
	const long = "a-name-too-long"
	same := strings.TrimPrefix(fabric.HostDevice(long), "weft-")
	apply(t, s, h, hosted("green", "10.20.0.0/24"), newSwitch("shut", "10.22.0.0/24"), hosted(long), hostPort("h1", "green"),
		with(newPort("first", "shut"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.22.0.1") }))
	for name, c := range map[string]struct {
		object fabric.Object
		want   string
		is     error
	}{
		"on a private switch":               {hostPort("h1", "shut"), "switch shut is private, and hosts have ports on internal switches alone", fabric.ErrInvalid},
		"of a host that does not exist":     {hostPort("h9", "green"), `there is no host "h9"`, fabric.ErrInvalid},
		"a VM's that becomes a host's":      {with(hostPort("h1", "green"), func(p *fabric.PortSpec) { p.Role = ""; p.VM = "x" }), "spec.role: it is \"host\" and does not change", fabric.ErrInvalid},
		"a subnet with a tunnel end point":  {hosted("x", "10.240.0.0/24"), "holds 10.240.0.1, the tunnel end point of host h1", fabric.ErrConflict},
		"a subnet of a host's network":      {hosted("x", "192.168.7.0/24"), "overlaps 192.168.0.0/16, which host h1 has an address or a route for", fabric.ErrConflict},
		"a device that another switch has":  {hosted(same), "so would that of switch " + long, fabric.ErrConflict},
		"a gateway that a port has":         {hosted("shut", "10.22.0.0/24"), "spec.gateways: 10.22.0.1 belongs to port first", fabric.ErrConflict},
		"a VM's port with the gateway's IP": {with(newPort("x", "green"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.20.0.1") }), "is the gateway", fabric.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Apply(t.Context(), []fabric.Object{c.object}, store.ApplyOptions{})
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	// What a private switch's subnet overlaps is nobody's concern: no host is on it.
	apply(t, s, newSwitch("apart", "192.168.7.0/24"))
}

func TestASwitchsProfileDoesNotMoveTheHosts(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	guests := &fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("guests")}
	guests.Spec.VLAN = &fabric.VLAN{Access: 20}
	blue := change(hosted("blue", "10.20.0.0/24"), func(s *fabric.SwitchSpec) { s.Profile = "guests" })
	apply(t, s, newHost("h1", "192.0.2.1"), guests, blue, hostPort("h1", "blue"), newPort("a", "blue"))
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sw := snap.Switches["blue"]
	if seg := snap.Segments(snap.Ports["host-h1-blue"]); seg.Sends != sw.Spec.VNI {
		t.Errorf("the host sends on %d, its switch's segment is %d", seg.Sends, sw.Spec.VNI)
	}
	if seg := snap.Segments(snap.Ports["a"]); seg.Sends != sw.VNIOf(20) || sw.VNIOf(20) == 0 {
		t.Errorf("the guest sends on %d, VLAN 20 is %d", seg.Sends, sw.VNIOf(20))
	}
	conflict(t, s, change(blue, func(s *fabric.SwitchSpec) {
		s.VLANs = []fabric.SwitchVLAN{{ID: 20, Subnets: []netip.Prefix{netip.MustParsePrefix("10.21.0.0/24")}}}
	}), "nobody is the gateway of VLAN 20")
}
