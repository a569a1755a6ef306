package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEveryMeasureOfRulesIsTakenAndLeavesNothing(t *testing.T) {
	needRoot(t)
	links := rootLinks(t)
	r, err := policyGroup.take(t.Context(), options{Rounds: 1, Slice: 60 * time.Millisecond}, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]bool{}
	for _, m := range r.Results {
		taken[m.Name] = true
		for _, name := range m.order {
			if v := m.Values[name]; len(v) != 1 || v[0] <= 0 {
				t.Errorf("%s of %s: %v", m.Name, name, v)
			}
		}
	}
	for _, f := range r.Figures {
		for _, name := range policyNames() {
			taken[name] = taken[name] || strings.HasPrefix(f.Name, name)
		}
		if len(f.Values) == 0 || f.None && f.quantile(1) != 0 {
			t.Errorf("%s: %v", f.Text, f.Values)
		}
	}
	for _, name := range policyNames() {
		if !taken[name] {
			t.Errorf("%s was not measured", name)
		}
	}
	r.group = policyGroup
	if got := r.ratios(); len(got) != len(policyAsked) {
		t.Errorf("%d ratios, %d are asked for: one names what is not measured", len(got), len(policyAsked))
	}
	nothingLeft(t, links)
}

func TestARulesetIsTheSameForWeftAndForNftables(t *testing.T) {
	for _, r := range []ruleset{{10, true}, {1000, false}} {
		source, text := r.source(), r.nftables(nil)
		if n := len(source.Policies[0].Spec.Rules); n != 2*r.n {
			t.Errorf("%s: weft gets %d rules, want %d", r, n, 2*r.n)
		}
		if n := strings.Count(text, " drop\n"); n != 2*(r.n-1) {
			t.Errorf("%s: nftables get %d refusals, want %d", r, n, 2*(r.n-1))
		}
		if tracked := strings.Contains(text, "ct state established"); tracked != r.stateful {
			t.Errorf("%s: established first: %v", r, tracked)
		}
		if slices.Contains([]string{"ip", "bridge"}, strings.Fields(text)[3]) == false {
			t.Errorf("%s: family %q", r, strings.Fields(text)[3])
		}
	}
	if noRules.source() != nil || strings.Contains(noRules.nftables(nil), "chain") {
		t.Error("no rules are some")
	}
}

func TestFiguresOfRulesHaveTheirPlaceInTheDocument(t *testing.T) {
	r := report{Groups: []groupReport{{group: policyGroup, Results: []result{{
		measure: measure{Name: "policy-udp64", Text: "x", Unit: "pps"},
		Values:  map[string][]float64{entry{weft, noRules}.name(): {100e3}, entry{weft, thousand}.name(): {90e3}},
		order:   []string{entry{weft, noRules}.name(), entry{weft, thousand}.name()},
	}}}}}
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	begin, end := groupMarks(policyName)
	if err := os.WriteFile(path, []byte(documentBegin+"kept\n"+documentEnd+begin+"old\n"+end+"below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if wrote, err := r.Document(path); !wrote || err != nil {
		t.Fatal(wrote, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kept\n", "100.0 kpps", "| ≥ 0.93 | 0.90 (0.90–0.90) | **missed** |", "below\n"} {
		if strings.Count(string(text), want) != 1 {
			t.Errorf("%q is not there once in:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") {
		t.Error("the old figures are still there")
	}
}

func TestThePlotHasACurveForEachPeerAndKindOfRules(t *testing.T) {
	r := result{measure: curve, Values: map[string][]float64{}}
	for i, e := range curveEntries() {
		r.order = append(r.order, e.name())
		r.Values[e.name()] = []float64{float64(300_000 - 10_000*i)}
	}
	text := plot(r)
	if err := xml.Unmarshal([]byte(text), new(any)); err != nil {
		t.Errorf("it is no XML: %v", err)
	}
	if got := regexp.MustCompile(`points="([0-9.]+,[0-9.]+ ?){5}"`).FindAllString(text, -1); len(got) != len(plotLines) {
		t.Errorf("%d curves of 5 points, want %d:\n%s", len(got), len(plotLines), text)
	}
	if g := curveGrid(r); len(g) != len(plotLines)+1 || g[1][1] != "300.0" || g[1][1] != g[2][1] || slices.Contains(g[4], "0.0") {
		t.Errorf("table %v", g)
	}
	for at, want := range map[float64]float64{0.7: 1, 1: 1, 130: 200, 300: 500, 60_000: 100_000} {
		if got := niceStep(at); got != want {
			t.Errorf("step above %v: %v, want %v", at, got, want)
		}
	}
}
