package fabric

import (
	"fmt"
	"slices"
)

// The features that a host's core may enforce, as hosts report them (HostStatus.Capabilities) and ports require them.
const (
	FeatureMACs     = "macs"
	FeatureMeters   = "meters"
	FeatureMinimum  = "minimum"
	FeaturePolicy   = "policy"
	FeaturePriority = "priority"
	FeatureRate     = "rate"
	FeatureStorm    = "storm"
	FeatureVLAN     = "vlan"
)

// Features are all of them, which the core of this release enforces.
func Features() []string {
	return []string{FeatureMACs, FeatureMeters, FeatureMinimum, FeaturePolicy, FeaturePriority, FeatureRate, FeatureStorm, FeatureVLAN}
}

// requiredBy are the features that a port needs: those that a layer names, and those that its settings use, each once, in order.
func requiredBy(e EffectiveSettings, layers []Settings) []string {
	var all []string
	for _, layer := range layers {
		all = append(all, layer.Requires...)
	}
	for feature, used := range map[string]bool{
		FeatureMACs:   e.MACs != (EffectiveMACs{}) || slices.ContainsFunc(layers, func(s Settings) bool { return s.MACs != nil && len(s.MACs.Allowed) > 0 }),
		FeatureMeters: len(e.Meters) > 0, FeaturePolicy: len(e.Policies) > 0 || e.DefaultAction == Deny, FeaturePriority: e.Priority != (Priority{}),
		FeatureMinimum: e.Least != (Least{}),
		FeatureRate:    e.Rate != ([2]EffectiveRate{}), FeatureStorm: e.Storm != ([3]Storm{}), FeatureVLAN: e.VLAN != nil,
	} {
		if used {
			all = append(all, feature)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Lacking are the features that a port needs and a host of these capabilities does not have.
func (s *Snapshot) Lacking(p *Port, capabilities []string) []string {
	return slices.DeleteFunc(s.Settings(p).Requires, func(f string) bool { return slices.Contains(capabilities, f) })
}

func (s *Settings) checkRequires(f *Findings) {
	for i, name := range s.Requires {
		if !slices.Contains(Features(), name) {
			f.add(fmt.Sprintf("spec.requires[%d]", i), "%s", unknown("feature", name, Features()))
		}
	}
}
