package tracing

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/fabric"
)

// LiveReport is what a live session has found so far.
type LiveReport struct {
	ID   uint32 `json:"id"`
	What string `json:"what"`
	// Started is when every host that takes part was armed; Ended is true when the session is over.
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Ended   bool      `json:"ended,omitempty"`
	// OneIn is the sample that was asked for; Fraction the part of all frames whose ways are complete: less where a host's budget was
	// used up and it asked for fewer.
	OneIn    uint32  `json:"oneIn"`
	Fraction float64 `json:"fraction"`
	// Packets are frames whose ways were put together: Delivered, Dropped, Lost between two hosts, Unknown because records are
	// missing, and Orphans, whose beginning no host recorded. A frame may stand for several packets of an aggregate.
	Packets    uint64 `json:"packets"`
	Delivered  uint64 `json:"delivered"`
	Dropped    uint64 `json:"dropped"`
	Lost       uint64 `json:"lost"`
	Unknown    uint64 `json:"unknown"`
	Orphans    uint64 `json:"orphans"`
	Duplicates uint64 `json:"duplicates"`
	// Recut are frames of TCP or UDP with data that one host saw and another did not as the same frame: a host or NIC may have cut them
	// into others, or made one of several, and content does not say whether they arrived.
	Recut uint64 `json:"recut"`
	// Thinned are frames that only some hosts asked for; Overflow are records that there was no room for here.
	Thinned  uint64 `json:"thinned"`
	Overflow uint64 `json:"overflow"`

	Ways   []LiveWay  `json:"ways,omitempty"`
	Drops  []LiveDrop `json:"drops,omitempty"`
	Losses []LiveLoss `json:"losses,omitempty"`
	Hosts  []LiveHost `json:"hosts,omitempty"`
	// Examples are some ways in full, those that were not delivered first.
	Examples []*Path   `json:"examples,omitempty"`
	Missing  []Missing `json:"missing,omitempty"`
	// Kept are all ways in full, as many as were asked for, once the session is over; Unkept counts those beyond.
	Kept   []*Path `json:"kept,omitempty"`
	Unkept uint64  `json:"unkept,omitempty"`
}

// LiveWay is a way that frames took, and how long that lasted in µs: from where the frame was met to where it was handed over.
type LiveWay struct {
	Way      string        `json:"way"`
	Packets  uint64        `json:"packets"`
	P50Us    float64       `json:"p50Us"`
	P99Us    float64       `json:"p99Us"`
	Segments []LiveSegment `json:"segments,omitempty"`
}

// LiveSegment is a part of a way: a host, or what is between two.
type LiveSegment struct {
	Name  string  `json:"name"`
	P50Us float64 `json:"p50Us"`
	P99Us float64 `json:"p99Us"`
}

// LiveDrop is where frames were dropped, and why.
type LiveDrop struct {
	Packets uint64        `json:"packets"`
	Reason  Reason        `json:"reason"`
	Host    fabric.HostID `json:"host"`
	Stage   Stage         `json:"stage"`
	Port    fabric.PortID `json:"port,omitempty"`
	Policy  string        `json:"policy,omitempty"`
	Rule    string        `json:"rule,omitempty"`
}

// LiveLoss is where frames were lost: between two hosts, or, if they are the same, in the kernel of one.
type LiveLoss struct {
	From    fabric.HostID `json:"from"`
	To      fabric.HostID `json:"to"`
	Packets uint64        `json:"packets"`
}

// LiveHost is what a host has counted, and how its clock differs from that of who asked it, in µs, with the error of that.
type LiveHost struct {
	Host fabric.HostID `json:"host"`
	LiveCount
	OffsetUs float64 `json:"offsetUs"`
	WithinUs float64 `json:"withinUs"`
}

// fate is what became of a frame.
type fate int

const (
	fateUnknown fate = iota
	fateDelivered
	fateDropped
	fateLost
	fateOrphan
	fateRecut
)

