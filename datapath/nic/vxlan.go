package nic

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
)

// VXLANPort is the UDP port of VXLAN (RFC 7348).
const VXLANPort = 4789

// Source ports of encapsulated frames: the dynamic range (RFC 7348 section 5).
const (
	vxlanSourceLow  = 49152
	vxlanSourceHigh = 65535
)

// vxlanMTU lets every aggregate pass: the limit is the underlay's, checked by the forwarding core.
const vxlanMTU = 65000

// EnsureVXLAN makes the kernel's VXLAN device: external (each frame brings its tunnel key), without learning, accepting
// UDP without checksum over IPv6 too (RFC 6935). It is left down when it is made, so that programs can be attached first;
// SetUp raises it. A device of that name with other settings is an error: it is not ours.
func EnsureVXLAN(device string) (Device, error) {
	link, err := find(device)
	if err == nil {
		return keepVXLAN(link)
	}
	if !errors.Is(err, ErrNoDevice) {
		return Device{}, fail("look at", device, err)
	}
	attributes := attrs(device)
	attributes.MTU = vxlanMTU
	err = netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attributes, FlowBased: true, Learning: false, Port: VXLANPort,
		PortLow: vxlanSourceLow, PortHigh: vxlanSourceHigh, UDP6ZeroCSumRx: true, UDP6ZeroCSumTx: true,
	})
	if errors.Is(err, fs.ErrExist) {
		return Device{}, fmt.Errorf("create %s: another VXLAN device uses UDP port %d in this namespace: %w (find it with `ip -d link show type vxlan`)",
			device, VXLANPort, err)
	}
	if err == nil {
		err = DisableIPv6(device)
	}
	if err != nil {
		return Device{}, errors.Join(fail("create", device, err), Delete(device))
	}
	return Find(device)
}

func keepVXLAN(link netlink.Link) (Device, error) {
	v, ok := link.(*netlink.Vxlan)
	if !ok || !v.FlowBased || v.Port != VXLANPort {
		return Device{}, fmt.Errorf("use %s: it exists and is not an external VXLAN device on port %d; rename or delete it",
			link.Attrs().Name, VXLANPort)
	}
	return describe(link), nil
}
