package datapath_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// kinds of frames that the sets are written for: a family of addresses, or none of the two.
var kinds = []struct {
	name      string // of chains
	etherType fabric.EtherType
	is4, is6  bool
	icmp      int // the protocol whose messages are of the family
}{
	{"ip", 0x0800, true, false, 1},
	{"ip6", 0x86dd, false, true, 58},
	{"other", 0, false, false, -1},
}

// byTables writes a ruling as look-ups: a verdict map sends a frame by EtherType and protocol into a chain of the rules that can match it,
// and there lists are sets of intervals, of concatenations where a rule has several, or verdict maps.
func (t *ruleset) byTables(name string, l ruling) {
	protocols := map[int]bool{}
	for i := range l.rules {
		if p := l.rules[i].protocol; p >= 0 {
			protocols[p] = true
		}
	}
	var exact, families []string
	for k := range kinds {
		if kinds[k].etherType == 0 {
			t.kindOf(name, name+"_other", l, k, -1)
			continue
		}
		for p := range protocols {
			chain := fmt.Sprintf("%s_%s_%d", name, kinds[k].name, p)
			t.kindOf(name, chain, l, k, p)
			exact = append(exact, fmt.Sprintf("0x%04x . %d : goto %s", uint16(kinds[k].etherType), p, chain))
		}
		chain := name + "_" + kinds[k].name
		t.kindOf(name, chain, l, k, -1)
		families = append(families, fmt.Sprintf("0x%04x : goto %s", uint16(kinds[k].etherType), chain))
	}
	var lines []string
	if len(exact) > 0 {
		lines = append(lines, "ether type . meta l4proto vmap { "+strings.Join(exact, ", ")+" }")
	}
	t.chain(name, append(lines, "ether type vmap { "+strings.Join(families, ", ")+" }", "goto "+name+"_other")...)
}

// kindOf writes the rules that can match frames of a kind and protocol; -1 stands for the protocols that no rule names.
func (t *ruleset) kindOf(name, chain string, l ruling, k, protocol int) {
	var lines []string
	for i := range l.rules {
		r := &l.rules[i]
		if r.protocol >= 0 && r.protocol != protocol {
			continue
		}
		if line, can := t.lookups(fmt.Sprintf("%s_%d_%s", name, i, kinds[k].name), r, k); can {
			lines = append(lines, line)
		}
	}
	t.chain(chain, append(lines, verdictOf(l.allow))...)
}

// dimension is one list of a rule: what nftables calls the field, its type, and intervals that do not overlap.
type dimension struct{ field, kind, list string }

// lookups writes a rule for frames of a kind; false when it cannot match any.
func (t *ruleset) lookups(name string, r *asked, k int) (line string, can bool) {
	kind := kinds[k]
	var words []string
	switch {
	case r.ICMP != nil && r.protocol != kind.icmp:
		return "", false
	case kind.etherType != 0 && r.EtherType != 0 && r.EtherType != kind.etherType:
		return "", false
	case kind.etherType == 0 && r.NeedsIP():
		return "", false
	case kind.etherType == 0 && r.EtherType != 0:
		words = append(words, fmt.Sprintf("ether type { 0x%04x }", uint16(r.EtherType)))
	}
	var lists []dimension
	for _, side := range []struct {
		field string
		sideOfWire
	}{{"s", r.source}, {"d", r.end}} {
		if side.macs != nil {
			words = append(words, fmt.Sprintf("ether %saddr { %s }", side.field, joined(unique(side.macs))))
		}
		if side.prefixes != nil {
			of := slices.DeleteFunc(slices.Clone(side.prefixes), func(p netip.Prefix) bool { return p.Addr().Is4() != kind.is4 })
			if len(of) == 0 {
				return "", false
			}
			lists = append(lists, dimension{kind.name + " " + side.field + "addr", map[bool]string{true: "ipv4_addr", false: "ipv6_addr"}[kind.is4], joined(outermost(of))})
		}
		if side.ports != nil {
			lists = append(lists, dimension{r.transport() + " " + side.field + "port", "inet_service", joined(apart(side.ports))})
		}
	}
	for _, one := range []string{r.shown(), r.message(), r.flags()} {
		if one != "" {
			words = append(words, one)
		}
	}
	return strings.Join(append(words, t.matching(name, lists, r.verdict())...), " "), true
}

// matching asks for all lists at once and gives the verdict: one list is a verdict map, several are a set of concatenations as long as
// that has not too many elements, else a set each.
func (t *ruleset) matching(name string, lists []dimension, verdict string) []string {
	product := 1
	for _, l := range lists {
		product *= strings.Count(l.list, ",") + 1
	}
	switch {
	case len(lists) == 0:
		return []string{verdict}
	case len(lists) == 1:
		of := strings.ReplaceAll(lists[0].list, ",", " : "+verdict+",")
		return []string{lists[0].field, "vmap {", of, ":", verdict, "}"}
	case product > 500:
		var words []string
		for i, l := range lists {
			set := fmt.Sprintf("%s_%d", name, i)
			t.set(set, l.kind, l.list)
			words = append(words, l.field, "@"+set)
		}
		return append(words, verdict)
	}
	fields, types, elements := lists[0].field, lists[0].kind, strings.Split(lists[0].list, ",")
	for _, l := range lists[1:] {
		fields, types = fields+" . "+l.field, types+" . "+l.kind
		var all []string
		for _, head := range elements {
			for tail := range strings.SplitSeq(l.list, ",") {
				all = append(all, head+" . "+tail)
			}
		}
		elements = all
	}
	t.set(name, types, strings.Join(elements, ", "))
	return []string{fields, "@" + name, verdict}
}

// set writes a named set of intervals, once.
func (t *ruleset) set(name, kind, elements string) {
	if text := "\tset " + name + " {"; !strings.Contains(t.sets.String(), text) {
		fmt.Fprintf(&t.sets, "%s\n\t\ttype %s; flags interval;\n\t\telements = { %s }\n\t}\n", text, kind, elements)
	}
}

func joined[T fmt.Stringer](list []T) string {
	var words []string
	for _, one := range list {
		words = append(words, one.String())
	}
	return strings.Join(words, ",")
}

func unique(macs []fabric.MAC) []fabric.MAC {
	sorted := slices.SortedFunc(slices.Values(macs), func(a, b fabric.MAC) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(sorted)
}

// outermost are the prefixes that are in no other of the list: those of a set must not overlap.
func outermost(list []netip.Prefix) (out []netip.Prefix) {
	slices.SortFunc(list, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	for _, p := range list {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Contains(p.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}

// apart are the same ports in ranges that do not overlap.
func apart(list []fabric.PortRange) (out []fabric.PortRange) {
	for _, r := range slices.SortedFunc(slices.Values(list), func(a, b fabric.PortRange) int { return cmp.Compare(a.First, b.First) }) {
		if n := len(out); n > 0 && r.First <= out[n-1].Last {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}
