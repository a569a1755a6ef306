package dhcp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"github.com/weftnet/weft/fabric"
)

// Why a message gets no answer.
var (
	errMalformed = errors.New("cannot be read")
	errUnknown   = errors.New("the station has no port with an address on the switch")
	errUnfit     = errors.New("a message that gets no answer")
)

// answer4 is one answer: the message, and the address it is sent to.
type answer4 struct {
	to      fabric.MAC
	address netip.Addr
	message *dhcpv4.DHCPv4
	refused bool
}

var everybody = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// respond4 is what a DHCPv4 message is answered with (RFC 2131 section 4.3). The notice is set where an operator should know.
func (c *Config) respond4(payload []byte) (a answer4, n *Notice, err error) {
	m, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return a, nil, errMalformed
	}
	if m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != len(fabric.MAC{}) {
		return a, nil, errUnfit
	}
	if !m.GatewayIPAddr.IsUnspecified() { // relayed: the fabric's guests have no relay between themselves and their host
		return a, nil, errUnfit
	}
	mac := fabric.MAC(m.ClientHWAddr)
	client, known := c.Clients[mac]
	if !known || !client.Address4.IsValid() || !c.Gateway4.IsValid() {
		return a, nil, errUnknown
	}
	if server := m.ServerIdentifier(); server != nil && addr(server) != c.Gateway4 {
		return a, nil, errUnfit // meant for another server
	}
	a.to = mac
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		a.message, err = c.lease4(m, client, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		if wanted := requested(m); wanted != client.Address4 {
			a.message, err = c.refuse4(m, client, wanted)
			a.address, a.refused = everybody, true // section 4.3.2: its own address may be the wrong one
			return a, nil, err
		}
		a.message, err = c.lease4(m, client, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeInform:
		a.message, err = c.inform4(m, client)
	case dhcpv4.MessageTypeDecline:
		return a, &Notice{client.Name, "The guest declines " + client.Address4.String() + ", the address of its port: it says that another station has it."}, errUnfit
	default: // RELEASE too: the record is the lease, and stays
		return a, nil, errUnfit
	}
	a.address = whereTo(m, client.Address4)
	return a, nil, err
}

// requested is the address a client asks to have: option 50 while it selects or reboots, ciaddr while it renews or rebinds.
func requested(m *dhcpv4.DHCPv4) netip.Addr {
	if ip := m.RequestedIPAddress(); ip != nil {
		return addr(ip)
	}
	return addr(m.ClientIPAddr)
}

// whereTo is the address an answer is sent to (section 4.1): a client that has its address is reached there, one that cannot
// be reached yet says so. The frame is unicast to its MAC whatever the address, so that nobody else hears it.
func whereTo(m *dhcpv4.DHCPv4, lease netip.Addr) netip.Addr {
	switch {
	case !m.ClientIPAddr.IsUnspecified():
		return addr(m.ClientIPAddr)
	case m.IsBroadcast():
		return everybody
	}
	return lease
}

// reply4 is an answer without a lease. A client identifier comes back as it was given (RFC 6842).
func (c *Config) reply4(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); id != nil {
		more = append(more, dhcpv4.WithOption(dhcpv4.OptClientIdentifier(id)))
	}
	return dhcpv4.NewReplyFromRequest(m, append(more, dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(c.Gateway4.AsSlice())))...)
}

func (c *Config) lease4(m *dhcpv4.DHCPv4, client Client, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	t := c.lifetime()
	return c.reply4(m, kind, c.options4(client), func(d *dhcpv4.DHCPv4) {
		d.YourIPAddr = client.Address4.AsSlice()
		d.ClientIPAddr = m.ClientIPAddr
		for _, o := range []dhcpv4.Option{dhcpv4.OptIPAddressLeaseTime(t), dhcpv4.OptRenewTimeValue(t / 2), dhcpv4.OptRebindingTimeValue(t * 7 / 8)} {
			d.UpdateOption(o)
		}
	})
}

// inform4 tells a client that has its address the rest; it must have the one of its port.
func (c *Config) inform4(m *dhcpv4.DHCPv4, client Client) (*dhcpv4.DHCPv4, error) {
	if addr(m.ClientIPAddr) != client.Address4 {
		return nil, errUnfit
	}
	return c.reply4(m, dhcpv4.MessageTypeAck, c.options4(client), func(d *dhcpv4.DHCPv4) { d.ClientIPAddr = m.ClientIPAddr })
}

func (c *Config) refuse4(m *dhcpv4.DHCPv4, client Client, wanted netip.Addr) (*dhcpv4.DHCPv4, error) {
	return c.reply4(m, dhcpv4.MessageTypeNak, dhcpv4.WithOption(dhcpv4.OptMessage(wanted.String()+" is not the address of port "+client.Name)))
}

// options4 are what every client of the switch is told.
func (c *Config) options4(client Client) dhcpv4.Modifier {
	options := []dhcpv4.Option{
		dhcpv4.OptSubnetMask(net.CIDRMask(c.Subnet4.Bits(), 32)), dhcpv4.OptBroadcastAddress(broadcast(c.Subnet4)), dhcpv4.OptHostName(client.Name),
	}
	if c.Router {
		options = append(options, dhcpv4.OptRouter(c.Gateway4.AsSlice()))
	}
	if c.MTU > 0 {
		options = append(options, dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(c.MTU))))
	}
	if servers := family(c.DNS, false); len(servers) > 0 {
		options = append(options, dhcpv4.OptDNS(servers...))
	}
	if c.Domain != "" {
		options = append(options, dhcpv4.OptDomainName(c.Domain))
	}
	if len(c.Search) > 0 {
		options = append(options, dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: c.Search}))
	}
	if routes := c.routes4(); len(routes) > 0 {
		options = append(options, dhcpv4.OptClasslessStaticRoute(routes...))
	}
	return func(d *dhcpv4.DHCPv4) {
		for _, o := range options {
			d.UpdateOption(o)
		}
	}
}

// routes4 are the classless routes. A client that gets any ignores the router option (RFC 3442), so the default route is
// among them.
func (c *Config) routes4() (routes []*dhcpv4.Route) {
	for _, r := range c.Routes {
		if r.To.Addr().Is4() {
			routes = append(routes, &dhcpv4.Route{Dest: &net.IPNet{IP: r.To.Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), 32)}, Router: r.Via.AsSlice()})
		}
	}
	if len(routes) > 0 && c.Router {
		routes = append(routes, &dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: c.Gateway4.AsSlice()})
	}
	return routes
}

func broadcast(p netip.Prefix) net.IP {
	b := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | uint32(1<<(32-p.Bits())-1)
	return binary.BigEndian.AppendUint32(nil, n)
}

func family(all []netip.Addr, six bool) (ips []net.IP) {
	for _, a := range all {
		if a.Is6() == six {
			ips = append(ips, a.AsSlice())
		}
	}
	return ips
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
