package fabric

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Services are what the hosts do for the guests of an internal switch. Each host serves the guests that it runs itself, from the
// fabric's records, so that every host answers alike.
type Services struct {
	DHCP DHCPService `json:"dhcp,omitzero"`
	DNS  DNSService  `json:"dns,omitzero"`
	NAT  NATService  `json:"nat,omitzero"`
}

// DHCPService answers DHCP and router solicitations from the records of the ports: a port's record is its lease.
type DHCPService struct {
	// Enabled is true when absent, on a switch with a subnet.
	Enabled *bool `json:"enabled,omitempty"`
	// Ranges are where the addresses of ports that name none are taken from; absent means all of the switch's subnets.
	Ranges []AddressRange `json:"ranges,omitempty"`
	// Lease is how long an answer is good for, 1 minute to 1 year; 0 means DefaultLease.
	Lease   Duration    `json:"lease,omitempty"`
	Options DHCPOptions `json:"options,omitzero"`
}

// AddressRange is the addresses from First to Last, both included.
type AddressRange struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// DHCPOptions are what guests are told beside their address.
type DHCPOptions struct {
	// Router says whether the gateway is the guests' default router; absent means that it is where the switch has NAT.
	Router *bool `json:"router,omitempty"`
	// Domain is the guests' DNS domain; the switch's name when empty.
	Domain string `json:"domain,omitempty"`
	// Search are more domains in which guests look for short names.
	Search []string `json:"search,omitempty"`
	// DNS are the servers the guests ask; absent means the gateway, where the switch has the DNS service. Empty means none.
	DNS []netip.Addr `json:"dns,omitzero"`
	// Routes are told beside the default route.
	Routes []StaticRoute `json:"routes,omitempty"`
}

// StaticRoute sends a guest's packets for a prefix to a station of its switch.
type StaticRoute struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via"`
}

// DNSService answers <port>.<switch> from the records, and asks other servers for all else.
type DNSService struct {
	// Enabled is true when absent, on a switch with a subnet.
	Enabled *bool `json:"enabled,omitempty"`
	// Upstreams are the servers that are asked; absent means those of the host. Empty means that nobody is asked.
	Upstreams []netip.Addr `json:"upstreams,omitzero"`
}

// NATService lets guests reach the world by the host they run on, under its address.
type NATService struct {
	// Enabled is false when absent.
	Enabled bool `json:"enabled,omitempty"`
	// Forwards lead from a port of every host to a guest.
	Forwards []Forward `json:"forwards,omitempty"`
}

// Forward leads from a port of every host to a port of a guest.
type Forward struct {
	// Protocol is tcp or udp.
	Protocol string `json:"protocol"`
	HostPort uint16 `json:"hostPort"`
	// Port is the name of the guest's port, on this switch; PortNumber is HostPort when 0.
	Port       string `json:"port"`
	PortNumber uint16 `json:"portNumber,omitempty"`
}

// Bounds of services.
const (
	// DefaultLease is how long a lease lasts that is given no time.
	DefaultLease = Duration(time.Hour)
	minLease     = Duration(time.Minute)
	maxLease     = Duration(365 * 24 * time.Hour)
	// MaxForwards is how many a switch may have; MaxServiceList bounds every other list of its services.
	MaxForwards    = 1024
	MaxServiceList = 16
)

// serves reports whether a service is on that is on by default.
func (s *Switch) serves(enabled *bool) bool {
	return s.Spec.Type == Internal && len(s.Spec.Subnets) > 0 && (enabled == nil || *enabled)
}

// ServesDHCP reports whether each host answers the DHCP and router solicitations of its own guests: they go to it alone then,
// and reach no other station.
func (s *Switch) ServesDHCP() bool { return s.serves(s.Spec.Services.DHCP.Enabled) }

// ServesDNS reports whether each host answers its own guests' DNS questions at the gateway's addresses.
func (s *Switch) ServesDNS() bool { return s.serves(s.Spec.Services.DNS.Enabled) }

// ServesNAT reports whether each host takes its own guests' packets to the world.
func (s *Switch) ServesNAT() bool {
	return s.Spec.Type == Internal && len(s.Spec.Subnets) > 0 && s.Spec.Services.NAT.Enabled
}

// any reports whether something is asked for.
func (s *Services) any() bool {
	on := func(b *bool) bool { return b != nil && *b }
	return on(s.DHCP.Enabled) || on(s.DNS.Enabled) || s.NAT.Enabled || len(s.NAT.Forwards)+len(s.DHCP.Ranges) > 0
}

// checkServices checks what can be checked without other objects.
func (s *Switch) checkServices(f *Findings) {
	v := &s.Spec.Services
	if v.any() {
		switch {
		case s.Spec.Type != Internal && s.Spec.Type != "":
			f.add("spec.services", "a switch of type %s has none, since its guests reach no host by it: make the switch internal, or leave them out", s.Spec.Type)
			return
		case len(s.Spec.Subnets) == 0:
			f.add("spec.services", "services need a subnet, which guests' addresses come from: give the switch one, such as 10.10.0.0/24")
			return
		}
	}
	s.checkDHCP(f)
	checkServers(f, "spec.services.dns.upstreams", v.DNS.Upstreams)
	for i, a := range v.DNS.Upstreams {
		if slices.Contains(s.Gateways(), a) {
			f.add(fmt.Sprintf("spec.services.dns.upstreams[%d]", i), "%s is the switch's own gateway, which would ask itself: name another server", a)
		}
	}
	s.checkForwards(f)
}

