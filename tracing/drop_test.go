package tracing

import "testing"

func TestADropHasOneNameWhoeverDropped(t *testing.T) {
	for _, c := range []struct {
		drop        Drop
		name, class string
		at          string
	}{
		{Drop{Reason: ReasonGuardSrcMAC, Port: "web-1"}, "guard_src_mac", "policy", "web-1"},
		{Drop{Kernel: "FULL_RING", Port: "web-1", Device: "tap0"}, "kernel:FULL_RING", "resource", "web-1"},
		{Drop{Kernel: "A_NEW_ONE", Device: "eth0"}, "kernel:A_NEW_ONE", "resource", "device/eth0"},
	} {
		if got := c.drop.Name(); got != c.name || c.drop.Class().String() != c.class || c.drop.At() != c.at || c.drop.Doc() == "" {
			t.Errorf("%+v is named %q of class %q at %q: %q", c.drop, got, c.drop.Class(), c.drop.At(), c.drop.Doc())
		}
		if read, known := (Drop{}).Named(c.name); !known || read.Reason != c.drop.Reason || read.Kernel != c.drop.Kernel {
			t.Errorf("%q reads as %+v, %v", c.name, read, known)
		}
	}
	for _, name := range []string{"", "kernel:", "no_such_reason"} {
		if d, known := (Drop{}).Named(name); known && name != "" {
			t.Errorf("%q reads as %+v", name, d)
		}
	}
}
