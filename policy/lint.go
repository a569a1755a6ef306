package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// Severity says how much a finding matters.
type Severity string

// The severities of findings.
const (
	Warning Severity = "warning" // probably not what was meant
	Note    Severity = "note"    // of no effect
)

// Finding is something in the fabric's policies that is allowed and probably not meant.
type Finding struct {
	// ID names the check: shadowed, contradicted, overruled, never-hit, empty-list, over-broad, empty-policy,
	// empty-group, unused, unknown; vlan-missing, pvlan-contradiction, pvlan-listed, pvlan-unheard, pvlan-sibling; mirror-sink,
	// mirror-source, mirror-loop, mirror-twice, mirror-rate, mirror-crowd.
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	// Object is the policy, group, switch, port or mirror, as "policy/web-in"; Rule a rule of a policy.
	Object string `json:"object"`
	Rule   string `json:"rule,omitempty"`
	// Message says what is so, Next what to do.
	Message string `json:"message"`
	Next    string `json:"next"`
	// Fixable is set where Fix can act: taking the rule away changes no decision, whatever the groups come to be.
	Fixable bool `json:"fixable,omitempty"`
}

// coverBudget bounds the steps spent on the question whether several rules together cover one.
const coverBudget = 20000

// coverRules bounds how many rules may cover one together.
const coverRules = 500

// Lint checks every policy and group of a snapshot, the private VLANs of its switches, and its mirrors. Groups are taken as they are now. Findings are in the order of objects and
// rules. What it claims is exact; that several rules together cover one is not found where it would take too long.
func Lint(s *fabric.Snapshot) []Finding {
	l := &linter{snapshot: s}
	for _, name := range slices.Sorted(maps.Keys(s.Policies)) {
		l.policy(s.Policies[name])
	}
	l.lists()
	l.groups()
	l.segments()
	l.mirrors()
	return l.findings
}

// Fix returns the policies that have fixable findings, without the rules that these are about.
func Fix(s *fabric.Snapshot, findings []Finding) []*fabric.Policy {
	gone := map[RuleRef]bool{}
	for _, f := range findings {
		if name, ok := strings.CutPrefix(f.Object, "policy/"); ok && f.Fixable {
			gone[RuleRef{name, f.Rule}] = true
		}
	}
	var out []*fabric.Policy
	for _, name := range slices.Sorted(maps.Keys(s.Policies)) {
		p := *s.Policies[name]
		p.Spec.Rules = slices.DeleteFunc(slices.Clone(p.Spec.Rules), func(r fabric.Rule) bool { return gone[RuleRef{name, r.Name}] })
		if len(p.Spec.Rules) < len(s.Policies[name].Spec.Rules) {
			out = append(out, &p)
		}
	}
	return out
}

type linter struct {
	snapshot *fabric.Snapshot
	findings []Finding
}

func (l *linter) add(f Finding) { l.findings = append(l.findings, f) }

// policy checks one policy.
func (l *linter) policy(p *fabric.Policy) {
	object := "policy/" + p.Metadata.Name
	if len(p.Spec.Rules) == 0 {
		l.add(Finding{ID: "empty-policy", Severity: Note, Object: object, Message: "it has no rules and decides nothing", Next: "give it rules, or delete it"})
	}
	if !l.used(p.Metadata.Name) {
		l.add(Finding{ID: "unused", Severity: Note, Object: object, Message: "no port, profile or switch names it: it judges nothing", Next: "name it in the policies of one, or delete it"})
	}
	var one list
	if !one.add(l.snapshot, p) {
		l.add(Finding{ID: "unknown", Severity: Warning, Object: object, Message: "one of its groups does not exist: the ports it judges are closed", Next: "create the group, or change the rule"})
		return
	}
	for _, d := range []fabric.Direction{fabric.In, fabric.Out} {
		for _, meters := range []bool{false, true} {
			var rules []*boxed
			for _, j := range one.rules {
				if j.Direction == d && (j.Action == fabric.Meter) == meters {
					rules = append(rules, newBoxed(j))
				}
			}
			l.sequence(object, rules)
		}
	}
}

func (l *linter) used(policy string) bool {
	for _, p := range l.snapshot.Ports {
		if slices.Contains(p.Spec.Policies, policy) {
			return true
		}
	}
	for _, p := range l.snapshot.Profiles {
		if slices.Contains(p.Spec.Policies, policy) {
			return true
		}
	}
	for _, s := range l.snapshot.Switches {
		if slices.Contains(s.Spec.Policies, policy) {
			return true
		}
	}
	return false
}

// boxed is a rule with what it matches.
type boxed struct {
	judge
	boxes [families]*box // nil where it matches nothing
}

