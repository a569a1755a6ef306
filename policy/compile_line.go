package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// Act is what a rule does, as the kernel knows it.
type Act uint8

// The actions of a rule that decides.
const (
	ActAllow  Act = 1
	ActDeny   Act = 2
	ActReject Act = 3
	ActMeter  Act = 4
)

// line is one rule that can match, in canonical form.
type line struct {
	Outcome
	match match
}

// match is what a packet must be. A list that is nil matches everything.
type match struct {
	ip           bool // only IP packets
	proto        int  // -1: any
	transport    bool // asks for ports, ICMP or flags, which later fragments have none of
	local        end
	remote       end
	icmp         []span // of type<<8 | code
	flags        bool
	set, clear   uint8
	ether        fabric.EtherType
	isExactEther bool
	segment      fabric.VNI // of a trunk; 0: the one that its guest knows untagged
	isOnSegment  bool       // asks for it
}

type end struct {
	listed
	ports []span
	macs  []fabric.MAC
}

// listed are prefixes in canonical form, with a digest of them.
type listed struct {
	prefixes []netip.Prefix
	sum      Digest
}

// reader brings rules into canonical form; what many rules share, the members of a group, it does once.
type reader struct {
	Source
	groups map[string]listed
}

func newReader(s Source) *reader { return &reader{s, map[string]listed{}} }

// span is an inclusive range of numbers.
type span struct{ first, last uint16 }

// lines are the rules of a direction that can match anything, in the order of judgement; the last of those that decide is
// the default action.
func (s *reader) lines(d fabric.Direction) (decides, meters []line) {
	for _, p := range s.Policies {
		rules := make([]*fabric.Rule, 0, len(p.Spec.Rules))
		for i := range p.Spec.Rules {
			if r := &p.Spec.Rules[i]; r.Direction == d {
				rules = append(rules, r)
			}
		}
		slices.SortStableFunc(rules, func(a, b *fabric.Rule) int { return cmp.Compare(b.Weight, a.Weight) })
		for _, r := range rules {
			m, possible := s.matchOf(r)
			if !possible {
				continue
			}
			l := line{outcomeOf(p.Metadata.Name, r), m}
			if l.Act == ActMeter {
				meters = append(meters, l)
			} else {
				decides = append(decides, l)
			}
		}
	}
	last := line{Outcome{ID: DefaultID(d), Act: ActAllow}, match{proto: -1}}
	if s.Default == fabric.Deny {
		last.Act = ActDeny
	}
	return append(decides, last), meters
}

// actions are the kernel's numbers of actions.
var actions = map[fabric.Action]Act{fabric.Allow: ActAllow, fabric.Deny: ActDeny, fabric.Reject: ActReject, fabric.Meter: ActMeter}

func outcomeOf(policy string, r *fabric.Rule) Outcome {
	v := Outcome{ID: ID(policy, r.Name), Act: actions[r.Action], Stateful: r.Stateful}
	if r.Idle > 0 {
		v.Idle = uint32((r.Idle + fabric.MinIdle - 1) / fabric.MinIdle)
	}
	if r.Log != nil {
		v.Sample = max(1, r.Log.Sample)
	}
	return v
}

// matchOf is the rule's match; false when it can match nothing.
func (s *reader) matchOf(r *fabric.Rule) (m match, possible bool) {
	m = match{ip: r.NeedsIP(), proto: -1, ether: r.EtherType, isExactEther: r.EtherType != 0}
	if !s.place(&m, r) {
		return m, false
	}
	if r.Protocol != "" {
		n, err := fabric.ParseProtocol(r.Protocol)
		if err != nil {
			return m, false
		}
		m.proto = int(n)
	}
	var here, there bool
	m.local, here = s.endOf(r.Local)
	m.remote, there = s.endOf(r.Remote)
	if i := r.ICMP; i != nil {
		m.icmp = []span{icmpSpan(i)}
	}
	if f := r.TCPFlags; f != nil {
		m.flags, m.set, m.clear = true, flagBits(f.Set), flagBits(f.Clear)
	}
	m.transport = m.local.ports != nil || m.remote.ports != nil || m.icmp != nil || m.flags
	return m, here && there && m.set&m.clear == 0
}

// place says which segment the rule asks for; false when the port is not on it. What all its frames are on need not be asked.
func (s *Source) place(m *match, r *fabric.Rule) bool {
	if r.VNI == 0 && r.VLAN == 0 {
		return true
	}
	m.isOnSegment = len(s.Tags) > 0
	if (r.VNI == 0 || r.VNI == s.VNI) && (r.VLAN == 0 || r.VLAN == s.VLAN) {
		return true
	}
	for vlan, vni := range s.Tags {
		if vni != s.VNI && (r.VNI == 0 || r.VNI == vni) && (r.VLAN == 0 || r.VLAN == vlan) {
			m.segment = vni
			return true
		}
	}
	return false
}

