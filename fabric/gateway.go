package fabric

import (
	"fmt"
	"net/netip"
	"slices"
)

// GatewayMAC is the MAC that a switch's gateway answers ARP and ND with, the same on every host (ADR 14): 0a:57:45 and the
// VNI in 24 bits. It is locally administered (IEEE 802 8.4) and lies outside 52:54:00, which ports' MACs are drawn from.
func GatewayMAC(vni VNI) MAC {
	return MAC{0x0a, 0x57, 0x45, byte(vni >> 16), byte(vni >> 8), byte(vni)}
}

// StrangerMAC stands for a station on the wire of an external switch whose MAC is not known: no port of the fabric has it, and it is
// nobody's, locally administered like GatewayMAC. A probe that is to leave by an uplink has it.
func StrangerMAC() MAC { return MAC{0x0a, 0x57, 0x46} }

// GatewayLinkLocal is the gateway's link-local address, the one made from GatewayMAC (RFC 4291 appendix A): what router
// advertisements come from, and what guests have as their IPv6 default router.
func GatewayLinkLocal(vni VNI) netip.Addr { return GatewayMAC(vni).LinkLocal() }

// LinkLocal is the link-local address made from the MAC (RFC 4291 appendix A), which every station has unless it is told otherwise.
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// Gateways are the addresses at which the host a guest runs on answers as its gateway: one for each subnet, in the order of
// spec.subnets, spec.gateways' where it names one and else the subnet's first. A switch that is not internal has none, whose
// guests reach no host.
func (s *Switch) Gateways() []netip.Addr {
	if s.Spec.Type != Internal {
		return nil
	}
	var found []netip.Addr
	for _, subnet := range s.Spec.Subnets {
		if i := slices.IndexFunc(s.Spec.Gateways, subnet.Contains); i >= 0 {
			found = append(found, s.Spec.Gateways[i])
			continue
		}
		found = append(found, subnet.Addr().Next())
	}
	return found
}

// checkGateways checks that each is a station's address of one subnet, and the only one of it.
func (s *Switch) checkGateways(f *Findings) {
	if len(s.Spec.Gateways) > 0 && s.Spec.Type != Internal && s.Spec.Type != "" {
		f.add("spec.gateways", "a switch of type %s has no gateway: leave them out, or make the switch internal", s.Spec.Type)
		return
	}
	taken := map[netip.Prefix]netip.Addr{}
	for i, a := range s.Spec.Gateways {
		path := fmt.Sprintf("spec.gateways[%d]", i)
		n := slices.IndexFunc(s.Spec.Subnets, func(p netip.Prefix) bool { return a.IsValid() && p.Contains(a) })
		if n < 0 {
			f.add(path, "%s is in none of the switch's subnets: choose an address of one of them, or leave it out for the first", a)
			continue
		}
		subnet := s.Spec.Subnets[n]
		switch other, twice := taken[subnet]; {
		case twice:
			f.add(path, "%s is a second gateway of %s beside %s: a subnet has one", a, subnet, other)
		case a == subnet.Addr() || a.Is4() && !subnet.Contains(a.Next()):
			f.add(path, "%s is the first or the last of %s, which no station has: choose another", a, subnet)
		}
		taken[subnet] = a
	}
}
