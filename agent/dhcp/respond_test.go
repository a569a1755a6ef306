package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/weftnet/weft/fabric"
)

var (
	one     = fabric.MAC{0x52, 0x54, 0, 0, 0, 1}
	two     = fabric.MAC{0x52, 0x54, 0, 0, 0, 2}
	onlySix = fabric.MAC{0x52, 0x54, 0, 0, 0, 6}
	lease1  = netip.MustParseAddr("10.10.0.11")
	lease16 = netip.MustParseAddr("fd00:10::11")
)

func config() Config {
	return Config{
		Device: "weft-blue", GatewayMAC: fabric.GatewayMAC(10001),
		Gateway4: netip.MustParseAddr("10.10.0.1"), Gateway6: netip.MustParseAddr("fd00:10::1"),
		Subnet4: netip.MustParsePrefix("10.10.0.0/24"), Subnet6: netip.MustParsePrefix("fd00:10::/64"),
		MTU: 1450, Lease: time.Hour, Domain: "blue", Search: []string{"example.org"}, Router: true,
		DNS:    []netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("fd00:10::1")},
		Routes: []Route{{To: netip.MustParsePrefix("192.168.9.0/24"), Via: netip.MustParseAddr("10.10.0.9")}},
		Clients: map[fabric.MAC]Client{
			one:     {Name: "web-1", Address4: lease1, Address6: lease16},
			two:     {Name: "web-2", Address4: netip.MustParseAddr("10.10.0.12")},
			onlySix: {Name: "web-6", Address6: netip.MustParseAddr("fd00:10::16")},
		},
		Local: []fabric.MAC{one, two, onlySix},
	}
}

// ask4 makes a message of a client.
func ask4(t *testing.T, mac fabric.MAC, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) []byte {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac[:]), dhcpv4.WithMessageType(kind)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.ToBytes()
}

func wants(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}
func has(ip string) dhcpv4.Modifier {
	return func(d *dhcpv4.DHCPv4) { d.ClientIPAddr = net.ParseIP(ip) }
}
func from(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(ip)))
}

