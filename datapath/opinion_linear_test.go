package datapath_test

import (
	"fmt"
	"strings"
)

// linear writes a ruling as a chain of comparisons, one line for each rule. A rule that lists alternatives goes on in chains of its
// own, one for each list, with a line for each alternative; what falls through all of them is asked about by the next rule.
func (t *ruleset) linear(name string, l ruling) {
	var lines []string
	for i := range l.rules {
		r := &l.rules[i]
		all, lists := r.conditions()
		if contradictory(all) {
			continue // it matches nothing, and nft refuses such a line
		}
		head := strings.Join(all, " ")
		verdict := r.verdict()
		for j := len(lists) - 1; j >= 0; j-- {
			var one []string
			for _, alternative := range lists[j] {
				one = append(one, alternative+" "+verdict)
			}
			chain := fmt.Sprintf("%s_%d_%d", name, i, j)
			t.chain(chain, one...)
			verdict = "goto " + chain
		}
		if len(lists) > 0 { // what falls through comes back
			verdict = strings.Replace(verdict, "goto", "jump", 1)
		}
		lines = append(lines, strings.TrimSpace(head+" "+verdict)+fmt.Sprintf(" # %s", r.Name))
	}
	t.chain(name, append(lines, verdictOf(l.allow))...)
}

// conditions are what a packet must meet at once, and lists of which it must meet one each.
func (a *asked) conditions() (all []string, lists [][]string) {
	if a.EtherType != 0 {
		all = append(all, fmt.Sprintf("ether type 0x%04x", uint16(a.EtherType)))
	}
	if a.protocol >= 0 {
		all = append(all, fmt.Sprintf("meta l4proto %d", a.protocol))
	}
	for _, one := range []string{a.shown(), a.family(), a.message(), a.flags()} {
		if one != "" {
			all = append(all, one)
		}
	}
	for _, list := range [][]string{
		a.portsOf("s", a.source), a.source.addressesOf("s"), a.source.stationsOf("s"),
		a.portsOf("d", a.end), a.end.addressesOf("d"), a.end.stationsOf("d"),
	} {
		switch len(list) {
		case 0:
		case 1:
			all = append(all, list[0])
		default:
			lists = append(lists, list)
		}
	}
	return all, lists
}

// contradictory reports whether conditions ask for both families of addresses at once.
func contradictory(all []string) bool {
	ip4, ip6 := false, false
	for _, one := range all {
		ip4 = ip4 || strings.HasPrefix(one, "ip ") || one == "ether type 0x0800" || one == "meta protocol ip"
		ip6 = ip6 || strings.HasPrefix(one, "ip6 ") || one == "ether type 0x86dd" || one == "meta protocol ip6"
	}
	return ip4 && ip6
}

func (a *asked) portsOf(field string, e sideOfWire) (list []string) {
	for _, p := range e.ports {
		list = append(list, fmt.Sprintf("%s %sport %s", a.transport(), field, p))
	}
	return list
}

func (e sideOfWire) addressesOf(field string) (list []string) {
	for _, p := range e.prefixes {
		list = append(list, fmt.Sprintf("%s %saddr %s", header(p.Addr()), field, p))
	}
	return list
}

func (e sideOfWire) stationsOf(field string) (list []string) {
	for _, m := range e.macs {
		list = append(list, fmt.Sprintf("ether %saddr %s", field, m))
	}
	return list
}