func newBoxed(j judge) *boxed {
	b := &boxed{judge: j}
	for f := range families {
		if one, ok := j.boxOf(f); ok {
			b.boxes[f] = &one
		}
	}
	return b
}

// matchesNothing reports whether no packet matches.
func (b *boxed) matchesNothing() bool { return b.boxes == [families]*box{} }

// effect is what the rule does to a packet; rules of the same effect may stand for one another.
func (b *boxed) effect() string { return fmt.Sprint(b.Action, b.Stateful) }

// grouped reports whether what the rule matches depends on groups.
func (b *boxed) grouped() bool {
	return b.Local != nil && len(b.Local.Groups) > 0 || b.Remote != nil && len(b.Remote.Groups) > 0
}

// sequence checks the rules of one direction in the order in which they are asked.
func (l *linter) sequence(object string, rules []*boxed) {
	for i, r := range rules {
		switch {
		case l.empty(object, r), l.neverHit(object, r):
		case l.shadowed(object, r, rules[:i]):
		default:
			l.overBroad(object, r)
		}
	}
}

// empty tells of a list without entries.
func (l *linter) empty(object string, r *boxed) bool {
	for _, e := range []struct {
		field string
		end   *fabric.End
	}{{"local", r.Local}, {"remote", r.Remote}} {
		field := ""
		switch {
		case e.end == nil:
			continue
		case e.end.Ports != nil && len(e.end.Ports) == 0:
			field = "ports"
		case e.end.MACs != nil && len(e.end.MACs) == 0:
			field = "macs"
		case (e.end.Prefixes != nil || e.end.Groups != nil) && len(e.end.Prefixes)+len(e.end.Groups) == 0:
			field = "prefixes"
		default:
			continue
		}
		l.add(Finding{ID: "empty-list", Severity: Warning, Object: object, Rule: r.Name, Fixable: true,
			Message: fmt.Sprintf("%s.%s is an empty list, which matches nothing", e.field, field), Next: "list something, leave the field out to match all, or remove the rule"})
		return true
	}
	return false
}

// neverHit tells of a rule that no packet can match.
func (l *linter) neverHit(object string, r *boxed) bool {
	why := ""
	switch {
	case r.matchesNothing() && (r.local != nil && len(r.local) == 0 || r.remote != nil && len(r.remote) == 0):
		why = "its groups have no members"
	case r.matchesNothing():
		why = "no packet is all that it asks for: its addresses, protocol and EtherType are of different families"
	case r.neighborOnly():
		why = "it matches only neighbour discovery (ICMPv6 133 to 137), which no rule judges"
	case r.VNI != 0 && !l.hasVNI(r.VNI):
		why = fmt.Sprintf("no switch or VLAN has VNI %d", r.VNI)
	case r.VLAN != 0 && !l.hasVLAN(r.VLAN):
		why = fmt.Sprintf("no switch has a VLAN %d", r.VLAN)
	default:
		return false
	}
	l.add(Finding{ID: "never-hit", Severity: Warning, Object: object, Rule: r.Name, Message: why, Next: "change what it asks for, or remove it"})
	return true
}

// neighborOnly reports whether all that the rule matches is neighbour discovery.
func (b *boxed) neighborOnly() bool {
	six := b.boxes[family6]
	return six != nil && b.boxes[family4] == nil && b.ICMP != nil && six[axisICMP].within(numbers(133<<8, 137<<8|255))
}

func (l *linter) hasVNI(v fabric.VNI) bool {
	for _, s := range l.snapshot.Switches {
		if s.Spec.VNI == v || slices.ContainsFunc(s.Spec.VLANs, func(one fabric.SwitchVLAN) bool { return one.VNI == v }) {
			return true
		}
	}
	return false
}

func (l *linter) hasVLAN(id fabric.VLANID) bool {
	for _, s := range l.snapshot.Switches {
		if s.VLAN(id) != nil {
			return true
		}
	}
	return false
}

// shadowed tells of a rule that earlier ones leave nothing to.
func (l *linter) shadowed(object string, r *boxed, earlier []*boxed) bool {
	by := r.coveredBy(earlier)
	if len(by) == 0 {
		return false
	}
	var names []string
	same, groups := true, r.grouped()
	for _, b := range by {
		names = append(names, b.Name)
		same = same && b.effect() == r.effect()
		groups = groups || b.grouped()
	}
	all := names
	if len(names) > 5 {
		names = append(slices.Clone(names[:5]), fmt.Sprintf("%d more", len(all)-5))
	}
	f := Finding{ID: "shadowed", Severity: Note, Object: object, Rule: r.Name, Fixable: !groups,
		Message: fmt.Sprintf("everything it matches is decided before it, in the same way, by %s", strings.Join(names, ", ")), Next: "remove it: nothing changes"}
	if r.Action == fabric.Meter {
		f.Message = "everything it matches is counted before it, by " + strings.Join(names, ", ")
		f.ID, f.Severity, f.Fixable, f.Next = "contradicted", Warning, false, "raise its weight above theirs if it is meant to count, else remove it"
	} else if !same {
		f.ID, f.Severity, f.Fixable = "contradicted", Warning, false
		f.Message = fmt.Sprintf("it would %s what is decided otherwise before it, by %s: it never decides", r.Action, strings.Join(names, ", "))
		f.Next = "raise its weight above theirs if it is meant to decide, else remove it"
	}
	l.add(f)
	return true
}

