// Package nat keeps what a host does with its guests' packets beyond their internal switches: masquerading, static forwards, and
// who may reach the host itself. All of it is one nftables table of our own, replaced in one transaction and read back; another's
// tables are never touched. What our switching on of forwarding would newly open on the host, the same table closes. The table
// and the kernel's settings outlive the agent.
package nat

import (
	"net/netip"
	"slices"
)

// TableName is our table's, of family inet.
const TableName = "weft"

// Config is what one host does for its internal switches.
type Config struct {
	Switches []Switch
}

// Switch is one internal switch on this host.
type Switch struct {
	// Device is the host's device on the switch.
	Device string
	// Prefixes are the switch's subnets, Gateways the addresses that guests reach the host at, Host the host's own addresses.
	Prefixes []netip.Prefix
	Gateways []netip.Addr
	Host     []netip.Addr
	// NAT takes the guests' packets to the world under the host's address; without it nothing of them is forwarded.
	NAT bool
	// HostAccess lets guests reach the host itself; without it they reach its DHCP, DNS and ping at the gateway, no more.
	HostAccess bool
	Forwards   []Forward
}

// Forward leads from a port of the host to a guest.
type Forward struct {
	// Protocol is unix.IPPROTO_TCP or unix.IPPROTO_UDP.
	Protocol uint8
	HostPort uint16
	To       netip.AddrPort
	// Local is true where the guest runs on this host. A guest elsewhere answers its own host's gateway: it sees the connection
	// come from this host's address on the switch, so that its answers come back here.
	Local bool
}

// Opened is a device whose forwarding we have switched on, in one family.
type Opened struct {
	Device string
	Six    bool
}

func (o Opened) String() string {
	if o.Six {
		return "ipv6 " + o.Device
	}
	return "ipv4 " + o.Device
}

// forwards reports whether packets of a family are forwarded for any switch.
func (c *Config) forwards(six bool) bool {
	return slices.ContainsFunc(c.Switches, func(s Switch) bool {
		return s.NAT && slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() == six })
	})
}

// owns reports whether a device is the host's on one of the switches.
func (c *Config) owns(device string) bool {
	return slices.ContainsFunc(c.Switches, func(s Switch) bool { return s.Device == device })
}
