package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

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
	sets    []int // of the vocabulary, in which the address is
}

// class is stations that no rule tells apart.
type class struct {
	station
	names []string
	in    []uint64 // a bit for each set of the vocabulary
}

// has reports whether the class's addresses are in a set; all are where a rule asks for none.
func (c *class) has(set int) bool { return set < 0 || c.in[set/64]>>(set%64)&1 != 0 }

// vocabulary is what the rules of a switch's ports ask for: sets of addresses, each once, and MACs.
type vocabulary struct {
	sets [][]netip.Prefix
	macs []fabric.MAC
	// ends are, by list and rule, the numbers of the sets its ends ask for; -1 for none.
	ends map[*list][][2]int
}

func vocabularyOf(stations []station) *vocabulary {
	v := &vocabulary{ends: map[*list][][2]int{}}
	numbers := map[string]int{}
	number := func(set []netip.Prefix) int {
		if set == nil {
			return -1
		}
		key := fmt.Sprint(set)
		n, known := numbers[key]
		if !known {
			n = len(v.sets)
			numbers[key] = n
			v.sets = append(v.sets, set)
		}
		return n
	}
	for _, s := range stations {
		for _, l := range s.lists {
			if l == nil || v.ends[l] != nil {
				continue
			}
			ends := make([][2]int, len(l.rules))
			for i, j := range l.rules {
				ends[i] = [2]int{number(j.local), number(j.remote)}
				for _, e := range []*fabric.End{j.Local, j.Remote} {
					if e != nil {
						v.macs = append(v.macs, e.MACs...)
					}
				}
			}
			v.ends[l] = ends
		}
	}
	slices.SortFunc(v.macs, func(a, b fabric.MAC) int { return slices.Compare(a[:], b[:]) })
	v.macs = slices.Compact(v.macs)
	return v
}

// elsewhere makes stations of the addresses that are no port's, one for each range between two boundaries of the rules, and one
// for frames that are not IP.
func (v *vocabulary) elsewhere(ports []station) []station {
	used := map[netip.Addr]bool{}
	starts := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	add := func(a netip.Addr) {
		if a.IsValid() {
			starts = append(starts, a)
		}
	}
	for _, set := range v.sets {
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
	out := []station{{label: "elsewhere"}}
	for _, a := range slices.Compact(starts) {
		if !used[a] {
			out = append(out, station{addr: a, label: "elsewhere"})
		}
	}
	return out
}

// place says of each station in which sets its address is, and names those that are no port by the narrowest prefix. It sorts
// the stations, and returns how many places it found.
func (v *vocabulary) place(stations []station) (found int) {
	slices.SortStableFunc(stations, func(a, b station) int { return a.addr.Compare(b.addr) })
	narrowest := make([]netip.Prefix, len(stations))
	for n, set := range v.sets {
		for _, p := range set {
			at, _ := slices.BinarySearchFunc(stations, p.Addr(), func(s station, a netip.Addr) int { return s.addr.Compare(a) })
			for ; at < len(stations) && p.Contains(stations[at].addr); at++ {
				s := &stations[at]
				s.sets = append(s.sets, n)
				if p.Bits() > 0 && (!narrowest[at].IsValid() || p.Bits() > narrowest[at].Bits()) {
					narrowest[at] = p
				}
				found++
			}
		}
	}
	for i := range stations {
		s := &stations[i]
		slices.Sort(s.sets)
		s.sets = slices.Compact(s.sets)
		if s.port == "" && narrowest[i].IsValid() {
			s.label = narrowest[i].String()
		}
	}
	return found
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
func (v *vocabulary) classify(stations []station) []*class {
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
		key := fmt.Sprint(s.port == "", s.addr.BitLen(), s.known, id(s.lists[0]), id(s.lists[1]), slices.Index(v.macs, s.mac), s.sets)
		k := byKey[key]
		if k == nil {
			k = &class{station: s, in: make([]uint64, len(v.sets)/64+1)}
			for _, n := range s.sets {
				k.in[n/64] |= 1 << (n % 64)
			}
			byKey[key] = k
			out = append(out, k)
		}
		k.names = append(k.names, s.label)
	}
	for _, k := range out {
		slices.Sort(k.names)
		k.names = slices.Compact(k.names)
	}
	slices.SortStableFunc(out, func(a, b *class) int { return strings.Compare(a.names[0], b.names[0]) })
	return out
}
