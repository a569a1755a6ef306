package tracing

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

// visit is one frame's passage through one host.
type visit struct {
	host    fabric.HostID
	role    Stage // port.in or underlay.in: how the frame came in
	attempt int
	span    SpanID
	steps   []Step
	// parent is the hop on another host that sent the frame here; nil where none is known.
	parent   *Step
	children []*visit
	placed   bool
}

// Assemble makes one path of what all hosts recorded about one label. It needs no order among hosts and trusts no clock
// across them: within a host the kernel's clock orders the hops, between hosts the tunnel end points do. vteps says which
// host owns which tunnel end point.
func Assemble(session uint16, label uint64, hops []Hop, vteps map[netip.Addr]fabric.HostID) *Path {
	return assemble(&Path{TraceID: PacketTrace(session, label), Mode: ModeProbe, Session: session, Label: label, Hops: []Step{}}, hops, vteps)
}

// assemble fills a path in.
func assemble(p *Path, hops []Hop, vteps map[netip.Addr]fabric.HostID) *Path {
	visits := split(p.TraceID, hops, vteps)
	link(visits)
	p.place(visits)
	p.judge()
	return p
}

// split cuts each host's hops into visits and gives the hops their ids and their parents within the visit.
func split(t TraceID, hops []Hop, vteps map[netip.Addr]fabric.HostID) []*visit {
	hops = slices.Clone(hops)
	slices.SortStableFunc(hops, func(a, b Hop) int {
		if a.Host != b.Host {
			if a.Host < b.Host {
				return -1
			}
			return 1
		}
		return before(a, b)
	})
	var visits []*visit
	var now *visit
	var entry Stage // the last entry stage of the visit
	for _, h := range hops {
		if now == nil || now.host != h.Host || begins(now.role, entry, h.Stage) {
			now = &visit{host: h.Host, role: role(h.Stage)}
			for _, v := range visits {
				if v.host == now.host && v.role == now.role {
					now.attempt++
				}
			}
			now.span = VisitSpan(t, now.host, now.role, now.attempt)
			visits, entry = append(visits, now), 0
		}
		if enters(h.Stage) {
			entry = h.Stage
		}
		now.add(h, vteps[h.Peer.Unmap()])
	}
	return visits
}

// before orders two hops of one host: by the kernel's clock, else by the wall clock; hops of the same instant keep the
// order in which the datapath recorded them.
func before(a, b Hop) int {
	if a.Ktime != 0 && b.Ktime != 0 {
		switch {
		case a.Ktime < b.Ktime:
			return -1
		case a.Ktime > b.Ktime:
			return 1
		}
		return 0
	}
	return a.Time.Compare(b.Time)
}

// enters reports whether the stage is one of those by which a frame comes in.
func enters(s Stage) bool {
	return s == StagePortIn || s == StageGuard || s == StageUnderlayIn || s == StageDecap
}

// role is how a frame whose first record is at this stage came in.
func role(s Stage) Stage {
	if s >= StageUnderlayIn {
		return StageUnderlayIn
	}
	return StagePortIn
}

// begins reports whether a hop at stage s begins another visit than the one that came in by way of in and whose last
// entry stage was entry.
func begins(in, entry, s Stage) bool {
	return enters(s) && (role(s) != in || s <= entry)
}

// add appends a hop to the visit. Its parent is the hop before it, except behind a flood, where all ways out begin.
func (v *visit) add(h Hop, peer fabric.HostID) {
	s := Step{Hop: h, VisitID: v.span, Attempt: v.attempt, PeerHost: peer}
	s.SpanID = StageSpan(v.span, h.Stage, len(v.steps))
	for i := len(v.steps) - 1; i >= 0; i-- {
		if precedes(v.steps[i].Hop, h) {
			s.ParentID = v.steps[i].SpanID
			break
		}
	}
	v.steps = append(v.steps, s)
}

// precedes reports whether h can be what came of earlier, a hop before it in the same visit.
func precedes(earlier, h Hop) bool {
	switch {
	case earlier.Ends(), earlier.Stage == StageUnderlayOut:
		return false
	case earlier.Stage == StageEncap:
		return h.Stage == StageUnderlayOut && h.Peer == earlier.Peer || h.Stage == StageEncap && h.Peer == earlier.Peer
	}
	return true
}

