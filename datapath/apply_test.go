package datapath_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

func TestADeviceThatCannotBecomeAPortIsLowered(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	g := w.bareTap(h, 1, 0)
	w.in(h.ns, func() error { return nic.SetUp(g.device) }) // as libvirt does
	if err := os.RemoveAll(filepath.Join(h.pinDir, "links")); err != nil {
		t.Fatal(err)
	}
	err := h.ns.Do(func() error {
		return h.Apply(t.Context(), datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: g.port}}})
	})
	if err == nil {
		t.Fatal("without a directory for pins a port was made")
	}
	w.in(h.ns, func() error {
		if up, err := nic.IsUp(g.device); up || err != nil {
			t.Errorf("the device is up without the core: %v, %v", up, err)
		}
		return nil
	})
	w.verify(h)
	w.plug(&g.station)
	w.in(h.ns, func() error {
		if up, err := nic.IsUp(g.device); !up || err != nil {
			t.Errorf("the device is not raised when it has become a port: %v, %v", up, err)
		}
		return nil
	})
}

func TestADeviceWhoseRulesCannotBeMadeCarriesTheCoreClosed(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	g, b := w.bareTap(h, 1, 0), w.tap(h, 2, 0)
	w.in(h.ns, func() error { return nic.SetUp(g.device) }) // as libvirt does
	judged := g.port
	judged.Policy = policy.Digest{1}
	err := h.ns.Do(func() error {
		return h.Apply(t.Context(), datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: judged}}})
	})
	if err == nil || !strings.Contains(err.Error(), "rules") {
		t.Fatalf("a port without its table was made: %v", err)
	}
	w.in(h.ns, func() error {
		if up, err := nic.IsUp(g.device); !up || err != nil {
			t.Errorf("up %v, %v", up, err)
		}
		return nil
	})
	links := strings.Join(pinned(t, h, "links"), " ")
	if strings.Count(links, "-vp_in") != 2 || strings.Count(links, "-vp_out") != 2 {
		t.Errorf("the core is not on both devices: %s", links)
	}
	g.send(ether(mac(2), mac(1), typeIPv4, ip{protocol: protoUDP}.packet(address4(1), address4(2), udp(1, 2, data))))
	b.silent()
	w.plug(&g.station)
	g.send(ether(mac(2), mac(1), typeIPv4, ip{protocol: protoUDP}.packet(address4(1), address4(2), udp(1, 2, data))))
	if b.receive() == nil {
		t.Error("it did not arrive once the port was made")
	}
}

func TestOneFailureDoesNotStopTheRest(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	h := w.hosts[0]
	a := w.tap(h, 1, 0)
	other, gone := w.bareTap(h, 2, 0), newPort(8, datapath.Tap)
	away, former := datapath.FDBKey{VNI: vni, MAC: mac(5)}, datapath.NeighborKey{VNI: vni, Addr: address4(1)}
	err := h.ns.Do(func() error {
		return h.Apply(t.Context(), datapath.Change{
			Put: datapath.State{
				Ports: map[string]datapath.Port{"gone0": gone, other.device: other.port},
				FDB: map[datapath.FDBKey]datapath.FDB{
					away:                      {Peer: w.hosts[1].vtep, Epoch: 1},
					{VNI: vni, MAC: gone.MAC}: {Device: "gone0", Epoch: 1},
				},
			},
			Delete: datapath.State{Neighbors: map[datapath.NeighborKey]fabric.MAC{former: mac(1)}},
		})
	})
	if !errors.Is(err, nic.ErrNoDevice) {
		t.Fatalf("error %v, want one that names the device", err)
	}
	s, err := inside{h}.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, put := s.Ports[other.device]; !put || s.FDB[away].Peer != w.hosts[1].vtep {
		t.Error("what does not depend on the failure was not put")
	}
	if _, dangling := s.FDB[datapath.FDBKey{VNI: vni, MAC: gone.MAC}]; dangling {
		t.Error("a station was put on a device without a port")
	}
	if _, left := s.Neighbors[former]; left || len(s.Ports) != 2 || s.Ports[a.device] != a.port {
		t.Errorf("what was to be deleted is still there: %+v", s)
	}
}

func TestAPeersNumberIsNotGivenAwayWhileAStationNamesIt(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	home, next := netip.MustParseAddr("10.66.0.70"), netip.MustParseAddr("10.66.1.1")
	key := datapath.FDBKey{VNI: vni, MAC: mac(5)}
	h.apply(datapath.Change{Put: datapath.State{
		Peers: map[netip.Addr]datapath.Peer{home: {MTU: 1600}}, FDB: map[datapath.FDBKey]datapath.FDB{key: {Peer: home, Epoch: 1}},
	}})
	h.apply(datapath.Change{Delete: datapath.State{Peers: map[netip.Addr]datapath.Peer{home: {}}}})
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h.load()
	many := map[netip.Addr]datapath.Peer{}
	for range 4094 { // all numbers but one
		many[next], next = datapath.Peer{MTU: 1600}, next.Next()
	}
	h.apply(datapath.Change{Put: datapath.State{Peers: many}})
	one := datapath.Change{Put: datapath.State{Peers: map[netip.Addr]datapath.Peer{next: {MTU: 1600}}}}
	if err := h.ns.Do(func() error { return h.Apply(t.Context(), one) }); err == nil {
		t.Fatal("the number that a station names was given to another peer")
	}
	h.apply(datapath.Change{Delete: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{key: {Epoch: 1}}}})
	h.apply(datapath.Change{Delete: datapath.State{Peers: map[netip.Addr]datapath.Peer{netip.MustParseAddr("10.66.1.1"): {}}}})
	h.apply(one)
}
