package plan_test

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/datapathtest"
	"github.com/weftnet/weft/fabric"
)

// history is a fabric that changes at random, seen from host h1.
type history struct {
	snap  *fabric.Snapshot
	local plan.Local
}

var (
	hostNames = []fabric.HostID{"h1", "h2", "h3"}
	portNames = []fabric.PortID{"a", "b"}
)

// step makes one random change, as the records' rules allow it: epochs only rise while a port lives.
func (h *history) step(t *rapid.T) {
	s := *h.snap
	s.Revision++
	s.Ports, s.Locations, s.Hosts = maps.Clone(s.Ports), maps.Clone(s.Locations), maps.Clone(s.Hosts)
	name := rapid.SampledFrom(portNames).Draw(t, "port")
	loc, held := s.Locations[name]
	host := rapid.SampledFrom(hostNames).Draw(t, "host")
	switch act := rapid.SampledFrom([]string{"create", "create", "delete", "claim", "claim", "grant", "commit", "rollback", "settle", "guard", "vlan", "vlan", "host", "plug", "unplug", "stop"}).Draw(t, "act"); {
	case act == "create" && s.Ports[name] == nil:
		i := byte(len(name)) + name[0]
		s.Ports[name] = &fabric.Port{Metadata: fabric.Metadata{Name: string(name), Revision: s.Revision}, Spec: fabric.PortSpec{
			Switch: rapid.SampledFrom([]fabric.SwitchID{"blue", "red"}).Draw(t, "switch"), MAC: fabric.MAC{2, 0, 0, 0, 0, i},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 10, 0, i})}}}
	case act == "delete":
		delete(s.Ports, name)
		delete(s.Locations, name)
	case act == "claim" && s.Ports[name] != nil && loc.Host == "":
		s.Locations[name] = fabric.Location{Port: name, Host: host, Epoch: loc.Epoch + 1}
	case act == "grant" && held && loc.Host != "" && loc.Grant == nil && loc.Host != host:
		loc.Grant = &fabric.Grant{Move: fabric.MoveID(fmt.Sprintf("m%d", s.Revision)), To: host, Epoch: loc.Epoch + 1, Rollback: loc.Epoch + 2}
		s.Locations[name] = loc
		if host == "h1" && rapid.Bool().Draw(t, "stage") {
			h.local.Staged[name] = loc.Grant.Move
		}
	case act == "commit" && loc.Grant != nil:
		s.Locations[name] = fabric.Location{Port: name, Host: loc.Grant.To, Epoch: loc.Grant.Epoch, From: loc.Host}
	case act == "rollback" && loc.Grant != nil:
		s.Locations[name] = fabric.Location{Port: name, Host: loc.Host, Epoch: loc.Grant.Rollback}
	case act == "settle" && held:
		loc.From = ""
		s.Locations[name] = loc
	case act == "guard" && s.Ports[name] != nil:
		port, on := *s.Ports[name], rapid.Bool().Draw(t, "on")
		port.Metadata.Revision, port.Spec.Guards.MAC = s.Revision, &on
		s.Ports[name] = &port
	case act == "vlan" && s.Ports[name] != nil:
		s.Ports[name] = onVLAN(s.Ports[name], rapid.SampledFrom(vlanSettings).Draw(t, "vlan"), s.Revision)
	case act == "host":
		if s.Hosts[host] != nil && host != "h1" {
			delete(s.Hosts, host)
		} else {
			s.Hosts[host] = &fabric.Host{Spec: fabric.HostSpec{VTEP: vtep[host], UnderlayMTU: rapid.IntRange(0, 2000).Draw(t, "mtu")}}
		}
	case act == "plug":
		h.local.Attachments[name] = plan.Attachment{Device: "tap-" + string(name), Kind: datapath.Tap}
	case act == "unplug":
		delete(h.local.Attachments, name)
	case act == "stop" && loc.Grant != nil && loc.Host == "h1":
		h.local.Handoffs[name] = plan.Handoff{To: loc.Grant.To, Epoch: loc.Epoch}
	}
	h.snap = &s
}

func newHistory() *history {
	snap := fleet()
	snap.Switches["blue"].Spec.VLANs = listedVLANs
	snap.Ports, snap.Locations = map[fabric.PortID]*fabric.Port{}, map[fabric.PortID]fabric.Location{}
	return &history{snap: snap, local: plan.Local{VTEP: vtep["h1"], Attachments: map[fabric.PortID]plan.Attachment{},
		Handoffs: map[fabric.PortID]plan.Handoff{}, Staged: map[fabric.PortID]fabric.MoveID{}}}
}

// reach puts the wanted state in force on a datapath, as the agent does.
func reach(t *rapid.T, m *datapathtest.Memory, before, want datapath.State) {
	have := read(t, m)
	if err := m.Apply(t.Context(), plan.Reborn(before, want, have)); err != nil {
		t.Fatalf("forget an earlier life: %v", err)
	}
	steps := plan.Changes(want, read(t, m))
	for i, step := range steps {
		if err := m.Apply(t.Context(), step); err != nil {
			t.Fatalf("step %d of %+v: %v", i, steps, err)
		}
	}
	got := read(t, m)
	if rest := plan.Changes(want, got); len(rest) != 0 {
		t.Fatalf("left to do: %+v", rest)
	}
	if !reflect.DeepEqual(clean(got), clean(want)) {
		t.Fatalf(" got %+v\nwant %+v", got, want)
	}
}

func read(t *rapid.T, m *datapathtest.Memory) datapath.State {
	s, err := m.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnyHistoryEndsWhereItsLastSnapshotSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		everyStep, someSteps := datapathtest.New(vtep["h1"]), datapathtest.New(vtep["h1"])
		var seenByAll, seenBySome, want datapath.State
		for range rapid.SampledFrom([]int{5, 20, 80}).Draw(t, "steps") {
			h.step(t)
			want = plan.Wanted(h.snap, "h1", h.local)
			reach(t, everyStep, seenByAll, want)
			seenByAll = want
			if rapid.SampledFrom([]bool{true, false, false, false}).Draw(t, "seen") {
				reach(t, someSteps, seenBySome, want)
				seenBySome = want
			}
		}
		reach(t, someSteps, seenBySome, want)
		reach(t, datapathtest.New(vtep["h1"]), datapath.State{}, want)
	})
}

func TestAnOpenPortIsHeldHereAndNowhereElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		m := datapathtest.New(vtep["h1"])
		var before datapath.State
		for range rapid.SampledFrom([]int{5, 20, 80}).Draw(t, "steps") {
			h.step(t)
			want := plan.Wanted(h.snap, "h1", h.local)
			reach(t, m, before, want)
			before = want
			for device, p := range read(t, m).Ports {
				loc := h.snap.Locations[p.Name]
				held := loc.Host == "h1" && loc.Epoch == p.Epoch
				granted := loc.Grant != nil && loc.Grant.To == "h1" && loc.Grant.Epoch == p.Epoch && h.local.Staged[p.Name] == loc.Grant.Move
				if p.Gate == datapath.Open && !held || p.Gate == datapath.Staged && !granted {
					t.Fatalf("%s: port %s is open by gate %d, epoch %d; the record says %+v", device, p.Name, p.Gate, p.Epoch, loc)
				}
			}
		}
	})
}
