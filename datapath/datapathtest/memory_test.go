package datapathtest_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/datapathtest"
)

var _ datapathtest.Plane = (*datapathtest.Memory)(nil)

func TestMemory(t *testing.T) {
	datapathtest.Test(t, func(*testing.T) datapathtest.Rig {
		return datapathtest.Rig{Plane: datapathtest.New(netip.MustParseAddr("192.0.2.1")), Devices: []string{"a", "b", "c", "d"}}
	})
}

func TestTheFirstFrameOpensAStagedPortOnce(t *testing.T) {
	m := datapathtest.New(netip.MustParseAddr("192.0.2.1"))
	p := datapath.Port{Name: "web", VNI: 5, Kind: datapath.Tap, Gate: datapath.Staged, MAC: [6]byte{2}, Generation: 1}
	if err := m.Apply(t.Context(), datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{"tap0": p}}}); err != nil {
		t.Fatal(err)
	}
	if !m.FirstFrame("tap0", time.Unix(1, 0)) || m.FirstFrame("tap0", time.Unix(2, 0)) {
		t.Fatal("the first frame opens, the second does not")
	}
	if e := <-m.Events(); e.Kind != datapath.PortOpened || e.Port != "web" || e.Device != "tap0" {
		t.Fatalf("event %+v", e)
	}
	m.Unplug("tap0")
	if s, err := m.Read(t.Context()); err != nil || len(s.Ports) != 0 {
		t.Fatalf("the port outlives its device: %+v, %v", s.Ports, err)
	}
}
