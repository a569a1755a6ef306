package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Model judges sequences of packets: the rules, and the flows and fragments that earlier packets left behind. It forgets
// nothing but what Prune takes away: quotas and evictions are not of its making. It is not safe for concurrent use.
type Model struct {
	snapshot  *fabric.Snapshot
	adopting  map[fabric.PortID]bool
	lists     map[fabric.PortID]generation
	flows     map[place]*Flow
	fragments map[residue]remembered
	count     uint64 // of generations
}

// generation is a port's list with a number that changes when the list does.
type generation struct {
	list
	known  bool
	number uint64
	// asked are the questions that the list has answered already: its answer depends on nothing else.
	asked map[question]Verdict
	// idles are the idle times that its rules set.
	idles map[RuleRef]time.Duration
}

// question is what the rules can ask about a packet.
type question struct {
	in     bool
	packet Packet
}

// mostAsked is how many answers are kept of one list.
const mostAsked = 1 << 16

// decide is the list's decision, which is looked for among its answers first.
func (g generation) decide(d fabric.Direction, p Packet) Verdict {
	p.FragmentID, p.Sequence, p.Acknowledgment, p.Payload, p.Quote = 0, 0, 0, 0, nil // no rule can ask for these
	q := question{d == fabric.In, p}
	if v, known := g.asked[q]; known {
		return v
	}
	if len(g.asked) == mostAsked {
		clear(g.asked)
	}
	v := g.list.decide(d, p)
	g.asked[q] = v
	return v
}

// meter is the rule that counts a packet.
func (g generation) meter(d fabric.Direction, p Packet) RuleRef { return g.decide(d, p).Meter }

// place is a connection at a port, as the opener's packets show it.
type place struct {
	port fabric.PortID
	dir  fabric.Direction
	Connection
}

// residue is where a port remembers a first fragment until another one comes there: one for each remainder of identifications.
type residue struct {
	port fabric.PortID
	dir  fabric.Direction
	id   uint32
}

// fragment tells which packet a fragment is of.
type fragment struct {
	source, destination netip.Addr
	protocol            uint8 // of IPv4 only
	segment             fabric.VNI
	id                  uint32
}

// fragmentOf is the packet that a fragment is of (RFC 791 section 3.2, RFC 8200 section 4.5).
func fragmentOf(p Packet) fragment {
	f := fragment{source: p.Source, destination: p.Destination, segment: p.Segment, id: p.FragmentID}
	if p.Source.Is4() {
		f.protocol = p.Protocol
	}
	return f
}

type remembered struct {
	fragment
	Verdict
	at time.Time
}

// NewModel starts without flows.
func NewModel(s *fabric.Snapshot) *Model {
	return &Model{snapshot: s, adopting: map[fabric.PortID]bool{}, lists: map[fabric.PortID]generation{}, flows: map[place]*Flow{}, fragments: map[residue]remembered{}}
}

// Replace puts another snapshot in force. Flows of ports whose rules it changes are judged again by their next packet.
func (m *Model) Replace(s *fabric.Snapshot) {
	m.snapshot = s
	for id, old := range m.lists {
		l, known := listOf(s, id)
		if known != old.known || !reflect.DeepEqual(l, old.list) {
			m.resolved(id, l, known)
			if !known || !l.opensFlows() {
				maps.DeleteFunc(m.flows, func(at place, _ *Flow) bool { return at.port == id })
			}
		}
	}
}

// Adopt says whether a port takes connections on whose opening it did not see.
func (m *Model) Adopt(port fabric.PortID, on bool) { m.adopting[port] = on }

// Flows lists the flows of a port that have not been idle.
func (m *Model) Flows(port fabric.PortID, now time.Time) []Flow {
	var out []Flow
	for at, f := range m.flows {
		if at.port == port && now.Sub(f.Last) < f.timeout() {
			out = append(out, *f)
		}
	}
	return out
}

// Decide is the function of that name on the model's snapshot: by the rules alone, and without resolving them each time.
func (m *Model) Decide(port fabric.PortID, d fabric.Direction, p Packet) Verdict {
	g := m.list(port)
	if !g.known {
		return Verdict{Action: fabric.Deny, Reason: ByUnknown}
	}
	return g.decide(d, p)
}

