package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// measure is one figure, taken of every peer.
type measure struct {
	// Name is the measure's short name, unique; Text says what is counted.
	Name, Text, Unit string
	// Segmented: taken after the underlay was made to cut frames to the MTU.
	Segmented bool
	lane      lane
	back      bool // the lane's guests change places
	run       func(context.Context, ends, time.Duration) (float64, error)
}

// measures in the order they are taken: forced segmentation is switched on once, and stays.
var measures = []measure{
	{Name: "udp64", Text: "64-byte UDP across hosts, delivered", Unit: "pps", lane: cross, run: packetRate},
	{Name: "udp64-local", Text: "64-byte UDP on one host, delivered", Unit: "pps", lane: local, run: packetRate},
	{Name: "cpu", Text: "kernel CPU time per delivered packet at 100k pps", Unit: "ns", lane: cross, run: packetCost},
	{Name: "rr", Text: "TCP request/response, 1 byte, both guests on one core", Unit: "1/s", lane: cross, run: requestRate},
	{Name: "rr-apart", Text: "TCP request/response, 1 byte, a core for each guest", Unit: "1/s", lane: cross, run: requestRateApart},
	{Name: "crr", Text: "TCP connect/request/response, both guests on one core", Unit: "1/s", lane: cross, run: connectionRate},
	{Name: "tcp", Text: "TCP bulk, veth to veth", Unit: "bit/s", lane: cross, run: bulk},
	{Name: "tcp-to-tap", Text: "TCP bulk, veth to tap", Unit: "bit/s", lane: tap, run: bulk},
	{Name: "tcp-from-tap", Text: "TCP bulk, tap to veth", Unit: "bit/s", lane: tap, back: true, run: bulk},
	{Name: "tcp-seg", Text: "TCP bulk, veth to veth, segmented underlay", Unit: "bit/s", Segmented: true, lane: cross, run: bulk},
	{Name: "tcp-to-tap-seg", Text: "TCP bulk, veth to tap, segmented underlay", Unit: "bit/s", Segmented: true, lane: tap, run: bulk},
	{Name: "tcp-from-tap-seg", Text: "TCP bulk, tap to veth, segmented underlay", Unit: "bit/s", Segmented: true, lane: tap, back: true, run: bulk},
}

// contender is a site under a ruleset, measured against others.
type contender struct {
	name string
	*site
	rules ruleset
	// beside is a load that runs beside the slice, until the function that it returns is called; nil is none.
	beside func() (end func() error)
	// run, where it is set, takes the contender's figure instead of the measure's.
	run func(context.Context, ends, time.Duration) (float64, error)
}

// prepare puts the ruleset in force.
func (c contender) prepare() error {
	if c.ruled == c.rules {
		return nil
	}
	if err := c.judge(c.rules); err != nil {
		return err
	}
	c.ruled = c.rules
	return nil
}

// result is what one measure gave.
type result struct {
	measure
	// Values are the figures of each contender by name, one per round; one without the lane is absent.
	Values map[string][]float64
	// order is that of the contenders.
	order []string
	// Disturbed is how many slices were taken while other processes computed.
	Disturbed int
}

// take runs the measure on all contenders, slice by slice in turn, so that whatever disturbs the machine disturbs all alike.
func (m measure) take(ctx context.Context, all []contender, o options, q *quiet) (result, error) {
	r := result{measure: m, Values: map[string][]float64{}}
	for _, c := range all {
		r.order = append(r.order, c.name)
	}
	for round := range o.Rounds {
		for i := range all {
			c := all[(i+round)%len(all)] // nobody is always first
			e, ok := c.ends(m)
			if !ok {
				continue
			}
			if err := c.prepare(); err != nil {
				return r, err
			}
			end := func() error { return nil }
			if c.beside != nil {
				end = c.beside()
			}
			take := m
			if c.run != nil {
				take.run = c.run
			}
			value, disturbed, err := take.slice(ctx, e, o.Slice, q)
			if err := errors.Join(err, end()); err != nil {
				return r, fmt.Errorf("measure %s on %s: %w", m.Name, c.name, err)
			}
			if disturbed {
				r.Disturbed++
			}
			r.Values[c.name] = append(r.Values[c.name], value)
		}
	}
	return r, nil
}

