package datapath_test

import (
	"fmt"

	"github.com/weftnet/weft/fabric"
)

// lengthen puts so many rules before all others that the vectors of those have more than one block. They match packets of one
// protocol alone, which some talks have.
func (u *universe) lengthen(s *fabric.Snapshot, rules int) {
	first := &fabric.Policy{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: "long"}}
	rare := fabric.End{Prefixes: u.prefixes[:1]}
	for i := range rules {
		r := fabric.Rule{Name: fmt.Sprintf("l%d", i), Weight: uint16(65535 - i), Direction: fabric.In, Action: fabric.Deny, Protocol: "59", Remote: &rare}
		if i%2 == 0 {
			r.Direction = fabric.Out
		}
		first.Spec.Rules = append(first.Spec.Rules, r)
	}
	s.Policies["long"] = first
	for _, p := range s.Ports {
		if p.Spec.Switch == "sw" {
			p.Spec.Policies = append([]string{"long"}, p.Spec.Policies...)
		}
	}
}
