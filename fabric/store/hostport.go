package store

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// checkRole keeps hosts' own ports to internal switches, and a port to the role it was made with.
func checkRole(p, before *fabric.Port, sw *fabric.Switch) error {
	if before != nil && before.Metadata.Name != "" && before.Spec.Role != p.Spec.Role {
		return fmt.Errorf("spec.role: it is %q and does not change: leave it as it is: %w", before.Spec.Role, fabric.ErrInvalid)
	}
	if before != nil && p.IsHost() && before.Spec.Host != p.Spec.Host {
		return fmt.Errorf("spec.host: it is the port of host %s itself, and stays there: %w", before.Spec.Host, fabric.ErrInvalid)
	}
	if p.IsHost() && sw.Spec.Type != fabric.Internal {
		return fmt.Errorf("spec.role: switch %s is %s, and hosts have ports on internal switches alone: %w", sw.Metadata.Name, sw.Spec.Type, fabric.ErrInvalid)
	}
	return nil
}

// hostAddresses gives a host's port one address of each subnet: it keeps those it has, and takes of IPv4 the highest that is free,
// because operators number guests from the bottom, and of IPv6 the one made from its MAC (RFC 4291 appendix A).
func (a *applying) hostAddresses(p, before *fabric.Port, sw *fabric.Switch) error {
	p.Spec.Addresses = []netip.Addr{}
	for _, subnet := range sw.Spec.Subnets {
		if before != nil {
			if i := slices.IndexFunc(before.Spec.Addresses, subnet.Contains); i >= 0 {
				p.Spec.Addresses = append(p.Spec.Addresses, before.Spec.Addresses[i])
				continue
			}
		}
		addr, err := a.hostAddress(p.Spec.MAC, sw, subnet)
		if err != nil {
			return err
		}
		p.Spec.Addresses = append(p.Spec.Addresses, addr)
	}
	return nil
}

func (a *applying) hostAddress(mac fabric.MAC, sw *fabric.Switch, subnet netip.Prefix) (netip.Addr, error) {
	if subnet.Addr().Is6() {
		if subnet.Bits() > 64 {
			return a.freeAddress(sw, subnet)
		}
		b := subnet.Addr().As16()
		copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
		return netip.AddrFrom16(b), nil
	}
	pool, err := a.pool(sw, subnet)
	if err != nil {
		return netip.Addr{}, err
	}
	if addr, ok := pool.takeLast(); ok {
		return addr, nil
	}
	return netip.Addr{}, fmt.Errorf("spec.addresses: subnet %s has no address left for the host: delete ports that are not needed, or use a larger subnet: %w", subnet, fabric.ErrConflict)
}

// hostPorts takes the hosts' own ports along when their switch changes: off a switch that is no longer internal or not on their host any more,
// and into its changed subnets.
func (a *applying) hostPorts(s, before *fabric.Switch) error {
	if before == nil || before.Spec.Type != fabric.Internal {
		return nil
	}
	if s.Spec.Type == before.Spec.Type && slices.Equal(s.Spec.Subnets, before.Spec.Subnets) && sameScope(s, before) {
		return nil
	}
	ports, err := a.draft.hostPorts(fabric.SwitchID(s.Metadata.Name))
	if err != nil {
		return err
	}
	for _, p := range ports {
		if s.Spec.Type != fabric.Internal || !s.Covers(p.Spec.Host) {
			if err := a.draft.dropPort(p); err != nil {
				return err
			}
			continue
		}
		next := *p
		next.Spec.Addresses = nil
		if err := a.hostAddresses(&next, p, s); err != nil {
			return err
		}
		if err := a.addresses(&next, p, s); err != nil {
			return err
		}
		value, err := encodeObject(&next)
		if err != nil {
			return err
		}
		if err := a.put(objectKey(&next), value); err != nil {
			return err
		}
	}
	return nil
}

// gateways checks that nobody has an address of the switch's gateway, and that its device is no other switch's.
func (a *applying) gateways(s *fabric.Switch) error {
	if s.Spec.Type != fabric.Internal {
		return nil
	}
	for _, g := range s.Gateways() {
		r, err := a.get(indexAddress(fabric.SwitchID(s.Metadata.Name), g))
		if err != nil {
			return err
		}
		if r.revision != 0 {
			return fmt.Errorf("spec.gateways: %s belongs to port %s: give the gateway another address of its subnet, or change the port first: %w", g, r.value, fabric.ErrConflict)
		}
		a.unchanged(r.key)
	}
	records, err := a.scan(kindPrefix(fabric.KindSwitch), true)
	if err != nil {
		return err
	}
	for _, r := range records {
		p, ok := parse(r.key)
		if ok && p.name != s.Metadata.Name && fabric.HostDevice(fabric.SwitchID(p.name)) == fabric.HostDevice(fabric.SwitchID(s.Metadata.Name)) {
			return fmt.Errorf("metadata.name: on the hosts, its device would be %s, and so would that of switch %s: choose another name: %w",
				fabric.HostDevice(fabric.SwitchID(p.name)), p.name, fabric.ErrConflict)
		}
	}
	return nil
}

// apart refuses subnets of an internal switch that are another network's on a host: what the host sends there, to the other hosts
// even, would go to the switch.
func (a *applying) apart(s *fabric.Switch) error {
	if s.Spec.Type != fabric.Internal || len(s.Spec.Subnets) == 0 {
		return nil
	}
	records, err := a.scan(kindPrefix(fabric.KindHost), false)
	if err != nil {
		return err
	}
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			continue // every snapshot reports it, and it says nothing of its networks
		}
		h := as[*fabric.Host](o)
		if !s.Covers(fabric.HostID(h.Metadata.Name)) {
			continue
		}
		for i, subnet := range s.Spec.Subnets {
			what := ""
			if n := slices.IndexFunc(h.Spec.Networks, subnet.Overlaps); n >= 0 {
				what = fmt.Sprintf("overlaps %s, which host %s has an address or a route for", h.Spec.Networks[n], h.Metadata.Name)
			}
			if subnet.Contains(h.Spec.VTEP) {
				what = fmt.Sprintf("holds %s, the tunnel end point of host %s", h.Spec.VTEP, h.Metadata.Name)
			}
			if what != "" {
				return fmt.Errorf("spec.subnets[%d]: %s %s: what the host sends there would go to the switch: choose another: %w", i, subnet, what, fabric.ErrConflict)
			}
		}
	}
	return nil
}

// hostPorts are the hosts' own ports on a switch.
func (d *draft) hostPorts(sw fabric.SwitchID) ([]*fabric.Port, error) {
	records, err := d.scan(portsOf(sw), false)
	if err != nil {
		return nil, err
	}
	var found []*fabric.Port
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			continue // what cannot be read counts as a VM's, which keeps the switch
		}
		if p := as[*fabric.Port](o); p.IsHost() {
			found = append(found, p)
		}
	}
	return found, nil
}

// dropPort removes a port with everything that belongs to it.
func (d *draft) dropPort(p *fabric.Port) error {
	keys := []string{objectKey(p), indexMAC(p.Spec.MAC), indexPort(p.Metadata.Name), locationKey(p.Spec.Switch, fabric.PortID(p.Metadata.Name))}
	for _, addr := range p.Spec.Addresses {
		keys = append(keys, indexAddress(p.Spec.Switch, addr))
	}
	for _, k := range keys {
		r, err := d.get(k)
		if err != nil {
			return err
		}
		if r.revision == 0 {
			continue
		}
		if err := d.remove(k); err != nil {
			return err
		}
	}
	return nil
}
