// Package dhcp answers the DHCP requests and router solicitations of an internal switch's guests from the fabric's records.
// There is no lease database: the record of a port is its lease, so a lease survives a move and a restart by itself, and every
// host gives the same answer under the same server identity. What guests send reaches this package as the payload of UDP
// and ICMPv6 sockets, bounded in size and rate, and a panic over one message harms no other.
package dhcp

import (
	"net/netip"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Config is what one switch's guests are told on one host. It is computed from the fabric's records alone.
type Config struct {
	// Device is the host's device on the switch.
	Device string
	// GatewayMAC makes the identity of the server, Gateway4 and Gateway6 are what guests reach it and the world at; each is
	// the same on every host. A family without a subnet has no gateway, and no answers.
	GatewayMAC         fabric.MAC
	Gateway4, Gateway6 netip.Addr
	Subnet4, Subnet6   netip.Prefix
	// MTU of the guests in bytes.
	MTU int
	// Lease is how long an answer is good for; a client asks again after half of it.
	Lease time.Duration
	// Domain is the DNS domain of the guests; Search are more, in which they look for short names.
	Domain string
	Search []string
	// DNS are the servers they ask. Where there are none, none are named.
	DNS []netip.Addr
	// Routes are told beside the default route, which exists where Router is true.
	Routes []Route
	Router bool
	// Clients are the ports of the switch by MAC.
	Clients map[fabric.MAC]Client
	// Local are the stations on this host: unsolicited router advertisements go to each of them, and to no other host.
	Local []fabric.MAC
}

// Route is a classless static route (RFC 3442).
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Client is what one port is told.
type Client struct {
	// Name is the port's name: the guest's host name.
	Name string
	// Address4 and Address6 are its leases; not valid where it has none of that family.
	Address4, Address6 netip.Addr
	// LinkLocals are addresses of the port beside the one made from its MAC.
	LinkLocals []netip.Addr
}

// Notice is something about a client that an operator wants to know.
type Notice struct {
	// Port is the client's, empty where it has none.
	Port string
	Text string
}

// Counts are what a server has done since it was opened.
type Counts struct {
	// Answered are answers sent, Refused those among them that said no (DHCPNAK).
	Answered, Refused uint64
	// Unknown are messages of stations without a port, or without an address of that family; Malformed could not be read;
	// Unfit are of a kind that gets no answer; Limited came faster than the budget; Panicked ended in a panic of the
	// library; Failed are answers that could not be sent.
	Unknown, Malformed, Unfit, Limited, Panicked, Failed uint64
}

// lifetime is the lease, within what the protocols can say: at least a minute, at most a year.
func (c *Config) lifetime() time.Duration {
	return min(max(c.Lease, time.Minute), 365*24*time.Hour).Truncate(time.Second)
}

// linkLocal is the address made from a MAC (RFC 4291 appendix A).
func linkLocal(m fabric.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// clientAt finds the port behind a link-local address: the guards let a port speak from the one made from its MAC, and from
// those in its record.
func (c *Config) clientAt(from netip.Addr) (fabric.MAC, Client, bool) {
	b := from.As16()
	if b[11] == 0xff && b[12] == 0xfe {
		mac := fabric.MAC{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}
		if client, known := c.Clients[mac]; known && linkLocal(mac) == from {
			return mac, client, true
		}
	}
	for mac, client := range c.Clients {
		for _, a := range client.LinkLocals {
			if a == from {
				return mac, client, true
			}
		}
	}
	return fabric.MAC{}, Client{}, false
}
