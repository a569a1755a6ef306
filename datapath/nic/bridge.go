package nic

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/fabric"
)

// TapName is the device the lab and the adopters give a guest's tap: tap-NAME, shortened like FacadeName.
func TapName(port fabric.PortID) string { return shorten("tap-", string(port)) }

// VethName is the device the lab gives the host's end of a container-like guest's veth: veth-NAME, shortened likewise.
func VethName(port fabric.PortID) string { return shorten("veth-", string(port)) }

// CreateBridge makes a bridge that forwards: no spanning tree, no multicast snooping, frames not handed to netfilter.
func CreateBridge(name string, mtu int) error {
	if err := createBridge(name); err != nil {
		return err
	}
	for _, table := range []string{"ip", "ip6", "arp"} {
		err := SetSysctl("net/bridge/bridge-nf-call-"+table+"tables", "0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := SetMTU(name, mtu); err != nil {
		return err
	}
	return SetUp(name)
}

// createBridge gives the bridge an address of its own: one that was given none takes the lowest of its ports', and another when that port
// leaves, which nobody who talks to it is told.
func createBridge(name string) error {
	if err := checkName(name); err != nil {
		return fail("create bridge", name, err)
	}
	link, err := find(name)
	if err == nil {
		if link.Type() != "bridge" {
			return fmt.Errorf("create bridge %s: a %s device has this name; rename or delete it", name, link.Type())
		}
		return nil
	}
	if !errors.Is(err, ErrNoDevice) {
		return fail("create bridge", name, err)
	}
	snooping, as := false, attrs(name)
	as.HardwareAddr = randomMAC()
	return fail("create bridge", name, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: as, MulticastSnooping: &snooping}))
}

// randomMAC is a unicast address, locally administered.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails
	mac[0] = mac[0]&^1 | 2
	return mac
}

// attrs are link attributes with the kernel's default queue length.
func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// shorten keeps prefix+name within MaxName and distinct for distinct names.
func shorten(prefix, name string) string {
	if len(prefix)+len(name) <= MaxName {
		return prefix + name
	}
	const digits = 5
	sum := sha256.Sum256([]byte(name))
	return prefix + name[:MaxName-len(prefix)-digits] + fmt.Sprintf("%x", sum)[:digits]
}
