package services

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/agent/dhcp"
	"github.com/weftnet/weft/datapath/nat"
	"github.com/weftnet/weft/fabric"
)

// snapshot is an internal switch blue with two guests, of which web-1 is on h1, and a private switch.
func snapshot() *fabric.Snapshot {
	port := func(name string, mac byte, role fabric.PortRole, addresses ...string) *fabric.Port {
		p := &fabric.Port{Metadata: fabric.Metadata{Name: name}, Spec: fabric.PortSpec{Switch: "blue", MAC: fabric.MAC{0x52, 0x54, 0, 0, 0, mac}, Role: role}}
		for _, a := range addresses {
			p.Spec.Addresses = append(p.Spec.Addresses, netip.MustParseAddr(a))
		}
		return p
	}
	no := false
	tagged := port("tagged", 9, "", "10.10.0.19")
	tagged.Spec.VLAN = &fabric.VLAN{Access: 10}
	return &fabric.Snapshot{
		Switches: map[fabric.SwitchID]*fabric.Switch{
			"blue": {Metadata: fabric.Metadata{Name: "blue"}, Spec: fabric.SwitchSpec{
				Type: fabric.Internal, VNI: 10001, MTU: 1400, HostAccess: &no, Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd00:10::/64")},
				Services: fabric.Services{NAT: fabric.NATService{Enabled: true, Forwards: []fabric.Forward{{Protocol: "tcp", HostPort: 8080, Port: "web-1", PortNumber: 80}}}},
			}},
			"quiet": {Metadata: fabric.Metadata{Name: "quiet"}, Spec: fabric.SwitchSpec{Type: fabric.Private, VNI: 10002, Subnets: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24")}}},
		},
		Ports: map[fabric.PortID]*fabric.Port{
			"web-1": port("web-1", 1, "", "10.10.0.11", "fd00:10::11", "fe80::7"), "web-2": port("web-2", 2, "", "10.10.0.12"), "tagged": tagged,
			"host-h1-blue": port("host-h1-blue", 0xf1, fabric.RoleHost, "10.10.0.254"),
		},
		Locations: map[fabric.PortID]fabric.Location{"web-1": {Host: "h1"}, "web-2": {Host: "h2"}},
	}
}

func TestWhatAHostServesFollowsFromTheRecords(t *testing.T) {
	snap := snapshot()
	got := Wanted(snap, "h1")
	gateways := []netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("fd00:10::1")}
	one, two := fabric.MAC{0x52, 0x54, 0, 0, 0, 1}, fabric.MAC{0x52, 0x54, 0, 0, 0, 2}
	want := dhcp.Config{
		Device: "weft-blue", GatewayMAC: fabric.GatewayMAC(10001), Gateway4: gateways[0], Gateway6: gateways[1],
		Subnet4: netip.MustParsePrefix("10.10.0.0/24"), Subnet6: netip.MustParsePrefix("fd00:10::/64"), MTU: 1400, Lease: time.Hour, Domain: "blue", DNS: gateways, Router: true,
		Clients: map[fabric.MAC]dhcp.Client{
			one: {Name: "web-1", Address4: netip.MustParseAddr("10.10.0.11"), Address6: netip.MustParseAddr("fd00:10::11"), LinkLocals: []netip.Addr{netip.MustParseAddr("fe80::7")}},
			two: {Name: "web-2", Address4: netip.MustParseAddr("10.10.0.12")},
		},
		Local: []fabric.MAC{one},
	}
	if len(got.DHCP) != 1 || !reflect.DeepEqual(got.DHCP[0], want) {
		t.Errorf("DHCP is\n%+v, want\n%+v", got.DHCP, want)
	}
	if len(got.DNS) != 1 || !reflect.DeepEqual(got.DNS[0].Ports["web-1"], snap.Ports["web-1"].Spec.Addresses[:2]) || got.DNS[0].Names[netip.MustParseAddr("10.10.0.254")] != "host-h1-blue" {
		t.Errorf("DNS is %+v", got.DNS)
	}
	forwards := []nat.Forward{
		{Protocol: unix.IPPROTO_TCP, HostPort: 8080, To: netip.MustParseAddrPort("10.10.0.11:80"), Local: true},
		{Protocol: unix.IPPROTO_TCP, HostPort: 8080, To: netip.MustParseAddrPort("[fd00:10::11]:80"), Local: true},
	}
	if s := got.NAT.Switches; len(s) != 1 || s[0].HostAccess || !s[0].NAT || !reflect.DeepEqual(s[0].Forwards, forwards) || s[0].Host[0] != netip.MustParseAddr("10.10.0.254") {
		t.Errorf("NAT is %+v", s)
	}
	// Another host says the same to guests, but for whom it advertises to and where forwards lead.
	other := Wanted(snap, "h2")
	other.DHCP[0].Local = want.Local
	if !reflect.DeepEqual(other.DHCP, got.DHCP) || other.NAT.Switches[0].Forwards[0].Local {
		t.Errorf("host h2 serves %+v", other)
	}
}

func TestASwitchIsServedAsItSays(t *testing.T) {
	no, yes := false, true
	for _, c := range []struct {
		name      string
		edit      func(*fabric.SwitchSpec)
		dhcp, dns int
		router    bool
		servers   int
	}{
		{"NAT makes the gateway the default router", func(*fabric.SwitchSpec) {}, 1, 1, true, 2},
		{"without NAT there is no default route", func(s *fabric.SwitchSpec) { s.Services.NAT = fabric.NATService{} }, 1, 1, false, 2},
		{"unless the options say so", func(s *fabric.SwitchSpec) {
			s.Services.NAT, s.Services.DHCP.Options.Router = fabric.NATService{}, &yes
		}, 1, 1, true, 2},
		{"without DNS guests are told no server", func(s *fabric.SwitchSpec) { s.Services.DNS.Enabled = &no }, 1, 0, true, 0},
		{"named servers are told instead", func(s *fabric.SwitchSpec) {
			s.Services.DHCP.Options.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.53")}
		}, 1, 1, true, 1},
		{"an empty list names none", func(s *fabric.SwitchSpec) { s.Services.DHCP.Options.DNS = []netip.Addr{} }, 1, 1, true, 0},
		{"without DHCP there is none", func(s *fabric.SwitchSpec) { s.Services.DHCP.Enabled = &no }, 0, 1, false, 0},
		{"a switch that is private is not served", func(s *fabric.SwitchSpec) { s.Type = fabric.Private }, 0, 0, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			snap := snapshot()
			c.edit(&snap.Switches["blue"].Spec)
			got := Wanted(snap, "h1")
			if len(got.DHCP) != c.dhcp || len(got.DNS) != c.dns {
				t.Fatalf("got %+v", got)
			}
			if c.dhcp > 0 && (got.DHCP[0].Router != c.router || len(got.DHCP[0].DNS) != c.servers) {
				t.Errorf("guests are told %+v", got.DHCP[0])
			}
		})
	}
}