// fate judges a frame's way. It is lost only where no record can be missing.
func (g *Gatherer) fate(p *Path, f *frame, begun bool) fate {
	recut := maybeRecut(p)
	switch {
	case !begun && recut:
		return fateRecut
	case !begun:
		return fateOrphan
	case p.Verdict == Delivered:
		return fateDelivered
	case p.Verdict == Dropped:
		return fateDropped
	}
	followed := map[SpanID]bool{}
	for _, s := range p.Hops {
		followed[s.ParentID] = true
	}
	var lost [][2]fabric.HostID
	for _, s := range p.Hops {
		if s.Ends() || followed[s.SpanID] || s.Result == ResultFlood && s.Stage == StageFDB {
			continue
		}
		to := s.PeerHost
		if !s.Stage.leaves() {
			to = s.Host
		}
		if to == "" || !g.hasAll(to, f) || !g.hasAll(s.Host, f) {
			return fateUnknown
		}
		lost = append(lost, [2]fabric.HostID{s.Host, to})
	}
	if len(lost) == 0 {
		return fateUnknown
	}
	if recut {
		return fateRecut
	}
	for _, at := range lost {
		g.lost[at]++
	}
	return fateLost
}

// headersOnly is the length of the longest frame that has no data to be cut: Ethernet, IPv6 and a full TCP header, in bytes.
const headersOnly = 14 + 40 + 60

// maybeRecut reports whether the frame carries data that may be in other frames elsewhere: segmentation and its reverse (GSO, GRO)
// are made of TCP, and of UDP where a guest or a NIC aggregates.
func maybeRecut(p *Path) bool {
	first := p.Hops[0]
	return first.Protocol == protoTCP && first.Length > headersOnly || first.Protocol == protoUDP && first.Length > maxPlain
}

// maxPlain is the longest frame of ordinary Ethernet, in bytes: a longer one may be a datagram, or an aggregate of several.
const maxPlain = 1514

// hasAll reports whether the host has told all that it recorded while the frame was under way.
func (g *Gatherer) hasAll(host fabric.HostID, f *frame) bool {
	h := g.hosts[host]
	return h != nil && h.armed && h.missing == nil && h.answer.After(f.last) && h.gapAt.Before(f.first.Add(-settled))
}

func (g *Gatherer) countDrops(p *Path) {
	for _, s := range p.Hops {
		if s.Result == ResultDrop {
			g.drops[LiveDrop{Reason: s.Reason, Host: s.Host, Stage: s.Stage, Port: s.Port, Policy: s.Policy, Rule: s.Rule}]++
		}
	}
}

// example keeps a few ways of each outcome.
func (g *Gatherer) example(o fate, p *Path) {
	n := 0
	for _, e := range g.sum.Examples {
		if e.Verdict == p.Verdict && e.Reason == p.Reason {
			n++
		}
	}
	if n < maxExamples && (o != fateDelivered || n == 0) && len(g.sum.Examples) < 8*maxExamples {
		g.sum.Examples = append(g.sum.Examples, p)
	}
}

// wayCount adds up the frames of one way.
type wayCount struct {
	packets  uint64
	whole    histogram
	names    []string
	segments []histogram
}

// countWay adds a frame that was delivered to its way.
func (g *Gatherer) countWay(p *Path) {
	name, names, parts, whole := wayOf(p)
	w := g.ways[name]
	if w == nil {
		w = &wayCount{whole: histogram{}, names: names}
		for range parts {
			w.segments = append(w.segments, histogram{})
		}
		g.ways[name] = w
	}
	w.packets++
	w.whole.add(whole)
	for i, us := range parts {
		if i < len(w.segments) {
			w.segments[i].add(us)
		}
	}
}

