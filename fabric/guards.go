package fabric

// EnforcedGuards says which protections are in force on a port. The zero value is everything off; ResolveGuards starts
// from everything on.
type EnforcedGuards struct {
	MAC, IP, ARP, DHCPServer, RA, L2Control, VXLAN bool
}

// ResolveGuards decides each guard by the first layer that speaks about it, the most specific layer first (the port's, then
// its profile's); a guard nobody speaks about is on.
func ResolveGuards(layers ...Guards) EnforcedGuards {
	decide := func(field func(Guards) *bool) bool {
		for _, layer := range layers {
			if on := field(layer); on != nil {
				return *on
			}
		}
		return true
	}
	return EnforcedGuards{
		MAC:        decide(func(g Guards) *bool { return g.MAC }),
		IP:         decide(func(g Guards) *bool { return g.IP }),
		ARP:        decide(func(g Guards) *bool { return g.ARP }),
		DHCPServer: decide(func(g Guards) *bool { return g.DHCPServer }),
		RA:         decide(func(g Guards) *bool { return g.RA }),
		L2Control:  decide(func(g Guards) *bool { return g.L2Control }),
		VXLAN:      decide(func(g Guards) *bool { return g.VXLAN }),
	}
}

// Guards are the guards in force on a port: its own, then its profile's, then on. The profile is the port's or, when it
// names none, its switch's; a profile that is missing from the snapshot switches nothing off.
func (s *Snapshot) Guards(p *Port) EnforcedGuards {
	name := p.Spec.Profile
	if sw := s.Switches[p.Spec.Switch]; name == "" && sw != nil {
		name = sw.Spec.Profile
	}
	if profile := s.Profiles[name]; profile != nil {
		return ResolveGuards(p.Spec.Guards, profile.Spec.Guards)
	}
	return ResolveGuards(p.Spec.Guards)
}
