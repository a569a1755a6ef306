package nic

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weftnet/weft/fabric"
)

// Veth is a pair of devices joined back to back.
type Veth struct {
	// Name is the end in this namespace, Peer the other one.
	Name, Peer string
	// PeerNamespace is where the peer is put; the zero value leaves it in this namespace.
	PeerNamespace Namespace
	// MTU of both ends, in bytes; 0 leaves the kernel's 1500.
	MTU int
	// MAC and PeerMAC are drawn at random when zero.
	MAC, PeerMAC fabric.MAC
}

// CreateVeth makes the pair, both ends down. An existing pair of the same names is left as it is.
func CreateVeth(v Veth) error {
	if err := errors.Join(checkName(v.Name), checkName(v.Peer)); err != nil {
		return fail("create veth", v.Name, err)
	}
	if done, err := v.exists(); done || err != nil {
		return err
	}
	link := netlink.NewVeth(attrs(v.Name))
	link.PeerName = v.Peer
	link.MTU, link.PeerMTU = v.MTU, uint32(v.MTU)
	if !v.MAC.IsZero() {
		link.HardwareAddr = v.MAC[:]
	}
	if !v.PeerMAC.IsZero() {
		link.PeerHardwareAddr = v.PeerMAC[:]
	}
	if !v.PeerNamespace.isOwn() {
		handle, err := netns.GetFromPath(v.PeerNamespace.path())
		if err != nil {
			return fmt.Errorf("create veth %s: namespace %s of its peer: %w (see `ip netns`)", v.Name, v.PeerNamespace.Name, err)
		}
		defer handle.Close()
		link.PeerNamespace = netlink.NsFd(handle)
	}
	return fail("create veth", v.Name, netlink.LinkAdd(link))
}

// exists reports whether the pair is there already; half a pair, or another kind of device, is an error.
func (v Veth) exists() (bool, error) {
	link, err := find(v.Name)
	if errors.Is(err, ErrNoDevice) {
		return false, nil
	}
	if err != nil {
		return false, fail("create veth", v.Name, err)
	}
	if link.Type() != "veth" {
		return false, fmt.Errorf("create veth %s: a %s device has this name; rename or delete it", v.Name, link.Type())
	}
	err = v.PeerNamespace.Do(func() error { _, err := find(v.Peer); return err })
	if err != nil {
		return false, fmt.Errorf("create veth %s: it exists, but its peer is not %s: %w; delete it first", v.Name, v.Peer, err)
	}
	return true, nil
}
