package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// flips are changes of single records that turn the model's verdict over, the one with the least effect first: each was tried in
// the model.
func flips(snap *fabric.Snapshot, r api.TraceRequest, frame []byte) []tracing.Flip {
	now, err := explain(snap, r, frame)
	if err != nil {
		return nil
	}
	var out []tracing.Flip
	for _, c := range candidates(snap, now, r) {
		after, err := explain(c.snap, r, frame)
		if err == nil && (after.Verdict == tracing.Delivered) != (now.Verdict == tracing.Delivered) {
			out = append(out, tracing.Flip{Object: c.object, Change: c.change, Verdict: after.Verdict})
		}
	}
	return out
}

// candidate is a change that may turn the verdict over.
type candidate struct {
	object, change string
	snap           *fabric.Snapshot
}

// candidates are the changes to try, those with the least effect first.
func candidates(snap *fabric.Snapshot, p *tracing.Path, r api.TraceRequest) []candidate {
	if p.Verdict == tracing.Delivered {
		var out []candidate
		for _, h := range p.Hops {
			if h.Policy != "" {
				out = append(out, withoutRule(snap, h.Policy, h.Rule)...)
			}
		}
		return out
	}
	end := p.Hops[len(p.Hops)-1]
	switch {
	case p.Reason != tracing.ReasonPolicyDenied && p.Reason != tracing.ReasonPolicyRejected:
		return sameVLAN(snap, r)
	case p.Policy != "":
		out := exception(snap, p.Policy, p.Rule, end.Hop)
		out = append(out, withoutRule(snap, p.Policy, p.Rule)...)
		return append(out, allowing(snap, p.Policy, p.Rule)...)
	}
	return byDefault(snap, end.Hop)
}

// withPolicy is the snapshot with another list of rules in a policy.
func withPolicy(snap *fabric.Snapshot, name string, rules []fabric.Rule) *fabric.Snapshot {
	changed := *snap.Policies[name]
	changed.Spec.Rules = rules
	return snap.With(&changed)
}

// ruleOf is where a rule is in its policy; -1 where it is not.
func ruleOf(snap *fabric.Snapshot, policy, rule string) int {
	if snap.Policies[policy] == nil {
		return -1
	}
	return slices.IndexFunc(snap.Policies[policy].Spec.Rules, func(r fabric.Rule) bool { return r.Name == rule })
}

// exception is a rule just above the one that decided, for this packet alone.
func exception(snap *fabric.Snapshot, policy, rule string, at tracing.Hop) []candidate {
	i := ruleOf(snap, policy, rule)
	if i < 0 {
		return nil
	}
	rules := snap.Policies[policy].Spec.Rules
	over := rules[i]
	weight := over.Weight + 1
	for slices.ContainsFunc(rules, func(r fabric.Rule) bool { return r.Direction == over.Direction && r.Weight == weight }) {
		weight++
	}
	if weight == 0 || weight <= over.Weight {
		return nil
	}
	allow, words := narrow(over.Direction, at)
	allow.Name, allow.Weight = "allow-this", weight
	return []candidate{{"policy/" + policy, fmt.Sprintf("add a rule above %s, of weight %d: %s", over.Name, weight, words), withPolicy(snap, policy, append(slices.Clone(rules), allow))}}
}

// narrow is a rule that lets in, or out, this packet's kind alone, and what it says.
func narrow(d fabric.Direction, at tracing.Hop) (fabric.Rule, string) {
	local, remote, port := at.Source, at.Destination, &fabric.End{}
	r := fabric.Rule{Direction: d, Action: fabric.Allow, Protocol: protocolName(at.Protocol), Stateful: true}
	if d == fabric.In {
		local, remote = at.Destination, at.Source
	}
	r.Local, r.Remote = &fabric.End{Prefixes: host(local)}, &fabric.End{Prefixes: host(remote)}
	if port = r.Remote; d == fabric.In {
		port = r.Local
	}
	words := fmt.Sprintf("%s allow %s, local %s, remote %s", d, r.Protocol, local, remote)
	if at.DestinationPort != 0 {
		port.Ports = []fabric.PortRange{{First: at.DestinationPort, Last: at.DestinationPort}}
		side := "remote"
		if d == fabric.In {
			side = "local"
		}
		words += fmt.Sprintf(", %s port %d", side, at.DestinationPort)
	}
	return r, words + ", stateful"
}