// met are those of the rules that match a packet which the rule matches.
func (b *boxed) met(by []*boxed) (out []*boxed) {
	for _, e := range by {
		for f, mine := range b.boxes {
			if theirs := e.boxes[f]; mine != nil && theirs != nil && mine.meets(theirs) {
				out = append(out, e)
				break
			}
		}
	}
	return out
}

// coveredBy finds the earlier rules that together match all that the rule matches; one alone where one does. None when a packet
// may be left.
func (b *boxed) coveredBy(earlier []*boxed) []*boxed {
	earlier = b.met(earlier)
	for _, e := range earlier {
		if b.insideOf(e) {
			return []*boxed{e}
		}
	}
	used := make([]bool, len(earlier))
	budget := coverBudget
	for f, mine := range b.boxes {
		if mine == nil {
			continue
		}
		var boxes []*box
		var at []int
		for i, e := range earlier {
			if theirs := e.boxes[f]; theirs != nil && mine.meets(theirs) {
				boxes, at = append(boxes, theirs), append(at, i)
			}
			if len(boxes) > coverRules {
				return nil
			}
		}
		needed := make([]bool, len(boxes))
		if !mine.covered(boxes, needed, &budget) {
			return nil
		}
		for i, n := range needed {
			used[at[i]] = used[at[i]] || n
		}
	}
	var out []*boxed
	for i, n := range used {
		if n {
			out = append(out, earlier[i])
		}
	}
	return out
}

func (b *boxed) insideOf(e *boxed) bool {
	for f, mine := range b.boxes {
		if mine != nil && (e.boxes[f] == nil || !mine.inside(e.boxes[f])) {
			return false
		}
	}
	return true
}

// overBroad tells of a rule that lets everybody in to nearly everything.
func (l *linter) overBroad(object string, r *boxed) {
	if r.Action != fabric.Allow || r.Direction != fabric.In || r.EtherType != 0 || r.Remote != nil && r.Remote.MACs != nil {
		return
	}
	anybody := r.remote == nil
	for _, p := range r.remote {
		anybody = anybody || p.Bits() == 0
	}
	ports := 0
	if r.Local != nil {
		for _, p := range r.Local.Ports {
			ports += int(p.Last) - int(p.First) + 1
		}
	}
	limited := r.Protocol != "" && !slices.Contains([]string{"tcp", "udp", "sctp", "6", "17", "132"}, r.Protocol) || r.Local != nil && r.Local.Ports != nil && ports < 1024 || r.Remote != nil && r.Remote.Ports != nil
	if !anybody || limited {
		return
	}
	l.add(Finding{ID: "over-broad", Severity: Warning, Object: object, Rule: r.Name, Message: "it lets every address in to " + reached(r.Rule, ports), Next: "name the ports that are served, or who may come: remote.prefixes, remote.groups"})
}

func reached(r fabric.Rule, ports int) string {
	switch {
	case r.Protocol == "":
		return "every protocol and port"
	case ports > 0:
		return fmt.Sprintf("%d ports of %s", ports, r.Protocol)
	}
	return "every port of " + r.Protocol
}

// groups tells of groups that select nothing, or that no rule names.
func (l *linter) groups() {
	named := map[string]bool{}
	for _, p := range l.snapshot.Policies {
		for _, r := range p.Spec.Rules {
			for _, e := range []*fabric.End{r.Local, r.Remote} {
				if e != nil {
					for _, g := range e.Groups {
						named[g] = true
					}
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.snapshot.Groups)) {
		object := "group/" + name
		members, _ := addresses(l.snapshot, &fabric.End{Groups: []string{name}})
		if named[name] && len(members) == 0 {
			l.add(Finding{ID: "empty-group", Severity: Warning, Object: object, Message: "rules name it, and it has no members", Next: "label ports as it selects them, or list cidrs"})
		}
		if !named[name] {
			l.add(Finding{ID: "unused", Severity: Note, Object: object, Message: "no rule names it", Next: "name it in a rule, or delete it"})
		}
	}
}
