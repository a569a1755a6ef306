package nic

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/fabric"
)

// Tunnel is a VXLAN device of the kernel's own with one remote end point (RFC 7348): what hosts without weft put on a
// bridge, and what the benchmarks compare with.
type Tunnel struct {
	Name          string
	VNI           fabric.VNI
	Local, Remote netip.Addr
	// MTU in bytes; 0 leaves the kernel's choice, the underlay's less the encapsulation.
	MTU int
}

// CreateTunnel makes the device on the standard port, down and without learning: it has one remote, so there is nothing
// to learn. An existing VXLAN device of that name is left as it is.
func CreateTunnel(t Tunnel) error {
	if err := checkName(t.Name); err != nil {
		return fail("create tunnel", t.Name, err)
	}
	if link, err := find(t.Name); err == nil && link.Type() != "vxlan" {
		return fmt.Errorf("create tunnel %s: a %s device has this name; rename or delete it", t.Name, link.Type())
	} else if err == nil || !errors.Is(err, ErrNoDevice) {
		return fail("create tunnel", t.Name, err)
	}
	device := &netlink.Vxlan{
		LinkAttrs: attrs(t.Name),
		VxlanId:   int(t.VNI),
		SrcAddr:   t.Local.AsSlice(),
		Group:     t.Remote.AsSlice(),
		Port:      4789,
	}
	if err := netlink.LinkAdd(device); err != nil || t.MTU == 0 {
		return fail("create tunnel", t.Name, err)
	}
	return SetMTU(t.Name, t.MTU)
}