func host(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} }

// protocolName is how rules name an IP protocol.
func protocolName(n uint8) string {
	if name := map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}[n]; name != "" {
		return name
	}
	return fmt.Sprint(n)
}

// withoutRule leaves a rule out.
func withoutRule(snap *fabric.Snapshot, policy, rule string) []candidate {
	i := ruleOf(snap, policy, rule)
	if i < 0 {
		return nil
	}
	return []candidate{{"policy/" + policy, "delete rule " + rule, withPolicy(snap, policy, slices.Delete(slices.Clone(snap.Policies[policy].Spec.Rules), i, i+1))}}
}

// allowing lets a rule allow what it denies.
func allowing(snap *fabric.Snapshot, policy, rule string) []candidate {
	i := ruleOf(snap, policy, rule)
	if i < 0 {
		return nil
	}
	rules := slices.Clone(snap.Policies[policy].Spec.Rules)
	rules[i].Action = fabric.Allow
	return []candidate{{"policy/" + policy, fmt.Sprintf("let rule %s allow", rule), withPolicy(snap, policy, rules)}}
}

// byDefault is what may change where no rule has decided: a rule in the port's last policy, or the profile's default.
func byDefault(snap *fabric.Snapshot, at tracing.Hop) []candidate {
	port := snap.Ports[at.Port]
	if port == nil {
		return nil
	}
	d := fabric.In
	if at.Stage == tracing.StagePolicyOut {
		d = fabric.Out
	}
	var out []candidate
	settings := snap.Settings(port)
	allow, words := narrow(d, at)
	if n := len(settings.Policies); n > 0 && snap.Policies[settings.Policies[n-1]] != nil {
		name := settings.Policies[n-1]
		allow.Name, allow.Weight = "allow-this", 1
		rules := snap.Policies[name].Spec.Rules
		for slices.ContainsFunc(rules, func(r fabric.Rule) bool { return r.Direction == d && r.Weight == allow.Weight }) {
			allow.Weight++
		}
		out = append(out, candidate{"policy/" + name, fmt.Sprintf("add a rule of weight %d: %s", allow.Weight, words), withPolicy(snap, name, append(slices.Clone(rules), allow))})
	}
	if profile := snap.Profiles[settings.Profile]; profile != nil && profile.Spec.DefaultAction != "" {
		s, changed := *snap, *profile
		changed.Spec.DefaultAction = fabric.Allow
		s.Profiles = maps.Clone(snap.Profiles)
		s.Profiles[settings.Profile] = &changed
		return append(out, candidate{"profile/" + settings.Profile, "defaultAction: allow", &s})
	}
	if sw := snap.Switches[port.Spec.Switch]; sw != nil && sw.Spec.DefaultAction == fabric.Deny {
		s, changed := *snap, *sw
		changed.Spec.DefaultAction = fabric.Allow
		s.Switches = maps.Clone(snap.Switches)
		s.Switches[port.Spec.Switch] = &changed
		out = append(out, candidate{"switch/" + string(port.Spec.Switch), "defaultAction: allow", &s})
	}
	return out
}

// sameVLAN puts the destination where the source is.
func sameVLAN(snap *fabric.Snapshot, r api.TraceRequest) []candidate {
	from, to := snap.Ports[r.Source], snap.Ports[fabric.PortID(r.Destination)]
	if from == nil || to == nil || from.Spec.Switch != to.Spec.Switch {
		return nil
	}
	s, changed := *snap, *to
	changed.Spec.VLAN = snap.VLAN(from)
	s.Ports = maps.Clone(snap.Ports)
	s.Ports[fabric.PortID(r.Destination)] = &changed
	return []candidate{{"port/" + r.Destination, fmt.Sprintf("give it the VLAN of port %s: %v", r.Source, vlanText(changed.Spec.VLAN)), &s}}
}

func vlanText(v *fabric.VLAN) string {
	if v == nil {
		return "none"
	}
	return v.String()
}
