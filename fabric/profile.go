package fabric

// Profile is a named set of port settings ("port classification").
type Profile struct {
	TypeMeta
	Metadata Metadata    `json:"metadata"`
	Spec     ProfileSpec `json:"spec"`
	Status   Force       `json:"status,omitzero"`
}

// ProfileSpec is applied to every port that names the profile.
type ProfileSpec struct {
	Settings
	// DefaultAction, allow or deny, decides where no rule does; the switch's does when it is absent.
	DefaultAction Action `json:"defaultAction,omitempty"`
}

// Type returns the document head.
func (p *Profile) Type() *TypeMeta { return &p.TypeMeta }

// Meta returns the metadata.
func (p *Profile) Meta() *Metadata { return &p.Metadata }

// Default leaves a profile as it is: an absent guard is on.
func (p *Profile) Default() {}

// Validate checks the metadata and the names of policies; the error is Findings.
func (p *Profile) Validate() error {
	var f Findings
	checkHead(&f, &p.TypeMeta, &p.Metadata, KindProfile)
	p.Spec.Settings.check(&f)
	if p.Spec.MACs != nil && p.Spec.MACs.Allowed != nil {
		f.add("spec.macs.allowed", "a MAC belongs to one port: list it there")
	}
	checkDefaultAction(&f, p.Spec.DefaultAction)
	return f.Err()
}