// link finds, for every visit that came through a tunnel, the hop on the other host that sent it.
func link(visits []*visit) {
	taken := map[SpanID]bool{}
	for _, v := range visits {
		if v.role != StageUnderlayIn {
			continue
		}
		from := v.from()
		var sender *visit
		for _, u := range visits {
			if u == v || from != "" && u.host != from {
				continue
			}
			if s := u.sent(v.host, taken); s != nil && (v.parent == nil || taken[v.parent.SpanID]) {
				v.parent, sender = s, u
			}
		}
		if sender != nil {
			taken[v.parent.SpanID] = true
			sender.children = append(sender.children, v)
		}
	}
}

// from is the host whose tunnel end point the frame came from; empty when no record tells, and then any that sent to this
// host will do.
func (v *visit) from() fabric.HostID {
	for _, s := range v.steps {
		if enters(s.Stage) && s.PeerHost != "" {
			return s.PeerHost
		}
	}
	return ""
}

// sent is the visit's last hop towards a host; one that no other visit has claimed is preferred, because what is claimed
// twice is a duplicate.
func (v *visit) sent(to fabric.HostID, taken map[SpanID]bool) (hop *Step) {
	for i := range v.steps {
		s := &v.steps[i]
		if s.Stage.leaves() && s.PeerHost == to && (hop == nil || taken[hop.SpanID] || s.ParentID == hop.SpanID) {
			hop = s
		}
	}
	return hop
}

// place lays the tree out in depth-first order and sets times since the start.
func (p *Path) place(visits []*visit) {
	var roots []*visit
	for _, v := range visits {
		if v.parent == nil {
			roots = append(roots, v)
		}
	}
	// The visit that began at a port is the beginning; what has lost its parent comes after it.
	slices.SortStableFunc(roots, func(a, b *visit) int {
		if a.role != b.role {
			return int(a.role) - int(b.role)
		}
		return a.steps[0].Time.Compare(b.steps[0].Time)
	})
	// Records that point at one another in a circle have no root; each visit is placed once all the same.
	for _, v := range append(roots, visits...) {
		if p.Start.IsZero() {
			p.Start = v.steps[0].Time
		}
		p.placeVisit(v, nil, 0)
	}
}

func (p *Path) placeVisit(v *visit, parent *Step, depth int) {
	if v.placed {
		return
	}
	v.placed = true
	first := v.steps[0].Hop
	start := micros(first.Time.Sub(p.Start))
	if parent != nil {
		v.steps[0].ParentID = parent.SpanID
		start = max(start, parent.AfterUs)
	}
	for i := range v.steps {
		s := &v.steps[i]
		s.Depth = depth
		s.AfterUs = start + micros(since(first, s.Hop))
	}
	p.Hops = append(p.Hops, v.steps...)
	for _, child := range v.children {
		p.placeVisit(child, child.parent, depth+1)
	}
}

// since is the time from one hop to a later one of the same host.
func since(first, h Hop) time.Duration {
	if first.Ktime != 0 && h.Ktime >= first.Ktime {
		return time.Duration(h.Ktime - first.Ktime)
	}
	return max(0, h.Time.Sub(first.Time))
}

func micros(d time.Duration) float64 { return max(0, float64(d)/float64(time.Microsecond)) }

// judge sets the verdict: delivered when the frame arrived anywhere, dropped when it ended otherwise (a flood: on every
// way), unknown when it did not end.
func (p *Path) judge() {
	open := p.Floods() && !p.Complete()
	p.Verdict = Unknown
	policy, rule := "", ""
	for _, s := range p.Hops {
		if s.Rule != "" {
			policy, rule = s.Policy, s.Rule
		}
		switch {
		case s.Arrives():
			p.Verdict, p.Reason, p.Generation, p.Policy, p.Rule = Delivered, 0, s.Generation, policy, rule
			return
		case s.Ends() && p.Verdict == Unknown && !open:
			p.Verdict, p.Reason, p.Generation, p.Policy, p.Rule = Dropped, s.Reason, s.Generation, s.Policy, s.Rule
		}
	}
}

// Complete reports whether the records show every end of the way: each hop either ends it or is followed by another.
func (p *Path) Complete() bool {
	followed := map[SpanID]bool{}
	for _, s := range p.Hops {
		followed[s.ParentID] = true
	}
	for _, s := range p.Hops {
		if !s.Ends() && !followed[s.SpanID] {
			return false
		}
	}
	return len(p.Hops) > 0
}

// Floods reports whether the frame was sent more than one way.
func (p *Path) Floods() bool {
	return slices.ContainsFunc(p.Hops, func(s Step) bool { return s.Result == ResultFlood })
}
