package agent

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

var (
	_ server.Lives    = (*liveTracer)(nil)
	_ tracing.Watcher = watchers{}
)

// keptFor is how long the report of a session can be read after its end.
const keptFor = time.Minute

// liveTracer follows guests' frames: it records them on this host, and puts together what all hosts record.
type liveTracer struct {
	prober  *prober
	watches Watches
	name    func(tracing.Hop) tracing.Hop
	// lifetime is the agent's, until stop: a session outlives the request that begins it.
	lifetime context.Context
	stop     context.CancelFunc

	running sync.WaitGroup
	mu      sync.Mutex
	lives   map[uint32]*tracing.Live
}

// newLiveTracer follows guests' frames until it is closed.
func newLiveTracer(p *prober, w Watches, name func(tracing.Hop) tracing.Hop) *liveTracer {
	t := &liveTracer{prober: p, watches: w, name: name, lives: map[uint32]*tracing.Live{}}
	t.lifetime, t.stop = context.WithCancel(context.Background())
	return t
}

// StartLive begins a session on all hosts.
func (t *liveTracer) StartLive(ctx context.Context, r api.LiveRequest) (none tracing.LiveReport, err error) {
	snap := t.prober.latest()
	if snap == nil {
		return none, fmt.Errorf("trace live: the wanted state is not known here yet: %w", api.ErrUnavailable)
	}
	o := tracing.LiveOptions{For: r.For(), VTEPs: map[netip.Addr]fabric.HostID{}, Keep: r.Keep}
	o.Because = func(p *tracing.Path) []tracing.Change { return changesOf(t.prober.latest(), p) }
	o.Session = tracing.LiveSession{
		ID: 1 + rand.Uint32N(65535), OneIn: r.Sample, Drops: r.Drops, Every: r.Every, MaxRate: cmp.Or(r.MaxRate, tracing.DefaultRecords),
		TTL: r.For() + 10*time.Second, What: fmt.Sprintf("%s, asked for at %s on %s", r.Text(), time.Now().Format(time.TimeOnly), t.prober.host),
	}
	if o.Session.Picks, err = r.Picks(snap); err != nil {
		return none, fmt.Errorf("trace live: %w", err)
	}
	if err := o.Session.Check(); err != nil {
		return none, err
	}
	for id, h := range snap.Hosts {
		o.VTEPs[h.Spec.VTEP] = id
		o.Hosts = append(o.Hosts, id)
	}
	slices.Sort(o.Hosts)
	live, err := tracing.StartLive(ctx, watchers{t}, o)
	if err != nil {
		return none, err
	}
	t.mu.Lock()
	t.lives[o.Session.ID] = live
	t.mu.Unlock()
	t.running.Go(func() { t.run(live) })
	time.AfterFunc(o.For+keptFor, func() { t.forget(o.Session.ID) })
	return live.Report(), nil
}

// run follows a session to its end, and gives the ways that were kept to the collector.
func (t *liveTracer) run(live *tracing.Live) {
	live.Run(t.lifetime)
	t.prober.telemetry.Path(t.lifetime, live.Report().Kept...)
}

func (t *liveTracer) forget(id uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.lives, id)
}

// Close ends the sessions.
func (t *liveTracer) Close() error {
	t.stop()
	t.running.Wait()
	return nil
}

// LiveReports are those of the sessions that were begun here.
func (t *liveTracer) LiveReports() []tracing.LiveReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := []tracing.LiveReport{}
	for _, l := range t.lives {
		r := l.Report()
		r.Examples = nil
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b tracing.LiveReport) int { return a.Started.Compare(b.Started) })
	return all
}

// LiveReport is what a session has found so far, and ends it if it is to end.
func (t *liveTracer) LiveReport(ctx context.Context, id uint32, end bool) (none tracing.LiveReport, err error) {
	t.mu.Lock()
	l := t.lives[id]
	t.mu.Unlock()
	if l == nil {
		return none, fmt.Errorf("live session %d was not begun at host %s, or is over since more than %v: %w", id, t.prober.host, keptFor, fabric.ErrNotFound)
	}
	if end {
		l.End(ctx)
	}
	return l.Report(), nil
}

// Watch records on this host.
func (t *liveTracer) Watch(ctx context.Context, s tracing.LiveSession) error {
	return t.watches.Watch(ctx, s)
}

// Unwatch ends a session on this host.
func (t *liveTracer) Unwatch(ctx context.Context, id uint32) error { return t.watches.Unwatch(ctx, id) }

// Watched is what this host has recorded, with the names of its rules.
func (t *liveTracer) Watched(ctx context.Context, id uint32) (tracing.LiveBatch, error) {
	b, err := t.watches.Watched(ctx, id)
	if err != nil {
		return b, err
	}
	for i := range b.Runs {
		for j := range b.Runs[i].Sides {
			s := &b.Runs[i].Sides[j]
			named := t.name(tracing.Hop{RuleID: s.RuleID})
			s.Policy, s.Rule = named.Policy, named.Rule
		}
	}
	return b, nil
}

// watchers are all hosts of the fabric, this one included.
type watchers struct{ *liveTracer }

// Watch records on a host.
func (w watchers) Watch(ctx context.Context, host fabric.HostID, s tracing.LiveSession) error {
	return hosts{w.prober}.on(host, func(*prober) error { return w.liveTracer.Watch(ctx, s) }, func(c *client.Client) error { return c.ArmLive(ctx, s) })
}

// Watched is what a host has recorded.
func (w watchers) Watched(ctx context.Context, host fabric.HostID, s tracing.LiveSession) (b tracing.LiveBatch, err error) {
	err = hosts{w.prober}.on(host, func(*prober) (err error) { b, err = w.liveTracer.Watched(ctx, s.ID); return err },
		func(c *client.Client) (err error) { b, err = c.CollectLive(ctx, s); return err })
	return b, err
}

// Unwatch ends a session on a host.
func (w watchers) Unwatch(ctx context.Context, host fabric.HostID, s tracing.LiveSession) error {
	return hosts{w.prober}.on(host, func(*prober) error { return w.liveTracer.Unwatch(ctx, s.ID) }, func(c *client.Client) error { return c.DisarmLive(ctx, s) })
}
