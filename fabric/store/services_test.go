package store_test

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

func inner(name, subnet string, forwards ...fabric.Forward) *fabric.Switch {
	return change(newSwitch(name), func(s *fabric.SwitchSpec) {
		s.Type, s.Subnets = fabric.Internal, []netip.Prefix{netip.MustParsePrefix(subnet)}
		s.Services.NAT = fabric.NATService{Enabled: true, Forwards: forwards}
	})
}

func TestServicesThatContradictTheRestAreRefused(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	off := false
	server := &fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("server"), Spec: fabric.ProfileSpec{Settings: fabric.Settings{Guards: fabric.Guards{DHCPServer: &off}}}}
	web := fabric.Forward{Protocol: "tcp", HostPort: 8080, Port: "web-1", PortNumber: 80}
	// All at once, the switch before the port that it forwards to.
	apply(t, s, inner("blue", "10.10.0.0/24", web), newPort("web-1", "blue"), inner("green", "10.20.0.0/24"), newPort("web-2", "green"), server,
		change(inner("quiet", "10.30.0.0/24"), func(s *fabric.SwitchSpec) { s.Services.DHCP.Enabled = &off }))
	apply(t, s, with(newPort("kea", "quiet"), func(p *fabric.PortSpec) { p.Profile = "server" })) // the only server there
	for name, c := range map[string]struct {
		object fabric.Object
		want   string
	}{
		"a forward to a port that is not there": {inner("blue", "10.10.0.0/24", fabric.Forward{Protocol: "tcp", HostPort: 1, Port: "wbe-1"}), `forwards[0].port: there is no port "wbe-1": create it first`},
		"a forward to another switch's port":    {inner("blue", "10.10.0.0/24", fabric.Forward{Protocol: "tcp", HostPort: 1, Port: "web-2"}), `port web-2 is on switch green: name a port of this switch`},
		"a forward that another switch has":     {inner("green", "10.20.0.0/24", fabric.Forward{Protocol: "tcp", HostPort: 8080, Port: "web-2"}), `tcp/8080 is forwarded by switch blue already (its forwards[0], to port web-1): choose another host port`},
		"a second DHCP server":                  {with(newPort("kea-2", "blue"), func(p *fabric.PortSpec) { p.Guards.DHCPServer = &off }), `its own guards lets its guest be a DHCP server (guards.dhcpServer: false), and switch blue has one, the hosts': turn the guard on, or set spec.services.dhcp.enabled: false`},
		"a second DHCP server by its profile":   {with(newPort("kea-2", "blue"), func(p *fabric.PortSpec) { p.Profile = "server" }), `profile server lets its guest be a DHCP server`},
		"a server where one is already":         {inner("quiet", "10.30.0.0/24"), `port/kea: profile server lets its guest be a DHCP server`},
	} {
		_, err := s.Apply(t.Context(), []fabric.Object{c.object}, store.ApplyOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Delete(t.Context(), fabric.KindPort, "web-1"); err == nil || !strings.Contains(err.Error(), "forwards[0] of switch blue leads to it from tcp/8080 of the hosts: remove the forward first") {
		t.Errorf("deleting a port that is forwarded to: %v", err)
	}
	apply(t, s, inner("blue", "10.10.0.0/24"))
	if _, err := s.Delete(t.Context(), fabric.KindPort, "web-1"); err != nil {
		t.Error(err)
	}
}

func TestAllocatedAddressesStayInTheRanges(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	at := func(first, last string) fabric.AddressRange {
		return fabric.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
	}
	sw := change(inner("blue", "10.10.0.0/24"), func(s *fabric.SwitchSpec) {
		s.Services.DHCP.Ranges = []fabric.AddressRange{at("10.10.0.100", "10.10.0.101"), at("10.10.0.50", "10.10.0.50")}
	})
	r := apply(t, s, sw, newPort("a", "blue"), newPort("b", "blue"), newPort("c", "blue"))
	for i, want := range []string{"10.10.0.50", "10.10.0.100", "10.10.0.101"} {
		if got := r.Objects[i+1].Object.(*fabric.Port).Spec.Addresses; len(got) != 1 || got[0].String() != want {
			t.Errorf("port %d has %v, want %s", i, got, want)
		}
	}
	_, err := s.Apply(t.Context(), []fabric.Object{newPort("d", "blue")}, store.ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), "the ranges of subnet 10.10.0.0/24 (spec.services.dhcp.ranges of switch blue) are exhausted") {
		t.Errorf("one too many: %v", err)
	}
	apply(t, s, with(newPort("d", "blue"), func(p *fabric.PortSpec) { p.Addresses = []netip.Addr{netip.MustParseAddr("10.10.0.7")} }))
}

// TestTwoServersNeverMeetInARace writes a port whose guest may be a DHCP server while the switch gets the hosts' one, and while a profile
// turns the guard off: of two applies that do not see one another, one must fail.
func TestTwoServersNeverMeetInARace(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	one, two := e.Open(t), e.Open(t)
	off, on := false, true
	served := func(dhcp *bool) *fabric.Switch {
		return change(inner("blue", "10.10.0.0/24"), func(s *fabric.SwitchSpec) { s.Services.DHCP.Enabled = dhcp })
	}
	guarded := func(on *bool) *fabric.Profile {
		return &fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("p"), Spec: fabric.ProfileSpec{Settings: fabric.Settings{Guards: fabric.Guards{DHCPServer: on}}}}
	}
	server := with(newPort("kea", "blue"), func(p *fabric.PortSpec) { p.Guards.DHCPServer = &off })
	profiled := with(newPort("kea", "blue"), func(p *fabric.PortSpec) { p.Profile, p.VLAN = "p", &fabric.VLAN{Access: 10} })
	for round := range 40 {
		first, second, before := fabric.Object(server), fabric.Object(served(&on)), []fabric.Object{served(&off), guarded(&on)}
		if round%2 == 1 {
			first, second, before = profiled, guarded(&off), []fabric.Object{served(&on), guarded(&on)}
		}
		apply(t, one, before...)
		errs := make([]error, 2)
		var both sync.WaitGroup
		both.Go(func() { _, errs[0] = one.Apply(t.Context(), []fabric.Object{first}, store.ApplyOptions{}) })
		both.Go(func() { _, errs[1] = two.Apply(t.Context(), []fabric.Object{second}, store.ApplyOptions{}) })
		both.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: %v and %v, want exactly one refusal", round, errs[0], errs[1])
		}
		for _, err := range errs {
			if err != nil && !errors.Is(err, fabric.ErrConflict) {
				t.Fatal(err)
			}
		}
		if errs[0] == nil {
			remove(t, one, fabric.KindPort, "kea")
		}
	}
}
