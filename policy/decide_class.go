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
}

// class is stations that no rule tells apart.
type class struct {
	station
	names []string
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
