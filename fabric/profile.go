package fabric

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

// Type returns the document head.
func (p *Profile) Type() *TypeMeta { return &p.TypeMeta }

// Meta returns the metadata.
func (p *Profile) Meta() *Metadata { return &p.Metadata }

// Default leaves a profile as it is: an absent guard is on.
func (p *Profile) Default() {}

// Validate checks the metadata; the error is Findings.
func (p *Profile) Validate() error {
	var f Findings
	checkHead(&f, &p.TypeMeta, &p.Metadata, KindProfile)
	return f.Err()
}
