package services

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/agent/dhcp"
	"github.com/weftnet/weft/agent/dns"
	"github.com/weftnet/weft/datapath/nat"
	"github.com/weftnet/weft/fabric"
)

// Config is all that a host does for its guests. It is in the order of the switches' names.
type Config struct {
	DHCP []dhcp.Config
	DNS  []dns.Config
	NAT  nat.Config
}

// Wanted is what a host does, from the records alone.
func Wanted(snap *fabric.Snapshot, host fabric.HostID) (c Config) {
	guests, named := map[fabric.SwitchID][]*fabric.Port{}, map[fabric.SwitchID][]*fabric.Port{}
	for _, p := range snap.Ports {
		named[p.Spec.Switch] = append(named[p.Spec.Switch], p)
		if !p.IsHost() && snap.Settings(p).VLAN.Home() == 0 { // the host is on a switch's untagged segment alone
			guests[p.Spec.Switch] = append(guests[p.Spec.Switch], p)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(snap.Switches)) {
		sw := snap.Switches[id]
		if sw.Spec.Type != fabric.Internal || sw.Spec.VNI == 0 || !sw.Covers(host) {
			continue
		}
		slices.SortFunc(guests[id], func(a, b *fabric.Port) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
		if sw.ServesDHCP() {
			c.DHCP = append(c.DHCP, dhcpOf(snap, sw, host, guests[id]))
		}
		if sw.ServesDNS() {
			c.DNS = append(c.DNS, dnsOf(sw, named[id]))
		}
		c.NAT.Switches = append(c.NAT.Switches, natOf(snap, sw, host))
	}
	return c
}

func dhcpOf(snap *fabric.Snapshot, sw *fabric.Switch, host fabric.HostID, guests []*fabric.Port) dhcp.Config {
	v := sw.Spec.Services.DHCP
	c := dhcp.Config{
		Device: fabric.HostDevice(fabric.SwitchID(sw.Metadata.Name)), GatewayMAC: fabric.GatewayMAC(sw.Spec.VNI), MTU: snap.SwitchMTU(sw),
		Lease: time.Duration(v.Lease), Domain: v.Options.Domain, Search: v.Options.Search, DNS: v.Options.DNS,
		Router: sw.ServesNAT(), Clients: make(map[fabric.MAC]dhcp.Client, len(guests)),
	}
	if c.Lease == 0 {
		c.Lease = time.Duration(fabric.DefaultLease)
	}
	if c.Domain == "" {
		c.Domain = sw.Metadata.Name
	}
	if v.Options.Router != nil {
		c.Router = *v.Options.Router
	}
	for _, r := range v.Options.Routes {
		c.Routes = append(c.Routes, dhcp.Route{To: r.To, Via: r.Via})
	}
	gateways := sw.Gateways()
	for i, p := range sw.Spec.Subnets {
		if p.Addr().Is6() {
			c.Subnet6, c.Gateway6 = p, gateways[i]
		} else {
			c.Subnet4, c.Gateway4 = p, gateways[i]
		}
	}
	if v.Options.DNS == nil && sw.ServesDNS() {
		c.DNS = gateways
	}
	for _, p := range guests {
		c.Clients[p.Spec.MAC] = client(p, c.Subnet4, c.Subnet6)
		if snap.Locations[fabric.PortID(p.Metadata.Name)].Host == host {
			c.Local = append(c.Local, p.Spec.MAC)
		}
	}
	return c
}

// dnsOf are the names of the switch's ports, the hosts' own among them.
func dnsOf(sw *fabric.Switch, ports []*fabric.Port) dns.Config {
	v := sw.Spec.Services
	c := dns.Config{
		Device: fabric.HostDevice(fabric.SwitchID(sw.Metadata.Name)), Addresses: sw.Gateways(), Zones: []string{sw.Metadata.Name},
		Ports: make(map[string][]netip.Addr, len(ports)), Names: make(map[netip.Addr]string, len(ports)), Subnets: sw.Spec.Subnets, Upstreams: v.DNS.Upstreams,
	}
	if d := strings.ToLower(v.DHCP.Options.Domain); d != "" && d != sw.Metadata.Name {
		c.Zones = append(c.Zones, d)
	}
	for _, p := range ports {
		addresses := slices.DeleteFunc(slices.Clone(p.Spec.Addresses), netip.Addr.IsLinkLocalUnicast)
		c.Ports[p.Metadata.Name] = addresses
		for _, a := range addresses {
			c.Names[a] = p.Metadata.Name
		}
	}
	return c
}

// client is what a port is told: its first address of each subnet.
func client(p *fabric.Port, subnet4, subnet6 netip.Prefix) dhcp.Client {
	c := dhcp.Client{Name: p.Metadata.Name}
	for _, a := range p.Spec.Addresses {
		switch {
		case a.Is6() && a.IsLinkLocalUnicast():
			c.LinkLocals = append(c.LinkLocals, a)
		case !c.Address4.IsValid() && subnet4.IsValid() && subnet4.Contains(a):
			c.Address4 = a
		case !c.Address6.IsValid() && subnet6.IsValid() && subnet6.Contains(a):
			c.Address6 = a
		}
	}
	return c
}

func natOf(snap *fabric.Snapshot, sw *fabric.Switch, host fabric.HostID) nat.Switch {
	id := fabric.SwitchID(sw.Metadata.Name)
	s := nat.Switch{
		Device: fabric.HostDevice(id), Prefixes: sw.Spec.Subnets, Gateways: sw.Gateways(), NAT: sw.ServesNAT(), HostAccess: sw.HostIsOn(),
	}
	if own := snap.Ports[fabric.HostPort(host, id)]; own != nil {
		s.Host = own.Spec.Addresses
	}
	if !s.NAT {
		return s
	}
	for _, w := range sw.Spec.Services.NAT.Forwards {
		p := snap.Ports[fabric.PortID(w.Port)]
		if p == nil || p.Spec.Switch != id {
			continue // refused where it is written; what slips through leads nowhere
		}
		var four, six netip.Prefix
		for _, subnet := range sw.Spec.Subnets {
			if subnet.Addr().Is6() {
				six = subnet
			} else {
				four = subnet
			}
		}
		to := client(p, four, six)
		proto := uint8(unix.IPPROTO_TCP)
		if w.Protocol == "udp" {
			proto = unix.IPPROTO_UDP
		}
		for _, a := range []netip.Addr{to.Address4, to.Address6} {
			if a.IsValid() {
				s.Forwards = append(s.Forwards, nat.Forward{
					Protocol: proto, HostPort: w.HostPort, To: netip.AddrPortFrom(a, w.Number()), Local: snap.Locations[fabric.PortID(w.Port)].Host == host,
				})
			}
		}
	}
	return s
}
