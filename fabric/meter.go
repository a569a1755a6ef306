package fabric

import (
	"fmt"
	"net/netip"
	"slices"
)

// PrefixMeter counts what a port exchanges with the addresses of a prefix. Of several the longest prefix that has the address counts, as
// with Hyper-V's.
type PrefixMeter struct {
	Prefix netip.Prefix `json:"prefix"`
	// Direction is in or out; both when it is absent.
	Direction Direction `json:"direction,omitempty"`
}

const (
	// MaxMeters is the most meters of a port.
	MaxMeters = 64
	// MeterPolicy is what the counts of meters are shown under; no policy can have this name.
	MeterPolicy = "@meters"
)

// resolveMeters are those of the first layer that speaks about them.
func resolveMeters(layers []Settings) []PrefixMeter {
	for _, layer := range layers {
		if layer.Meters != nil {
			return layer.Meters
		}
	}
	return nil
}

// MeterRule is the name of the rule that counts a prefix in a direction.
func MeterRule(d Direction, p netip.Prefix) string { return string(d) + " " + p.String() }

// Metering is the policy that meters come to, nil without any: it counts and decides nothing.
func Metering(meters []PrefixMeter) *Policy {
	if len(meters) == 0 {
		return nil
	}
	p := &Policy{Metadata: Metadata{Name: MeterPolicy}}
	sorted := slices.Clone(meters)
	slices.SortFunc(sorted, func(a, b PrefixMeter) int {
		if by := b.Prefix.Bits() - a.Prefix.Bits(); by != 0 {
			return by
		}
		return a.Prefix.Addr().Compare(b.Prefix.Addr())
	})
	for _, d := range []Direction{In, Out} {
		for _, m := range sorted {
			name := MeterRule(d, m.Prefix)
			twice := slices.ContainsFunc(p.Spec.Rules, func(r Rule) bool { return r.Name == name })
			if m.Direction != "" && m.Direction != d || twice {
				continue
			}
			p.Spec.Rules = append(p.Spec.Rules, Rule{
				Name: name, Weight: uint16(1000 - len(p.Spec.Rules)), Direction: d, Action: Meter,
				Remote: &End{Prefixes: []netip.Prefix{m.Prefix}},
			})
		}
	}
	return p
}

func (s *Settings) checkMeters(f *Findings) {
	if n := len(s.Meters); n > MaxMeters {
		f.add("spec.meters", "%d meters, the most is %d", n, MaxMeters)
		return
	}
	for i, m := range s.Meters {
		path := fmt.Sprintf("spec.meters[%d]", i)
		checkPrefix(f, path+".prefix", m.Prefix)
		if m.Direction != "" && m.Direction != In && m.Direction != Out {
			f.add(path+".direction", "%s", unknown("direction", string(m.Direction), []string{string(In), string(Out)}))
		}
		for _, other := range s.Meters[:i] {
			if other.Prefix == m.Prefix && (other.Direction == m.Direction || other.Direction == "" || m.Direction == "") {
				f.add(path, "%s is metered in this direction already", m.Prefix)
			}
		}
	}
}
