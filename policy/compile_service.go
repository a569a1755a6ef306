package policy

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
)

// services classifies what a packet is: not IP, IP without a transport header, or with one, then by protocol and by local
// port or ICMP type and code.
func (b *builder) services() error {
	b.side.Dims |= 1 << DimService
	found := newClasses(b.where(func(m *match) bool { return !m.ip }))
	var entries []entry
	anyPacket := found.of(b.where(func(m *match) bool { return m.proto < 0 && !m.transport }))
	entries = append(entries, entry{Service{Kind: KindFrame, Bits: 8}, 0},
		entry{Service{Kind: KindPacket, Bits: 8}, anyPacket}, entry{Service{Kind: KindTransport, Bits: 8}, anyPacket})
	byProto := map[uint8][]numbered{}
	for _, r := range b.rules {
		if r.match.proto >= 0 {
			p := uint8(r.match.proto)
			byProto[p] = append(byProto[p], r)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(byProto)) {
		of := func(m *match) bool { return m.proto < 0 || m.proto == int(p) }
		bare := found.of(b.where(func(m *match) bool { return of(m) && !m.transport }))
		entries = append(entries, entry{Service{Kind: KindPacket, Proto: p, Bits: 16}, bare})
		base := b.where(func(m *match) bool { return of(m) && servicePorts(m) == nil })
		entries = append(entries, entry{Service{Kind: KindTransport, Proto: p, Bits: 16}, found.of(base)})
		entries = append(entries, sweep(Service{Kind: KindTransport, Proto: p}, found, base, byProto[p], servicePorts)...)
	}
	return b.addServices(found, entries)
}

// servicePorts are the local ports, or the ICMP types and codes, that a rule asks for.
func servicePorts(m *match) []span {
	if m.icmp != nil {
		return m.icmp
	}
	return m.local.ports
}

// remotePorts classifies the remote port. What has none, or none that a rule names, is of class 0.
func (b *builder) remotePorts() error {
	of := func(m *match) []span { return m.remote.ports }
	if !b.uses(DimRemotePort, func(m *match) bool { return of(m) != nil }) {
		return nil
	}
	rest := b.where(func(m *match) bool { return of(m) == nil })
	found := newClasses(rest)
	return b.addServices(found, sweep(Service{Dim: DimRemotePort, Kind: KindTransport}, found, rest, b.rules, of))
}

// entry is an entry whose class has its number of arrival.
type entry struct {
	Service
	class int
}

func (b *builder) addServices(found *classes, entries []entry) error {
	numbers, err := found.final()
	if err != nil {
		return err
	}
	for _, e := range entries {
		e.Service.Class = numbers[e.class]
		b.side.Services = append(b.side.Services, e.Service)
	}
	dim := entries[0].Dim
	b.side.Vectors = found.vectors(b.side.Vectors, dim, numbers, b.meters)
	return nil
}

// edge is where a rule begins or ends to match, as ports rise.
type edge struct {
	at     int
	rule   int
	begins bool
}

// sweep makes entries of the stretches of ports between edges where other rules match than base, each as the prefixes that
// cover it.
func sweep(like Service, found *classes, base ruleSet, rules []numbered, of func(*match) []span) (entries []entry) {
	var edges []edge
	for _, r := range rules {
		for _, s := range of(&r.match) {
			edges = append(edges, edge{int(s.first), r.n, true}, edge{int(s.last) + 1, r.n, false})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	rest, now, from := found.of(base), slices.Clone(base), 0
	class := rest
	for i, e := range edges {
		if e.begins {
			now.add(e.rule)
		} else {
			now.remove(e.rule)
		}
		if i+1 < len(edges) && edges[i+1].at == e.at {
			continue
		}
		next := found.of(now)
		if next == class {
			continue
		}
		if class != rest {
			entries = cover(entries, like, from, e.at, class)
		}
		from, class = e.at, next
	}
	return entries
}

// cover appends the prefixes that make up the ports from first to end-1.
func cover(entries []entry, like Service, first, end, class int) []entry {
	for first < end {
		size := bits.Len(uint(end-first)) - 1
		if first != 0 {
			size = min(size, bits.TrailingZeros(uint(first)))
		}
		e := entry{like, class}
		e.Port, e.Bits = uint16(first), uint8(40-size)
		entries = append(entries, e)
		first += 1 << size
	}
	return entries
}
