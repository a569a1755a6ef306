package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// Bounds of Compare: what is beyond them is counted, not computed.
const (
	maxShownChanges = 1000
	maxComparisons  = 40_000_000 // of a packet with a rule
)

// Change is what becomes of the same packets before and after.
type Change struct {
	// From and To are ports, or addresses that are no port's: prefixes, ranges, or "elsewhere" for all others.
	From []string `json:"from"`
	To   []string `json:"to"`
	// Service is what they carry: "tcp/443", "udp/53 from 1024-65535", "icmp type 8", "protocol 47", "ethertype 0x88cc".
	Service string `json:"service"`
	// Before and After are allow, deny or reject; "allow, stateful" where answers pass without a rule of their own.
	Before string `json:"before"`
	After  string `json:"after"`
	// Rule is the one that decides afterwards, the default when it is empty.
	Rule RuleRef `json:"rule,omitzero"`
}

// Opens reports whether something becomes possible that was not; Closes the opposite.
func (c Change) Opens() bool {
	return !strings.HasPrefix(c.Before, "allow") && strings.HasPrefix(c.After, "allow")
}
func (c Change) Closes() bool {
	return strings.HasPrefix(c.Before, "allow") && !strings.HasPrefix(c.After, "allow")
}

// Changes is the result of Compare.
type Changes struct {
	Items []Change `json:"items"`
	// Left says what was not computed or is not listed; empty when everything is.
	Left string `json:"left,omitempty"`
}

// Compare lists the packets that are decided differently in two snapshots: between ports that are in both, and between them
// and everywhere else (with a MAC that no rule names). It is computed by classes of addresses, ports and messages that no rule tells apart, so that it is
// exact. A packet between two ports passes when the sender's port and the receiver's allow it.
func Compare(before, after *fabric.Snapshot) Changes {
	c := comparison{sides: [2]*fabric.Snapshot{before, after}, budget: maxComparisons}
	c.collect()
	for _, sw := range slices.Sorted(maps.Keys(c.stations)) {
		if !c.switched(sw) {
			break
		}
	}
	return c.result()
}

// station is a port by one of its addresses (an invalid one for frames that are not IP), or an address that is no port's.
type station struct {
	port  fabric.PortID // empty elsewhere
	addr  netip.Addr
	mac   fabric.MAC
	lists [2]*list // nil elsewhere, which judges nothing
	known [2]bool
	// changed is set when the two lists differ.
	changed bool
	label   string
}

// class is stations that no rule tells apart.
type class struct {
	station
	names []string
}

type comparison struct {
	sides    [2]*fabric.Snapshot
	stations map[fabric.SwitchID][]station
	lists    map[string]*resolved
	changes  []Change
	budget   int
	hidden   int
}

// resolved is a list that ports share, in both snapshots.
type resolved struct {
	lists   [2]*list
	known   [2]bool
	changed bool
}

// resolve finds a port's lists; ports that name the same policies share them.
func (c *comparison) resolve(old, port *fabric.Port) *resolved {
	key := fmt.Sprint(port.Spec.Switch, " ", old.Spec.Profile, old.Spec.Policies, " ", port.Spec.Profile, port.Spec.Policies)
	r := c.lists[key]
	if r == nil {
		r = &resolved{}
		for i, s := range c.sides {
			l, known := listOf(s, fabric.PortID(port.Metadata.Name))
			r.lists[i], r.known[i] = &l, known
		}
		r.changed = r.known[0] != r.known[1] || !reflect.DeepEqual(nameless(r.lists[0]), nameless(r.lists[1]))
		c.lists[key] = r
	}
	return r
}

// collect lists the stations of each switch on which anything has changed.
func (c *comparison) collect() {
	c.stations, c.lists = map[fabric.SwitchID][]station{}, map[string]*resolved{}
	changed := map[fabric.SwitchID]bool{}
	for _, id := range slices.Sorted(maps.Keys(c.sides[1].Ports)) {
		old, port := c.sides[0].Ports[id], c.sides[1].Ports[id]
		if old == nil || old.Spec.Switch != port.Spec.Switch {
			continue
		}
		r := c.resolve(old, port)
		st := station{port: id, mac: port.Spec.MAC, label: string(id), lists: r.lists, known: r.known, changed: r.changed}
		changed[port.Spec.Switch] = changed[port.Spec.Switch] || st.changed
		for _, a := range append([]netip.Addr{{}}, port.Spec.Addresses...) {
			if a.IsValid() && !slices.Contains(old.Spec.Addresses, a) {
				continue
			}
			st.addr = a
			c.stations[port.Spec.Switch] = append(c.stations[port.Spec.Switch], st)
		}
	}
	maps.DeleteFunc(c.stations, func(sw fabric.SwitchID, _ []station) bool { return !changed[sw] })
}

