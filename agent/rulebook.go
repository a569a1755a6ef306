package agent

import (
	"sync"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// rulebook knows the names of rules by their numbers, as two snapshots have them: the newest, and the one in force, whose rules
// decide where the newest cannot be put in force. The zero value is ready.
type rulebook struct {
	mu             sync.Mutex
	newest, ruling *fabric.Snapshot
	names          map[policy.RuleID]fabric.RuleHits
}

// ruleNames are the names of all rules that this host knows, by their numbers.
func (a *Agent) ruleNames() map[policy.RuleID]fabric.RuleHits {
	return a.rules.of(a.Latest(), a.keeper.ruling.Load())
}

// of are the names of all rules of two snapshots by their numbers, and those of the default actions. Either may be nil.
func (b *rulebook) of(newest, ruling *fabric.Snapshot) map[policy.RuleID]fabric.RuleHits {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.names != nil && b.newest == newest && b.ruling == ruling {
		return b.names
	}
	names := map[policy.RuleID]fabric.RuleHits{}
	for _, d := range []fabric.Direction{fabric.In, fabric.Out} {
		names[policy.DefaultID(d)] = fabric.RuleHits{Rule: defaultName(d)}
	}
	addNames(names, ruling)
	if newest != ruling {
		addNames(names, newest)
	}
	b.newest, b.ruling, b.names = newest, ruling, names
	return names
}

// addNames adds the names of a snapshot's rules.
func addNames(names map[policy.RuleID]fabric.RuleHits, snap *fabric.Snapshot) {
	if snap == nil {
		return
	}
	for name, p := range snap.Policies {
		for i := range p.Spec.Rules {
			names[policy.ID(name, p.Spec.Rules[i].Name)] = fabric.RuleHits{Policy: name, Rule: p.Spec.Rules[i].Name}
		}
	}
	for _, p := range snap.Ports {
		addMeters(names, p.Spec.Meters)
	}
	for _, p := range snap.Profiles {
		addMeters(names, p.Spec.Meters)
	}
}

// addMeters adds the names of the rules that meters come to.
func addMeters(names map[policy.RuleID]fabric.RuleHits, meters []fabric.PrefixMeter) {
	p := fabric.Metering(meters)
	if p == nil {
		return
	}
	for _, r := range p.Spec.Rules {
		names[policy.ID(p.Metadata.Name, r.Name)] = fabric.RuleHits{Policy: p.Metadata.Name, Rule: r.Name}
	}
}

// defaultName is what the hits of a default action are shown under.
func defaultName(d fabric.Direction) string { return "default-" + string(d) }

// named adds the names of the rule that decided to a hop.
func (a *Agent) named(h tracing.Hop) tracing.Hop {
	if h.RuleID != 0 {
		r := a.ruleNames()[policy.RuleID(h.RuleID)]
		h.Policy, h.Rule = r.Policy, r.Rule
	}
	return h
}
