package fabric

import (
	"cmp"
	"slices"
)

// How many connections the rules of a port remember.
const (
	MinConnections     = 1024
	MaxConnections     = 1 << 20
	DefaultConnections = 16384
)

// Settings are what a port and a profile may both say. A port's field wins over its profile's, field by field; of a field
// that is absent the next layer decides, an empty one is an answer. Lists of policies are put one behind the other.
type Settings struct {
	// Guards of the port win over the profile's, guard by guard.
	Guards Guards `json:"guards,omitzero"`
	// Policies judge the packets: the port's own first, then the profile's, then the switch's.
	Policies []string `json:"policies,omitempty"`
	// Connections is how many of them the rules remember at once, 1,024 to 1,048,576; the oldest give way. 16,384 unless told.
	Connections int `json:"connections,omitempty"`
	// VLAN says on which segments of the switch the port is; it is one field: a port that has it takes nothing of its profile's.
	VLAN *VLAN `json:"vlan,omitempty"`
	// MACs say what the guest may send with beside its port's MAC, field by field.
	MACs *MACs `json:"macs,omitempty"`
	// Meters count what the guest exchanges with prefixes. A list is one field: a port that has it takes nothing of its profile's.
	Meters []PrefixMeter `json:"meters,omitzero"`
	// Requires are features without which the port must not be plugged in or moved to a host; those of the profile are required too.
	Requires []string `json:"requires,omitempty"`
	// Priority says whether the guest's priorities count.
	Priority *Priority `json:"priority,omitempty"`
	// Rate limits what the guest sends and receives; the port's direction wins over the profile's.
	Rate *Rates `json:"rate,omitempty"`
	// Storm limits what the guest sends to groups and to stations that nobody knows; the port's kind wins over the profile's.
	Storm *Storms `json:"storm,omitempty"`
}

// check records what is wrong with the settings by themselves.
func (s *Settings) check(f *Findings) {
	checkPolicies(f, s.Policies)
	if n := s.Connections; n != 0 && (n < MinConnections || n > MaxConnections) {
		f.add("spec.connections", "%d: a port's rules remember %d to %d connections", n, MinConnections, MaxConnections)
	}
	if s.VLAN != nil {
		s.VLAN.check(f, "spec.vlan")
	}
	s.checkMACs(f)
	s.checkMeters(f)
	s.checkRequires(f)
	s.Rate.check(f)
	s.Storm.check(f)
}

// EffectiveSettings are what is in force on a port, after all layers have spoken.
type EffectiveSettings struct {
	Guards EnforcedGuards
	// Policies are in the order in which they are asked, each once.
	Policies []string
	// Connections is how many the rules remember.
	Connections int
	Priority    Priority
	Meters      []PrefixMeter
	// Requires are the features that a host must have for the port: those that are named, and those that its settings use.
	Requires []string
	// MACs are what the guest may send with; Guards.MAC says whether spoofing is off.
	MACs EffectiveMACs
	// Rate limits what the guest sends, and what it receives.
	Rate [2]EffectiveRate
	// Least is what it can send for certain.
	Least Least
	// Storm limits broadcasts, multicasts and frames to unknown stations; empty where the core's own budget holds.
	Storm [3]Storm
	// DefaultAction is Allow or Deny, never empty.
	DefaultAction Action
	// VLAN is nil for the switch's untagged segment.
	VLAN *VLAN
	// Profile is the name of the profile that applies, the port's or its switch's; empty when there is none.
	Profile string
	// Known is false when the switch or the profile is not in the snapshot: such a port is closed.
	Known bool
}

// Settings are the settings in force on a port: its own, then its profile's, then its switch's, then the default. The profile
// is the one the port names or, when it names none, its switch's.
func (s *Snapshot) Settings(p *Port) EffectiveSettings {
	sw := s.Switches[p.Spec.Switch]
	e := EffectiveSettings{Profile: p.Spec.Profile, Known: sw != nil, VLAN: s.VLAN(p)}
	if e.Profile == "" && sw != nil {
		e.Profile = sw.Spec.Profile
	}
	layers := []Settings{p.Spec.Settings}
	if profile := s.Profiles[e.Profile]; profile != nil {
		layers, e.DefaultAction = append(layers, profile.Spec.Settings), profile.Spec.DefaultAction
	} else if e.Profile != "" {
		e.Known = false
	}
	var guards []Guards
	for _, layer := range layers {
		guards = append(guards, layer.guardsOf())
		e.Policies = append(e.Policies, layer.Policies...)
	}
	if p.IsHost() {
		guards = append(guards, hostGuards())
	}
	if sw != nil {
		e.Policies = append(e.Policies, sw.Spec.Policies...)
		if e.DefaultAction == "" {
			e.DefaultAction = sw.Spec.DefaultAction
		}
	}
	if e.DefaultAction == "" {
		e.DefaultAction = Allow
	}
	e.MACs, e.Priority, e.Meters = resolveMACs(layers), resolvePriority(layers), resolveMeters(layers)
	e.Rate[0] = resolveRate(func(r *Rates) *Rate { return r.Out }, layers)
	e.Least = resolveLeast(layers)
	e.Rate[1] = resolveRate(func(r *Rates) *Rate { return r.In }, layers)
	for i := range e.Storm {
		e.Storm[i] = resolveStorm(func(s *Storms) *Storm { return s.kinds()[i].of }, layers)
	}
	e.Connections = DefaultConnections
	for _, layer := range slices.Backward(layers) {
		e.Connections = cmp.Or(layer.Connections, e.Connections)
	}
	e.Guards, e.Policies = ResolveGuards(guards...), once(e.Policies)
	e.Requires = requiredBy(e, layers)
	return e
}

// once leaves out the names that are there already.
func once(names []string) []string {
	seen := make(map[string]bool, len(names))
	return slices.DeleteFunc(names, func(name string) bool {
		twice := seen[name]
		seen[name] = true
		return twice
	})
}
