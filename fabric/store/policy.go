package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// policy puts a policy into the draft: the groups its rules name exist.
func (a *applying) policy(p *fabric.Policy) error {
	a.judged.everywhere = true
	for i, r := range p.Spec.Rules {
		for _, end := range []struct {
			field string
			*fabric.End
		}{{"local", r.Local}, {"remote", r.Remote}} {
			if end.End == nil {
				continue
			}
			for j, g := range end.Groups {
				field := fmt.Sprintf("spec.rules[%d].%s.groups[%d]", i, end.field, j)
				if err := a.refer(field, fabric.KindGroup, g); err != nil {
					return fmt.Errorf("rule %q: %w", r.Name, err)
				}
			}
		}
	}
	return nil
}

// profile puts a profile into the draft: its policies exist.
func (a *applying) profile(p, before *fabric.Profile) error {
	if before == nil || !slices.Equal(before.Spec.Policies, p.Spec.Policies) {
		a.judged.everywhere = true
	}
	a.changedMinimum(before, p)
	if on := p.Spec.Guards.DHCPServer; on != nil && !*on {
		a.served.profiles = true
	}
	if before != nil && before.Spec.VLAN.String() != p.Spec.VLAN.String() {
		a.segmented = true
	}
	return a.policies(p.Spec.Policies)
}

// policies checks that the policies an object names exist.
func (a *applying) policies(names []string) error {
	for i, name := range names {
		if err := a.refer(fmt.Sprintf("spec.policies[%d]", i), fabric.KindPolicy, name); err != nil {
			return err
		}
	}
	return nil
}

// judged collects which ports an apply may have given more rules than they may have.
type judged struct {
	everywhere bool           // a policy, profile or switch has changed
	ports      []*fabric.Port // that have changed
	lists      map[string][]string
	rules      map[string]volume // of a policy
}

// volume is how many rules there are, in and out, and how many of them meter.
type volume struct{ rules, meters [2]int }

// quotas checks the bounds of what judges one port, in the state the draft would leave behind. Two applies at the same time
// can pass it and exceed a bound together; the hosts then refuse to compile the list, and say so.
func (a *applying) quotas() error {
	a.judged.lists, a.judged.rules = map[string][]string{}, map[string]volume{}
	ports := a.judged.ports
	if a.judged.everywhere {
		ports = nil
		records, err := a.scan(kindPrefix(fabric.KindPort), false)
		if err != nil {
			return err
		}
		for _, r := range records {
			if o, err := decodeObject(r); err == nil { // what cannot be read is reported by every snapshot
				ports = append(ports, as[*fabric.Port](o))
			}
		}
	}
	seen := map[string]bool{}
	for _, p := range ports {
		names, err := a.policiesOf(p)
		if err != nil {
			return err
		}
		list := strings.Join(names, " ")
		if seen[list] {
			continue
		}
		seen[list] = true
		if err := a.quota(p.Metadata.Name, names); err != nil {
			return err
		}
	}
	return nil
}

