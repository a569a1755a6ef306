package nic

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Device is a network device as the kernel describes it.
type Device struct {
	Name  string
	Index int
	// Kind is the kernel's word for it: "veth", "tun", "vxlan", "bridge"; empty for hardware.
	Kind string
	// MTU is the largest L3 packet, in bytes.
	MTU int
	MAC fabric.MAC
	Up  bool
	// Promiscuous is true when the device takes frames for any station.
	Promiscuous bool
	// PeerElsewhere is true for a veth whose other end is in another network namespace.
	PeerElsewhere bool
}

// Find describes the device; the error wraps ErrNoDevice when there is none of that name here.
func Find(device string) (Device, error) {
	link, err := find(device)
	if err != nil {
		return Device{}, fail("look at", device, err)
	}
	return describe(link), nil
}

// Devices describes all devices of this namespace, by index.
func Devices() (map[int]Device, error) {
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	devices := make(map[int]Device, len(links))
	for _, l := range links {
		devices[l.Index] = l.Device
	}
	return devices, nil
}

func describe(link netlink.Link) Device {
	a := link.Attrs()
	d := Device{Name: a.Name, Index: a.Index, Kind: link.Type(), MTU: a.MTU, Up: a.RawFlags&unix.IFF_UP != 0, Promiscuous: a.RawFlags&unix.IFF_PROMISC != 0}
	if d.Kind == "device" {
		d.Kind = ""
	}
	copy(d.MAC[:], a.HardwareAddr)
	// The kernel names the peer's namespace only when it is not this one (IFLA_LINK_NETNSID).
	d.PeerElsewhere = d.Kind == "veth" && a.NetNsID >= 0
	return d
}

// Refused is how many packets the device had no room for since it was made (tx_dropped): of a tap, those that its guest did not
// take in time. It is asked of the kernel and not of sysfs, which shows the devices of the namespace it was mounted in.
func Refused(device string) (uint64, error) {
	link, err := find(device)
	if err != nil {
		return 0, err
	}
	if s := link.Attrs().Statistics; s != nil {
		return s.TxDropped, nil
	}
	return 0, nil
}

// SetDownIfThere lowers the device; one that is not there is down already.
func SetDownIfThere(device string) error {
	err := SetDown(device)
	if IsGone(err) {
		return nil
	}
	return err
}

// Route is the way to an address.
type Route struct {
	// Index is the device packets leave by, and NextHop whom they are given to there: a gateway, or the address itself.
	Index   int
	NextHop netip.Addr
}

// ErrNoRoute: the namespace has no route to the address.
var ErrNoRoute = errors.New("no route")

// RouteTo asks the kernel for the way to an address; the error wraps ErrNoRoute when there is none.
func RouteTo(to netip.Addr) (Route, error) {
	routes, err := netlink.RouteGet(to.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), err == nil && len(routes) == 0:
		return Route{}, fmt.Errorf("find the way to %s: %w (check `ip route`)", to, ErrNoRoute)
	case err != nil:
		return Route{}, fmt.Errorf("find the way to %s: %w%s", to, err, remedy(err))
	}
	r := Route{Index: routes[0].LinkIndex, NextHop: to}
	if gateway, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		r.NextHop = gateway.Unmap()
		if to.Is6() {
			r.NextHop = gateway
		}
	}
	return r, nil
}
