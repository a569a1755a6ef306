package fabric

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestAGatewayIsTheSameOnEveryHost(t *testing.T) {
	if got := GatewayMAC(0x123456).String(); got != "0a:57:45:12:34:56" {
		t.Errorf("MAC %s", got)
	}
	if !GatewayMAC(MaxVNI).IsUnicast() {
		t.Error("the MAC is a group's")
	}
	if got := GatewayLinkLocal(0x123456).String(); got != "fe80::857:45ff:fe12:3456" {
		t.Errorf("link-local address %s", got)
	}
}

func TestGateways(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("fd00:20::/64")
	at := netip.MustParseAddr
	for name, c := range map[string]struct {
		spec SwitchSpec
		want []netip.Addr
	}{
		"the first address of each subnet":           {SwitchSpec{Type: Internal, Subnets: []netip.Prefix{v4, v6}}, []netip.Addr{at("10.20.0.1"), at("fd00:20::1")}},
		"the one that is named":                      {SwitchSpec{Type: Internal, Subnets: []netip.Prefix{v4, v6}, Gateways: []netip.Addr{at("10.20.0.254")}}, []netip.Addr{at("10.20.0.254"), at("fd00:20::1")}},
		"none on a switch without subnets":           {SwitchSpec{Type: Internal}, nil},
		"none on a private switch: it has VMs alone": {SwitchSpec{Type: Private, Subnets: []netip.Prefix{v4}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (&Switch{Spec: c.spec}).Gateways(); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestGatewaysThatCannotBe(t *testing.T) {
	subnets := []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24")}
	for name, c := range map[string]struct {
		spec SwitchSpec
		want string
	}{
		"outside":       {SwitchSpec{Type: Internal, Subnets: subnets, Gateways: []netip.Addr{netip.MustParseAddr("10.21.0.1")}}, "in none of the switch's subnets"},
		"the network":   {SwitchSpec{Type: Internal, Subnets: subnets, Gateways: []netip.Addr{netip.MustParseAddr("10.20.0.0")}}, "which no station has"},
		"the broadcast": {SwitchSpec{Type: Internal, Subnets: subnets, Gateways: []netip.Addr{netip.MustParseAddr("10.20.0.255")}}, "which no station has"},
		"two of one subnet": {SwitchSpec{Type: Internal, Subnets: subnets, Gateways: []netip.Addr{netip.MustParseAddr("10.20.0.1"), netip.MustParseAddr("10.20.0.2")}},
			"a subnet has one"},
		"a private switch": {SwitchSpec{Type: Private, Subnets: subnets, Gateways: []netip.Addr{netip.MustParseAddr("10.20.0.1")}}, "has no gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Switch{TypeMeta: TypeMeta{APIVersion: APIVersion, Kind: KindSwitch}, Metadata: Metadata{Name: "blue"}, Spec: c.spec}
			if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestDevicesOfHostPortsFitAndDiffer(t *testing.T) {
	if got := HostDevice("blue"); got != "weft-blue" {
		t.Errorf("device %s", got)
	}
	seen := map[string]SwitchID{}
	for _, sw := range []SwitchID{"0123456789", "0123456789a", "0123456789b", SwitchID(strings.Repeat("x", 63))} {
		for _, device := range []string{HostDevice(sw), HostPortDevice(sw)} {
			if other, twice := seen[device]; twice || len(device) > 15 {
				t.Errorf("%s of %s: %d bytes, also of %q", device, sw, len(device), other)
			}
			seen[device] = sw
		}
	}
	if got := HostPort(HostID(strings.Repeat("h", 63)), "blue"); CheckName(string(got)) != nil {
		t.Errorf("port %s is no name", got)
	}
}

func TestAPortOfAHostSaysWhichHost(t *testing.T) {
	port := func(edit func(*Port)) *Port {
		p := &Port{TypeMeta: TypeMeta{APIVersion: APIVersion, Kind: KindPort}, Metadata: Metadata{Name: "host-h1-blue"},
			Spec: PortSpec{Role: RoleHost, Switch: "blue", Host: "h1"}}
		edit(p)
		p.Default()
		return p
	}
	if err := port(func(*Port) {}).Validate(); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for want, edit := range map[string]func(*Port){
		"is called host-h1-blue":  func(p *Port) { p.Metadata.Name = "gate" },
		"names its host":          func(p *Port) { p.Spec.Host = "" },
		"there is no VM":          func(p *Port) { p.Spec.VM = "web" },
		`did you mean "host"`:     func(p *Port) { p.Spec.Role = "hots" },
		"is called host-h1-green": func(p *Port) { p.Spec.Switch = "green" },
	} {
		if err := port(edit).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestAHostIsNamedBesideAPortOfItsSwitch(t *testing.T) {
	s := &Snapshot{Ports: map[PortID]*Port{
		"a":             {Spec: PortSpec{Switch: "green"}},
		"b":             {Spec: PortSpec{Switch: "red"}},
		"host-h1-green": {Spec: PortSpec{Switch: "green", Role: RoleHost, Host: "h1"}},
		"host-h2":       {Spec: PortSpec{Switch: "green"}},
	}}
	for _, c := range []struct{ name, beside, want PortID }{
		{"host-h1", "a", "host-h1-green"},
		{"host-h1-green", "b", "host-h1-green"},
		{"host-h1", "b", "host-h1"}, // h1 has no port there
		{"host-h2", "a", "host-h2"}, // a port has this very name
		{"h1", "a", "h1"},
		{"host-h1", "nobody", "host-h1"},
	} {
		if got := s.Named(c.name, c.beside); got != c.want {
			t.Errorf("%s beside %s is %s, want %s", c.name, c.beside, got, c.want)
		}
	}
}
