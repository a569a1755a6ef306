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
