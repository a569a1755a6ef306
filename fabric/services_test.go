package fabric

import (
	"strings"
	"testing"
)

const servedSwitch = `apiVersion: weft/v1
kind: Switch
metadata: {name: blue}
spec:
  type: internal
  subnets: [10.10.0.0/24, "fd00:10::/64"]
  services:
    dhcp:
      lease: 2h
      ranges: [{first: 10.10.0.100, last: 10.10.0.199}]
      options: {domain: example.org, search: [corp.example.org], dns: [10.10.0.1, "fd00:10::1"], routes: [{to: 192.168.9.0/24, via: 10.10.0.9}]}
    dns: {upstreams: [192.0.2.53, 127.0.0.53]}
    nat: {enabled: true, forwards: [{protocol: tcp, hostPort: 8080, port: web-1, portNumber: 80}, {protocol: udp, hostPort: 8080, port: web-1}]}
`

func TestServicesAreReadAndOnByDefault(t *testing.T) {
	objects, err := Decode("blue.yaml", []byte(servedSwitch))
	if err != nil {
		t.Fatal(err)
	}
	sw := objects[0].(*Switch)
	if w := sw.Spec.Services.NAT.Forwards; !sw.ServesDHCP() || !sw.ServesDNS() || !sw.ServesNAT() || len(w) != 2 || w[0].Number() != 80 || w[1].Number() != 8080 {
		t.Errorf("read as %+v", sw.Spec.Services)
	}
	plain, err := Decode("green.yaml", []byte("apiVersion: weft/v1\nkind: Switch\nmetadata: {name: green}\nspec: {type: internal, subnets: [10.20.0.0/24]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if sw := plain[0].(*Switch); !sw.ServesDHCP() || !sw.ServesDNS() || sw.ServesNAT() {
		t.Error("an internal switch with a subnet has DHCP and DNS, and no NAT unless asked for")
	}
}

func TestServicesThatCannotBe(t *testing.T) {
	for _, c := range []struct{ name, was, is, want string }{
		{"a private switch has none", "internal", "private", "a switch of type private has none"},
		{"services need a subnet", "subnets: [10.10.0.0/24, \"fd00:10::/64\"]", "subnets: []", "services need a subnet"},
		{"a range outside of the subnets", "first: 10.10.0.100", "first: 10.11.0.100", "dhcp.ranges[0]: 10.11.0.100 is in none of the switch's subnets (10.10.0.0/24, fd00:10::/64)"},
		{"a range that leaves its subnet", "last: 10.10.0.199", "last: 10.10.1.5", "10.10.1.5 is outside of 10.10.0.0/24"},
		{"a range that is reversed", "last: 10.10.0.199", "last: 10.10.0.9", "write the lower address first"},
		{"a lease of a second", "lease: 2h", "lease: 1s", "a lease lasts 1m to 8760h"},
		{"a domain that is none", "domain: example.org", "domain: example..org", "is not a domain name"},
		{"a route by a station elsewhere", "via: 10.10.0.9", "via: 10.11.0.9", "10.11.0.9 is in none of the switch's subnets"},
		{"a route with host bits", "to: 192.168.9.0/24", "to: 192.168.9.1/24", "has host bits set: write 192.168.9.0/24"},
		{"DNS that asks itself", "192.0.2.53", "10.10.0.1", "is the switch's own gateway, which would ask itself"},
		{"a multicast server", "192.0.2.53", "224.0.0.251", "cannot be a station's address"},
		{"forwards without NAT", "enabled: true, ", "", "forwards need NAT"},
		{"an unknown protocol", "protocol: udp", "protocol: upd", `did you mean "udp"?`},
		{"two forwards of one port", "protocol: udp", "protocol: tcp", "tcp/8080 is forwarded by forwards[0] already, to port web-1"},
		{"a forward from nowhere", "protocol: udp, hostPort: 8080", "protocol: udp", "hostPort: is missing"},
		{"a forward to nowhere", "port: web-1, portNumber: 80", "portNumber: 80", "forwards[0].port: is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(servedSwitch, c.was, c.is, 1)
			if text == servedSwitch {
				t.Fatalf("%q is not in the document", c.was)
			}
			if _, err := Decode("blue.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}
