package fabric

import "net/netip"

// Profile is a named set of port settings ("port classification").
type Profile struct {
	TypeMeta
	Metadata Metadata    `json:"metadata"`
	Spec     ProfileSpec `json:"spec"`
}

// ProfileSpec is applied to every port that names the profile.
type ProfileSpec struct {
	Guards Guards `json:"guards,omitzero"`
}

// Group is a named set of ports and addresses. Absent and empty differ: an empty list matches nothing.
type Group struct {
	TypeMeta
	Metadata Metadata  `json:"metadata"`
	Spec     GroupSpec `json:"spec"`
}

// GroupSpec selects members; a member is in the group when either field selects it.
type GroupSpec struct {
	// Ports selects ports that carry all of these labels; absent selects none.
	Ports map[string]string `json:"ports,omitempty"`
	CIDRs []netip.Prefix    `json:"cidrs,omitempty"`
}
