package main

import (
	"strings"
	"testing"
	"time"
)

func TestACrowdedHostIsMeasuredAndEmptiedAgain(t *testing.T) {
	needRoot(t)
	links := rootLinks(t)
	r, err := portsGroup.take(t.Context(), options{Quick: true, Rounds: 1, Slice: 60 * time.Millisecond}, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Results {
		for _, name := range []string{twoPorts, manyPorts} {
			if v := m.Values[name]; len(v) != 1 || v[0] <= 0 {
				t.Errorf("%s of %s: %v", m.Name, name, v)
			}
		}
	}
	r.group = portsGroup
	if len(r.ratios()) != len(portsGroup.asked) {
		t.Errorf("%d ratios, %d are asked for: one names what is not measured", len(r.ratios()), len(portsGroup.asked))
	}
	for i, want := range []int{1, crowdQuick, 1, 1} {
		if i >= len(r.Figures) || len(r.Figures[i].Values) != want || r.Figures[i].quantile(1) <= 0 {
			t.Fatalf("figures %+v", r.Figures)
		}
		t.Log(strings.Join(r.Figures[i].row(), " | "))
	}
	nothingLeft(t, links)
}