// nameless is what of a list decides.
func nameless(l *list) list {
	c := *l
	c.rules = slices.Clone(l.rules)
	for i := range c.rules {
		c.rules[i].ref, c.rules[i].Name, c.rules[i].Weight, c.rules[i].Log = RuleRef{}, "", 0, nil
	}
	return c
}

// switched compares everything on one switch; false when the budget is spent.
func (c *comparison) switched(sw fabric.SwitchID) bool {
	all := c.stations[sw]
	prefixes, macs := sets(all)
	all = append(all, elsewhere(all, prefixes)...)
	if c.budget -= len(all) * len(prefixes); c.budget < 0 {
		return false
	}
	classes := classify(all, prefixes, macs)
	for _, from := range classes {
		for _, to := range classes {
			if !from.changed && !to.changed || from.addr.BitLen() != to.addr.BitLen() || from.port == "" && to.port == "" {
				continue
			}
			if len(from.names) == 1 && len(to.names) == 1 && from.port == to.port && from.port != "" {
				continue
			}
			if !c.pair(from, to) {
				return false
			}
		}
	}
	return true
}

// sets lists the distinct sets of addresses and of MACs that the stations' rules ask for.
func sets(stations []station) (prefixes [][]netip.Prefix, macs []fabric.MAC) {
	seen := map[string]bool{}
	done := map[*list]bool{}
	for _, s := range stations {
		for _, l := range s.lists {
			if l == nil || done[l] {
				continue
			}
			done[l] = true
			for _, j := range l.rules {
				for _, set := range [][]netip.Prefix{j.local, j.remote} {
					if key := fmt.Sprint(set); set != nil && !seen[key] {
						seen[key] = true
						prefixes = append(prefixes, set)
					}
				}
				for _, e := range []*fabric.End{j.Local, j.Remote} {
					if e != nil {
						macs = append(macs, e.MACs...)
					}
				}
			}
		}
	}
	slices.SortFunc(macs, func(a, b fabric.MAC) int { return slices.Compare(a[:], b[:]) })
	return prefixes, slices.Compact(macs)
}

// elsewhere makes stations of the addresses that rules name and no port has, one for each range between two boundaries, and
// one for frames that are not IP.
func elsewhere(ports []station, prefixes [][]netip.Prefix) []station {
	used := map[netip.Addr]bool{}
	out := []station{{label: "elsewhere"}}
	var starts []netip.Addr
	add := func(a netip.Addr) {
		if a.IsValid() {
			starts = append(starts, a)
		}
	}
	for _, first := range []string{"0.0.0.0", "::"} {
		add(netip.MustParseAddr(first))
	}
	for _, set := range prefixes {
		for _, p := range set {
			add(p.Addr())
			add(lastOf(p).Next())
		}
	}
	for _, s := range ports {
		if s.addr.IsValid() {
			used[s.addr] = true
			add(s.addr)
			add(s.addr.Next())
		}
	}
	slices.SortFunc(starts, netip.Addr.Compare)
	for _, a := range slices.Compact(starts) {
		if !used[a] {
			out = append(out, station{addr: a, label: labelOf(a, prefixes)})
		}
	}
	return out
}

