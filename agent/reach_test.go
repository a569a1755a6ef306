package agent

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
)

// wireEnd is a NIC whose answers a test decides.
type wireEnd struct {
	answers, closed bool
	asked, aloud    int
}

func (w *wireEnd) Index() int { return 1 }
func (w *wireEnd) Close() error {
	w.closed = true
	return nil
}
func (w *wireEnd) Ask(_ netip.Addr, all bool) error {
	w.asked++
	if all {
		w.aloud++
	}
	return nil
}
func (w *wireEnd) Answered([]netip.Addr) int {
	if w.answers {
		return 1
	}
	return 0
}

func TestANICIsSilentWhereAnotherIsAnswered(t *testing.T) {
	ends := map[string]*wireEnd{"eth1": {answers: true}, "eth2": {answers: true}}
	r := &reach{open: func(device string) (Asker, error) { return ends[device], nil }, asking: map[string]*asked{}}
	both := team{nics: []string{"eth1", "eth2"}, targets: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	teams, devices := map[string]team{"eth1": both, "eth2": both}, map[string]int{"eth1": 1, "eth2": 1}
	looks := func(n int) (silent []string) {
		for range n {
			silent = slices.Sorted(maps.Keys(r.look(teams, devices)))
		}
		return silent
	}
	for _, step := range []struct {
		claim        string
		first, other bool
		looks        int
		want         []string
	}{
		{"both are answered", true, true, 10, nil},
		{"two questions are lost", false, true, 2, nil},
		{"the third is lost", false, true, 1, []string{"eth1"}},
		{"it stays silent", false, true, 40, []string{"eth1"}},
		{"the one who was asked is away: nobody moves", false, false, 1, []string{"eth1"}},
		{"for long", false, false, 40, []string{"eth1"}},
		{"it is back by the other alone", false, true, 1, []string{"eth1"}},
		{"and by both", true, true, 1, nil},
		{"both are lost at once", false, false, 10, nil},
	} {
		ends["eth1"].answers, ends["eth2"].answers = step.first, step.other
		if got := looks(step.looks); !slices.Equal(got, step.want) {
			t.Errorf("%s: silent are %v, want %v", step.claim, got, step.want)
		}
	}
	if e := ends["eth1"]; e.aloud == 0 || e.aloud > e.asked/reachAloud+1 {
		t.Errorf("%d of %d questions were to all", e.aloud, e.asked)
	}
	devices["eth1"] = 2 // another device has the name
	ends["eth1"].answers, ends["eth2"].answers = true, true
	was := ends["eth1"]
	looks(1)
	if !was.closed {
		t.Error("a device that has gone is asked further")
	}
	teams = nil
	looks(1)
	if len(r.asking) != 0 || !ends["eth2"].closed {
		t.Error("NICs that nobody wants looked at are asked further")
	}
}
