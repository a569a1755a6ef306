package nic

import (
	"errors"
	"fmt"
	"testing"
)

// Ports with the lowest and the highest of addresses come and go; who talks to the bridge knows one address.
func TestABridgeKeepsItsAddressWhateverPortsItHas(t *testing.T) {
	here := space(t, "bridge")
	in(t, here, func() error {
		if err := CreateBridge("br0", 1500); err != nil {
			return err
		}
		before, err := Find("br0")
		if err != nil {
			return err
		}
		for i, mac := range [][6]byte{{2, 0, 0, 0, 0, 1}, {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}} {
			port := fmt.Sprintf("port%d", i)
			if err := errors.Join(CreateVeth(Veth{Name: port, Peer: "peer" + port}), SetMAC(port, mac), SetMaster(port, "br0"), SetUp(port)); err != nil {
				return err
			}
			if now, err := Find("br0"); err != nil || now.MAC != before.MAC {
				t.Errorf("with %v the bridge is %v, before %v: %v", mac, now.MAC, before.MAC, err)
			}
		}
		return nil
	})
}