func TestEveryMessageOfDHCPv4HasItsAnswer(t *testing.T) {
	const none = dhcpv4.MessageTypeNone
	for _, c := range []struct {
		name   string
		mac    fabric.MAC
		kind   dhcpv4.MessageType
		with   []dhcpv4.Modifier
		answer dhcpv4.MessageType
		to     string
		err    error
	}{
		{"DISCOVER is offered the port's address, at that address", one, dhcpv4.MessageTypeDiscover, nil, dhcpv4.MessageTypeOffer, "10.10.0.11", nil},
		{"DISCOVER of a client that cannot hear unicast is answered to everybody", one, dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, dhcpv4.MessageTypeOffer, "255.255.255.255", nil},
		{"REQUEST of the offer is granted", one, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{from("10.10.0.1"), wants("10.10.0.11")}, dhcpv4.MessageTypeAck, "10.10.0.11", nil},
		{"REQUEST of another server's offer gets no answer", one, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{from("10.10.0.250"), wants("10.10.0.11")}, none, "", errUnfit},
		{"REQUEST of another address is refused to everybody", one, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{from("10.10.0.1"), wants("10.10.0.12")}, dhcpv4.MessageTypeNak, "255.255.255.255", nil},
		{"INIT-REBOOT with the address is granted", one, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{wants("10.10.0.11")}, dhcpv4.MessageTypeAck, "10.10.0.11", nil},
		{"INIT-REBOOT from another network is refused", one, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{wants("192.168.1.5")}, dhcpv4.MessageTypeNak, "255.255.255.255", nil},
		{"RENEW and REBIND are granted", one, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{has("10.10.0.11")}, dhcpv4.MessageTypeAck, "10.10.0.11", nil},
		{"RENEW of an address the port no longer has is refused", one, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{has("10.10.0.77")}, dhcpv4.MessageTypeNak, "255.255.255.255", nil},
		{"INFORM is told the options", one, dhcpv4.MessageTypeInform, []dhcpv4.Modifier{has("10.10.0.11")}, dhcpv4.MessageTypeAck, "10.10.0.11", nil},
		{"INFORM with an address of somebody else gets no answer", one, dhcpv4.MessageTypeInform, []dhcpv4.Modifier{has("10.10.0.12")}, none, "", errUnfit},
		{"RELEASE needs no answer", one, dhcpv4.MessageTypeRelease, []dhcpv4.Modifier{from("10.10.0.1"), has("10.10.0.11")}, none, "", errUnfit},
		{"DECLINE needs no answer", one, dhcpv4.MessageTypeDecline, []dhcpv4.Modifier{from("10.10.0.1"), wants("10.10.0.11")}, none, "", errUnfit},
		{"an OFFER is nothing a client says", one, dhcpv4.MessageTypeOffer, nil, none, "", errUnfit},
		{"a station without a port gets no answer", fabric.MAC{2, 0, 0, 0, 0, 9}, dhcpv4.MessageTypeDiscover, nil, none, "", errUnknown},
		{"a port without an IPv4 address gets no answer", onlySix, dhcpv4.MessageTypeDiscover, nil, none, "", errUnknown},
		{"what came through a relay gets no answer", one, dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithRelay(net.IPv4(10, 0, 0, 1))}, none, "", errUnfit},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config()
			a, notice, err := cfg.respond4(ask4(t, c.mac, c.kind, c.with...))
			if err != c.err {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			if declined := c.kind == dhcpv4.MessageTypeDecline; declined != (notice != nil) {
				t.Errorf("the notice is %v", notice)
			}
			if err != nil {
				return
			}
			if a.message.MessageType() != c.answer || a.address.String() != c.to || a.to != c.mac {
				t.Fatalf("got %s to %s at %s, want %s to %s at %s", a.message.MessageType(), a.address, a.to, c.answer, c.to, c.mac)
			}
			if id := addr(a.message.ServerIdentifier()); id != cfg.Gateway4 {
				t.Errorf("the server calls itself %s", id)
			}
			leased := c.answer == dhcpv4.MessageTypeOffer || c.answer == dhcpv4.MessageTypeAck && c.kind == dhcpv4.MessageTypeRequest
			if got := addr(a.message.YourIPAddr); leased != (got == lease1) {
				t.Errorf("the lease is %s", got)
			}
			if got := a.message.IPAddressLeaseTime(0); leased != (got == time.Hour) {
				t.Errorf("the lease lasts %s", got)
			}
		})
	}
}

func TestALeaseSaysAllThatAGuestNeeds(t *testing.T) {
	cfg := config()
	a, _, err := cfg.respond4(ask4(t, one, dhcpv4.MessageTypeDiscover, dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte("me")))))
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv4.FromBytes(a.message.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	mtu := m.Options.Get(dhcpv4.OptionInterfaceMTU)
	routes := m.ClasslessStaticRoute()
	for what, ok := range map[string]bool{
		"mask":      net.IP(m.SubnetMask()).String() == "255.255.255.0",
		"broadcast": m.BroadcastAddress().String() == "10.10.0.255",
		"router":    len(m.Router()) == 1 && addr(m.Router()[0]) == cfg.Gateway4,
		"dns":       len(m.DNS()) == 1 && addr(m.DNS()[0]) == cfg.Gateway4,
		"domain":    m.DomainName() == "blue",
		"search":    slices.Equal(m.DomainSearch().Labels, []string{"example.org"}),
		"host name": m.HostName() == "web-1",
		"mtu":       len(mtu) == 2 && int(mtu[0])<<8|int(mtu[1]) == 1450,
		"routes":    len(routes) == 2 && routes[0].Dest.String() == "192.168.9.0/24" && routes[1].Dest.String() == "0.0.0.0/0" && addr(routes[1].Router) == cfg.Gateway4,
		"T1 and T2": m.IPAddressRenewalTime(0) == 30*time.Minute && m.IPAddressRebindingTime(0) == 7*time.Hour/8,
		"client id": string(m.Options.Get(dhcpv4.OptionClientIdentifier)) == "me",
	} {
		if !ok {
			t.Errorf("the %s is wrong in\n%s", what, m.Summary())
		}
	}
	if n := len(a.message.ToBytes()); n > 576-28 {
		t.Errorf("the answer has %d bytes, which not every client takes", n)
	}
}