// policiesOf names what judges a port, each once: its own policies, its profile's, its switch's (ADR 10).
func (a *applying) policiesOf(p *fabric.Port) ([]string, error) {
	key := string(p.Spec.Switch) + "/" + p.Spec.Profile
	shared, known := a.judged.lists[key]
	if !known {
		o, err := a.object(fabric.KindSwitch, string(p.Spec.Switch))
		if err != nil {
			return nil, err
		}
		profile := p.Spec.Profile
		sw := as[*fabric.Switch](o)
		if sw != nil && profile == "" {
			profile = sw.Spec.Profile
		}
		if profile != "" {
			o, err := a.object(fabric.KindProfile, profile)
			if err != nil {
				return nil, err
			}
			if one := as[*fabric.Profile](o); one != nil {
				shared = append(shared, one.Spec.Policies...)
			}
		}
		if sw != nil {
			shared = append(shared, sw.Spec.Policies...)
		}
		a.judged.lists[key] = shared
	}
	var names []string
	for _, name := range slices.Concat(p.Spec.Policies, shared) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// quota checks one port's list.
func (a *applying) quota(port string, names []string) error {
	if len(names) > fabric.MaxPortPolicies {
		return fmt.Errorf("port %s would be judged by %d policies, its own, its profile's and its switch's together; the most is %d: put rules together in fewer: %w",
			port, len(names), fabric.MaxPortPolicies, fabric.ErrInvalid)
	}
	var sum volume
	for _, name := range names {
		n, known := a.judged.rules[name]
		if !known {
			o, err := a.object(fabric.KindPolicy, name)
			if err != nil {
				return err
			}
			if p := as[*fabric.Policy](o); p != nil {
				n = count(p)
			}
			a.judged.rules[name] = n
		}
		for i := range sum.rules {
			sum.rules[i], sum.meters[i] = sum.rules[i]+n.rules[i], sum.meters[i]+n.meters[i]
		}
	}
	for i, direction := range []fabric.Direction{fabric.In, fabric.Out} {
		if sum.rules[i] > fabric.MaxPortRules {
			return fmt.Errorf("port %s would be judged by %d rules of direction %s (policies %s), the most is %d: give it fewer, or use groups and lists in place of rules: %w",
				port, sum.rules[i], direction, strings.Join(names, ", "), fabric.MaxPortRules, fabric.ErrInvalid)
		}
		if sum.meters[i] > fabric.MaxPortMeters {
			return fmt.Errorf("port %s would be metered by %d rules of direction %s (policies %s), the most is %d: give it fewer, or use groups and lists in place of rules: %w",
				port, sum.meters[i], direction, strings.Join(names, ", "), fabric.MaxPortMeters, fabric.ErrInvalid)
		}
	}
	return nil
}

// count is how many rules a policy has.
func count(p *fabric.Policy) (n volume) {
	for _, r := range p.Spec.Rules {
		i := 0
		if r.Direction == fabric.Out {
			i = 1
		}
		n.rules[i]++
		if r.Action == fabric.Meter {
			n.meters[i]++
		}
	}
	return n
}

// policy is kept while a port, profile or switch names it.
func (d *deleting) policy(name string) error {
	ports, err := d.portsWhere(func(p *fabric.Port) bool { return slices.Contains(p.Spec.Policies, name) })
	if err != nil {
		return err
	}
	profiles, err := d.where(fabric.KindProfile, func(o fabric.Object) bool {
		return slices.Contains(as[*fabric.Profile](o).Spec.Policies, name)
	})
	if err != nil {
		return err
	}
	switches, err := d.where(fabric.KindSwitch, func(o fabric.Object) bool {
		return slices.Contains(as[*fabric.Switch](o).Spec.Policies, name)
	})
	if err != nil {
		return err
	}
	return inUse("take it from their policies first", some("switch", "switches", switches), some("profile", "profiles", profiles), some("port", "ports", ports))
}

// group is kept while a policy's rule names it.
func (d *deleting) group(name string) error {
	policies, err := d.where(fabric.KindPolicy, func(o fabric.Object) bool {
		return slices.ContainsFunc(as[*fabric.Policy](o).Spec.Rules, func(r fabric.Rule) bool {
			return r.Local != nil && slices.Contains(r.Local.Groups, name) || r.Remote != nil && slices.Contains(r.Remote.Groups, name)
		})
	})
	if err != nil {
		return err
	}
	return inUse("change their rules first", some("policy", "policies", policies))
}

// inUse says who needs an object; nil when nobody does.
func inUse(next string, users ...string) error {
	users = slices.DeleteFunc(users, func(s string) bool { return s == "" })
	if len(users) == 0 {
		return nil
	}
	return fmt.Errorf("it is used by %s: %s: %w", strings.Join(users, " and "), next, fabric.ErrConflict)
}

// where names the objects of a kind that match, and makes the commit depend on none having been written since.
func (d *deleting) where(kind fabric.Kind, match func(fabric.Object) bool) ([]string, error) {
	records, err := d.scan(kindPrefix(kind), false)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			return nil, fmt.Errorf("it cannot be told whether a %s uses it: %w", word(kind), err)
		}
		if match(o) {
			names = append(names, o.Meta().Name)
		}
	}
	d.untouched(kindPrefix(kind))
	return names, nil
}
