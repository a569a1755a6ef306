package plan_test

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// apply carries a change out on a state, as datapath.Apply promises to: puts before deletes.
func apply(s datapath.State, c datapath.Change) datapath.State {
	if c.Put.Local != (datapath.Local{}) {
		s.Local = c.Put.Local
	}
	s.Peers = change(s.Peers, c.Put.Peers, c.Delete.Peers)
	s.Switches = change(s.Switches, c.Put.Switches, c.Delete.Switches)
	s.Ports = change(s.Ports, c.Put.Ports, c.Delete.Ports)
	s.FDB = change(s.FDB, c.Put.FDB, c.Delete.FDB)
	s.Neighbors = change(s.Neighbors, c.Put.Neighbors, c.Delete.Neighbors)
	s.Flood = change(s.Flood, c.Put.Flood, c.Delete.Flood)
	return s
}

func change[K comparable, V any](m, puts, deletes map[K]V) map[K]V {
	out := map[K]V{}
	maps.Copy(out, m)
	maps.Copy(out, puts)
	for k := range deletes {
		delete(out, k)
	}
	return out
}

// byOpenness are the devices of ports in the order in which a datapath puts them.
func byOpenness(ports map[string]datapath.Port) []string {
	return slices.SortedFunc(maps.Keys(ports), func(a, b string) int {
		return cmp.Or(ports[a].Gate.Openness()-ports[b].Gate.Openness(), strings.Compare(a, b))
	})
}

// widest is how open each port is at its most open device.
func widest(s datapath.State) map[fabric.PortID]int {
	out := map[fabric.PortID]int{}
	for _, p := range s.Ports {
		out[p.Name] = max(out[p.Name], p.Gate.Openness())
	}
	return out
}

// devices counts the devices on which a port is open.
func devices(s datapath.State) map[fabric.PortID]int {
	out := map[fabric.PortID]int{}
	for _, p := range s.Ports {
		if p.Gate == datapath.Open {
			out[p.Name]++
		}
	}
	return out
}

func TestChangesOfRandomStates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, have := states.Draw(t, "want"), states.Draw(t, "have")
		taken := map[fabric.PortID]bool{} // a plan has each port on one device; the kernel may hold anything
		for device, p := range want.Ports {
			if taken[p.Name] {
				delete(want.Ports, device)
			}
			taken[p.Name] = true
		}
		ground(want)
		ground(have)
		now, before, after := have, widest(have), widest(want)
		manyBefore, manyAfter := devices(have), devices(want)
		for i, step := range plan.Changes(want, have) {
			for _, device := range byOpenness(step.Put.Ports) { // a datapath puts port after port, what closes first
				now = apply(now, datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{device: step.Put.Ports[device]}}})
				for name, many := range devices(now) {
					if many > max(1, manyBefore[name], manyAfter[name]) {
						t.Fatalf("within step %d port %s is open on %d devices", i, name, many)
					}
				}
			}
			now = apply(now, step)
			for name, open := range widest(now) {
				if open > max(before[name], after[name]) {
					t.Fatalf("after step %d port %s is more open (%d) than before (%d) and than wanted (%d)",
						i, name, open, before[name], after[name])
				}
			}
			for key, entry := range now.FDB {
				of := want.Ports
				if entry == have.FDB[key] && entry != want.FDB[key] {
					of = have.Ports
				}
				if got := now.Ports[entry.Device].Name; entry.Device != "" && got != of[entry.Device].Name {
					t.Fatalf("after step %d station %v is on device %s, which carries port %q instead of %q", i, key, entry.Device, got, of[entry.Device].Name)
				}
			}
			for key, entry := range have.FDB {
				stays := now.Ports[entry.Device].Name == have.Ports[entry.Device].Name // else the entry is void
				if next, kept := now.FDB[key]; kept && stays && next.Epoch < entry.Epoch {
					t.Fatalf("step %d replaces FDB entry %v of epoch %d by one of epoch %d", i, key, entry.Epoch, next.Epoch)
				}
			}
		}
		if again := plan.Changes(want, now); len(again) != 0 {
			t.Fatalf("not settled after one round: %+v", again)
		}
		if fresh(want, have) && !reflect.DeepEqual(clean(now), clean(want)) {
			t.Fatalf("have %+v\nwant %+v\n got %+v", have, want, now)
		}
	})
}

// ground takes stations off devices that are not there.
func ground(s datapath.State) {
	for key, entry := range s.FDB {
		if _, there := s.Ports[entry.Device]; !there {
			entry.Device = ""
			s.FDB[key] = entry
		}
	}
}