// wayOf names the way of a frame by where it began, its hosts and where it ended, and gives the times of its parts in µs. Of a frame
// that goes several ways only where it began is in the name.
func wayOf(p *Path) (name string, names []string, parts []float64, whole float64) {
	first := p.Hops[0]
	words := []string{place(first.Port, first.Host)}
	if p.Floods() {
		return words[0] + " > several", nil, nil, 0
	}
	var end Step
	for i := 0; i < len(p.Hops); {
		j := i
		for j < len(p.Hops) && p.Hops[j].Host == p.Hops[i].Host {
			j++
		}
		from, to := p.Hops[i], p.Hops[j-1]
		if i > 0 {
			names = append(names, fmt.Sprintf("%s → %s", p.Hops[i-1].Host, from.Host))
			parts = append(parts, from.AfterUs-p.Hops[i-1].AfterUs)
			if j < len(p.Hops) {
				words = append(words, string(from.Host))
			}
		}
		names, parts, end = append(names, string(from.Host)), append(parts, to.AfterUs-from.AfterUs), to
		i = j
	}
	return strings.Join(append(words, place(end.Port, end.Host)), " > "), names, parts, end.AfterUs
}

func place(port fabric.PortID, host fabric.HostID) string {
	if port == "" {
		return string(host)
	}
	return string(port) + "@" + string(host)
}

// histogram counts durations in µs in steps of 2 %.
type histogram map[int]uint64

const histogramStep = 1.02

func (h histogram) add(us float64) {
	h[int(math.Floor(math.Log(max(us, 0.001))/math.Log(histogramStep)))]++
}

// quantile is the duration that a part q of all is not longer than, 0 to 1; 0 of none.
func (h histogram) quantile(q float64) float64 {
	var all, seen uint64
	for _, n := range h {
		all += n
	}
	for _, step := range slices.Sorted(maps.Keys(h)) {
		if seen += h[step]; float64(seen) >= q*float64(all) {
			return math.Pow(histogramStep, float64(step+1))
		}
	}
	return 0
}

// Report is what was found until now.
func (g *Gatherer) Report(now time.Time, ended bool) LiveReport {
	r := g.sum
	r.Seconds, r.Ended, r.Examples = now.Sub(g.since).Seconds(), ended, slices.Clone(g.sum.Examples)
	if !ended {
		r.Kept = nil
	}
	r.Fraction = float64(g.threshold()) / math.MaxUint64
	for name, w := range g.ways {
		way := LiveWay{Way: name, Packets: w.packets, P50Us: w.whole.quantile(0.5), P99Us: w.whole.quantile(0.99)}
		for i, s := range w.segments {
			way.Segments = append(way.Segments, LiveSegment{Name: w.names[i], P50Us: s.quantile(0.5), P99Us: s.quantile(0.99)})
		}
		r.Ways = append(r.Ways, way)
	}
	for d, n := range g.drops {
		d.Packets = n
		r.Drops = append(r.Drops, d)
	}
	for at, n := range g.lost {
		r.Losses = append(r.Losses, LiveLoss{From: at[0], To: at[1], Packets: n})
	}
	for host, h := range g.hosts {
		if h.armed {
			r.Hosts = append(r.Hosts, LiveHost{Host: host, LiveCount: h.count, OffsetUs: float64(h.offset) / 1e3, WithinUs: float64(h.within) / 1e3})
		}
		if h.missing != nil {
			r.Missing = append(r.Missing, *h.missing)
		}
	}
	r.order()
	return r
}

// order sorts what came out of maps: most packets first.
func (r *LiveReport) order() {
	slices.SortFunc(r.Ways, func(a, b LiveWay) int { return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Way, b.Way)) })
	slices.SortFunc(r.Drops, func(a, b LiveDrop) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Port, b.Port))
	})
	slices.SortFunc(r.Losses, func(a, b LiveLoss) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	slices.SortFunc(r.Hosts, func(a, b LiveHost) int { return cmp.Compare(a.Host, b.Host) })
	slices.SortFunc(r.Missing, func(a, b Missing) int { return cmp.Compare(a.Host, b.Host) })
}
