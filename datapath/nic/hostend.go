package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// hostAlias marks the devices that are hosts' own on internal switches, and names their switch in full.
const hostAlias = "weft host "

// HostEnd is a host's own device on an internal switch (ADR 14): one end of a veth pair, of which the core has the other.
type HostEnd struct {
	// Device is the host's end, Port the core's.
	Device, Port string
	Switch       fabric.SwitchID
	MAC          fabric.MAC
	// MTU of both ends, in bytes.
	MTU int
	// Addresses are the host's own, with the lengths of their subnets. What the host sends has one of them as its source.
	Addresses []netip.Prefix
	// Gateways are those that every host has. The host answers at them, and sends from them nothing else.
	Gateways []netip.Addr
	// Neighbors are the stations of the switch. The host asks nobody for them: asked from a gateway's address, a guest would take the
	// MAC of this host for the gateway's (RFC 4861 7.2.3), and no guest can tell it another.
	Neighbors map[netip.Addr]fabric.MAC
}

// SetHostEnd makes the pair, or puts right what differs of the host's end, and reports whether it changed anything. The core's end
// is left to whoever puts the core on it. A device of the name that is something else is refused.
func SetHostEnd(e HostEnd) (changed bool, err error) {
	made, err := e.make()
	if err != nil {
		return false, fmt.Errorf("make the host's device on switch %s: %w", e.Switch, err)
	}
	for _, part := range []func() (bool, error){e.setLink, e.setStack, e.setAddresses, e.raise, e.setNeighbors} {
		did, err := part()
		if err != nil {
			return made || changed, fmt.Errorf("set up the host's device on switch %s: %w", e.Switch, err)
		}
		changed = changed || did
	}
	return made || changed, nil
}

// HostEnds lists the hosts' own devices of this namespace by switch.
func HostEnds() (map[fabric.SwitchID]string, error) {
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	found := map[fabric.SwitchID]string{}
	for _, l := range links {
		if sw, ours := strings.CutPrefix(l.Alias, hostAlias); ours && l.Kind == "veth" {
			found[fabric.SwitchID(sw)] = l.Name
		}
	}
	return found, nil
}

// make makes the pair where it is missing. One without a mark is ours if its other end is: it was made a moment before the mark.
func (e HostEnd) make() (made bool, err error) {
	link, err := find(e.Device)
	if errors.Is(err, ErrNoDevice) {
		made = true
		if _, err := find(e.Port); err == nil {
			return false, fmt.Errorf("another device is called %s; rename or delete it", e.Port)
		}
		err = CreateVeth(Veth{Name: e.Device, Peer: e.Port, MTU: e.MTU, MAC: e.MAC})
		if err == nil {
			link, err = find(e.Device)
		}
	}
	if err != nil {
		return false, err
	}
	if link.Type() != "veth" {
		return false, fmt.Errorf("a %s device is called %s; rename or delete it", cmpKind(link.Type()), e.Device)
	}
	peer, err := find(e.Port)
	if err != nil || link.Attrs().ParentIndex != peer.Attrs().Index {
		return false, fmt.Errorf("a veth device is called %s, whose other end is not %s; rename or delete it", e.Device, e.Port)
	}
	switch alias := link.Attrs().Alias; alias {
	case hostAlias + string(e.Switch):
		return made, nil
	case "":
		return true, fail("mark", e.Device, netlink.LinkSetAlias(link, hostAlias+string(e.Switch)))
	default:
		return false, fmt.Errorf("%s is somebody else's (%q); rename or delete it", e.Device, alias)
	}
}

// cmpKind is the kernel's word for a device, and ours where it has none.
func cmpKind(kind string) string {
	if kind == "" || kind == "device" {
		return "hardware"
	}
	return kind
}

