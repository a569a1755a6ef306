package nic

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddress gives the device an address with its prefix length: 10.240.0.1/24. IPv6 addresses are usable at once:
// duplicate address detection (RFC 4862) is left out, since these addresses are given out by one authority.
func AddAddress(device string, address netip.Prefix) error {
	return change(fmt.Sprintf("add address %s to", address), device, func(l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(address)}
		if address.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		err := netlink.AddrAdd(l, a)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	})
}

// RemoveAddress takes the address away.
func RemoveAddress(device string, address netip.Prefix) error {
	return change(fmt.Sprintf("remove address %s from", address), device, func(l netlink.Link) error {
		err := netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(address)})
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil
		}
		return err
	})
}

// Addresses lists the device's addresses with their prefix lengths, link-local ones included.
func Addresses(device string) ([]netip.Prefix, error) {
	link, err := find(device)
	if err != nil {
		return nil, fail("list addresses of", device, err)
	}
	list, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fail("list addresses of", device, err)
	}
	var found []netip.Prefix
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		ones, _ := a.Mask.Size()
		found = append(found, netip.PrefixFrom(addr.Unmap(), ones))
	}
	return found, nil
}

// AddRoute sends traffic for the destination through the gateway, or straight out of the device when the gateway is zero.
func AddRoute(device string, destination netip.Prefix, gateway netip.Addr) error {
	return change(fmt.Sprintf("add route to %s through", destination), device, func(l netlink.Link) error {
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(destination.Masked())}
		if gateway.IsValid() {
			route.Gw = gateway.AsSlice()
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		return netlink.RouteReplace(route)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Networks are the prefixes that this namespace has an address or a route for in its main table, in order; those behind the devices
// left out, what every host has (the default route, loopback, link-local) and what a routing daemon has learned are not among them.
func Networks(without []string) ([]netip.Prefix, error) {
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	hidden := map[int]bool{}
	for _, l := range links {
		hidden[l.Index] = slices.Contains(without, l.Name)
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w%s", err, remedy(err))
	}
	found := []netip.Prefix{}
	for _, r := range routes {
		if r.Dst == nil || hidden[r.LinkIndex] || r.Type != unix.RTN_UNICAST || !isHostsOwn(r.Protocol) {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		p := netip.PrefixFrom(addr.Unmap(), ones)
		if !ok || ones == 0 || addr.IsLoopback() || addr.IsMulticast() || addr.Is6() && addr.IsLinkLocalUnicast() || slices.Contains(found, p) {
			continue
		}
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	return found, nil
}

// isHostsOwn reports whether a route comes from the kernel, an administrator, DHCP or a router advertisement, not from a routing daemon:
// those come and go by the thousand.
func isHostsOwn(p netlink.RouteProtocol) bool {
	switch int(p) {
	case unix.RTPROT_KERNEL, unix.RTPROT_BOOT, unix.RTPROT_STATIC, unix.RTPROT_DHCP, unix.RTPROT_RA:
		return true
	}
	return false
}
