package main

import (
	"context"
	"errors"
	"time"

	"github.com/weftnet/weft/datapath"
)

// loadName is the measure of what rules add to the programs.
const loadName = "policy-bpf"

// takeLoad has the kernel time the core's programs on both hosts, vp_in and ul_in, while one flow is sent as fast as one core can,
// under several rulesets: what a packet takes in them together. It moves less with what else the machine does than a rate.
func takeLoad(ctx context.Context, s *site, o options, _ *quiet) (result, []figure, error) {
	rulesets := []ruleset{noRules, thousand, ten, linear}
	figures := make([]figure, len(rulesets))
	counting, err := datapath.CountRunTimes()
	if err != nil {
		return result{}, nil, err
	}
	defer counting.Close()
	for range o.Rounds {
		for i, r := range rulesets {
			figures[i].Name, figures[i].Text, figures[i].Unit = loadName+"-"+r.short(), "vp_in and ul_in under load, one flow, "+r.String(), "ns"
			if err := (contender{site: s, rules: r}).prepare(); err != nil {
				return result{}, nil, err
			}
			ns, err := s.loaded(ctx, packetRate, o.Slice)
			if err != nil {
				return result{}, nil, err
			}
			figures[i].Values = append(figures[i].Values, ns)
		}
	}
	return result{}, figures, nil
}

// loaded is the mean time of all the core's programs for a packet from host to host under a load, in nanoseconds.
func (s *site) loaded(ctx context.Context, run func(context.Context, ends, time.Duration) (float64, error), d time.Duration) (sum float64, err error) {
	before, errBefore := s.runTimes()
	_, errRate := insist(func() (float64, error) { return run(ctx, s.lanes[cross], d) })
	after, errAfter := s.runTimes()
	for _, p := range between(before, after, "") {
		sum += p.Nanoseconds
	}
	return sum, errors.Join(errBefore, errRate, errAfter)
}
