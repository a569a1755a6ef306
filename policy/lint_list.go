package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// listBudget bounds the pairs of rules that are compared for one list; what is left is not claimed to be overruled.
const listBudget = 2_000_000

// overruling is how a rule fares behind the policies that are asked before its own.
type overruling struct {
	rule *boxed
	// lists are those that the rule is in, overruled those of them in which other policies leave nothing to it.
	lists, overruled int
	by               map[string]bool
	same             bool
}

// lists finds rules that decide at no port, because the policies that stand before theirs in the ports' lists decide everything
// already. What a policy does to its own rules is found by policy.
func (l *linter) lists() {
	told := map[RuleRef]bool{}
	for _, f := range l.findings {
		if name, ok := strings.CutPrefix(f.Object, "policy/"); ok {
			told[RuleRef{name, f.Rule}] = told[RuleRef{name, f.Rule}] || f.ID != "over-broad"
		}
	}
	fates := map[RuleRef]*overruling{}
	seen := map[string]bool{}
	for _, port := range slices.Sorted(maps.Keys(l.snapshot.Ports)) {
		one, known := listOf(l.snapshot, port)
		if !known {
			continue
		}
		var names []string
		for _, j := range one.rules {
			names = append(names, j.ref.Policy)
		}
		if key := strings.Join(slices.Compact(names), "\n"); !seen[key] {
			seen[key] = true
			l.behind(one, fates)
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(fates), compareRefs) {
		if f := fates[ref]; f.overruled == f.lists && !told[ref] {
			l.overruled(ref, f)
		}
	}
}

func compareRefs(a, b RuleRef) int { return strings.Compare(a.String(), b.String()) }

func fateOf(fates map[RuleRef]*overruling, j judge) *overruling {
	f := fates[j.ref]
	if f == nil {
		f = &overruling{by: map[string]bool{}, same: true}
		fates[j.ref] = f
	}
	return f
}

// behind notes how the rules of one list fare behind those of earlier policies.
func (l *linter) behind(one list, fates map[RuleRef]*overruling) {
	budget := listBudget
	for _, d := range []fabric.Direction{fabric.In, fabric.Out} {
		for _, meters := range []bool{false, true} {
			var before, own []*boxed
			for _, j := range one.rules {
				if j.Direction != d || (j.Action == fabric.Meter) != meters {
					continue
				}
				if len(own) > 0 && own[0].ref.Policy != j.ref.Policy {
					before, own = append(before, own...), nil
				}
				b := newBoxed(j)
				own = append(own, b)
				f := fateOf(fates, j)
				f.lists++
				if budget -= len(before); budget < 0 || b.matchesNothing() {
					continue
				}
				if by := b.coveredBy(before); len(by) > 0 {
					f.overruled++
					f.rule = b
					for _, e := range by {
						f.by[e.ref.String()] = true
						f.same = f.same && e.effect() == b.effect()
					}
				}
			}
		}
	}
}

// overruled tells of a rule that decides at no port.
func (l *linter) overruled(ref RuleRef, f *overruling) {
	names := slices.Sorted(maps.Keys(f.by))
	if len(names) > 5 {
		names = append(names[:5], fmt.Sprintf("%d more", len(f.by)-5))
	}
	found := Finding{ID: "overruled", Severity: Note, Object: "policy/" + ref.Policy, Rule: ref.Rule,
		Message: "at every port that it judges everything it matches is decided before it, in the same way, by " + strings.Join(names, ", "),
		Next:    "nothing, if these ports may lose the other policies one day; else remove it"}
	if !f.same {
		found.Severity = Warning
		found.Message = fmt.Sprintf("it would %s what is decided otherwise at every port that it judges, by %s: policies of the port come first, then those of its profile, then of its switch", f.rule.Action, strings.Join(names, ", "))
		found.Next = "narrow those rules, or name this policy before theirs"
	}
	if f.rule.Action == fabric.Meter {
		found.Message = "at every port that it judges everything it matches is counted before it, by " + strings.Join(names, ", ")
	}
	l.add(found)
}
