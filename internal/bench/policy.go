package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// policyName is the group of measures of rules; the names of its members begin with it and a hyphen.
const policyName = "policy"

// The rulesets that are compared.
var (
	noRules   = ruleset{}
	thousand  = ruleset{1000, true}
	ten       = ruleset{10_000, true}
	linear    = ruleset{1000, false}
	curveSize = []int{10, 100, 1000, 10_000}
)

// ruled is a measure that is taken of peers under rulesets.
type ruled struct {
	measure
	of []entry
}

// entry is a peer and what its guests are judged by.
type entry struct {
	peer  string
	rules ruleset
}

// name is how the figures call it; a raw veth judges nobody.
func (e entry) name() string {
	if e.peer == raw {
		return raw
	}
	return e.peer + ", " + e.rules.String()
}

// ruledMeasures in the order they are taken.
func ruledMeasures() []ruled {
	across := []entry{{raw, noRules}, {weft, noRules}, {weft, thousand}, {weft, ten}, {filtered, noRules}, {filtered, thousand}, {filtered, linear}}
	connecting := []entry{{raw, noRules}, {weft, noRules}, {weft, thousand}, {filtered, thousand}}
	return []ruled{
		{measure{Name: "policy-udp64", Text: "64-byte UDP across hosts, one flow", Unit: "pps", lane: cross, run: packetRate}, across},
		{measure{Name: "policy-crr", Text: "TCP connect/request/response, both guests on one core", Unit: "1/s", lane: cross, run: connectionRate}, connecting},
		{measure{Name: "policy-urr", Text: "UDP request/response, a socket for each, both guests on one core", Unit: "1/s", lane: cross, run: inquiryRate}, connecting},
		{curve, curveEntries()},
	}
}

// curve is the measure that is plotted over the number of rules.
var curve = measure{Name: "policy-curve", Text: "64-byte UDP across hosts by number of rules", Unit: "pps", lane: cross, run: packetRate}

func curveEntries() []entry {
	var all []entry
	for _, peer := range []string{weft, filtered} {
		all = append(all, entry{peer, noRules})
		for _, stateful := range []bool{true, false} {
			for _, n := range curveSize {
				all = append(all, entry{peer, ruleset{n, stateful}})
			}
		}
	}
	return all
}

// policyGroup are the figures of rules.
var policyGroup = group{name: policyName, members: policyNames(), asked: policyAsked, take: takePolicy}

// policyNames are the names of the group's members.
func policyNames() []string {
	var all []string
	for _, m := range ruledMeasures() {
		all = append(all, m.Name)
	}
	for _, p := range policyParts {
		all = append(all, p.name)
	}
	return all
}

// asked is a ratio of two contenders; least 0 says that it was not asked for and is only told.
type asked struct {
	measure, of, over string
	least             float64
}

// policyAsked are the ratios that rules were to reach; docs/benchmarks.md says why one is missed.
var policyAsked = []asked{
	{"policy-udp64", entry{weft, thousand}.name(), entry{weft, noRules}.name(), 0.93},
	{"policy-udp64", entry{weft, ten}.name(), entry{weft, noRules}.name(), 0.90},
	{"policy-udp64", entry{weft, thousand}.name(), entry{filtered, thousand}.name(), 2.5},
	{"policy-udp64", entry{weft, thousand}.name(), entry{filtered, linear}.name(), 2.5},
	{"policy-crr", entry{weft, thousand}.name(), raw, 0.8},
	{"policy-crr", entry{weft, thousand}.name(), entry{weft, noRules}.name(), 0},
	{"policy-urr", entry{weft, thousand}.name(), raw, 0.8},
	{"policy-urr", entry{weft, thousand}.name(), entry{weft, noRules}.name(), 0},
	{attackName, besideRandom, unattacked, 0.9},
	{attackName, besideRandom, besideOne, 0},
	{attackName, atReceiver, unattacked, 0},
	{worstName, everyNew, everyKnown, 1.0 / 3},
}

// policyParts are the members of the group that concern weft alone; one that compares nothing has no result.
var policyParts = []struct {
	name, text string
	take       func(context.Context, *site, options, *quiet) (result, []figure, error)
}{
	{loadName, "time in weft's BPF programs under rules", takeLoad},
	{attackName, "what an attack leaves the others", takeAttack},
	{worstName, "the dearest packet", takeWorst},
	{swapName, "the swap of a policy on many ports", takeSwap},
	{groupsName, "a change of a large group", takeGroup},
	{compileName, "the compiler of rules", takeCompile},
	{memoryName, "the memory of rules", takeMemory},
}

// takePolicy builds the peers that rules are compared on, takes the group's measures, and removes the sites.
func takePolicy(ctx context.Context, o options, progress func(string)) (r groupReport, err error) {
	if err := sweep(); err != nil {
		return r, fmt.Errorf("remove what an earlier benchmark left: %w", err)
	}
	sites, err := build(buildRaw, buildFiltered, buildWeft)
	defer func() {
		for _, s := range sites {
			err = errors.Join(err, s.Close())
		}
	}()
	if err != nil {
		return r, err
	}
	q := &quiet{budget: o.Patience}
	for _, m := range ruledMeasures() {
		if !o.takes(m.Name) {
			continue
		}
		progress(m.Text)
		taken, err := m.take(ctx, m.contenders(sites), o, q)
		if err != nil {
			return r, err
		}
		r.Results = append(r.Results, taken)
	}
	weft := sites[len(sites)-1]
	for _, p := range policyParts {
		if !o.takes(p.name) {
			continue
		}
		progress(p.text)
		taken, figures, err := p.take(ctx, weft, o, q)
		if err != nil {
			return r, fmt.Errorf("measure %s: %w", p.name, err)
		}
		if taken.Name != "" {
			r.Results = append(r.Results, taken)
		}
		r.Figures = append(r.Figures, figures...)
	}
	return r, nil
}

// contenders are the entries on the sites that stand.
func (m ruled) contenders(sites []*site) []contender {
	all := make([]contender, len(m.of))
	for i, e := range m.of {
		at := slices.IndexFunc(sites, func(s *site) bool { return s.peer == e.peer })
		all[i] = contender{name: e.name(), site: sites[at], rules: e.rules}
	}
	return all
}
