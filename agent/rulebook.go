package agent

import (
	"sync"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// rulebook knows the names of rules by their numbers, as the newest snapshot has them. The zero value is ready.
type rulebook struct {
	mu    sync.Mutex
	snap  *fabric.Snapshot
	names map[policy.RuleID]fabric.RuleHits
}

// of are the names of all rules of the fabric by their numbers, and those of the default actions.
func (b *rulebook) of(snap *fabric.Snapshot) map[policy.RuleID]fabric.RuleHits {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.names != nil && b.snap == snap {
		return b.names
	}
	names := map[policy.RuleID]fabric.RuleHits{}
	for _, d := range []fabric.Direction{fabric.In, fabric.Out} {
		names[policy.DefaultID(d)] = fabric.RuleHits{Rule: defaultName(d)}
	}
	if snap != nil {
		for name, p := range snap.Policies {
			for i := range p.Spec.Rules {
				names[policy.ID(name, p.Spec.Rules[i].Name)] = fabric.RuleHits{Policy: name, Rule: p.Spec.Rules[i].Name}
			}
		}
	}
	if snap != nil {
		for _, p := range snap.Ports {
			addMeters(names, p.Spec.Meters)
		}
		for _, p := range snap.Profiles {
			addMeters(names, p.Spec.Meters)
		}
	}
	b.snap, b.names = snap, names
	return names
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

// name adds the names of the rule that decided to a hop.
func (b *rulebook) name(h tracing.Hop, snap *fabric.Snapshot) tracing.Hop {
	if h.RuleID != 0 {
		r := b.of(snap)[policy.RuleID(h.RuleID)]
		h.Policy, h.Rule = r.Policy, r.Rule
	}
	return h
}
