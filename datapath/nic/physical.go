package nic

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// uplinkKinds are the kinds of devices that can be on a wire beside hardware: one that is made of several, or of a part of one, and
// a veth whose other end is in another namespace, as the NIC of a machine that is itself virtual.
var uplinkKinds = []string{"", "bond", "team", "veth", "vlan", "macvlan"}

// Survey returns the index of every device of this namespace by its name, and describes those that could be an uplink, in the order of
// their names; those that are skipped are not looked at.
func Survey(skip func(device string) bool) (devices map[string]int, nics []fabric.NICStatus, err error) {
	links, err := listLinks()
	if err != nil {
		return nil, nil, err
	}
	devices, names := make(map[string]int, len(links)), make(map[int]string, len(links))
	for _, l := range links {
		devices[l.Name], names[l.Index] = l.Index, l.Name
	}
	addresses, err := addressesByDevice()
	if err != nil {
		return nil, nil, err
	}
	nics = []fabric.NICStatus{}
	for _, l := range links {
		d := l.Device
		if !slices.Contains(uplinkKinds, d.Kind) || d.Kind == "veth" && !d.PeerElsewhere || l.Flags&unix.IFF_LOOPBACK != 0 || d.MAC.IsZero() || skip(d.Name) {
			continue
		}
		n := fabric.NICStatus{Name: d.Name, MAC: d.MAC, MTU: d.MTU, Up: d.Up, Carrier: l.Flags&unix.IFF_LOWER_UP != 0, Bridge: names[l.Master]}
		n.Speed, n.Wireless, n.Addresses = speed(d.Name), d.Kind == "" && isWireless(d.Name), addresses[l.Index]
		nics = append(nics, n)
	}
	slices.SortFunc(nics, func(a, b fabric.NICStatus) int { return strings.Compare(a.Name, b.Name) })
	return devices, nics, nil
}

// addressesByDevice are the host's addresses that others can send to, in order, by the number of their device: the kernel lists those
// of all devices whichever is asked for.
func addressesByDevice() (map[int][]string, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	found := map[int][]string{}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ok && !ip.IsLinkLocalUnicast() {
			bits, _ := a.Mask.Size()
			found[a.LinkIndex] = append(found[a.LinkIndex], netip.PrefixFrom(ip.Unmap(), bits).String())
		}
	}
	for _, addresses := range found {
		slices.Sort(addresses)
	}
	return found, nil
}

// speed is what the driver says of the link, in Mbit/s; 0 when it says nothing (ETHTOOL_GSET, linux/ethtool.h).
func speed(device string) int {
	const ethtoolGSet, unknown = 0x1, 0xffffffff
	var s struct {
		cmd, supported, advertising    uint32
		speed                          uint16
		duplex, port, phy, transceiver uint8
		autoneg, mdio                  uint8
		maxTxPackets, maxRxPackets     uint32
		speedHigh                      uint16
		ethTPMDI, ethTPMDIControl      uint8
		lpAdvertising                  uint32
		reserved                       [2]uint32
	}
	s.cmd = ethtoolGSet
	if ethtool(device, unsafe.Pointer(&s)) != nil {
		return 0
	}
	if all := uint32(s.speedHigh)<<16 | uint32(s.speed); all != unknown && all != 0xffff {
		return int(all)
	}
	return 0
}

// isWireless asks for the device's wireless extensions (SIOCGIWNAME, linux/wireless.h), and looks for its radio.
func isWireless(device string) bool {
	if _, err := os.Stat("/sys/class/net/" + device + "/phy80211"); err == nil {
		return true
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	const siocGIWName = 0x8b01
	var request struct {
		name, answer [unix.IFNAMSIZ]byte
		_            [8]byte
	}
	copy(request.name[:], device)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocGIWName, uintptr(unsafe.Pointer(&request)))
	return errno == 0 && !bytes.Equal(request.answer[:], make([]byte, unix.IFNAMSIZ))
}
