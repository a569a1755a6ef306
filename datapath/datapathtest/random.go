package datapathtest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

func many(t *testing.T, r Rig) {
	s := datapath.State{
		Peers: map[netip.Addr]datapath.Peer{peer(2): {MTU: 1600}}, FDB: map[datapath.FDBKey]datapath.FDB{},
		Neighbors: map[datapath.NeighborKey]fabric.MAC{},
	}
	for n := range 10000 {
		key := station(n)
		s.FDB[key] = datapath.FDB{Peer: peer(2), Epoch: fabric.Epoch(n)}
		s.Neighbors[datapath.NeighborKey{VNI: vni, Addr: netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})}] = key.MAC
	}
	r.put(t, s)
	r.holds(t, s)
	if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: datapath.State{FDB: s.FDB, Neighbors: s.Neighbors}}); err != nil {
		t.Fatal(err)
	}
	r.holds(t, datapath.State{Peers: s.Peers})
}

// random compares the plane with Memory after each of a series of random changes.
func random(t *testing.T, r Rig) {
	rapid.Check(t, func(draw *rapid.T) {
		if err := r.Plane.Apply(t.Context(), datapath.Change{Delete: r.read(t)}); err != nil {
			draw.Fatal(err)
		}
		model := New(peer(1))
		for range rapid.IntRange(1, 8).Draw(draw, "changes") {
			c := datapath.Change{Put: r.part(draw, "put"), Delete: r.part(draw, "delete")}
			want, have := model.Apply(t.Context(), c), r.Plane.Apply(t.Context(), c)
			if (want == nil) != (have == nil) {
				draw.Fatalf("change %+v: the model says %v, the plane %v", c, want, have)
			}
			state, err := model.Read(t.Context())
			if err != nil {
				draw.Fatal(err)
			}
			if want != nil { // how far a failed change came is not defined
				return
			}
			if diff := difference(state, r.read(t)); diff != "" {
				draw.Fatalf("after %+v\n%s", c, diff)
			}
		}
	})
}

// part draws some of the entries of the sample, with other epochs and gates.
func (r Rig) part(draw *rapid.T, name string) datapath.State {
	s := r.sample()
	epoch := rapid.IntRange(1, 4)
	for device, p := range s.Ports {
		p.Epoch = fabric.Epoch(epoch.Draw(draw, name+" epoch"))
		if p.VNI != 0 {
			p.Gate = datapath.Gate(rapid.IntRange(0, 3).Draw(draw, name+" gate"))
		}
		s.Ports[device] = p
	}
	for _, key := range slices.SortedFunc(maps.Keys(s.FDB), func(a, b datapath.FDBKey) int { return int(a.MAC[5]) - int(b.MAC[5]) }) {
		e := s.FDB[key]
		e.Epoch = fabric.Epoch(epoch.Draw(draw, name+" epoch"))
		s.FDB[key] = e
	}
	drop(draw, name+" peers", s.Peers)
	drop(draw, name+" switches", s.Switches)
	drop(draw, name+" ports", s.Ports)
	drop(draw, name+" stations", s.FDB)
	drop(draw, name+" neighbors", s.Neighbors)
	drop(draw, name+" segments", s.Segments)
	drop(draw, name+" flood", s.Flood)
	return s
}

// drop leaves out some entries.
func drop[K comparable, V any](draw *rapid.T, name string, m map[K]V) {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b K) int { return compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for _, k := range keys {
		if rapid.IntRange(0, 3).Draw(draw, name) == 0 {
			delete(m, k)
		}
	}
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
