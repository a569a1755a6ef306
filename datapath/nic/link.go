package nic

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Links lists the names of all devices in this namespace, in order of name.
func Links() ([]string, error) {
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(links))
	for _, l := range links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names, nil
}

// SetUp raises the device.
func SetUp(device string) error {
	return change("raise", device, netlink.LinkSetUp)
}

// SetDown lowers the device.
func SetDown(device string) error {
	return change("lower", device, netlink.LinkSetDown)
}

// IsUp reports whether the device is raised by its administrator; the carrier does not matter.
func IsUp(device string) (bool, error) {
	link, err := find(device)
	if err != nil {
		return false, fail("look at", device, err)
	}
	return link.Attrs().Flags&net.FlagUp != 0, nil
}

// SetMTU sets the largest L3 packet, in bytes.
func SetMTU(device string, mtu int) error {
	return change(fmt.Sprintf("set MTU %d on", mtu), device, func(l netlink.Link) error {
		if l.Attrs().MTU == mtu {
			return nil
		}
		return netlink.LinkSetMTU(l, mtu)
	})
}

// SetMAC sets the device's own address.
func SetMAC(device string, mac fabric.MAC) error {
	return change(fmt.Sprintf("set MAC %s on", mac), device, func(l netlink.Link) error {
		if slices.Equal(l.Attrs().HardwareAddr, mac[:]) {
			return nil
		}
		return netlink.LinkSetHardwareAddr(l, mac[:])
	})
}

// SetQueueLength sets how many packets wait in the device, 1 and more. On a tap it is the queue towards the guest: what
// arrives while it is full is dropped.
func SetQueueLength(device string, packets int) error {
	return change(fmt.Sprintf("set queue length %d on", packets), device, func(l netlink.Link) error {
		if l.Attrs().TxQLen == packets {
			return nil
		}
		return netlink.LinkSetTxQLen(l, packets)
	})
}

// SetMaster puts the device on the bridge; an empty bridge takes it off whatever it is on.
func SetMaster(device, bridge string) error {
	if bridge == "" {
		return change("take off its bridge", device, netlink.LinkSetNoMaster)
	}
	return change("put on bridge "+bridge, device, func(l netlink.Link) error {
		master, err := find(bridge)
		if err != nil {
			return fmt.Errorf("bridge %s: %w", bridge, err)
		}
		if l.Attrs().MasterIndex == master.Attrs().Index {
			return nil
		}
		return netlink.LinkSetMaster(l, master)
	})
}

// Delete removes the device; one that is not there is gone already.
func Delete(device string) error {
	link, err := find(device)
	if errors.Is(err, ErrNoDevice) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if errors.Is(err, unix.ENODEV) { // somebody was faster
		return nil
	}
	return fail("delete", device, err)
}

// change does one thing to a device that must exist.
func change(verb, device string, do func(netlink.Link) error) error {
	link, err := find(device)
	if err == nil {
		err = do(link)
	}
	return fail(verb, device, err)
}