// list is a port's list; it is resolved once for each snapshot that changes it.
func (m *Model) list(port fabric.PortID) generation {
	g, ok := m.lists[port]
	if !ok {
		l, known := listOf(m.snapshot, port)
		g = m.resolved(port, l, known)
	}
	return g
}

// resolved puts a port's list in force under a number of its own.
func (m *Model) resolved(port fabric.PortID, l list, known bool) generation {
	m.count++
	g := generation{list: l, known: known, number: m.count, asked: map[question]Verdict{}, idles: map[RuleRef]time.Duration{}}
	for _, j := range l.rules {
		if j.Idle != 0 {
			g.idles[j.ref] = time.Duration(j.Idle)
		}
	}
	m.lists[port] = g
	return g
}

// Prune takes away flows that have been idle and fragments that are no longer remembered; no verdict changes by it.
func (m *Model) Prune(now time.Time) {
	maps.DeleteFunc(m.flows, func(_ place, f *Flow) bool { return now.Sub(f.Last) >= f.timeout() })
	maps.DeleteFunc(m.fragments, func(_ residue, r remembered) bool { return now.Sub(r.at) >= fragmentsKept })
}

// Judge says what becomes of a packet at a port, and remembers what it opens or closes. Time must not run backwards.
func (m *Model) Judge(port fabric.PortID, d fabric.Direction, p Packet, now time.Time) Verdict {
	g := m.list(port)
	switch {
	case !g.known:
		return Verdict{Action: fabric.Deny, Reason: ByUnknown}
	case p.isNeighbor():
		return g.decide(d, p)
	}
	if !p.Fragment {
		return m.whole(g, port, d, p, now)
	}
	at, of := residue{port, d, p.FragmentID % fragmentPlaces}, fragmentOf(p)
	if !p.Later {
		v := m.whole(g, port, d, p, now)
		m.fragments[at] = remembered{of, v, now}
		return v
	}
	if first := m.fragments[at]; first.fragment == of && now.Sub(first.at) < fragmentsKept {
		v := first.Verdict
		v.Reason = ByFragment
		return v
	}
	return g.decide(d, p)
}

// whole judges a packet that shows its transport header: by its flow, else by the rules.
func (m *Model) whole(g generation, port fabric.PortID, d fabric.Direction, p Packet, now time.Time) Verdict {
	if f, from := m.flowOf(port, d, p, now); f != nil && !f.reopens(p, from) && m.goesOn(g, port, f, p, from) {
		f.advance(p, from, now)
		return Verdict{Action: fabric.Allow, Reason: ByFlow, Rule: f.Rule, Meter: g.meter(d, p), Stateful: true}
	}
	if rule, related := m.related(g, port, d, p, now); related {
		return Verdict{Action: fabric.Allow, Reason: ByRelated, Rule: rule, Meter: g.meter(d, p)}
	}
	v := g.decide(d, p)
	c, connects := connectionOf(p)
	if !connects || p.isEchoReply() {
		return v
	}
	if p.Protocol == protocolTCP && p.TCPFlags&(FlagSYN|FlagACK|FlagRST|FlagFIN) != FlagSYN {
		return m.midstream(g, port, d, p, v, now)
	}
	if v.Allowed() && v.Stateful {
		m.open(g, place{port, d, c}, v.Rule, p, 0, FlowOpening, now)
	}
	return v
}

// flowOf finds the flow a packet belongs to and who sent it: 0 the opener, 1 the other side. A flow that was idle ends here.
func (m *Model) flowOf(port fabric.PortID, d fabric.Direction, p Packet, now time.Time) (*Flow, int) {
	c, ok := connectionOf(p)
	if !ok {
		return nil, 0
	}
	for from, at := range []place{{port, d, c}, {port, opposite(d), c.reverse()}} {
		f := m.flows[at]
		if f == nil {
			continue
		}
		if now.Sub(f.Last) < f.timeout() {
			return f, from
		}
		delete(m.flows, at)
	}
	return nil, 0
}

// reopens reports whether the packet begins another connection of the same addresses and ports, or identifier (ADR 10, 9).
func (f *Flow) reopens(p Packet, from int) bool {
	if p.isEchoRequest() {
		return from == 1
	}
	if p.Protocol != protocolTCP || p.TCPFlags&(FlagSYN|FlagACK|FlagRST|FlagFIN) != FlagSYN {
		return false
	}
	return f.State == FlowClosing || f.State == FlowOpen && from == 1
}

