package nic

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// The devices behind GiveHeadroom: a bridge that is never raised, and on it a VXLAN device that is never raised.
const (
	headroomBridge = "weftroom0"
	headroomTunnel = "weftroom1"
)

// GiveHeadroom has whoever sends through the veth's other end leave room before each packet for a tunnel header, so that
// the header is put on without copying the packet (about 160 ns each, docs/benchmarks.md). The kernel makes that room only
// for ports of a bridge that has a tunnel beside them (br_update_headroom), hence a bridge that is never raised and forwards
// nothing. A device that is on a bridge of its owner's is left there. Taps have the room anyway (NET_SKB_PAD).
func GiveHeadroom(device string) error {
	link, err := find(device)
	if err != nil {
		return fail("give headroom to", device, err)
	}
	if link.Attrs().MasterIndex != 0 {
		return nil
	}
	bridge, err := headroom()
	if err != nil {
		return fmt.Errorf("give headroom to %s: %w", device, err)
	}
	return fail("give headroom to", device, netlink.LinkSetMaster(link, bridge))
}

// headroom makes the bridge with the tunnel, once.
func headroom() (netlink.Link, error) {
	bridge, err := find(headroomBridge)
	if err == nil || !errors.Is(err, ErrNoDevice) {
		return bridge, err
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs(headroomBridge)}); err != nil {
		return nil, err
	}
	if bridge, err = find(headroomBridge); err != nil {
		return nil, err
	}
	tunnel := &netlink.Vxlan{LinkAttrs: attrs(headroomTunnel), VxlanId: 1, Port: VXLANPort + 1, Group: net.IPv6loopback}
	if err := netlink.LinkAdd(tunnel); err != nil {
		return nil, errors.Join(err, Delete(headroomBridge))
	}
	return bridge, netlink.LinkSetMaster(tunnel, bridge)
}

// TakeHeadroom removes what GiveHeadroom made; the devices lose the room and stay.
func TakeHeadroom() error {
	return errors.Join(Delete(headroomTunnel), Delete(headroomBridge))
}