// setLink sets MAC and MTU.
func (e HostEnd) setLink() (changed bool, err error) {
	for _, device := range []string{e.Device, e.Port} {
		link, err := find(device)
		if err != nil {
			return changed, fail("look at", device, err)
		}
		if link.Attrs().MTU != e.MTU {
			changed = true
			if err := SetMTU(device, e.MTU); err != nil {
				return changed, err
			}
		}
		if device == e.Device && !slices.Equal(link.Attrs().HardwareAddr, e.MAC[:]) {
			changed = true
			if err := SetMAC(device, e.MAC); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

// setStack has the host's stack speak on the device of its own address alone: what it told of the gateway's would send the guests
// of other hosts to this one. Nobody on the switch configures the host.
func (e HostEnd) setStack() (bool, error) {
	v4, v6 := "net/ipv4/conf/"+e.Device+"/", "net/ipv6/conf/"+e.Device+"/"
	for _, s := range []struct{ name, value string }{
		{v4 + "arp_announce", "2"}, {v4 + "arp_ignore", "1"}, {v4 + "arp_notify", "0"},
		{v6 + "accept_ra", "0"}, {v6 + "accept_dad", "0"}, {v6 + "dad_transmits", "0"}, {v6 + "addr_gen_mode", "0"}, {v6 + "ndisc_notify", "0"},
	} {
		if err := SetSysctl(s.name, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// setAddresses gives the device its addresses and takes away what it had before.
func (e HostEnd) setAddresses() (changed bool, err error) {
	want := map[netip.Prefix]bool{}
	for _, p := range e.Addresses {
		want[p] = true
	}
	for _, a := range e.Gateways {
		want[netip.PrefixFrom(a, a.BitLen())] = true
	}
	have, err := Addresses(e.Device)
	if err != nil {
		return false, err
	}
	for _, p := range have {
		if want[p] || p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() && !p.IsSingleIP() { // the kernel's own
			continue
		}
		changed = true
		if err := RemoveAddress(e.Device, p); err != nil {
			return changed, err
		}
	}
	for _, p := range e.Addresses {
		if slices.Contains(have, p) {
			continue
		}
		changed = true
		if err := AddAddress(e.Device, p); err != nil {
			return changed, err
		}
	}
	for _, a := range e.Gateways {
		if slices.Contains(have, netip.PrefixFrom(a, a.BitLen())) {
			continue
		}
		changed = true
		if err := e.addGateway(a); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// addGateway adds an address that the host answers at but does not choose as a source: in IPv6 one that is deprecated (RFC 6724
// rule 3), in IPv4 one without a subnet.
func (e HostEnd) addGateway(a netip.Addr) error {
	return change(fmt.Sprintf("add gateway %s to", a), e.Device, func(l netlink.Link) error {
		address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
		if a.Is6() {
			address.Flags, address.ValidLft, address.PreferedLft = unix.IFA_F_NODAD, math.MaxUint32, 0
		}
		if err := netlink.AddrAdd(l, address); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	})
}

func (e HostEnd) raise() (changed bool, err error) {
	up, err := IsUp(e.Device)
	if err != nil || up {
		return false, err
	}
	return true, SetUp(e.Device)
}

// setNeighbors makes the device's permanent neighbours those that are wanted. That stations come and go is no repair, so that it
// never reports a change.
func (e HostEnd) setNeighbors() (bool, error) {
	link, err := find(e.Device)
	if err != nil {
		return false, fail("look at", e.Device, err)
	}
	list, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL) })
	if err != nil {
		return false, fail("list neighbours of", e.Device, err)
	}
	have := map[netip.Addr]fabric.MAC{}
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok || n.State&netlink.NUD_PERMANENT == 0 || len(n.HardwareAddr) != len(fabric.MAC{}) {
			continue
		}
		have[addr.Unmap()] = fabric.MAC(n.HardwareAddr)
		if _, wanted := e.Neighbors[addr.Unmap()]; !wanted {
			if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				return false, fail(fmt.Sprintf("remove neighbour %s of", addr), e.Device, err)
			}
		}
	}
	for addr, mac := range e.Neighbors {
		if have[addr] == mac {
			continue
		}
		n := &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac[:]}
		if err := netlink.NeighSet(n); err != nil {
			return false, fail(fmt.Sprintf("set neighbour %s of", addr), e.Device, err)
		}
	}
	return false, nil
}