// slice takes the figure once, and again if somebody disturbed it, as far as the budget goes.
func (m measure) slice(ctx context.Context, e ends, d time.Duration, q *quiet) (value float64, disturbed bool, err error) {
	for {
		if err := q.Await(ctx); err != nil {
			return 0, false, err
		}
		begin, err := now()
		if err != nil {
			return 0, false, err
		}
		if value, err = insist(func() (float64, error) { return m.run(ctx, e, d) }); err != nil {
			return 0, false, err
		}
		disturbed, err = begin.disturbed()
		if err != nil || !disturbed || !q.Spend(d) {
			return value, disturbed, err
		}
	}
}

// insist tries again when nothing arrived: a busy machine may leave a sender without a core for as long as a slice.
func insist(run func() (float64, error)) (value float64, err error) {
	for range 3 {
		if value, err = run(); !errors.Is(err, errNothing) {
			return value, err
		}
	}
	return value, err
}

// ends are the guests a measure uses on this site.
func (s *site) ends(m measure) (ends, bool) {
	e, ok := s.lanes[m.lane]
	if ok && m.back {
		e = e.reversed(s.sender[m.lane])
	}
	return e, ok
}

// takeAll builds every peer's site, takes the measures, and removes the sites, whatever happens.
func takeAll(ctx context.Context, o options, progress func(string)) (results []result, programs []programTime, err error) {
	if err := sweep(); err != nil {
		return nil, nil, fmt.Errorf("remove what an earlier benchmark left: %w", err)
	}
	sites, err := build(buildRaw, buildBridge, buildWeft)
	defer func() {
		for _, s := range sites {
			err = errors.Join(err, s.Close())
		}
	}()
	if err != nil {
		return nil, nil, err
	}
	if o.takes(programsName) {
		progress("time in weft's BPF programs")
		if programs, err = timePrograms(ctx, sites[len(sites)-1], o.Slice); err != nil {
			return nil, nil, err
		}
	}
	all := make([]contender, len(sites))
	for i, s := range sites {
		all[i] = contender{name: s.peer, site: s}
	}
	q := &quiet{budget: o.Patience}
	segmented := false
	for _, m := range measures {
		if !o.takes(m.Name) {
			continue
		}
		if m.Segmented && !segmented {
			segmented = true
			if err := segmentAll(sites); err != nil {
				return nil, nil, err
			}
		}
		progress(m.Text)
		r, err := m.take(ctx, all, o, q)
		if err != nil {
			return nil, nil, err
		}
		results = append(results, r)
	}
	return results, programs, nil
}

// segmentAll makes every site's underlay cut frames.
func segmentAll(sites []*site) error {
	for _, s := range sites {
		if err := s.segment(); err != nil {
			return err
		}
	}
	return nil
}

// build builds sites in order; those that stand are returned even with an error.
func build(builders ...func(int) (*site, error)) (sites []*site, err error) {
	for i, builder := range builders {
		s, err := builder(i)
		if err != nil {
			return sites, fmt.Errorf("build %s: %w", s.peer, err)
		}
		sites = append(sites, s)
		if err := s.connected(); err != nil {
			return sites, fmt.Errorf("build %s: %w", s.peer, err)
		}
	}
	return sites, nil
}

// spread is the middle and the edges of several figures.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf sums up; no figures give zeros.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}

// Over is weft's figure over a peer's.
func (r result) Over(peer string) (spread, bool) { return r.Ratio(weft, peer) }

// Ratio is one contender's figure over another's, round by round: both slices of a ratio stood near each other in time.
func (r result) Ratio(of, over string) (spread, bool) {
	ours, theirs := r.Values[of], r.Values[over]
	n := min(len(ours), len(theirs))
	ratios := make([]float64, n)
	for i := range ratios {
		ratios[i] = ours[i] / theirs[i]
	}
	return spreadOf(ratios), n > 0
}
