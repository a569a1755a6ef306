package nic

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LRO is what some NICs do to TCP packets before anybody sees them; it cannot be undone for whom they are passed on to.
const LRO Feature = "rx-lro"

// SetPromiscuous makes the device take frames for any station, or for its own only. Captures that ask for the same (tcpdump)
// neither change this nor are changed by it.
func SetPromiscuous(device string, on bool) error {
	verb := "end promiscuous mode of"
	if on {
		verb = "begin promiscuous mode of"
	}
	return change(verb, device, func(l netlink.Link) error {
		if on {
			return netlink.SetPromiscOn(l)
		}
		return netlink.SetPromiscOff(l)
	})
}

// DisableLRO switches LRO off where the device has it, as a bridge does to its members.
func DisableLRO(device string) error {
	have, err := Features(device)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && !have[LRO] {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for LRO: %w", err)
	}
	return SetFeatures(device, map[Feature]bool{LRO: false})
}
