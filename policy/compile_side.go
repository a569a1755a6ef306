package policy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// builder compiles one side, dimension by dimension.
type builder struct {
	rules []numbered
	// words is the size of a set, of which the meters begin at word meters.
	words, meters int
	side          Side
}

// numbered is a line with its place in the sets.
type numbered struct {
	*line
	n int
}

// compileSide compiles one direction.
func compileSide(decides, meters []line) (Side, error) {
	b := &builder{meters: (len(decides) + 63) / 64}
	b.words = b.meters + (len(meters)+63)/64
	for i := range decides {
		b.rules = append(b.rules, numbered{&decides[i], i})
		b.side.Decides = append(b.side.Decides, decides[i].Outcome)
	}
	for i := range meters {
		b.rules = append(b.rules, numbered{&meters[i], 64*b.meters + i})
		b.side.Meters = append(b.side.Meters, meters[i].Outcome)
	}
	for _, compile := range []func() error{
		b.services,
		func() error {
			return b.addresses(DimRemote, func(m *match) listed { return m.remote.listed })
		},
		func() error { return b.addresses(DimLocal, func(m *match) listed { return m.local.listed }) },
		b.remotePorts,
		b.flags,
		b.etherTypes,
		func() error { return b.macs(DimRemoteMAC, func(m *match) []fabric.MAC { return m.remote.macs }) },
		func() error { return b.macs(DimLocalMAC, func(m *match) []fabric.MAC { return m.local.macs }) },
		b.segments,
	} {
		if err := compile(); err != nil {
			return Side{}, err
		}
	}
	return b.side, nil
}

// where are the rules whose match is so, as a set.
func (b *builder) where(is func(*match) bool) ruleSet {
	set := make(ruleSet, b.words)
	for _, r := range b.rules {
		if is(&r.match) {
			set.add(r.n)
		}
	}
	return set
}

// uses reports whether any rule's match is so, which makes the dimension one that is looked at.
func (b *builder) uses(dim Dim, is func(*match) bool) bool {
	if slices.ContainsFunc(b.rules, func(r numbered) bool { return is(&r.match) }) {
		b.side.Dims |= 1 << dim
		return true
	}
	return false
}

// node is a prefix with the class of its addresses, by its number of arrival.
type node struct {
	prefix netip.Prefix
	class  int
}

// addresses makes a class of each set of rules that a prefix and those around it belong to. Rules of one list of prefixes, the
// members of a group, are looked at together.
func (b *builder) addresses(dim Dim, of func(*match) listed) error {
	if !b.uses(dim, func(m *match) bool { return of(m).prefixes != nil }) {
		return nil
	}
	rules, owners := map[Digest]ruleSet{}, map[netip.Prefix][]ruleSet{}
	for _, r := range b.rules {
		l := of(&r.match)
		if l.prefixes == nil {
			continue
		}
		set, known := rules[l.sum]
		if !known {
			set = make(ruleSet, b.words)
			rules[l.sum] = set
			for _, p := range l.prefixes {
				owners[p] = append(owners[p], set)
			}
		}
		set.add(r.n)
	}
	found := newClasses(b.where(func(m *match) bool { return of(m).prefixes == nil }))
	entries := b.nest(slices.SortedFunc(maps.Keys(owners), comparePrefixes), owners, found)
	numbers, err := found.final()
	if err != nil {
		return err
	}
	for _, e := range entries {
		b.side.Addresses = append(b.side.Addresses, Address{dim, e.prefix, numbers[e.class]})
	}
	b.side.Vectors = found.vectors(b.side.Vectors, dim, numbers, b.meters)
	return nil
}

// nest gives each prefix the rules of its own and of those that contain it; those whose class is that of what is around them are
// left out.
func (b *builder) nest(sorted []netip.Prefix, owners map[netip.Prefix][]ruleSet, found *classes) (entries []node) {
	var around []node // the prefixes that contain this one, the widest first
	set := make(ruleSet, b.words)
	for _, p := range sorted {
		for len(around) > 0 && !around[len(around)-1].prefix.Contains(p.Addr()) {
			around = around[:len(around)-1]
		}
		outer := 0
		if len(around) > 0 {
			outer = around[len(around)-1].class
		}
		copy(set, found.sets[outer])
		for _, own := range owners[p] {
			set.join(own)
		}
		here := node{p, found.of(set)}
		around = append(around, here)
		if here.class != outer {
			entries = append(entries, here)
		}
	}
	return entries
}

