package nic

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// sinkAlias marks the devices on which the copies of mirrors are seen.
const sinkAlias = "weft mirror "

// SinkName is the device on which the copies of a mirror are seen: wm-NAME, shortened like FacadeName.
func SinkName(mirror string) string { return shorten("wm-", mirror) }

// EnsureMirrorDevice makes the device by which copies leave, and lowers it: what meets no program there goes nowhere.
func EnsureMirrorDevice(name string) (Device, error) {
	if err := createBridge(name); err != nil {
		return Device{}, err
	}
	if err := errors.Join(DisableIPv6(name), SetDown(name)); err != nil {
		return Device{}, err
	}
	return Find(name)
}

// EnsureSink makes a device on which the copies of a mirror are seen, and leaves it down if it is new. It is a bridge without
// ports: nothing else is ever on it. A device of that name that is somebody else's is refused.
func EnsureSink(name string) (Device, error) {
	if err := createBridge(name); err != nil {
		return Device{}, err
	}
	err := change("mark", name, func(l netlink.Link) error {
		switch alias := l.Attrs().Alias; {
		case alias == "":
			return netlink.LinkSetAlias(l, sinkAlias+name)
		case !strings.HasPrefix(alias, sinkAlias):
			return fmt.Errorf("it is somebody else's (%q); rename it or the mirror", alias)
		}
		return nil
	})
	if err := errors.Join(err, DisableIPv6(name)); err != nil {
		return Device{}, err
	}
	return Find(name)
}

// DeleteSinks removes all devices of this namespace that EnsureSink has made.
func DeleteSinks() error {
	links, err := listLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		if strings.HasPrefix(l.Alias, sinkAlias) {
			err = errors.Join(err, Delete(l.Name))
		}
	}
	return err
}
