package datapath_test

import (
	"fmt"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// placeOf is where a CPU counts for a rule of a slot, if nobody else is there (tally_at in bpf/judge.h).
func placeOf(slot uint32, rule policy.RuleID) uint32 { return (uint32(rule) + slot*2654435761) >> 20 }

// namesOfOnePlace are names of so many rules of the policy "test" that are counted in one place of the slot.
func namesOfOnePlace(slot uint32, n int) (names []string) {
	first := placeOf(slot, policy.ID("test", "r0"))
	for i := 0; len(names) < n; i++ {
		if name := fmt.Sprintf("r%d", i); placeOf(slot, policy.ID("test", name)) == first {
			names = append(names, name)
		}
	}
	return names
}

func TestRulesOfOnePlaceAreCountedEach(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	names := namesOfOnePlace(h.SlotOf(b.device), 3)
	var all []fabric.Rule
	for i, name := range names {
		port := uint16(2000 + i)
		all = append(all, fabric.Rule{Name: name, Direction: fabric.In, Action: fabric.Allow, Protocol: "udp", Local: &fabric.End{Ports: []fabric.PortRange{{First: port, Last: port}}}})
	}
	b.judge(t, rules(all...))
	want := map[string]uint64{}
	meet := func(i, times int) {
		t.Helper()
		for range times {
			a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, uint16(2000+i), data)))
			if b.receive() == nil {
				t.Fatal("an allowed packet does not arrive")
			}
		}
		want[names[i]] += uint64(times)
		for _, name := range names {
			if got := b.hits(t, name); got.Packets != want[name] || got.Bytes%max(1, got.Packets) != 0 {
				t.Errorf("rule %s has met %d packets of %d bytes, want %d packets", name, got.Packets, got.Bytes, want[name])
			}
		}
	}
	for range 3 {
		meet(0, 1)
		meet(1, 2)
		meet(2, 3)
	}
	h.Close()
	h.load()
	meet(1, 2)
	b.gate(datapath.Closed, 2)
	b.gate(datapath.Staged, 3) // it comes from elsewhere, and begins anew
	b.gate(datapath.Open, 3)
	clear(want)
	meet(2, 4)
	meet(0, 1)
}