func (s *Switch) checkDHCP(f *Findings) {
	v := &s.Spec.Services.DHCP
	if l := v.Lease; l != 0 && (l < minLease || l > maxLease) {
		f.add("spec.services.dhcp.lease", "%s cannot be: a lease lasts %s to %s; leave it out for %s", l, minLease, maxLease, DefaultLease)
	}
	if len(v.Ranges) > MaxServiceList {
		f.add("spec.services.dhcp.ranges", "%d ranges, the most is %d", len(v.Ranges), MaxServiceList)
		return
	}
	for i, r := range v.Ranges {
		path := fmt.Sprintf("spec.services.dhcp.ranges[%d]", i)
		subnet := slices.IndexFunc(s.Spec.Subnets, func(p netip.Prefix) bool { return r.First.IsValid() && p.Contains(r.First) })
		switch {
		case !r.First.IsValid() || !r.Last.IsValid():
			f.add(path, "a range has a first and a last address: {first: 10.10.0.100, last: 10.10.0.199}")
		case subnet < 0:
			f.add(path, "%s is in none of the switch's subnets (%s): choose a range inside one", r.First, list(s.Spec.Subnets))
		case !s.Spec.Subnets[subnet].Contains(r.Last):
			f.add(path, "%s is outside of %s, where the range begins: end it inside", r.Last, s.Spec.Subnets[subnet])
		case r.Last.Less(r.First):
			f.add(path, "%s comes before %s: write the lower address first", r.Last, r.First)
		}
	}
	s.checkOptions(f)
}

func (s *Switch) checkOptions(f *Findings) {
	const at = "spec.services.dhcp.options."
	v := &s.Spec.Services.DHCP.Options
	if v.Domain != "" {
		checkDomain(f, at+"domain", v.Domain)
	}
	if len(v.Search) > MaxServiceList {
		f.add(at+"search", "%d domains, the most is %d", len(v.Search), MaxServiceList)
		return
	}
	for i, d := range v.Search {
		checkDomain(f, fmt.Sprintf("%ssearch[%d]", at, i), d)
	}
	checkServers(f, at+"dns", v.DNS)
	if len(v.Routes) > MaxServiceList {
		f.add(at+"routes", "%d routes, the most is %d", len(v.Routes), MaxServiceList)
		return
	}
	for i, r := range v.Routes {
		path := fmt.Sprintf("%sroutes[%d]", at, i)
		before := len(*f)
		checkPrefix(f, path+".to", r.To)
		switch {
		case len(*f) > before:
		case !slices.ContainsFunc(s.Spec.Subnets, func(p netip.Prefix) bool { return r.Via.IsValid() && p.Contains(r.Via) }):
			f.add(path+".via", "%s is in none of the switch's subnets (%s): name a station of the switch", r.Via, list(s.Spec.Subnets))
		case r.Via.Is4() != r.To.Addr().Is4():
			f.add(path, "%s and %s are of different families", r.To, r.Via)
		case !r.To.Addr().Is4():
			f.add(path+".to", "%s: DHCPv6 tells guests no routes: leave it out, and set it in the guest", r.To)
		}
	}
}

func checkServers(f *Findings, path string, servers []netip.Addr) {
	if len(servers) > MaxServiceList {
		f.add(path, "%d servers, the most is %d", len(servers), MaxServiceList)
		return
	}
	for i, a := range servers {
		if !a.IsValid() {
			f.add(fmt.Sprintf("%s[%d]", path, i), "is empty: write an address")
			continue
		}
		if a.Is6() && a.IsLoopback() || a.Is4() && a.IsLoopback() {
			continue // a resolver of the host itself may well be asked there
		}
		checkAddr(f, fmt.Sprintf("%s[%d]", path, i), a)
	}
}

// checkDomain checks a domain name (RFC 1035 section 2.3.1), written without the dot at its end.
func checkDomain(f *Findings, path, name string) {
	if len(name) > 253 {
		f.add(path, "%s is %d characters long, the most is 253", quote(name), len(name))
		return
	}
	for label := range strings.SplitSeq(name, ".") {
		if text := badName(label); text != "" {
			f.add(path, "%s is not a domain name: write it as example.org", quote(name))
			return
		}
	}
}

// checkForwards checks each forward, and that no two begin at the same port of the host.
func (s *Switch) checkForwards(f *Findings) {
	v := s.Spec.Services.NAT
	if len(v.Forwards) > 0 && !v.Enabled {
		f.add("spec.services.nat.forwards", "forwards need NAT: set spec.services.nat.enabled, or leave them out")
	}
	if len(v.Forwards) > MaxForwards {
		f.add("spec.services.nat.forwards", "%d forwards, the most is %d", len(v.Forwards), MaxForwards)
		return
	}
	first := map[string]int{}
	for i, w := range v.Forwards {
		path := fmt.Sprintf("spec.services.nat.forwards[%d]", i)
		if w.Protocol != "tcp" && w.Protocol != "udp" {
			f.add(path+".protocol", "%s", unknown("protocol", w.Protocol, []string{"tcp", "udp"}))
		}
		if w.HostPort == 0 {
			f.add(path+".hostPort", "is missing: the port of the hosts, 1 to 65535")
		}
		checkRef(f, path+".port", w.Port, true)
		key := w.Begins()
		if j, twice := first[key]; twice {
			f.add(path, "%s is forwarded by forwards[%d] already, to port %s: choose another host port", key, j, v.Forwards[j].Port)
			continue
		}
		first[key] = i
	}
}

// Begins is where the forward begins on every host: tcp/8080.
func (w Forward) Begins() string { return fmt.Sprintf("%s/%d", w.Protocol, w.HostPort) }

// Number is the guest's port number.
func (w Forward) Number() uint16 {
	if w.PortNumber == 0 {
		return w.HostPort
	}
	return w.PortNumber
}

func list(prefixes []netip.Prefix) string {
	text := make([]string, len(prefixes))
	for i, p := range prefixes {
		text[i] = p.String()
	}
	return strings.Join(text, ", ")
}
