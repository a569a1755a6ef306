package dhcp

import (
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"github.com/weftnet/weft/fabric"
)

// duid is the server's identity, the same on every host.
func (c *Config) duid() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: c.GatewayMAC[:]}
}

// respond6 is what a DHCPv6 message from a link-local address is answered with (RFC 8415 section 18.3); nil with an error when
// it gets no answer.
func (c *Config) respond6(payload []byte, from netip.Addr) (*dhcpv6.Message, *Notice, error) {
	if len(payload) == 0 || payload[0] == byte(dhcpv6.MessageTypeRelayForward) || payload[0] == byte(dhcpv6.MessageTypeRelayReply) {
		return nil, nil, errUnfit // the fabric's guests have no relay between themselves and their host
	}
	m, err := dhcpv6.MessageFromBytes(payload)
	if err != nil {
		return nil, nil, errMalformed
	}
	client, known := c.client6(m, from)
	if !known || !c.Gateway6.IsValid() {
		return nil, nil, errUnknown
	}
	if !c.fit6(m) {
		return nil, nil, errUnfit
	}
	var notice *Notice
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	if id := m.GetOneOption(dhcpv6.OptionClientID); id != nil {
		reply.AddOption(id)
	}
	reply.AddOption(dhcpv6.OptServerID(c.duid()))
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			reply.AddOption(m.GetOneOption(dhcpv6.OptionRapidCommit))
		} else {
			reply.MessageType = dhcpv6.MessageTypeAdvertise
			reply.AddOption(dhcpv6.OptPreference(255)) // there is no other server to wait for
		}
		c.associate(reply, m, client)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		c.associate(reply, m, client)
	case dhcpv6.MessageTypeConfirm:
		if !confirm(reply, m, client) {
			return nil, nil, errUnfit
		}
	case dhcpv6.MessageTypeDecline:
		notice = &Notice{client.Name, "The guest declines " + client.Address6.String() + ", the address of its port: it says that another station has it."}
		fallthrough
	case dhcpv6.MessageTypeRelease: // the record is the lease, and stays
		reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
	}
	c.options6(reply)
	return reply, notice, nil
}

// client6 is the port behind a message: the one that may speak from the address or, where its guards are off, the one whose
// MAC the client's identity holds.
func (c *Config) client6(m *dhcpv6.Message, from netip.Addr) (Client, bool) {
	if _, client, known := c.clientAt(from); known {
		return client, true
	}
	var hw []byte
	switch id := m.Options.ClientID().(type) {
	case *dhcpv6.DUIDLL:
		hw = id.LinkLayerAddr
	case *dhcpv6.DUIDLLT:
		hw = id.LinkLayerAddr
	}
	if len(hw) != len(fabric.MAC{}) {
		return Client{}, false
	}
	client, known := c.Clients[fabric.MAC(hw)]
	return client, known
}

// fit6 reports whether the message has the identities that its type must have, and the server's is ours (section 16).
func (c *Config) fit6(m *dhcpv6.Message) bool {
	client, server := m.Options.ClientID(), m.Options.ServerID()
	ours := server != nil && server.Equal(c.duid())
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return client != nil && server == nil
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		return client != nil && ours
	case dhcpv6.MessageTypeInformationRequest:
		return (server == nil || ours) && len(m.Options.IANA()) == 0
	}
	return false
}

// mostAssociations bounds how many identity associations of one message are answered.
const mostAssociations = 8

// associate answers each identity association: the first gets the port's address, and every address that is not the port's is
// taken back (section 18.3.4).
func (c *Config) associate(reply, m *dhcpv6.Message, client Client) {
	t := c.lifetime()
	given := false
	for i, ask := range m.Options.IANA() {
		if i == mostAssociations {
			break
		}
		ia := &dhcpv6.OptIANA{IaId: ask.IaId}
		if client.Address6.IsValid() && !given {
			given = true
			ia.T1, ia.T2 = t/2, t*4/5
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: client.Address6.AsSlice(), PreferredLifetime: t, ValidLifetime: t})
		} else {
			ia.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "the port has no more addresses"})
		}
		if m.MessageType == dhcpv6.MessageTypeRenew || m.MessageType == dhcpv6.MessageTypeRebind {
			withdraw(ia, ask, client.Address6)
		}
		reply.AddOption(ia)
	}
	for i, ask := range m.Options.IAPD() {
		if i == mostAssociations {
			break
		}
		pd := &dhcpv6.OptIAPD{IaId: ask.IaId}
		pd.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail, StatusMessage: "no prefixes are delegated"})
		reply.AddOption(pd)
	}
}

// withdraw gives lifetimes of 0 to the addresses that a client has and its port has not.
func withdraw(ia, ask *dhcpv6.OptIANA, keep netip.Addr) {
	has := ask.Options.Addresses()
	for _, a := range has[:min(len(has), mostAssociations)] {
		if addr(a.IPv6Addr) != keep {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr, PreferredLifetime: time.Duration(0), ValidLifetime: time.Duration(0)})
		}
	}
}

// confirm says whether the client's addresses are still right; it reports false when it names none (section 18.3.3).
func confirm(reply, m *dhcpv6.Message, client Client) bool {
	status := &dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess, StatusMessage: "the addresses are the port's"}
	var has []netip.Addr
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			has = append(has, addr(a.IPv6Addr))
		}
	}
	if slices.ContainsFunc(has, func(a netip.Addr) bool { return a != client.Address6 }) {
		status.StatusCode, status.StatusMessage = iana.StatusNotOnLink, "an address is not the port's"
	}
	reply.AddOption(status)
	return len(has) > 0
}

// options6 are what every client of the switch is told.
func (c *Config) options6(reply *dhcpv6.Message) {
	if servers := family(c.DNS, true); len(servers) > 0 {
		reply.AddOption(dhcpv6.OptDNS(servers...))
	}
	if search := c.searched(); len(search) > 0 {
		reply.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: search}))
	}
}

// searched are the domain and the search list, each once.
func (c *Config) searched() (names []string) {
	for _, name := range append([]string{c.Domain}, c.Search...) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