// goesOn judges a flow again when the rules have changed since it was judged (ADR 10, 7), and ends it when they no longer
// allow it to be opened.
func (m *Model) goesOn(g generation, port fabric.PortID, f *Flow, p Packet, from int) bool {
	if f.generation == g.number {
		return true
	}
	v := g.again(f, p, from)
	if !v.Stateful {
		delete(m.flows, place{port, f.Direction, f.Connection})
		return false
	}
	f.Rule, f.generation, f.Idle = v.Rule, g.number, g.idles[v.Rule]
	return true
}

// again is the verdict on the flow's first packet if it came now, with the MACs of the packet at hand; Stateful where it goes on.
func (g generation) again(f *Flow, p Packet, from int) Verdict {
	v := g.decide(f.Direction, f.first(p, from))
	v.Stateful = v.Stateful && v.Allowed()
	return v
}

// first is the packet that opened the flow as it would come now, with the MACs of the packet at hand.
func (f *Flow) first(p Packet, from int) Packet {
	o := Packet{SourceMAC: p.SourceMAC, DestinationMAC: p.DestinationMAC, EtherType: p.EtherType, Segment: f.Segment, Protocol: f.Protocol,
		Source: f.Source, Destination: f.Destination, SourcePort: f.SourcePort, DestinationPort: f.DestinationPort, Echo: f.Echo}
	if from == 1 {
		o.SourceMAC, o.DestinationMAC = p.DestinationMAC, p.SourceMAC
	}
	switch f.Protocol {
	case protocolTCP:
		o.TCPFlags = FlagSYN
	case protocolICMP:
		o.ICMPType = 8
	case protocolICMPv6:
		o.ICMPType = 128
	}
	return o
}

// related finds the rule of the flow that an ICMP error speaks of: it quotes a packet that went the other way (ADR 10, 10). The
// flow stays as it is.
func (m *Model) related(g generation, port fabric.PortID, d fabric.Direction, p Packet, now time.Time) (RuleRef, bool) {
	if p.Group() || p.Quote == nil || p.Quote.Source != p.Destination {
		return RuleRef{}, false
	}
	q := *p.Quote
	q.SourceMAC, q.DestinationMAC, q.EtherType, q.Segment = p.DestinationMAC, p.SourceMAC, p.EtherType, p.Segment
	f, from := m.flowOf(port, opposite(d), q, now)
	switch {
	case f == nil:
		return RuleRef{}, false
	case f.generation == g.number:
		return f.Rule, true
	}
	v := g.again(f, q, from)
	return v.Rule, v.Stateful
}

// midstream judges a TCP packet that opens no connection by itself and belongs to none.
func (m *Model) midstream(g generation, port fabric.PortID, d fabric.Direction, p Packet, v Verdict, now time.Time) Verdict {
	c, _ := connectionOf(p)
	if m.adopting[port] && p.TCPFlags&(FlagSYN|FlagRST) == 0 {
		if v.Allowed() && v.Stateful {
			m.open(g, place{port, d, c}, v.Rule, p, 0, FlowOpen, now)
			return v
		}
		syn := p.reverse()
		syn.TCPFlags = FlagSYN
		if o := g.decide(opposite(d), syn); p.TCPFlags&FlagACK != 0 && o.Allowed() && o.Stateful {
			m.open(g, place{port, opposite(d), c.reverse()}, o.Rule, p, 1, FlowOpen, now)
			o.Meter = v.Meter
			return o
		}
	}
	if v.Allowed() && v.Stateful {
		v.Action, v.Reason = fabric.Deny, ByNoFlow
	}
	return v
}

// open makes a flow; from says whose packet p is.
func (m *Model) open(g generation, at place, rule RuleRef, p Packet, from int, s FlowState, now time.Time) {
	// A connection in the other direction is the same connection.
	delete(m.flows, place{at.port, opposite(at.dir), at.reverse()})
	f := &Flow{Connection: at.Connection, Direction: at.dir, Rule: rule, State: s, Idle: g.idles[rule], generation: g.number}
	m.flows[at] = f
	f.advance(p, from, now)
}

func opposite(d fabric.Direction) fabric.Direction {
	if d == fabric.In {
		return fabric.Out
	}
	return fabric.In
}
