package datapath_test

import (
	"slices"

	"github.com/weftnet/weft/fabric"
)

// theme is what most rules and frames of a rule set are about, so that they meet more often; the zero value is everything.
type theme struct {
	protocols []string // of rules
	number    uint8    // of frames
}

var themes = []theme{
	{}, {}, {[]string{"tcp", "6"}, 6}, {[]string{"tcp", "6"}, 6}, {[]string{"udp"}, 17}, {[]string{"sctp"}, 132},
	{[]string{"icmp"}, 1}, {[]string{"icmpv6", "58"}, 58},
}

// themed draws a talk that is most often of the theme.
func (u *universe) themed(of theme) *talk {
	t := u.talk([2]int{1, 50})
	if of.number != 0 && u.IntN(8) > 0 {
		for t = u.talk([2]int{1, 50}); t.protocol != of.number; {
			t = u.talk([2]int{1, 50})
		}
	}
	return t
}

// stateless draws a fabric with the ports g1 and g50, whose rules follow no connections.
func (u *universe) stateless(rules int, of theme) *fabric.Snapshot {
	s := u.snapshot(rules)
	s.Policies["d"] = u.policy("d", u.IntN(rules/3+1))
	s.Ports["g50"] = &fabric.Port{Metadata: fabric.Metadata{Name: "g50", Revision: 7}, Spec: fabric.PortSpec{Switch: "sw", MAC: mac(50)}}
	s.Locations["g50"] = fabric.Location{Port: "g50", Switch: "sw", Host: "h", Epoch: 1}
	if u.IntN(2) == 0 {
		s.Ports["g50"].Spec.Policies = []string{"d"}
	}
	if u.IntN(2) == 0 { // rules of the guest alone
		s.Switches["sw"].Spec.Policies, s.Switches["sw"].Spec.DefaultAction = nil, ""
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		p := s.Policies[name]
		for i := range p.Spec.Rules {
			p.Spec.Rules[i] = u.about(of, p, i)
		}
	}
	return s
}

// about draws another rule in place of one that is not of the theme or leaves nothing for those after it, and asks for more flags
// and MACs than rules commonly do.
func (u *universe) about(of theme, p *fabric.Policy, i int) fabric.Rule {
	for old := p.Spec.Rules[i]; ; p.Spec.Rules[i] = u.rule(i) {
		r := &p.Spec.Rules[i]
		r.Name, r.Weight, r.Direction = old.Name, old.Weight, old.Direction
		r.Stateful, r.Idle = false, 0
		if r.Protocol == "tcp" && r.Action != fabric.Meter && u.IntN(2) == 0 {
			r.TCPFlags = u.flags()
		}
		if r.Remote != nil && u.IntN(8) == 0 {
			r.Remote.MACs = some(u, 2, func() fabric.MAC { return pick(u, u.macs) })
		}
		off := of.number != 0 && !slices.Contains(of.protocols, r.Protocol)
		broad := r.Remote == nil && r.Local == nil && r.ICMP == nil && r.TCPFlags == nil && r.EtherType == 0
		if (off || broad) && u.IntN(8) > 0 || p.Validate() != nil {
			continue
		}
		return *r
	}
}

// flags draws flags that must be set, and others that must be clear.
func (u *universe) flags() *fabric.TCPFlags {
	f := &fabric.TCPFlags{}
	for _, name := range []string{"fin", "syn", "rst", "psh", "ack", "urg"} {
		switch u.IntN(6) {
		case 0:
			f.Set = append(f.Set, name)
		case 1:
			f.Clear = append(f.Clear, name)
		}
	}
	return f
}

// stateful draws a fabric where the port g1 alone has rules, which a router can be asked for: it knows no MACs, and tracks each protocol
// in its own way.
func (u *universe) stateful(rules int) *fabric.Snapshot {
	s := u.stateless(rules, theme{})
	s.Switches["sw"].Spec.Policies, s.Switches["sw"].Spec.DefaultAction = nil, ""
	s.Ports["g50"].Spec.Policies = nil
	s.Ports["g1"].Spec.Policies, s.Ports["g1"].Spec.Profile = []string{"b", "a", "d"}, "pr"
	for _, name := range []string{"a", "b", "d", "c"} {
		p := s.Policies[name]
		for i := range p.Spec.Rules {
			r := &p.Spec.Rules[i]
			r.EtherType = 0
			for _, e := range []*fabric.End{r.Local, r.Remote} {
				if e != nil {
					e.MACs = nil
				}
			}
			r.Stateful = r.Action == fabric.Allow && r.TCPFlags == nil && u.IntN(3) > 0
		}
	}
	return s
}
