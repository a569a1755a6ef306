package datapath_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/weftnet/weft/fabric"
)

// amend is a snapshot with some rules changed and some aimed at talks, so that most flows are judged again and go on.
func (u *universe) amend(s *fabric.Snapshot, talks []*talk) *fabric.Snapshot {
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
	c.Policies["aimed"] = u.aimed(talks)
	c.Ports = maps.Clone(s.Ports)
	for id, p := range c.Ports {
		if p.Spec.Switch == "sw" && !slices.Contains(p.Spec.Policies, "aimed") {
			first := *p
			first.Spec.Policies = append([]string{"aimed"}, p.Spec.Policies...)
			c.Ports[id] = &first
		}
	}
	return &c
}

// aimed draws a policy about packets of a few talks alone.
func (u *universe) aimed(talks []*talk) *fabric.Policy {
	p := u.policy("aimed", 0)
	for i := range u.IntN(6) {
		alone := *p
		alone.Spec.Rules = []fabric.Rule{u.ruleFor(pick(u, talks))}
		if alone.Spec.Rules[0].Weight = uint16(1000 - i); alone.Validate() == nil {
			p.Spec.Rules = append(p.Spec.Rules, alone.Spec.Rules...)
		}
	}
	return p
}

// ruleFor draws a rule that the packets of a talk match in one direction, or nearly do.
func (u *universe) ruleFor(t *talk) fabric.Rule {
	from := u.IntN(2)
	local, remote := u.endFor(t, t.ends[from]), u.endFor(t, t.ends[1-from])
	r := fabric.Rule{Name: fmt.Sprintf("t%d", u.Uint32()), Protocol: strconv.Itoa(int(t.protocol)), Local: &local, Remote: &remote}
	r.Direction = pick(u, []fabric.Direction{fabric.In, fabric.Out})
	r.Action = pick(u, []fabric.Action{fabric.Allow, fabric.Allow, fabric.Allow, fabric.Deny, fabric.Reject, fabric.Meter})
	if r.Stateful = r.Action == fabric.Allow && u.IntN(4) > 0; r.Stateful {
		r.Idle = pick(u, []fabric.Duration{0, 5e9, 5e9, 40e9, 3600e9})
	}
	if (t.protocol == 1 || t.protocol == 58) && u.IntN(2) == 0 {
		kind := pick(u, []uint8{requests[t.protocol/58], replies[t.protocol/58]})
		r.ICMP = &fabric.ICMPMatch{Type: &kind}
	}
	return r
}

// endFor draws what a rule asks of one end of a talk.
func (u *universe) endFor(t *talk, e end) (asks fabric.End) {
	if u.IntN(2) == 0 {
		asks.Prefixes = []netip.Prefix{netip.PrefixFrom(e.address, e.address.BitLen()-pick(u, []int{0, 0, 1, 9})).Masked()}
	}
	if (t.protocol == 6 || t.protocol == 17 || t.protocol == 132) && u.IntN(2) == 0 {
		first := e.port - pick(u, []uint16{0, 0, min(e.port, 1)})
		asks.Ports = []fabric.PortRange{{First: first, Last: first + pick(u, []uint16{0, min(65535-first, 1)})}}
	}
	if u.IntN(5) == 0 {
		asks.MACs = []fabric.MAC{pick(u, []fabric.MAC{e.mac, e.mac, mac(e.number)})}
	}
	return asks
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
