package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// underlayBridge is the switch between the hosts, in a namespace of its own.
const underlayBridge = "ul0"

// Subnets of the underlay; host N has the address ending in N.
var (
	underlay4 = netip.MustParsePrefix("10.240.0.0/24")
	underlay6 = netip.MustParsePrefix("fd00:240::/64")
)

// address4 and address6 are host N's underlay addresses with their prefix lengths; N counts from 1.
func address4(n int) netip.Prefix {
	a := underlay4.Addr().As4()
	a[3] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4(a), underlay4.Bits())
}

func address6(n int) netip.Prefix {
	a := underlay6.Addr().As16()
	a[15] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom16(a), underlay6.Bits())
}

// VTEP is the underlay address tunnels of the host end at.
func (l *Lab) VTEP(h fabric.HostID) netip.Addr {
	n := hostNumber(h)
	if l.Underlay.IPv6 {
		return address6(n).Addr()
	}
	return address4(n).Addr()
}

// hostNumber is N of hN.
func hostNumber(h fabric.HostID) int {
	var n int
	_, _ = fmt.Sscanf(string(h), "h%d", &n)
	return n
}

// makeUnderlay makes the hosts' namespaces, each with eth0, and the bridge that joins them.
func (l *Lab) makeUnderlay() error {
	ul, err := l.namespace("ul")
	if err != nil {
		return err
	}
	if err := ul.Do(func() error { return nic.CreateBridge(underlayBridge, l.Underlay.MTU) }); err != nil {
		return err
	}
	for i, host := range HostNames(l.Hosts) {
		ns, err := l.namespace(string(host))
		if err != nil {
			return err
		}
		if err := l.plugIn(ul, ns, string(host), i+1); err != nil {
			return fmt.Errorf("join host %s: %w", host, err)
		}
	}
	return l.impairUnderlay()
}

// plugIn joins one host's namespace to the bridge.
func (l *Lab) plugIn(ul, ns nic.Namespace, port string, number int) error {
	join := l.plugInVeth
	if l.Underlay.Delay > 0 {
		join = l.plugInDelayed
	}
	if err := join(ul, ns, port); err != nil {
		return err
	}
	err := ul.Do(func() error {
		return errors.Join(nic.DisableIPv6(port), nic.SetMaster(port, underlayBridge), nic.SetUp(port))
	})
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		return errors.Join(nic.SetUp("eth0"), nic.AddAddress("eth0", address4(number)), nic.AddAddress("eth0", address6(number)))
	})
}

// plugInVeth joins one host's namespace to the bridge by a veth, which takes no time.
func (l *Lab) plugInVeth(ul, ns nic.Namespace, port string) error {
	err := ul.Do(func() error {
		pair := nic.Veth{Name: port, Peer: "eth0", PeerNamespace: ns, MTU: l.Underlay.MTU}
		if err := nic.CreateVeth(pair); err != nil {
			return err
		}
		return l.shape(port)
	})
	if err != nil {
		return err
	}
	return ns.Do(func() error { return l.shape("eth0") })
}

// shape takes a device its segmentation offloads when the underlay is to look like a wire.
func (l *Lab) shape(device string) error {
	if !l.Underlay.Segment {
		return nil
	}
	if err := nic.ForceSegmentation(device); err != nil {
		return err
	}
	return nic.SetFeatures(device, map[nic.Feature]bool{nic.GRO: true, nic.GROList: false})
}
