package lab

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// TestTapsOnTheFacadeArePluggedIn does what libvirt does: it puts a tap with the guest's MAC, but for the first octet, on the
// switch's bridge by name.
func TestTapsOnTheFacadeArePluggedIn(t *testing.T) {
	l := live(t, Options{Name: "facade", Hosts: 1})
	blue(t, l)
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := &fabric.Port{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort},
		Metadata: fabric.Metadata{Name: "web"},
		Spec:     fabric.PortSpec{Switch: "blue", MAC: fabric.MAC{0x52, 0x54, 0, 1, 2, 3}},
	}
	if _, err := c.Apply(t.Context(), []fabric.Object{port}, false); err != nil {
		t.Fatal(err)
	}
	host := l.HostNamespace("h1")
	within(t, host, func() error {
		eventually(t, "the façade sw-blue is there", func() bool { f, err := nic.Facades(); return err == nil && f["blue"].Bridge == "sw-blue" })
		tap, err := nic.OpenTap("vnet0", nic.TapOptions{MTU: 1450, NoIPv6: true})
		if err != nil {
			return err
		}
		t.Cleanup(func() { tap.Close() })
		return errors.Join(nic.SetMAC("vnet0", fabric.MAC{0xfe, 0x54, 0, 1, 2, 3}), nic.SetMaster("vnet0", "sw-blue"), nic.SetUp("vnet0"))
	})
	eventually(t, "port web is active on vnet0", func() bool {
		p, err := c.Port(t.Context(), "web")
		return err == nil && p.Status.State == fabric.PortActive && p.Status.Device == "vnet0"
	})
	within(t, host, func() error {
		if err := nic.SetUp("sw-blue"); err != nil {
			return err
		}
		eventually(t, "a raised façade is lowered again", func() bool { up, err := nic.IsUp("sw-blue"); return err == nil && !up })
		f, err := nic.Facades()
		if err != nil || f["blue"].MTU != 1450 || len(f["blue"].Plugged) != 1 {
			return fmt.Errorf("the façade is %+v (%v); it should have MTU 1450 and carry vnet0", f["blue"], err)
		}
		return nil
	})
}

// eventually waits until the claim holds, at most half a minute.
func eventually(t *testing.T, claim string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(30 * time.Second); !holds(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Errorf("it did not come true that %s", claim)
			return
		}
	}
}
