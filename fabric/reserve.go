package fabric

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds of what is kept for ports.
const (
	// MinLeast and MaxLeast bound rate.out.min, in bits a second, MaxWeight rate.out.weight.
	MinLeast  Amount = 1_000_000
	MaxLeast         = MaxRate
	MaxWeight        = 100
	// hostPart and flowPart are the parts of a host's capacity that are kept for the host itself, and for ports without a minimum.
	hostPart = 20
	flowPart = 10
)

// Least is what a port can send for certain on the way out of its host: bits a second, or a weight; the zero value is nothing.
type Least struct {
	Min    Amount `json:"min,omitempty"`
	Weight int    `json:"weight,omitempty"`
}

// QoS is how a switch's ports share the hosts' ways out.
type QoS struct {
	// DefaultFlow is what all ports without a minimum have together, in the way in which the switch's ports have theirs: a tenth of the
	// capacity, or a weight of 1, unless told.
	DefaultFlow *Least `json:"defaultFlow,omitempty"`
}

// check records what is wrong with a minimum by itself.
func (l Least) check(f *Findings, path string) {
	switch {
	case l.Min != 0 && l.Weight != 0:
		f.add(path, "both min and weight: a minimum is in bits a second, or a weight; leave one out")
	case l.Min != 0 && (l.Min < MinLeast || l.Min > MaxLeast):
		f.add(path+".min", "%s bits a second is not in %s to %s", l.Min, MinLeast, MaxLeast)
	case l.Weight < 0 || l.Weight > MaxWeight:
		f.add(path+".weight", "%d is not in 1 to %d", l.Weight, MaxWeight)
	}
}

func (s *Switch) checkQoS(f *Findings) {
	if s.Spec.QoS == nil || s.Spec.QoS.DefaultFlow == nil {
		return
	}
	flow := *s.Spec.QoS.DefaultFlow
	if flow == (Least{}) {
		f.add("spec.qos.defaultFlow", "is empty: give min or weight, or leave it out")
	}
	flow.check(f, "spec.qos.defaultFlow")
}

// resolveLeast decides by the first layer that speaks about what the guest sends.
func resolveLeast(layers []Settings) Least {
	for _, layer := range layers {
		if layer.Rate != nil && layer.Rate.Out != nil {
			return Least{layer.Rate.Out.Min, layer.Rate.Out.Weight}
		}
	}
	return Least{}
}

// Part is what one port has for certain.
type Part struct {
	Port PortID
	Least
}

// Budget is what the ports of a host have for certain of its way out, and what there is.
type Budget struct {
	Host HostID
	// Capacity is what the host's NIC carries, 0: it is not known. Own is kept for the host itself, in bits a second.
	Capacity, Own Amount
	// Default is what all ports without a minimum have together.
	Default Least
	// Parts are those of the ports that have one, in the order of their names.
	Parts []Part
}

// Budget is that of a host with the ports that are there or on their way there, and with more.
func (s *Snapshot) Budget(host HostID, more ...PortID) Budget {
	here := slices.Clone(more)
	for name, loc := range s.Locations {
		if loc.Host == host || (loc.Grant != nil && loc.Grant.To == host) {
			here = append(here, name)
		}
	}
	slices.Sort(here)
	return s.BudgetOf(host, slices.Compact(here))
}

// BudgetOf is that of a host with these ports alone.
func (s *Snapshot) BudgetOf(host HostID, ports []PortID) Budget {
	b := Budget{Host: host}
	if h := s.Hosts[host]; h != nil {
		b.Capacity = h.Spec.Capacity
		b.Own = b.Capacity / hostPart
	}
	var flows []Least
	for _, name := range ports {
		p := s.Ports[name]
		if p == nil {
			continue
		}
		least := s.Settings(p).Least
		if least == (Least{}) {
			continue
		}
		b.Parts = append(b.Parts, Part{name, least})
		flows = append(flows, s.defaultFlow(p, least, b.Capacity))
	}
	for _, f := range flows {
		if f.Min > 0 {
			b.Default = Least{Min: max(b.Default.Min, f.Min)}
		} else if b.Default.Min == 0 {
			b.Default.Weight = max(b.Default.Weight, f.Weight)
		}
	}
	return b
}

// defaultFlow is what the switch of a port with a minimum keeps for those without one.
func (s *Snapshot) defaultFlow(p *Port, least Least, capacity Amount) Least {
	if sw := s.Switches[p.Spec.Switch]; sw != nil && sw.Spec.QoS != nil && sw.Spec.QoS.DefaultFlow != nil {
		return *sw.Spec.QoS.DefaultFlow
	}
	if least.Weight != 0 {
		return Least{Weight: 1}
	}
	return Least{Min: capacity / flowPart}
}

// Err is nil where there is enough for all, else the arithmetic; it wraps ErrConflict.
func (b Budget) Err() error {
	if len(b.Parts) == 0 {
		return nil
	}
	if b.Capacity == 0 {
		return fmt.Errorf("host %s does not say how much its NIC carries, so nothing can be kept for port %s: set underlay.capacity in its agent.yaml, such as 10G: %w", b.Host, b.Parts[0].Port, ErrConflict)
	}
	total := b.Own + b.Default.Min
	terms := []string{fmt.Sprintf("%s for the host itself", b.Own)}
	if b.Default.Min != 0 {
		terms = append(terms, fmt.Sprintf("%s for ports without a minimum", b.Default.Min))
	}
	for _, p := range b.Parts {
		if p.Min != 0 {
			total += p.Min
			terms = append(terms, fmt.Sprintf("%s for port %s", p.Min, p.Port))
		}
	}
	if total <= b.Capacity {
		return nil
	}
	return fmt.Errorf("host %s carries %s, and %s make %s, %s too much: lower one of them, plug in or move a port elsewhere, or correct underlay.capacity in the host's agent.yaml: %w",
		b.Host, b.Capacity, strings.Join(terms, " + "), total, total-b.Capacity, ErrConflict)
}

// MixedMinima finds two ports of one switch of which one has a minimum in bits and one a weight, or a default flow of the other kind;
// nil when there are none. The error names both and wraps ErrConflict.
func (s *Snapshot) MixedMinima() error {
	type first struct{ bits, weight string }
	seen := map[SwitchID]*first{}
	note := func(sw SwitchID, l Least, who string) error {
		if seen[sw] == nil {
			seen[sw] = &first{}
		}
		if l.Min != 0 && seen[sw].bits == "" {
			seen[sw].bits = who
		}
		if l.Weight != 0 && seen[sw].weight == "" {
			seen[sw].weight = who
		}
		if f := seen[sw]; f.bits != "" && f.weight != "" {
			return fmt.Errorf("on switch %s %s has a minimum in bits a second and %s a weight: a switch shares in one way; give both the same kind: %w", sw, f.bits, f.weight, ErrConflict)
		}
		return nil
	}
	for name, sw := range s.Switches {
		if sw.Spec.QoS != nil && sw.Spec.QoS.DefaultFlow != nil {
			if err := note(name, *sw.Spec.QoS.DefaultFlow, "the default flow"); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Ports)) {
		p := s.Ports[name]
		if err := note(p.Spec.Switch, s.Settings(p).Least, "port "+string(name)); err != nil {
			return err
		}
	}
	return nil
}
