package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// The wire is a network beside the fabric: a Linux bridge in a namespace of its own, which is also a machine there. Each host has
// eth1 on it.
const (
	wireSpace  = "wire"
	wireBridge = "wire0"
	// WireNIC is each host's device on the wire.
	WireNIC = "eth1"
)

// Subnets of the wire; the machine on it has the address that ends in 200 (IPv6: c8), host N the Nth after it. Ports get theirs from the
// other end.
var (
	wire4 = netip.MustParsePrefix("192.168.241.0/24")
	wire6 = netip.MustParsePrefix("fd00:241::/64")
)

const wireMachine = 200

// WireAddresses are those of host N on the wire, or of the machine there when N is 0, with their prefix lengths.
func WireAddresses(n int) [2]netip.Prefix {
	four, six := wire4.Addr().As4(), wire6.Addr().As16()
	four[3], six[15] = byte(wireMachine+n), byte(wireMachine+n)
	return [2]netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(four), wire4.Bits()), netip.PrefixFrom(netip.AddrFrom16(six), wire6.Bits())}
}

// makeWire makes the wire and plugs every host into it.
func (l *Lab) makeWire() error {
	ns, err := l.namespace(wireSpace)
	if err != nil {
		return err
	}
	if err := ns.Do(func() error { return nic.CreateBridge(wireBridge, l.Underlay.MTU) }); err != nil {
		return err
	}
	if err := ns.Do(func() error { return addAddresses(wireBridge, 0) }); err != nil {
		return err
	}
	for i, host := range HostNames(l.Hosts) {
		if err := l.plugIntoWire(ns, host, i+1); err != nil {
			return fmt.Errorf("plug host %s into the wire: %w", host, err)
		}
	}
	return nil
}

func (l *Lab) plugIntoWire(wire nic.Namespace, host fabric.HostID, number int) error {
	there := l.HostNamespace(host)
	err := wire.Do(func() error {
		err := nic.CreateVeth(nic.Veth{Name: string(host), Peer: WireNIC, PeerNamespace: there, MTU: l.Underlay.MTU})
		if err != nil {
			return err
		}
		return errors.Join(nic.DisableIPv6(string(host)), nic.SetMaster(string(host), wireBridge), nic.SetUp(string(host)))
	})
	if err != nil {
		return err
	}
	return there.Do(func() error { return errors.Join(nic.SetUp(WireNIC), addAddresses(WireNIC, number)) })
}

func addAddresses(device string, number int) error {
	var errs []error
	for _, a := range WireAddresses(number) {
		errs = append(errs, nic.AddAddress(device, a))
	}
	return errors.Join(errs...)
}

// WireNamespace is where the machine on the wire is, and the bridge that is the wire.
func (l *Lab) WireNamespace() nic.Namespace { return nic.Namespace{Name: l.namespaceName(wireSpace)} }

// place is the namespace that a name means where it is no guest's: a host's, or that of the machine on the wire.
func (l *Lab) place(name string) (nic.Namespace, bool) {
	if name == wireSpace {
		return l.WireNamespace(), true
	}
	for _, host := range HostNames(l.Hosts) {
		if string(host) == name {
			return l.HostNamespace(host), true
		}
	}
	return nic.Namespace{}, false
}
