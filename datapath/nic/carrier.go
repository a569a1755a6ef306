package nic

import (
	"fmt"
	"unsafe"
)

// HasLink reports whether a device is up and has a link now (ETHTOOL_GLINK, linux/ethtool.h). The kernel tells of a link that is lost
// by netlink up to a second later, where it was told of another change just before (net/core/link_watch.c).
func HasLink(device string) (bool, error) {
	value := struct{ cmd, data uint32 }{cmd: 0xa}
	if err := ethtool(device, unsafe.Pointer(&value)); err != nil {
		return false, fmt.Errorf("ask for the link of %s: %w", device, err)
	}
	return value.data != 0, nil
}
