package plan

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// judged is what a port is judged by, as the fabric has it: the list of ADR 10.1, by names.
type judged struct {
	policies string // the names, joined by newlines
	action   fabric.Action
	vni      fabric.VNI
}

// policy names the table that judges a port and puts it on the list of those that are wanted; zero without rules. It is false
// when the profile, a policy or a group is not known: such a port is closed.
func (w *wanted) policy(port *fabric.Port, sw *fabric.Switch) (policy.Digest, bool) {
	if name := profileOf(port, sw); name != "" && w.snap.Profiles[name] == nil {
		return policy.Digest{}, false
	}
	names, action := w.list(port, sw)
	key := judged{strings.Join(names, "\n"), action, sw.Spec.VNI}
	if digest, done := w.digests[key]; done {
		return digest, true
	}
	source := &policy.Source{Default: action, VNI: sw.Spec.VNI, Groups: map[string][]netip.Prefix{}}
	for _, name := range names {
		p := w.snap.Policies[name]
		if p == nil || !w.groups(source, p) {
			return policy.Digest{}, false
		}
		source.Policies = append(source.Policies, p)
	}
	var digest policy.Digest
	if !source.IsOpen() {
		digest = source.Digest()
		w.state.Tables[digest] = source
	}
	w.digests[key] = digest
	return digest, true
}

// list is the order in which a port's policies are asked, each once, and what decides where no rule does.
func (w *wanted) list(port *fabric.Port, sw *fabric.Switch) (names []string, action fabric.Action) {
	names = slices.Clone(port.Spec.Policies)
	if profile := w.snap.Profiles[profileOf(port, sw)]; profile != nil {
		names, action = append(names, profile.Spec.Policies...), profile.Spec.DefaultAction
	}
	names = append(names, sw.Spec.Policies...)
	if action == "" {
		action = sw.Spec.DefaultAction
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(names, func(name string) bool {
		twice := seen[name]
		seen[name] = true
		return twice
	}), action
}

// profileOf is the profile of a port: its own, else its switch's.
func profileOf(port *fabric.Port, sw *fabric.Switch) string {
	if port.Spec.Profile != "" {
		return port.Spec.Profile
	}
	return sw.Spec.Profile
}

// groups adds the members of the groups that the policy names; false when one is not known.
func (w *wanted) groups(source *policy.Source, p *fabric.Policy) bool {
	for i := range p.Spec.Rules {
		for _, e := range []*fabric.End{p.Spec.Rules[i].Local, p.Spec.Rules[i].Remote} {
			if e == nil {
				continue
			}
			for _, name := range e.Groups {
				g := w.snap.Groups[name]
				if g == nil {
					return false
				}
				source.Groups[name] = w.members(name, g)
			}
		}
	}
	return true
}

// members are a group's address blocks and the addresses of the ports that it selects, whatever switch they are on.
func (w *wanted) members(name string, g *fabric.Group) []netip.Prefix {
	if known, done := w.grouped[name]; done {
		return known
	}
	members := slices.Clone(g.Spec.CIDRs)
	for _, port := range w.snap.Ports {
		if !selects(g, port) {
			continue
		}
		for _, a := range port.Spec.Addresses {
			members = append(members, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	w.grouped[name] = members
	return members
}

// selects reports whether the group takes in the port by its labels.
func selects(g *fabric.Group, port *fabric.Port) bool {
	for key, value := range g.Spec.Ports {
		if have, there := port.Metadata.Labels[key]; !there || have != value {
			return false
		}
	}
	return len(g.Spec.Ports) > 0
}

// rulesRevision is the latest revision of the records that a port's rules come from.
func (w *wanted) rulesRevision(port *fabric.Port, sw *fabric.Switch) (r fabric.Revision) {
	names, _ := w.list(port, sw)
	for _, name := range names {
		p := w.snap.Policies[name]
		if p == nil {
			continue
		}
		r = max(r, p.Metadata.Revision)
		for i := range p.Spec.Rules {
			for _, e := range []*fabric.End{p.Spec.Rules[i].Local, p.Spec.Rules[i].Remote} {
				if e == nil {
					continue
				}
				for _, group := range e.Groups {
					if g := w.snap.Groups[group]; g != nil {
						r = max(r, g.Metadata.Revision)
					}
				}
			}
		}
	}
	return r
}