// exacts makes a class of each set of rules that one of the values belongs to.
func (b *builder) exacts(dim Dim, values []uint64, asks func(*match) bool, has func(*match, uint64) bool) error {
	found := newClasses(b.where(func(m *match) bool { return !asks(m) }))
	var arrival []int
	for _, v := range values {
		arrival = append(arrival, found.of(b.where(func(m *match) bool { return !asks(m) || has(m, v) })))
	}
	numbers, err := found.final()
	if err != nil {
		return err
	}
	for i, v := range values {
		if class := numbers[arrival[i]]; class != 0 {
			b.side.Exacts = append(b.side.Exacts, Exact{dim, v, class})
		}
	}
	b.side.Vectors = found.vectors(b.side.Vectors, dim, numbers, b.meters)
	return nil
}

func (b *builder) flags() error {
	asks := func(m *match) bool { return m.flags }
	if !b.uses(DimFlags, asks) {
		return nil
	}
	values := make([]uint64, 64)
	for i := range values {
		values[i] = uint64(i)
	}
	return b.exacts(DimFlags, values, asks, func(m *match, v uint64) bool { return uint8(v)&m.set == m.set && uint8(v)&m.clear == 0 })
}

func (b *builder) etherTypes() error {
	asks := func(m *match) bool { return m.isExactEther }
	if !b.uses(DimEther, asks) {
		return nil
	}
	var values []uint64
	for _, r := range b.rules {
		if asks(&r.match) {
			values = append(values, uint64(r.match.ether))
		}
	}
	slices.Sort(values)
	return b.exacts(DimEther, slices.Compact(values), asks, func(m *match, v uint64) bool { return uint64(m.ether) == v })
}

// segments tells a trunk's segments apart, where rules ask for them.
func (b *builder) segments() error {
	asks := func(m *match) bool { return m.isOnSegment }
	if !b.uses(DimSegment, asks) {
		return nil
	}
	var values []uint64
	for _, r := range b.rules {
		if asks(&r.match) {
			values = append(values, uint64(r.match.segment))
		}
	}
	slices.Sort(values)
	return b.exacts(DimSegment, slices.Compact(values), asks, func(m *match, v uint64) bool { return uint64(m.segment) == v })
}

// macs collects the rules by MAC: lists of many MACs would cost their product otherwise.
func (b *builder) macs(dim Dim, of func(*match) []fabric.MAC) error {
	if !b.uses(dim, func(m *match) bool { return of(m) != nil }) {
		return nil
	}
	owners := map[uint64][]int{}
	for _, r := range b.rules {
		for _, mac := range of(&r.match) {
			owners[number(mac)] = append(owners[number(mac)], r.n)
		}
	}
	rest := b.where(func(m *match) bool { return of(m) == nil })
	found := newClasses(rest)
	arrival := make(map[uint64]int, len(owners))
	set := make(ruleSet, b.words)
	for mac, rules := range owners {
		copy(set, rest)
		for _, n := range rules {
			set.add(n)
		}
		arrival[mac] = found.of(set)
	}
	numbers, err := found.final()
	if err != nil {
		return err
	}
	for mac, class := range arrival {
		b.side.Exacts = append(b.side.Exacts, Exact{dim, mac, numbers[class]})
	}
	slices.SortFunc(b.side.Exacts, func(a, b Exact) int { return cmp.Or(cmp.Compare(a.Dim, b.Dim), cmp.Compare(a.Value, b.Value)) })
	b.side.Vectors = found.vectors(b.side.Vectors, dim, numbers, b.meters)
	return nil
}

// number is a MAC as a number.
func number(m fabric.MAC) (n uint64) {
	for _, b := range m {
		n = n<<8 | uint64(b)
	}
	return n
}