// labelOf names the narrowest prefix of the rules that an address begins a range of.
func labelOf(a netip.Addr, sets [][]netip.Prefix) string {
	best := netip.Prefix{}
	for _, set := range sets {
		for _, p := range set {
			if p.Contains(a) && p.Bits() > 0 && (!best.IsValid() || p.Bits() > best.Bits()) {
				best = p
			}
		}
	}
	if !best.IsValid() {
		return "elsewhere"
	}
	return best.String()
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// classify puts stations together that are judged alike and that no rule tells apart.
func classify(stations []station, prefixes [][]netip.Prefix, macs []fabric.MAC) []*class {
	ids := map[*list]int{nil: 0}
	id := func(l *list) int {
		if _, ok := ids[l]; !ok {
			ids[l] = len(ids)
		}
		return ids[l]
	}
	byKey := map[string]*class{}
	var out []*class
	for _, s := range stations {
		var key strings.Builder
		fmt.Fprint(&key, s.port == "", s.addr.BitLen(), s.known, id(s.lists[0]), id(s.lists[1]), slices.Index(macs, s.mac), " ")
		for _, set := range prefixes {
			if s.addr.IsValid() && matchAddress(set, s.addr) {
				key.WriteByte('1')
			} else {
				key.WriteByte('0')
			}
		}
		k := byKey[key.String()]
		if k == nil {
			k = &class{station: s}
			byKey[key.String()] = k
			out = append(out, k)
		}
		if !slices.Contains(k.names, s.label) {
			k.names = append(k.names, s.label)
		}
	}
	return out
}

// outcome is what becomes of a packet between two stations.
type outcome struct {
	action   fabric.Action
	stateful bool
	rule     RuleRef
}

func (o outcome) String() string {
	if o.stateful {
		return string(o.action) + ", stateful"
	}
	return string(o.action)
}

// pair compares what one class may send to another; false when the budget is spent.
func (c *comparison) pair(from, to *class) bool {
	var outs, ins [2]list
	for i := range c.sides {
		outs[i], ins[i] = narrowed(from.station, i, fabric.Out, from.station, to.station), narrowed(to.station, i, fabric.In, from.station, to.station)
	}
	cells := cellsOf(from.station, to.station, outs[0].rules, ins[0].rules, outs[1].rules, ins[1].rules)
	c.budget -= len(cells) * (1 + len(outs[0].rules) + len(ins[0].rules) + len(outs[1].rules) + len(ins[1].rules))
	if c.budget < 0 {
		return false
	}
	type group struct{ before, after outcome }
	found := map[group][]cell{}
	var order []group
	for _, one := range cells {
		p := one.packet(from.station, to.station)
		var o [2]outcome
		for i := range c.sides {
			o[i] = passes(from.known[i] || from.port == "", to.known[i] || to.port == "", outs[i], ins[i], p)
		}
		if o[0].action == o[1].action && o[0].stateful == o[1].stateful {
			continue
		}
		o[0].rule = RuleRef{}
		g := group{o[0], o[1]}
		if found[g] == nil {
			order = append(order, g)
		}
		found[g] = append(found[g], one)
	}
	for _, g := range order {
		for _, service := range services(found[g]) {
			if len(c.changes) >= maxShownChanges {
				c.hidden++
				continue
			}
			c.changes = append(c.changes, Change{From: from.names, To: to.names, Service: service, Before: g.before.String(), After: g.after.String(), Rule: g.after.rule})
		}
	}
	return true
}

// narrowed is a station's list with only the rules that may match a packet between two stations.
func narrowed(s station, side int, d fabric.Direction, from, to station) list {
	l := s.lists[side]
	if l == nil {
		return list{action: fabric.Allow}
	}
	out := list{action: l.action, vni: l.vni}
	p := Packet{SourceMAC: from.mac, DestinationMAC: to.mac, Source: from.addr, Destination: to.addr}
	if d == fabric.In {
		p = p.reverse()
	}
	for _, j := range l.rules {
		if j.Direction != d || j.Action == fabric.Meter || j.VNI != 0 && j.VNI != l.vni {
			continue
		}
		if matchMAC(j.Local, p.SourceMAC) && matchMAC(j.Remote, p.DestinationMAC) && matchAddress(j.local, p.Source) && matchAddress(j.remote, p.Destination) {
			out.rules = append(out.rules, j)
		}
	}
	return out
}

// passes judges a packet at the sender's port, then at the receiver's.
func passes(fromKnown, toKnown bool, out, in list, p Packet) outcome {
	if !fromKnown || !toKnown {
		return outcome{action: fabric.Deny}
	}
	a := out.decide(fabric.Out, p)
	if !a.Allowed() {
		return outcome{action: a.Action, rule: a.Rule}
	}
	b := in.decide(fabric.In, p)
	o := outcome{action: b.Action, rule: b.Rule, stateful: b.Allowed() && (a.Stateful || b.Stateful)}
	if b.Rule == (RuleRef{}) {
		o.rule = a.Rule
	}
	return o
}

func (c *comparison) result() Changes {
	slices.SortStableFunc(c.changes, func(a, b Change) int {
		return cmp.Compare(weightOf(a), weightOf(b))
	})
	out := Changes{Items: c.changes}
	switch {
	case c.budget < 0:
		out.Left = "the rules tell too many packets apart to compare all: what is listed is exact, more may change"
	case c.hidden > 0:
		out.Left = fmt.Sprintf("%d more", c.hidden)
	}
	return out
}

// weightOf puts what opens first, then what closes.
func weightOf(c Change) int {
	switch {
	case c.Opens():
		return 0
	case c.Closes():
		return 1
	}
	return 2
}
