package fabric

import (
	"fmt"
	"slices"
)

// MACs say what a guest may send with beside its port's MAC.
type MACs struct {
	// Spoofing lets it use any station's MAC as source, as guard mac does when it is off.
	Spoofing *bool `json:"spoofing,omitempty"`
	// Allowed are MACs that belong to the port beside its own: its guest may use them, and receives what is sent to them. A port's
	// alone; at most MaxAllowedMACs.
	Allowed []MAC `json:"allowed,omitempty"`
	// Sibling lets it stand in for the other ports of its VM on the same segment, with their MACs and addresses: teaming in the guest.
	// Whichever port has sent with a MAC last receives what is sent to it.
	Sibling *bool `json:"sibling,omitempty"`
	// Limit is how many MACs that nobody has listed it may use with spoofing, 1 to MaxLearnedMACs; absent: as many as it likes.
	Limit int `json:"limit,omitempty"`
}

// Bounds of MACs.
const (
	MaxAllowedMACs = 8
	MaxLearnedMACs = 4096
)

// EffectiveMACs are what is in force on a port; that spoofing is allowed is in its guards.
type EffectiveMACs struct {
	Sibling bool
	Limit   int
}

// AllowedMACs are the MACs that belong to the port beside its own.
func (s *PortSpec) AllowedMACs() []MAC {
	if s.MACs == nil {
		return nil
	}
	return s.MACs.Allowed
}

// resolveMACs decides each field by the first layer that speaks about it.
func resolveMACs(layers []Settings) (e EffectiveMACs) {
	for _, layer := range slices.Backward(layers) {
		if layer.MACs == nil {
			continue
		}
		if layer.MACs.Sibling != nil {
			e.Sibling = *layer.MACs.Sibling
		}
		if layer.MACs.Limit != 0 {
			e.Limit = layer.MACs.Limit
		}
	}
	return e
}

// guardsOf are the guards of a layer: macs.spoofing is another way to speak of guard mac.
func (s *Settings) guardsOf() Guards {
	g := s.Guards
	if s.MACs != nil && s.MACs.Spoofing != nil && g.MAC == nil {
		on := !*s.MACs.Spoofing
		g.MAC = &on
	}
	return g
}

func (s *Settings) checkMACs(f *Findings) {
	m := s.MACs
	if m == nil {
		return
	}
	if m.Spoofing != nil && s.Guards.MAC != nil && *m.Spoofing == *s.Guards.MAC {
		f.add("spec.macs.spoofing", "%t, and guards.mac is %t: they say the opposite of each other; leave one out", *m.Spoofing, *s.Guards.MAC)
	}
	if m.Limit < 0 || m.Limit > MaxLearnedMACs {
		f.add("spec.macs.limit", "%d is not in 1 to %d; leave it out for no limit", m.Limit, MaxLearnedMACs)
	}
	if n := len(m.Allowed); n > MaxAllowedMACs {
		f.add("spec.macs.allowed", "%d MACs, the most is %d: turn macs.spoofing on for a guest with more", n, MaxAllowedMACs)
		return
	}
	for i, mac := range m.Allowed {
		path := fmt.Sprintf("spec.macs.allowed[%d]", i)
		if mac.IsZero() || !mac.IsUnicast() {
			f.add(path, "%s is no station's MAC: its first byte is even, and it is not all zero", mac)
		} else if slices.Contains(m.Allowed[:i], mac) {
			f.add(path, "%s is given twice", mac)
		}
	}
}
