package main

import (
	"testing"
	"time"
)

func TestServicesAreMeasuredAndLeaveNothing(t *testing.T) {
	needRoot(t)
	links := rootLinks(t)
	r, err := servicesGroup.take(t.Context(), options{Rounds: 1, Slice: 60 * time.Millisecond}, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Figures) != 1 || len(r.Figures[0].Values) != 20 || r.Figures[0].quantile(0) <= 0 {
		t.Errorf("figures %+v", r.Figures)
	}
	for _, name := range []string{throughWeft, throughNFT} {
		if len(r.Results) != 1 || len(r.Results[0].Values[name]) != 1 || r.Results[0].Values[name][0] <= 0 {
			t.Errorf("results of %s: %+v", name, r.Results)
		}
	}
	r.group = servicesGroup
	if len(r.ratios()) != len(servicesGroup.asked) {
		t.Errorf("%d ratios, %d are asked for: one names what is not measured", len(r.ratios()), len(servicesGroup.asked))
	}
	nothingLeft(t, links)
}