// fresh reports whether nothing in have is newer than what is wanted, nor opened by the kernel, so that want must result.
func fresh(want, have datapath.State) bool {
	for key, now := range have.FDB {
		if next, ok := want.FDB[key]; ok && next.Epoch < now.Epoch {
			return false
		}
	}
	for device, now := range have.Ports {
		if next, ok := want.Ports[device]; ok && next.Name == now.Name &&
			(next.Epoch < now.Epoch || next.Generation < now.Generation || next.Gate == datapath.Staged && now.Gate == datapath.Open) {
			return false
		}
	}
	return true
}

// clean has no nil maps.
func clean(s datapath.State) datapath.State { return apply(s, datapath.Change{}) }

func TestAStagedPortThatTheKernelOpenedStaysOpen(t *testing.T) {
	port := datapath.Port{Name: "a", VNI: 7, Gate: datapath.Staged, Epoch: 4, Generation: 9}
	opened := port
	opened.Gate = datapath.Open
	want := datapath.State{Ports: map[string]datapath.Port{"tap0": port}}
	have := datapath.State{Ports: map[string]datapath.Port{"tap0": opened}}
	if steps := plan.Changes(want, have); len(steps) != 0 {
		t.Fatalf("the opened port is touched: %+v", steps)
	}
	port.Guards = datapath.GuardMAC
	want.Ports["tap0"] = port
	steps := plan.Changes(want, have)
	if len(steps) != 1 || steps[0].Put.Ports["tap0"].Gate != datapath.Open || steps[0].Put.Ports["tap0"].Guards != datapath.GuardMAC {
		t.Fatalf("new settings must reach the opened port without closing it: %+v", steps)
	}
	port.Epoch, port.Gate = 5, datapath.Closed
	want.Ports["tap0"] = port
	if steps := plan.Changes(want, have); len(steps) != 1 || steps[0].Put.Ports["tap0"].Gate != datapath.Closed {
		t.Fatalf("a rollback (later epoch) must close the port: %+v", steps)
	}
}

func TestAnOlderEpochNeitherOpensNorMovesAPort(t *testing.T) {
	key := datapath.FDBKey{VNI: 7, MAC: fabric.MAC{2, 0, 0, 0, 0, 1}}
	have := datapath.State{
		Ports: map[string]datapath.Port{
			"tap0": {Name: "a", VNI: 7, Gate: datapath.Closed, Epoch: 5},
			"tap1": {Name: "b", VNI: 7, Gate: datapath.Open, Epoch: 5},
			"tap2": {Name: "c", VNI: 7, Gate: datapath.Staged, Epoch: 5},
			"tap3": {Name: "d", VNI: 7, Gate: datapath.Open, Epoch: 5},
		},
		FDB: map[datapath.FDBKey]datapath.FDB{key: {Peer: netip.MustParseAddr("10.0.0.3"), Epoch: 5}},
	}
	want := datapath.State{
		Ports: map[string]datapath.Port{
			"tap0": {Name: "a", VNI: 7, Gate: datapath.Open, Epoch: 4},
			"tap1": {Name: "b", VNI: 7, Gate: datapath.Closed, Epoch: 4},
			"tap2": {Name: "c", VNI: 7, Gate: datapath.Closed, Epoch: 4},
			"tap3": {Name: "d", VNI: 7, Gate: datapath.Closed},
		},
		FDB: map[datapath.FDBKey]datapath.FDB{key: {Peer: netip.MustParseAddr("10.0.0.2"), Epoch: 4}},
	}
	now := have
	for _, step := range plan.Changes(want, have) {
		now = apply(now, step)
	}
	for device, gate := range map[string]datapath.Gate{
		"tap0": datapath.Closed, "tap1": datapath.Open, "tap2": datapath.Closed, "tap3": datapath.Closed,
	} {
		if got := now.Ports[device].Gate; got != gate {
			t.Errorf("%s: gate %d, want %d", device, got, gate)
		}
	}
	if now.FDB[key] != have.FDB[key] {
		t.Errorf("FDB went back to %+v", now.FDB[key])
	}
}

func TestSettingsNeverGoBack(t *testing.T) {
	strict := datapath.Port{Name: "a", VNI: 7, Gate: datapath.Open, Epoch: 1, Generation: 9, Guards: datapath.GuardMAC}
	loose := datapath.Port{Name: "a", VNI: 7, Gate: datapath.Open, Epoch: 1, Generation: 8}
	have := datapath.State{Ports: map[string]datapath.Port{"tap0": strict}}
	want := datapath.State{Ports: map[string]datapath.Port{"tap0": loose}}
	if steps := plan.Changes(want, have); len(steps) != 0 {
		t.Fatalf("an older snapshot opened the port further: %+v", steps)
	}
}