// ask6 makes a message of a client.
func ask6(kind dhcpv6.MessageType, options ...dhcpv6.Option) []byte {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	for _, o := range options {
		m.AddOption(o)
	}
	return m.ToBytes()
}

func identity(addresses ...string) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{9}}
	for _, a := range addresses {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
	}
	return ia
}

func TestEveryMessageOfDHCPv6HasItsAnswer(t *testing.T) {
	cfg := config()
	id := dhcpv6.OptClientID(&dhcpv6.DUIDEN{EnterpriseNumber: 43793, EnterpriseIdentifier: []byte("networkd")})
	us := dhcpv6.OptServerID(cfg.duid())
	them := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: two[:]})
	rapid := &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}
	const silent = dhcpv6.MessageType(0)
	for _, c := range []struct {
		name    string
		from    fabric.MAC
		payload []byte
		answer  dhcpv6.MessageType
		leases  string // of the identity association: address/valid seconds
		status  iana.StatusCode
	}{
		{"SOLICIT is advertised to", one, ask6(dhcpv6.MessageTypeSolicit, id, identity()), dhcpv6.MessageTypeAdvertise, "fd00:10::11/3600 ", 0},
		{"SOLICIT that wants it at once is committed", one, ask6(dhcpv6.MessageTypeSolicit, id, identity(), rapid), dhcpv6.MessageTypeReply, "fd00:10::11/3600 ", 0},
		{"SOLICIT without an identity gets no answer", one, ask6(dhcpv6.MessageTypeSolicit, identity()), silent, "", 0},
		{"SOLICIT of a port without an IPv6 address is told so", two, ask6(dhcpv6.MessageTypeSolicit, id, identity()), dhcpv6.MessageTypeAdvertise, "", iana.StatusNoAddrsAvail},
		{"REQUEST is granted", one, ask6(dhcpv6.MessageTypeRequest, id, us, identity("fd00:10::11")), dhcpv6.MessageTypeReply, "fd00:10::11/3600 ", 0},
		{"REQUEST of another server gets no answer", one, ask6(dhcpv6.MessageTypeRequest, id, them, identity()), silent, "", 0},
		{"RENEW is granted", one, ask6(dhcpv6.MessageTypeRenew, id, us, identity("fd00:10::11")), dhcpv6.MessageTypeReply, "fd00:10::11/3600 ", 0},
		{"RENEW of another address takes it back", one, ask6(dhcpv6.MessageTypeRenew, id, us, identity("fd00:10::99")), dhcpv6.MessageTypeReply, "fd00:10::11/3600 fd00:10::99/0 ", 0},
		{"REBIND is granted", one, ask6(dhcpv6.MessageTypeRebind, id, identity("fd00:10::11")), dhcpv6.MessageTypeReply, "fd00:10::11/3600 ", 0},
		{"CONFIRM of the address is confirmed", one, ask6(dhcpv6.MessageTypeConfirm, id, identity("fd00:10::11")), dhcpv6.MessageTypeReply, "", iana.StatusSuccess},
		{"CONFIRM of another address is not", one, ask6(dhcpv6.MessageTypeConfirm, id, identity("fd00:77::1")), dhcpv6.MessageTypeReply, "", iana.StatusNotOnLink},
		{"CONFIRM of nothing gets no answer", one, ask6(dhcpv6.MessageTypeConfirm, id), silent, "", 0},
		{"RELEASE is acknowledged", one, ask6(dhcpv6.MessageTypeRelease, id, us, identity("fd00:10::11")), dhcpv6.MessageTypeReply, "", iana.StatusSuccess},
		{"DECLINE is acknowledged", one, ask6(dhcpv6.MessageTypeDecline, id, us, identity("fd00:10::11")), dhcpv6.MessageTypeReply, "", iana.StatusSuccess},
		{"INFORMATION-REQUEST is told the options", one, ask6(dhcpv6.MessageTypeInformationRequest), dhcpv6.MessageTypeReply, "", 0},
		{"a station without a port gets no answer", fabric.MAC{2, 0, 0, 0, 0, 9}, ask6(dhcpv6.MessageTypeSolicit, id, identity()), silent, "", 0},
		{"what came through a relay gets no answer", one, []byte{byte(dhcpv6.MessageTypeRelayForward), 0}, silent, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			reply, _, err := cfg.respond6(c.payload, linkLocal(c.from))
			if (err != nil) != (c.answer == silent) {
				t.Fatalf("got %v, %v", reply, err)
			}
			if err != nil {
				return
			}
			if reply.MessageType != c.answer || !reply.Options.ServerID().Equal(cfg.duid()) {
				t.Fatalf("got %s", reply.Summary())
			}
			leases, status := "", iana.StatusCode(0)
			for _, ia := range reply.Options.IANA() {
				for _, a := range ia.Options.Addresses() {
					leases += fmt.Sprintf("%s/%.0f ", a.IPv6Addr, a.ValidLifetime.Seconds())
				}
				if s := ia.Options.Status(); s != nil {
					status = s.StatusCode
				}
			}
			if s := reply.Options.Status(); s != nil {
				status = s.StatusCode
			}
			if dns := reply.Options.DNS(); len(dns) != 1 || addr(dns[0]) != cfg.Gateway6 {
				t.Errorf("DNS is %v", dns)
			}
			if want := c.leases; status != c.status || leases != want {
				t.Fatalf("got leases %q and status %s, want %q and %s", leases, status, want, c.status)
			}
		})
	}
}

