package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// outer is an external switch on a NIC of h1.
func outer(name, nic string, more ...func(*fabric.SwitchSpec)) *fabric.Switch {
	s := newSwitch(name)
	s.Spec.Type, s.Spec.Uplinks = fabric.External, []fabric.Uplink{{Host: "h1", NIC: nic}}
	for _, m := range more {
		m(&s.Spec)
	}
	return s
}

func TestANICThatCannotBeAnUplinkIsRefused(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newHost("h1", "10.240.0.1"))
	good := fabric.NICStatus{Up: true, Carrier: true}
	nic := func(name string, change func(*fabric.NICStatus)) fabric.NICStatus {
		n := good
		n.Name = name
		change(&n)
		return n
	}
	err := s.ReportStatus(t.Context(), "h1", fabric.HostStatus{NICs: []fabric.NICStatus{
		nic("bond0", func(n *fabric.NICStatus) { n.Bridge = "br0" }),
		nic("eth0", func(n *fabric.NICStatus) { n.Underlay = true }),
		nic("eth1", func(*fabric.NICStatus) {}),
		nic("eth2", func(n *fabric.NICStatus) { n.Up = false }),
		nic("wlan0", func(n *fabric.NICStatus) { n.Wireless = true }),
	}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, outer("wan", "eth1"))
	off := false
	later := time.Now().Add(time.Hour)
	for claim, c := range map[string]struct {
		sw   *fabric.Switch
		says string
	}{
		"absent":                  {outer("x", "eth7"), "host h1 has no NIC eth7: it has"},
		"down":                    {outer("x", "eth2"), "ip link set eth2 up"},
		"wireless":                {outer("x", "wlan0"), "is wireless"},
		"a bridge member":         {outer("x", "bond0"), "is a member of br0"},
		"another's":               {outer("x", "eth1"), "is an uplink of switch wan"},
		"the underlay at once":    {outer("x", "eth0"), "--confirm 60s"},
		"the underlay, no host":   {outer("x", "eth0", func(s *fabric.SwitchSpec) { s.HostAccess = &off; s.ConfirmBy = &later }), "leave hostAccess on"},
		"of a host that is not":   {outer("x", "eth1", func(s *fabric.SwitchSpec) { s.Uplinks[0].Host = "h9" }), `no host "h9"`},
		"of a private switch":     {outer("x", "eth1", func(s *fabric.SwitchSpec) { s.Type = fabric.Private }), "has no NIC"},
		"no device's name":        {outer("x", "a name too long to be"), "at most 15"},
		"named without a host":    {outer("x", "eth1", func(s *fabric.SwitchSpec) { s.Uplinks[0].Host = "" }), "give the name of a host, or labels"},
		"twice on one host":       {outer("x", "eth1", func(s *fabric.SwitchSpec) { s.Uplinks = append(s.Uplinks, s.Uplinks[0]) }), "name all NICs of a host in one uplink"},
		"one of several, absent":  {outer("x", "", func(s *fabric.SwitchSpec) { s.Uplinks[0].NICs = []string{"eth3", "eth7"} }), "host h1 has no NIC eth7"},
		"one of several, taken":   {outer("x", "", func(s *fabric.SwitchSpec) { s.Uplinks[0].NICs = []string{"eth3", "eth1"} }), "is an uplink of switch wan"},
		"named twice":             {outer("x", "", func(s *fabric.SwitchSpec) { s.Uplinks[0].NICs = []string{"eth3", "eth3"} }), "eth3 is named twice"},
		"one of too many":         {outer("x", "", func(s *fabric.SwitchSpec) { s.Uplinks[0].NICs = []string{"a", "b", "c", "d", "e"} }), "the most is 4"},
		"in two lists":            {outer("x", "eth3", func(s *fabric.SwitchSpec) { s.Uplinks[0].NICs = []string{"eth4"} }), "nic or nics"},
		"in no known mode":        {outer("x", "", func(s *fabric.SwitchSpec) { s.Uplinks[0].NICs, s.Uplinks[0].Mode = []string{"eth3", "eth4"}, "lacp" }), "is no mode"},
		"alone in a mode":         {outer("x", "eth3", func(s *fabric.SwitchSpec) { s.Uplinks[0].Mode = fabric.HashPort }), "one NIC has no mode"},
		"to confirm without NICs": {outer("x", "eth1", func(s *fabric.SwitchSpec) { s.Uplinks, s.ConfirmBy = nil, &later }), "nothing to confirm"},
	} {
		_, err := s.Apply(t.Context(), []fabric.Object{c.sw}, store.ApplyOptions{})
		if err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("a NIC that is %s: %v; want it refused with %q", claim, err, c.says)
		}
	}
	apply(t, s, outer("x", "eth0", func(s *fabric.SwitchSpec) { s.ConfirmBy = &later }))
}

func TestOnlyASwitchThatWasNotConfirmedIsDeletedForIt(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	by := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	waiting := outer("wan", "eth1", func(s *fabric.SwitchSpec) { s.ConfirmBy = &by })
	apply(t, s, newHost("h1", "10.240.0.1"), waiting)
	if err := s.DeleteUnconfirmed(t.Context(), "wan", by.Add(-time.Second)); !errors.Is(err, fabric.ErrConflict) {
		t.Fatalf("before its time: %v", err)
	}
	apply(t, s, newPort("a", "wan"))
	if err := s.DeleteUnconfirmed(t.Context(), "wan", by); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "port a") {
		t.Fatalf("with a port: %v", err)
	}
	if _, err := s.Delete(t.Context(), fabric.KindPort, "a"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, outer("wan", "eth1"))
	if err := s.DeleteUnconfirmed(t.Context(), "wan", by); !errors.Is(err, fabric.ErrConflict) {
		t.Fatalf("confirmed: %v", err)
	}
	apply(t, s, waiting)
	if err := s.DeleteUnconfirmed(t.Context(), "wan", by); err != nil {
		t.Fatal(err)
	}
}