func TestAPortThatIsMadeAgainBeginsItsEpochsAnew(t *testing.T) {
	key := datapath.FDBKey{VNI: 7, MAC: fabric.MAC{2, 0, 0, 0, 0, 1}}
	h2, h3 := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	state := func(peer netip.Addr, epoch fabric.Epoch, generation fabric.Revision, gate datapath.Gate) datapath.State {
		return datapath.State{
			Ports: map[string]datapath.Port{"tap0": {Name: "a", VNI: 7, Gate: gate, Epoch: epoch, Generation: generation}},
			FDB:   map[datapath.FDBKey]datapath.FDB{key: {Peer: peer, Epoch: epoch}},
		}
	}
	before, after := state(h2, 5, 10, datapath.Open), state(h3, 1, 20, datapath.Closed)
	now := apply(before, plan.Reborn(before, after, before))
	for _, step := range plan.Changes(after, now) {
		now = apply(now, step)
	}
	if now.FDB[key].Peer != h3 || now.Ports["tap0"].Gate != datapath.Closed {
		t.Fatalf("the earlier life is still there: %+v", now)
	}
	if c := plan.Reborn(before, before, before); plan.Entries(c.Delete) != 0 {
		t.Fatalf("nothing was made again, yet %+v is removed", c.Delete)
	}
	ahead := state(h3, 6, 10, datapath.Open) // the kernel knows of a later move than both snapshots
	if c := plan.Reborn(before, before, ahead); plan.Entries(c.Delete) != 0 {
		t.Fatalf("a later epoch was taken for an earlier life: %+v", c.Delete)
	}
}

// states are random, but drawn from so few values that want and have overlap in every way.
var states = rapid.Custom(func(t *rapid.T) datapath.State {
	vni := rapid.Map(rapid.IntRange(1, 3), func(i int) fabric.VNI { return fabric.VNI(i) })
	mac := rapid.Map(rapid.IntRange(1, 4), func(i int) fabric.MAC { return fabric.MAC{2, 0, 0, 0, 0, byte(i)} })
	addr := rapid.Map(rapid.IntRange(1, 3), func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) })
	device := rapid.SampledFrom([]string{"tap0", "tap1"})
	port := rapid.Custom(func(t *rapid.T) datapath.Port {
		return datapath.Port{
			Name:   fabric.PortID(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name")),
			VNI:    vni.Draw(t, "vni"),
			Gate:   rapid.SampledFrom([]datapath.Gate{datapath.Closed, datapath.Staged, datapath.Open, datapath.Open, datapath.Relay}).Draw(t, "gate"),
			Guards: datapath.GuardSet(rapid.IntRange(0, 1).Draw(t, "guards")),
			Epoch:  fabric.Epoch(rapid.IntRange(0, 3).Draw(t, "epoch")),

			Generation: fabric.Revision(rapid.IntRange(1, 2).Draw(t, "generation")),
		}
	})
	entry := rapid.Custom(func(t *rapid.T) datapath.FDB {
		return datapath.FDB{
			Device: rapid.SampledFrom([]string{"", "tap0", "tap1"}).Draw(t, "device"),

			Peer:  addr.Draw(t, "peer"),
			Relay: rapid.Bool().Draw(t, "relay"),
			Epoch: fabric.Epoch(rapid.IntRange(1, 3).Draw(t, "epoch")),
		}
	})
	fdbKey := rapid.Custom(func(t *rapid.T) datapath.FDBKey {
		return datapath.FDBKey{VNI: vni.Draw(t, "vni"), MAC: mac.Draw(t, "mac")}
	})
	neighborKey := rapid.Custom(func(t *rapid.T) datapath.NeighborKey {
		return datapath.NeighborKey{VNI: vni.Draw(t, "vni"), Addr: addr.Draw(t, "addr")}
	})
	floodKey := rapid.Custom(func(t *rapid.T) datapath.FloodKey {
		return datapath.FloodKey{VNI: vni.Draw(t, "vni"), Peer: addr.Draw(t, "peer")}
	})
	mtu := rapid.IntRange(1, 2)
	return datapath.State{
		Local:     datapath.Local{VTEP: addr.Draw(t, "vtep")},
		Peers:     rapid.MapOf(addr, rapid.Map(mtu, func(i int) datapath.Peer { return datapath.Peer{MTU: i} })).Draw(t, "peers"),
		Switches:  rapid.MapOf(vni, rapid.Map(mtu, func(i int) datapath.Switch { return datapath.Switch{MTU: i} })).Draw(t, "switches"),
		Ports:     rapid.MapOfN(device, port, 1, 2).Draw(t, "ports"),
		FDB:       rapid.MapOf(fdbKey, entry).Draw(t, "fdb"),
		Neighbors: rapid.MapOf(neighborKey, mac).Draw(t, "neighbors"),
		Flood:     rapid.MapOf(floodKey, rapid.Just(struct{}{})).Draw(t, "flood"),
	}
})
