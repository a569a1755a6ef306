package store

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// port puts a port into the draft: its name, MAC and addresses are its own, and its addresses lie in its switch's subnets.
func (a *applying) port(p, before *fabric.Port) error {
	name := p.Metadata.Name
	owner, err := a.get(indexPort(name))
	if err != nil {
		return err
	}
	if p.Spec.Switch == "" {
		if p.Spec.Switch, err = a.chooseSwitch(p, fabric.SwitchID(owner.value)); err != nil {
			return err
		}
	}
	if owner.revision != 0 && string(owner.value) != string(p.Spec.Switch) {
		return fmt.Errorf("spec.switch: the port is on switch %s; port names are unique in the fabric, and a port does not change its switch: delete it first, or choose another name: %w",
			owner.value, fabric.ErrConflict)
	}
	if before == nil && owner.revision != 0 {
		if before, err = a.salvage(p); err != nil {
			return err
		}
	}
	sw, err := a.switchOf(p)
	if err != nil {
		return err
	}
	if err := checkRole(p, before, sw); err != nil {
		return err
	}
	if err := inScope(p, sw); err != nil {
		return err
	}
	if err := a.refer("spec.profile", fabric.KindProfile, p.Spec.Profile); err != nil {
		return err
	}
	if err := a.policies(p.Spec.Policies); err != nil {
		return err
	}
	a.judged.ports = append(a.judged.ports, p)
	a.minima.ports = append(a.minima.ports, p)
	if sw, err = a.segment(p, sw); err != nil {
		return err
	}
	if err := a.refer("spec.host", fabric.KindHost, string(p.Spec.Host)); err != nil {
		return err
	}
	if err := a.own(indexPort(name), string(p.Spec.Switch), "metadata.name: "+name); err != nil {
		return err
	}
	if err := a.mac(p, before); err != nil {
		return err
	}
	if p.IsHost() && p.Spec.Addresses == nil {
		if err := a.hostAddresses(p, before, sw); err != nil {
			return err
		}
	}
	return a.addresses(p, before, sw)
}

// at is the switch as a port of these segments sees it: with their subnets alone.
func at(sw *fabric.Switch, segments ...fabric.VLANID) *fabric.Switch {
	seen := *sw
	seen.Spec.Subnets = nil
	for _, id := range segments {
		for _, subnet := range sw.SubnetsOf(id) {
			if !slices.Contains(seen.Spec.Subnets, subnet) {
				seen.Spec.Subnets = append(seen.Spec.Subnets, subnet)
			}
		}
	}
	return &seen
}

// switchOf is the port's switch; the commit depends on its staying as it is, because its subnets decide the addresses.
func (a *applying) switchOf(p *fabric.Port) (*fabric.Switch, error) {
	r, err := a.get(key(fabric.KindSwitch, string(p.Spec.Switch)))
	if err != nil {
		return nil, err
	}
	if r.revision == 0 {
		return nil, a.missing("spec.switch", fabric.KindSwitch, string(p.Spec.Switch))
	}
	a.unchanged(r.key)
	o, err := decodeObject(r)
	if err != nil {
		return nil, fmt.Errorf("spec.switch: %w", err)
	}
	return as[*fabric.Switch](o), nil
}

// salvage finds, for a port whose record cannot be read, the MAC and addresses that the index says are its own.
func (a *applying) salvage(p *fabric.Port) (*fabric.Port, error) {
	found := &fabric.Port{}
	macs, err := a.scan(indexPrefix+"mac/", false)
	if err != nil {
		return nil, err
	}
	for _, r := range macs {
		if string(r.value) == p.Metadata.Name {
			mac, _ := fabric.ParseMAC(strings.TrimPrefix(r.key, indexPrefix+"mac/"))
			found.Spec.MACs = &fabric.MACs{Allowed: append(found.Spec.AllowedMACs(), mac)}
		}
	}
	if list := found.Spec.AllowedMACs(); len(list) > 0 { // which of several was its own is not known: the one that is asked for, or the first
		i := max(0, slices.Index(list, p.Spec.MAC))
		found.Spec.MAC = list[i]
		found.Spec.MACs.Allowed = slices.Delete(slices.Clone(list), i, i+1)
	}
	below := indexAddresses(p.Spec.Switch)
	addresses, err := a.scan(below, false)
	if err != nil {
		return nil, err
	}
	for _, r := range addresses {
		if addr, err := netip.ParseAddr(r.key[len(below):]); err == nil && string(r.value) == p.Metadata.Name {
			found.Spec.Addresses = append(found.Spec.Addresses, addr)
		}
	}
	return found, nil
}

// mac keeps, takes or allocates the port's MAC.
func (a *applying) mac(p, before *fabric.Port) error {
	if before != nil && p.Spec.MAC.IsZero() {
		p.Spec.MAC = before.Spec.MAC
	}
	if before != nil && !before.Spec.MAC.IsZero() && before.Spec.MAC != p.Spec.MAC && !slices.Contains(p.Spec.AllowedMACs(), before.Spec.MAC) {
		if err := a.remove(indexMAC(before.Spec.MAC)); err != nil {
			return err
		}
	}
	if p.Spec.MAC.IsZero() {
		free, err := a.freeMAC()
		if err != nil {
			return err
		}
		p.Spec.MAC = free
	}
	if err := a.own(indexMAC(p.Spec.MAC), p.Metadata.Name, fmt.Sprintf("spec.mac: %s", p.Spec.MAC)); err != nil {
		return err
	}
	return a.allowedMACs(p, before)
}

