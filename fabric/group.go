package fabric

import (
	"fmt"
	"net/netip"
)

// Group is a named set of ports and addresses. Absent and empty differ: an empty list matches nothing.
type Group struct {
	TypeMeta
	Metadata Metadata  `json:"metadata"`
	Spec     GroupSpec `json:"spec"`
	Status   Force     `json:"status,omitzero"`
}

// GroupSpec selects members; a member is in the group when either field selects it.
type GroupSpec struct {
	// Ports selects ports that carry all of these labels; absent selects none.
	Ports map[string]string `json:"ports,omitempty"`
	CIDRs []netip.Prefix    `json:"cidrs,omitempty"`
}

// Type returns the document head.
func (g *Group) Type() *TypeMeta { return &g.TypeMeta }

// Meta returns the metadata.
func (g *Group) Meta() *Metadata { return &g.Metadata }

// Default leaves a group as it is.
func (g *Group) Default() {}

// Validate checks the selecting labels and the address blocks; the error is Findings.
func (g *Group) Validate() error {
	var f Findings
	checkHead(&f, &g.TypeMeta, &g.Metadata, KindGroup)
	checkLabels(&f, "spec.ports", g.Spec.Ports)
	for i, p := range g.Spec.CIDRs {
		checkPrefix(&f, fmt.Sprintf("spec.cidrs[%d]", i), p)
	}
	return f.Err()
}
