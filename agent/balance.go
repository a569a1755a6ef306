package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

const (
	// balanceEvery is how often the sums of all counters are compared.
	balanceEvery = 10 * time.Second
	// looks is how often a difference is looked at before it is told of, with balanceGap between two: a look is no moment, and frames
	// are under way in it.
	looks      = 6
	balanceGap = 20 * time.Millisecond
	// alarmFor is how long a difference stays in the status after it has last grown.
	alarmFor = 10 * time.Minute
)

// sums are what came in at one place and what is missing of it, in frames, at one look.
type sums struct {
	came    uint64
	missing int64
}

// sumsOf are those of every place of a host: "port/a", "underlay", "tunnel", "nowhere", "uplink/eth1".
func sumsOf(ports map[fabric.PortID]datapath.Counters, host datapath.HostCounters) map[string]sums {
	all := map[string]sums{}
	put := func(place string, c datapath.Counters) {
		in, out := c.Unexplained()
		s := sums{came: c.Rx.Frames + c.Offered, missing: in + out}
		if in < 0 != (out < 0) && in != 0 && out != 0 { // one must not hide the other
			s.missing = in - out
		}
		all[place] = s
	}
	for port, c := range ports {
		put("port/"+string(port), c)
	}
	put("underlay", host.Underlay)
	put("tunnel", host.Tunnel)
	put("nowhere", host.Nowhere)
	for device, c := range host.Uplinks {
		put("uplink/"+device, c)
	}
	return all
}

// balance remembers what is known to be missing at each place.
type balance struct {
	// turn is held for a round.
	turn sync.Mutex

	mu    sync.Mutex
	known map[string]sums
	at    map[string]time.Time // when it has last grown
}

// begin takes the first look of a round and returns the places where something may be missing that was not known.
func (b *balance) begin(now map[string]sums) (suspects map[string]suspect) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known, b.at = map[string]sums{}, map[string]time.Time{}
	}
	for place := range b.known {
		if _, there := now[place]; !there {
			delete(b.known, place)
		}
	}
	suspects = map[string]suspect{}
	for place, s := range now {
		known := b.known[place]
		if s.came < known.came { // plugged in anew: its counters began again
			known.missing = 0
		}
		known.came = s.came
		b.known[place] = known
		if s.missing != known.missing {
			suspects[place] = suspect{known: known.missing, came: s.came, least: s.missing - known.missing}
		}
	}
	return suspects
}

// suspect is a place under suspicion.
type suspect struct {
	known int64
	came  uint64
	// least is the smallest difference of all looks, moved the most frames that came between two of them.
	least int64
	moved uint64
}

// look takes one more look at the suspects. Whoever was once as known is none any more: what was missing was under way.
func look(suspects map[string]suspect, now map[string]sums) {
	for place, x := range suspects {
		s, there := now[place]
		more := s.missing - x.known
		if !there || s.came < x.came || more == 0 || more < 0 != (x.least < 0) {
			delete(suspects, place)
			continue
		}
		x.moved = max(x.moved, s.came-x.came)
		x.came = s.came
		if size(more) < size(x.least) {
			x.least = more
		}
		suspects[place] = x
	}
}

func size(n int64) uint64 { return uint64(max(n, -n)) }

// end returns by how much more is missing where that cannot be frames under way: as many could have come between two looks.
func (b *balance) end(suspects map[string]suspect, at time.Time) (grown map[string]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	grown = map[string]int64{}
	for place, x := range suspects {
		if size(x.least) <= x.moved {
			continue
		}
		known := b.known[place]
		known.missing = x.known + x.least
		b.known[place], b.at[place] = known, at
		grown[place] = x.least
	}
	return grown
}

// missing is how many frames are missing at a place, and since when.
func (b *balance) missing(place string) (n uint64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return size(b.known[place].missing), b.at[place]
}

// places are all where something was ever missing.
func (b *balance) places() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.at))
}

// keepBalance compares what came in with what became of it, on every port and on the host's own sides, until ctx ends.
func (a *Agent) keepBalance(ctx context.Context) error {
	for ctx.Err() == nil {
		a.trouble("counters", a.balanced(ctx))
		pause(ctx, balanceEvery)
	}
	return nil
}

// balanced is one round.
func (a *Agent) balanced(ctx context.Context) error {
	a.balance.turn.Lock()
	defer a.balance.turn.Unlock()
	now, err := a.sums(ctx)
	if err != nil {
		return err
	}
	suspects := a.balance.begin(now)
	for n := 0; n < looks && len(suspects) > 0; n++ {
		pause(ctx, balanceGap)
		if now, err = a.sums(ctx); err != nil {
			return err
		}
		look(suspects, now)
	}
	a.accuse(a.balance.end(suspects, time.Now()))
	return nil
}

func (a *Agent) sums(ctx context.Context) (map[string]sums, error) {
	ports, err := a.machine.Counters(ctx)
	host, err2 := a.machine.Host(ctx)
	if err := errors.Join(err, err2); err != nil {
		if ctx.Err() != nil {
			return nil, nil
		}
		return nil, fmt.Errorf("compare the sums of the counters: %w", err)
	}
	return sumsOf(ports, host), nil
}

// accuse tells of what is missing, and keeps it in the status for a while.
func (a *Agent) accuse(grown map[string]int64) {
	for _, place := range slices.Sorted(maps.Keys(grown)) {
		a.emit(a.event("counters.unexplained", place, fmt.Sprintf(
			"On host %s %d frames at %s are unexplained: they came in and neither went anywhere nor have a reason (negative: more went than came). This is a defect of weft: report it with weft drops -o json, weft version and what happened then.",
			a.config.Host, grown[place], place)))
	}
	for _, place := range a.balance.places() {
		var err error
		if n, at := a.balance.missing(place); n > 0 && time.Since(at) < alarmFor {
			err = fmt.Errorf("%d frames at %s are unexplained: this is a defect; see weft events and weft drops", n, place)
		}
		a.trouble("unexplained "+place, err)
	}
}

// counters are the datapath's, with what is missing as drops without explanation.
func (a *Agent) counters(ctx context.Context) (map[fabric.PortID]datapath.Counters, datapath.HostCounters, error) {
	ports, err := a.machine.Counters(ctx)
	if err != nil {
		return nil, datapath.HostCounters{}, err
	}
	host, err := a.machine.Host(ctx)
	if err != nil {
		return nil, host, err
	}
	for port, c := range ports {
		ports[port] = a.explained("port/"+string(port), c)
	}
	host.Underlay, host.Tunnel, host.Nowhere = a.explained("underlay", host.Underlay), a.explained("tunnel", host.Tunnel), a.explained("nowhere", host.Nowhere)
	for device, c := range host.Uplinks {
		host.Uplinks[device] = a.explained("uplink/"+device, c)
	}
	return ports, host, nil
}

func (a *Agent) explained(place string, c datapath.Counters) datapath.Counters {
	n, _ := a.balance.missing(place)
	if n == 0 {
		return c
	}
	c.DropsIn = maps.Clone(c.DropsIn)
	if c.DropsIn == nil {
		c.DropsIn = map[tracing.Reason]uint64{}
	}
	c.DropsIn[tracing.ReasonUnexplained] += n
	return c
}