// allowedMACs keeps and takes the MACs that belong to the port beside its own.
func (a *applying) allowedMACs(p, before *fabric.Port) error {
	if before != nil {
		for _, mac := range before.Spec.AllowedMACs() {
			if mac == p.Spec.MAC || slices.Contains(p.Spec.AllowedMACs(), mac) {
				continue
			}
			if err := a.remove(indexMAC(mac)); err != nil {
				return err
			}
		}
	}
	for i, mac := range p.Spec.AllowedMACs() {
		if mac == p.Spec.MAC {
			return fmt.Errorf("spec.macs.allowed[%d]: %s is the port's own MAC already: leave it out of the list: %w", i, mac, fabric.ErrInvalid)
		}
		if err := a.own(indexMAC(mac), p.Metadata.Name, fmt.Sprintf("spec.macs.allowed[%d]: %s", i, mac)); err != nil {
			return err
		}
	}
	return nil
}

// freeMAC draws from QEMU's block 52:54:00 until it finds one that nobody has: with a million ports every sixteenth draw
// is taken.
func (a *applying) freeMAC() (fabric.MAC, error) {
	for range 256 {
		n := a.store.random(1 << 24)
		m := fabric.MAC{0x52, 0x54, 0x00, byte(n >> 16), byte(n >> 8), byte(n)}
		r, err := a.get(indexMAC(m))
		if err != nil || r.revision == 0 {
			return m, err
		}
	}
	return fabric.MAC{}, fmt.Errorf("spec.mac: almost all of 52:54:00:00:00:00 to 52:54:00:ff:ff:ff is taken: give a MAC by hand: %w", fabric.ErrConflict)
}

// addresses keeps, takes or allocates the port's addresses: one of each subnet when the field is absent, none when empty.
func (a *applying) addresses(p, before *fabric.Port, sw *fabric.Switch) error {
	v, err := a.vlanOf(p, sw)
	if err != nil {
		return err
	}
	home := at(sw, v.Home())
	sw = at(sw, sw.Reach(v)...)
	if p.Spec.Addresses == nil && before != nil && !slices.ContainsFunc(before.Spec.Addresses, func(a netip.Addr) bool { return usable(sw, a) != nil }) {
		p.Spec.Addresses = before.Spec.Addresses
	}
	if before != nil {
		for _, addr := range before.Spec.Addresses {
			if slices.Contains(p.Spec.Addresses, addr) {
				continue
			}
			if err := a.remove(indexAddress(p.Spec.Switch, addr)); err != nil {
				return err
			}
		}
	}
	if p.Spec.Addresses == nil {
		for _, subnet := range home.Spec.Subnets {
			addr, err := a.freeAddress(home, subnet)
			if err != nil {
				return err
			}
			p.Spec.Addresses = append(p.Spec.Addresses, addr)
		}
	}
	for i, addr := range p.Spec.Addresses {
		field := fmt.Sprintf("spec.addresses[%d]: %s", i, addr)
		if err := usable(sw, addr); err != nil {
			return fmt.Errorf("%s %w", field, err)
		}
		if err := a.own(indexAddress(p.Spec.Switch, addr), p.Metadata.Name, field); err != nil {
			return err
		}
	}
	return nil
}

// usable says why an address cannot be a port's on the switch.
func usable(sw *fabric.Switch, addr netip.Addr) error {
	if len(sw.Spec.Subnets) == 0 || isLinkLocal(addr) {
		return nil
	}
	i := slices.IndexFunc(sw.Spec.Subnets, func(p netip.Prefix) bool { return p.Contains(addr) })
	if i < 0 {
		return fmt.Errorf("is outside %s of switch %s: choose one inside, or leave it out: %w", join(sw.Spec.Subnets), sw.Metadata.Name, fabric.ErrInvalid)
	}
	subnet := sw.Spec.Subnets[i]
	switch {
	case addr == subnet.Addr():
		return fmt.Errorf("is the network address of %s: choose another, or leave it out: %w", subnet, fabric.ErrInvalid)
	case addr.Is4() && addr == last(subnet):
		return fmt.Errorf("is the broadcast address of %s: choose another, or leave it out: %w", subnet, fabric.ErrInvalid)
	case slices.Contains(sw.Gateways(), addr):
		return fmt.Errorf("is the gateway of %s: choose another, or leave it out: %w", subnet, fabric.ErrInvalid)
	}
	return nil
}

// isLinkLocal reports whether the address is an IPv6 link-local one, which every link has beside its subnets (RFC 4291 2.5.6).
// A guest that does not make it from its MAC has it among its port's addresses.
func isLinkLocal(addr netip.Addr) bool { return addr.Is6() && addr.IsLinkLocalUnicast() }

func join(subnets []netip.Prefix) string {
	words := make([]string, len(subnets))
	for i, p := range subnets {
		words[i] = p.String()
	}
	return strings.Join(words, " and ")
}
