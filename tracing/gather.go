package tracing

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

const (
	// settled is how long nothing more of a frame has come when its way is put together.
	settled = time.Second
	// maxOpen bounds the frames whose ways are not put together yet.
	maxOpen = 200_000
	// maxExamples is how many ways of a kind are kept whole.
	maxExamples = 3
)

// Gatherer puts together what hosts record for a live session. It is a calculation: hosts are asked elsewhere, and every time comes
// in as a value of the clock of who asks. Its zero value is of no use; see NewGatherer.
type Gatherer struct {
	asked LiveSession
	vteps map[netip.Addr]fabric.HostID
	since time.Time
	until time.Time // frames that were met later are not counted; zero: it is not over
	hosts map[fabric.HostID]*gathered
	open  map[uint64]*frame
	sum   LiveReport
	ways  map[string]*wayCount
	drops map[LiveDrop]uint64
	lost  map[[2]fabric.HostID]uint64
	// keep is how many ways are kept whole, again how often a label was met among those, because what decided one.
	keep    int
	again   map[uint64]int
	because func(*Path) []Change
}

// gathered is what is known of a host.
type gathered struct {
	armed   bool
	count   LiveCount
	answer  time.Time // when it answered last
	gapAt   time.Time // when it last told of records that are missing
	offset  time.Duration
	within  time.Duration // the error of offset; 0: not measured
	missing *Missing
}

// frame is what hosts have recorded about a label.
type frame struct {
	runs        []Run
	first, last time.Time // arrivals
}

// NewGatherer puts together the ways of frames that were met after since.
func NewGatherer(s LiveSession, vteps map[netip.Addr]fabric.HostID, since time.Time) *Gatherer {
	return &Gatherer{
		asked: s, vteps: vteps, since: since, hosts: map[fabric.HostID]*gathered{}, open: map[uint64]*frame{}, ways: map[string]*wayCount{},
		drops: map[LiveDrop]uint64{}, lost: map[[2]fabric.HostID]uint64{},
		sum: LiveReport{ID: s.ID, What: s.What, OneIn: max(1, s.OneIn), Started: since},
	}
}

// Keep has so many ways kept whole, the first ones, whatever became of them. Because finds the operations that wrote what decided one.
func (g *Gatherer) Keep(ways int, because func(*Path) []Change) {
	g.keep, g.again, g.because = ways, make(map[uint64]int, ways), because
}

// Arm notes that a host takes part, or why it does not.
func (g *Gatherer) Arm(host fabric.HostID, err error) {
	h := &gathered{armed: err == nil}
	if err != nil {
		h.missing = &Missing{Host: host, Asked: "arm", Error: err.Error()}
	}
	g.hosts[host] = h
}

// Fail notes that a host did not answer.
func (g *Gatherer) Fail(host fabric.HostID, err error) {
	if h := g.hosts[host]; h != nil {
		h.missing = &Missing{Host: host, Asked: "collect", Error: err.Error()}
	}
}

// Add takes what a host has answered between two moments.
func (g *Gatherer) Add(host fabric.HostID, asked, answered time.Time, b LiveBatch) {
	h := g.hosts[host]
	if h == nil {
		return
	}
	if within := answered.Sub(asked)/2 + 1; h.within == 0 || within < h.within {
		h.within, h.offset = within, b.Now.Sub(asked.Add(answered.Sub(asked)/2))
	}
	if b.Count.Lost+b.Count.Denied > h.count.Lost+h.count.Denied {
		h.gapAt = answered
	}
	h.count, h.answer, h.missing = b.Count, answered, nil
	for _, r := range b.Runs {
		r.Host = host
		r.Time = r.Time.Add(-h.offset)
		f := g.open[r.Label]
		if f == nil {
			if len(g.open) >= maxOpen {
				g.sum.Overflow++
				continue
			}
			f = &frame{first: answered}
			g.open[r.Label] = f
		}
		f.runs, f.last = append(f.runs, r), answered
	}
}

// Until ends the session: frames that are met from now on are not counted.
func (g *Gatherer) Until(now time.Time) { g.until = now }

// Settle puts together the ways of frames of which nothing has come lately.
func (g *Gatherer) Settle(now time.Time) {
	least := g.threshold()
	for label, f := range g.open {
		if now.Sub(f.last) < settled {
			continue
		}
		delete(g.open, label)
		if label > least {
			g.sum.Thinned++ // some host does not ask for it any more
			continue
		}
		for _, runs := range episodes(f.runs) {
			g.settle(label, f, runs)
		}
	}
}

// threshold is the highest label that all hosts ask for.
func (g *Gatherer) threshold() uint64 {
	least := uint64(math.MaxUint64)
	for _, h := range g.hosts {
		if h.armed && h.count.Threshold != 0 {
			least = min(least, h.count.Threshold)
		}
	}
	return least
}

// begins reports whether a run is one by which a frame comes to the fabric.
func (r Run) begins() bool {
	return len(r.Marks) > 0 && (role(r.Marks[0].Stage) == StagePortIn && enters(r.Marks[0].Stage) || r.Marks[0].Stage == StageWireIn)
}

// began is when the frame was met.
func (r Run) began() time.Time { return r.Time.Add(-r.Took) }

// episodes are the runs of a label, apart for each time that a frame with it was sent: content repeats.
func episodes(runs []Run) [][]Run {
	slices.SortStableFunc(runs, func(a, b Run) int {
		if a.Host == b.Host {
			return cmp.Compare(a.Ktime, b.Ktime)
		}
		return a.began().Compare(b.began())
	})
	var starts []int
	for i, r := range runs {
		if r.begins() {
			starts = append(starts, i)
		}
	}
	if len(starts) < 2 {
		return [][]Run{runs}
	}
	all := make([][]Run, len(starts))
	for i, r := range runs {
		at := 0
		for n, start := range starts {
			if start <= i {
				at = n
			}
		}
		all[at] = append(all[at], r)
	}
	return all
}

// settle counts one frame's way.
func (g *Gatherer) settle(label uint64, f *frame, runs []Run) {
	begun := g.asked.Drops || slices.ContainsFunc(runs, Run.begins) // of drops alone no beginning is asked for
	first := runs[0].began()
	if first.Before(g.since) || !begun && first.Before(g.since.Add(settled)) || !g.until.IsZero() && first.After(g.until) {
		return // it was under way before every host was armed, or when hosts were about to be disarmed
	}
	var hops []Hop
	for _, r := range runs {
		hops = append(hops, r.Hops()...)
	}
	session := uint16(g.sum.ID)
	p := assemble(&Path{TraceID: PacketTrace(session, label).again(g.again[label]), Mode: ModeLive, Session: session, Label: label, Hops: []Step{}}, hops, g.vteps)
	g.sum.Packets++
	g.countDrops(p)
	if slices.ContainsFunc(p.Hops, func(s Step) bool { return s.Attempt > 0 && s.Stage == StagePortOut }) {
		g.sum.Duplicates++
	}
	fate := g.fate(p, f, begun)
	switch fate {
	case fateDelivered:
		g.sum.Delivered++
		g.countWay(p)
	case fateDropped:
		g.sum.Dropped++
	case fateLost:
		g.sum.Lost++
	case fateOrphan:
		g.sum.Orphans++
	case fateRecut:
		g.sum.Recut++
	default:
		g.sum.Unknown++
	}
	g.example(fate, p)
	switch {
	case len(g.sum.Kept) < g.keep:
		g.again[label]++
		p.Changes = g.because(p)
		g.sum.Kept = append(g.sum.Kept, p)
	case g.keep > 0:
		g.sum.Unkept++
	}
}