func TestAPortIsFoundByItsLinkLocalAddress(t *testing.T) {
	cfg := config()
	own := netip.MustParseAddr("fe80::1234")
	c := cfg.Clients[two]
	c.LinkLocals = []netip.Addr{own}
	cfg.Clients[two] = c
	for from, want := range map[netip.Addr]fabric.MAC{linkLocal(one): one, own: two, netip.MustParseAddr("fe80::1"): {}} {
		mac, _, known := cfg.clientAt(from)
		if mac != want || known != (want != fabric.MAC{}) {
			t.Errorf("%s is %s, want %s", from, mac, want)
		}
	}
}

func FuzzRespond(f *testing.F) {
	cfg := config()
	f.Add([]byte{1, 1, 6})
	m, _ := dhcpv4.NewDiscovery(one[:])
	f.Add(m.ToBytes())
	s, _ := dhcpv6.NewSolicit(one[:])
	f.Add(s.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= largest {
			return
		}
		if a, _, err := cfg.respond4(b); err == nil {
			if client := cfg.Clients[a.to]; !a.refused && a.message.IPAddressLeaseTime(0) != 0 && addr(a.message.YourIPAddr) != client.Address4 {
				t.Errorf("%s was given %s", a.to, a.message.YourIPAddr)
			}
		}
		if reply, _, err := cfg.respond6(b, linkLocal(one)); err == nil {
			for _, ia := range reply.Options.IANA() {
				for _, a := range ia.Options.Addresses() {
					if a.ValidLifetime > 0 && addr(a.IPv6Addr) != lease16 {
						t.Errorf("was given %s", a.IPv6Addr)
					}
				}
			}
			if n := len(reply.ToBytes()); n > 4096 {
				t.Errorf("%d bytes are answered to %d", n, len(b))
			}
		}
	})
}
