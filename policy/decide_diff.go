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
	maxComparisons  = 100_000_000 // of a packet with a rule
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
	c := comparison{sides: [2]*fabric.Snapshot{before, after}, budget: maxComparisons, listed: map[same]int{}}
	c.collect()
	for _, sw := range slices.Sorted(maps.Keys(c.stations)) {
		if !c.switched(sw) {
			break
		}
	}
	return c.result()
}

type comparison struct {
	sides    [2]*fabric.Snapshot
	stations map[fabric.SwitchID][]station
	lists    map[string]*resolved
	changes  []Change
	listed   map[same]int // the changes by what others may share with them
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
	key := fmt.Sprint(port.Spec.Switch, " ", old.Spec.Profile, old.Spec.Policies, " ", port.Spec.Profile, port.Spec.Policies, c.sides[0].Segments(old), c.sides[1].Segments(port))
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
		for _, a := range append(make([]netip.Addr, 1), port.Spec.Addresses...) {
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
	v := vocabularyOf(all)
	all = append(all, v.elsewhere(all)...)
	if c.budget -= v.place(all); c.budget < 0 {
		return false
	}
	classes := v.classify(all)
	if c.budget -= len(classes) * len(v.sets) / 8; c.budget < 0 {
		return false
	}
	for _, from := range classes {
		for _, to := range classes {
			if !from.changed && !to.changed || from.addr.BitLen() != to.addr.BitLen() || from.port == "" && to.port == "" {
				continue
			}
			if len(from.names) == 1 && len(to.names) == 1 && from.port == to.port && from.port != "" {
				continue
			}
			if !c.pair(v, from, to) {
				return false
			}
		}
	}
	return true
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
func (c *comparison) pair(v *vocabulary, from, to *class) bool {
	var outs, ins [2]list
	for i := range c.sides {
		outs[i], ins[i] = v.narrowed(from.lists[i], fabric.Out, from, to), v.narrowed(to.lists[i], fabric.In, to, from)
		c.budget -= (len(v.ends[from.lists[i]]) + len(v.ends[to.lists[i]])) / 8
	}
	cells := onSegments(cellsOf(from.station, to.station, outs[0].rules, ins[0].rules, outs[1].rules, ins[1].rules), &outs, &ins)
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
			o[i] = passes(from.known[i] || from.port == "", to.known[i] || to.port == "", outs[i], ins[i], p, one.on)
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
			c.add(from, to, Change{From: from.names, To: to.names, Service: service, Before: g.before.String(), After: g.after.String(), Rule: g.after.rule})
		}
	}
	return true
}

// same is what changes have in common that differ in one end alone.
type same struct {
	end, service, before, after string
	rule                        RuleRef
	out                         bool
}

// add lists a change, together with others of which only the other end differs: addresses that are no port's, or the senders.
func (c *comparison) add(from, to *class, one Change) {
	key := same{strings.Join(one.To, "\n"), one.Service, one.Before, one.After, one.Rule, false}
	if to.port == "" {
		key.end, key.out = strings.Join(one.From, "\n"), true
	}
	i, known := c.listed[key]
	switch {
	case known && key.out:
		c.changes[i].To = append(c.changes[i].To, one.To...)
	case known:
		c.changes[i].From = append(c.changes[i].From, one.From...)
	case len(c.changes) >= maxShownChanges:
		c.hidden++
	default:
		c.listed[key] = len(c.changes)
		one.From, one.To = slices.Clone(one.From), slices.Clone(one.To)
		c.changes = append(c.changes, one)
	}
}

// narrowed is a port's list with only the rules that may match a packet between it and another station.
func (v *vocabulary) narrowed(l *list, d fabric.Direction, local, remote *class) list {
	if l == nil {
		return list{action: fabric.Allow} // elsewhere, which is on every segment
	}
	out := list{action: l.action, on: l.on}
	for i, ends := range v.ends[l] {
		if !local.has(ends[0]) || !remote.has(ends[1]) {
			continue
		}
		j := &l.rules[i]
		if j.Direction == d && j.Action != fabric.Meter && l.canBeOn(&j.Rule) && matchMAC(j.Local, local.mac) && matchMAC(j.Remote, remote.mac) {
			out.rules = append(out.rules, *j)
		}
	}
	return out
}

// onSegments are the cells on each segment that both ends are on afterwards, where a rule tells segments apart and an end is a trunk.
func onSegments(cells []cell, outs, ins *[2]list) []cell {
	trunk, asked := false, false
	for _, l := range []*list{&outs[0], &ins[0], &outs[1], &ins[1]} {
		trunk = trunk || len(l.on.Tags) > 0
		asked = asked || slices.ContainsFunc(l.rules, func(j judge) bool { return j.VNI != 0 || j.VLAN != 0 })
	}
	if !trunk || !asked {
		return cells
	}
	from, to := &outs[1], &ins[1]
	way := append([]fabric.VNI{from.on.Sends}, slices.Sorted(maps.Values(from.on.Tags))...)
	if from.on.Sends == 0 { // elsewhere
		way = to.on.Heard()
	}
	var out []cell
	for _, vni := range way {
		if to.on.Sends != 0 && !slices.Contains(to.on.Heard(), vni) {
			continue
		}
		_, vlan := from.segment(vni)
		if vlan == 0 {
			_, vlan = to.segment(vni)
		}
		for _, c := range cells {
			c.on, c.vlan = vni, vlan
			out = append(out, c)
		}
	}
	return out
}

// known is what the port's guest knows a segment by (Packet.Segment).
func (l *list) known(vni fabric.VNI) fabric.VNI {
	if len(l.on.Tags) == 0 || vni == l.on.Sends {
		return 0
	}
	return vni
}

// passes judges a packet on a segment at the sender's port, then at the receiver's.
func passes(fromKnown, toKnown bool, out, in list, p Packet, vni fabric.VNI) outcome {
	if !fromKnown || !toKnown {
		return outcome{action: fabric.Deny}
	}
	p.Segment = out.known(vni)
	a := out.decide(fabric.Out, p)
	if !a.Allowed() {
		return outcome{action: a.Action, rule: a.Rule}
	}
	p.Segment = in.known(vni)
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
	for i := range c.changes { // a class of each family may have the same name
		for _, names := range []*[]string{&c.changes[i].From, &c.changes[i].To} {
			slices.Sort(*names)
			*names = slices.Compact(*names)
		}
	}
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