// icmpSpan is the range of type<<8 | code that is asked for.
func icmpSpan(i *fabric.ICMPMatch) span {
	switch {
	case i.Type == nil:
		return span{0, 0xffff}
	case i.Code == nil:
		return span{uint16(*i.Type) << 8, uint16(*i.Type)<<8 | 0xff}
	}
	return span{uint16(*i.Type)<<8 | uint16(*i.Code), uint16(*i.Type)<<8 | uint16(*i.Code)}
}

// flagBits are TCP flags as the header has them (RFC 9293 section 3.1).
func flagBits(names []string) (bits uint8) {
	for _, name := range names {
		bits |= map[string]uint8{"fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10, "urg": 0x20}[name]
	}
	return bits
}

// endOf is one end in canonical form; false when no packet has it.
func (s *reader) endOf(e *fabric.End) (out end, possible bool) {
	if e == nil {
		return out, true
	}
	if e.Prefixes != nil || e.Groups != nil {
		if out.listed = s.listOf(e); len(out.prefixes) == 0 {
			return out, false
		}
	}
	if e.Ports != nil {
		if out.ports = joined(e.Ports); len(out.ports) == 0 {
			return out, false
		}
	}
	if e.MACs != nil {
		out.macs = slices.Clone(e.MACs)
		slices.SortFunc(out.macs, func(a, b fabric.MAC) int { return bytes.Compare(a[:], b[:]) })
		if out.macs = slices.Compact(out.macs); len(out.macs) == 0 {
			return out, false
		}
	}
	return out, true
}

// listOf are the addresses that prefixes and groups stand for together.
func (s *reader) listOf(e *fabric.End) listed {
	alone := len(e.Prefixes) == 0 && len(e.Groups) == 1
	if alone {
		if known, done := s.groups[e.Groups[0]]; done {
			return known
		}
	}
	all := slices.Clone(e.Prefixes)
	for _, g := range e.Groups {
		all = append(all, s.Groups[g]...)
	}
	l := listed{prefixes: outermost(all)}
	h := sha256.New()
	for _, p := range l.prefixes {
		a := p.Addr().As16()
		h.Write(append([]byte{flag(p.Addr().Is4()), byte(p.Bits())}, a[:]...))
	}
	l.sum = digestOf(h)
	if alone {
		s.groups[e.Groups[0]] = l
	}
	return l
}

// outermost are the prefixes that no other one contains, in order.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(prefixes))
	for i := range prefixes {
		prefixes[i] = prefixes[i].Masked()
	}
	slices.SortFunc(prefixes, comparePrefixes)
	for _, p := range prefixes {
		if n := len(out); n > 0 && out[n-1].Contains(p.Addr()) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// comparePrefixes orders by family and address, a prefix before those inside it.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// joined are the ranges in order, those that touch made one.
func joined(ranges []fabric.PortRange) []span {
	out := make([]span, 0, len(ranges))
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b fabric.PortRange) int { return cmp.Compare(a.First, b.First) })
	for _, r := range sorted {
		n := len(out)
		switch {
		case r.First > r.Last:
		case n > 0 && int(r.First) <= int(out[n-1].last)+1:
			out[n-1].last = max(out[n-1].last, r.Last)
		default:
			out = append(out, span{r.First, r.Last})
		}
	}
	return out
}

// write writes the line without its name, every field of fixed size or with its length.
func (l *line) write(w io.Writer) {
	m := &l.match
	b := make([]byte, 0, 256)
	b = append(b, byte(l.Act), flag(l.Stateful), flag(m.ip), flag(m.transport), flag(m.flags), m.set, m.clear)
	b = binary.BigEndian.AppendUint32(b, l.Idle)
	b = binary.BigEndian.AppendUint32(b, l.Sample)
	b = binary.BigEndian.AppendUint16(b, uint16(m.proto))
	b = binary.BigEndian.AppendUint16(b, uint16(m.ether))
	b = binary.BigEndian.AppendUint32(append(b, flag(m.isOnSegment)), uint32(m.segment))
	for _, e := range []*end{&m.local, &m.remote} {
		b = append(b, flag(e.prefixes != nil), flag(e.ports != nil), flag(e.macs != nil))
		b = append(b, e.sum[:]...)
		b = appendSpans(b, e.ports)
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.macs)))
		for _, mac := range e.macs {
			b = append(b, mac[:]...)
		}
	}
	w.Write(appendSpans(b, m.icmp))
}

func appendSpans(b []byte, spans []span) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(spans)))
	for _, s := range spans {
		b = binary.BigEndian.AppendUint16(b, s.first)
		b = binary.BigEndian.AppendUint16(b, s.last)
	}
	return b
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
