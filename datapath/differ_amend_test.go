package datapath_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// amend is a snapshot with some rules changed, so that most flows are judged again and go on.
func (u *universe) amend(s *fabric.Snapshot) *fabric.Snapshot {
	c := *s
	c.Policies = maps.Clone(s.Policies)
	for _, name := range slices.Sorted(maps.Keys(c.Policies)) {
		p := *c.Policies[name]
		p.Spec.Rules = slices.Clone(p.Spec.Rules)
		for range min(len(p.Spec.Rules), u.IntN(4)) {
			u.change(&p, u.IntN(len(p.Spec.Rules)))
		}
		c.Policies[name] = &p
	}
	mark(c.Policies["a"])
	return &c
}

// change changes a rule of a policy, if what becomes of it is admitted.
func (u *universe) change(p *fabric.Policy, at int) {
	r := p.Spec.Rules[at]
	switch u.IntN(4) {
	case 0:
		r = u.rule(0)
		r.Name, r.Weight = fmt.Sprintf("n%d", u.Uint32()), p.Spec.Rules[at].Weight
	case 1:
		r.Stateful, r.Idle = !r.Stateful, 0
	case 2:
		r.Idle = pick(u, []fabric.Duration{0, 5e9, 40e9, 3600e9})
	case 3:
		r.Action, r.Stateful, r.Idle = pick(u, []fabric.Action{fabric.Allow, fabric.Deny, fabric.Reject}), false, 0
	}
	alone := *p
	if alone.Spec.Rules = []fabric.Rule{r}; alone.Validate() == nil {
		p.Spec.Rules[at] = r
	}
}

// mark changes a rule that no packet matches, so that a change of policy is one for every port that is judged by it.
func mark(p *fabric.Policy) {
	r := fabric.Rule{Name: "mark", Weight: 1, Direction: fabric.In, Action: fabric.Deny, Protocol: "253"}
	for i, old := range p.Spec.Rules {
		if old.Name == r.Name {
			if old.Protocol == r.Protocol {
				r.Protocol = "254"
			}
			r.Weight = old.Weight
			p.Spec.Rules[i] = r
			return
		}
	}
	for slices.ContainsFunc(p.Spec.Rules, func(other fabric.Rule) bool { return other.Weight == r.Weight }) {
		r.Weight++
	}
	p.Spec.Rules = append(p.Spec.Rules, r)
}
