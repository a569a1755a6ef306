package store

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// firstVNI is the first VNI that is allocated; smaller ones are left to what operators number by hand.
const firstVNI fabric.VNI = 10001

// sw puts a switch into the draft: its VNI is its own, its subnets overlap no other's, and its ports keep their place.
func (a *applying) sw(s, before *fabric.Switch) error {
	if s.Spec.Type == fabric.Internal {
		a.served.switches = append(a.served.switches, s)
	}
	a.changedShares(before, s)
	if err := a.vni(s, before); err != nil {
		return err
	}
	if err := a.vlans(s, before); err != nil {
		return err
	}
	if err := a.refer("spec.profile", fabric.KindProfile, s.Spec.Profile); err != nil {
		return err
	}
	a.segmented = a.segmented || before != nil && before.Spec.Profile != s.Spec.Profile
	if err := a.policies(s.Spec.Policies); err != nil {
		return err
	}
	if before != nil && (!slices.Equal(before.Spec.Policies, s.Spec.Policies) || before.Spec.Profile != s.Spec.Profile) {
		a.judged.everywhere = true
	}
	if err := a.scope(s, before); err != nil {
		return err
	}
	if err := a.fits(s); err != nil {
		return err
	}
	if err := a.uplinks(s, before); err != nil {
		return err
	}
	if before == nil || before.Spec.Type != s.Spec.Type || !slices.Equal(before.Spec.Subnets, s.Spec.Subnets) || !sameScope(before, s) {
		if err := a.apart(s); err != nil {
			return err
		}
	}
	if err := a.gateways(s); err != nil {
		return err
	}
	if err := a.hostPorts(s, before); err != nil {
		return err
	}
	wanted := s.AllSubnets()
	if before != nil && slices.Equal(before.AllSubnets(), wanted) || before == nil && len(wanted) == 0 {
		return nil
	}
	if err := a.subnets(s.Metadata.Name, wanted); err != nil {
		return err
	}
	if before == nil {
		return nil
	}
	return a.stillInside(s)
}

// vni keeps, takes or allocates the switch's VNI.
func (a *applying) vni(s, before *fabric.Switch) error {
	if before != nil && s.Spec.VNI == 0 {
		s.Spec.VNI = before.Spec.VNI
	}
	if before != nil && s.Spec.VNI != before.Spec.VNI {
		id := fabric.SwitchID(s.Metadata.Name)
		ports, err := a.scan(portsOf(id), true)
		if err != nil {
			return err
		}
		own, err := a.draft.hostPorts(id)
		if err != nil {
			return err
		}
		if n := len(ports) - len(own); n > 0 {
			return fmt.Errorf("spec.vni: the switch has %d ports, which would lose one another while it changes from %d to %d: keep it, or delete the ports first: %w",
				n, before.Spec.VNI, s.Spec.VNI, fabric.ErrConflict)
		}
		a.untouched(portsOf(id))
		if err := a.remove(indexVNI(before.Spec.VNI)); err != nil {
			return err
		}
	}
	if s.Spec.VNI == 0 {
		free, err := a.freeVNI()
		if err != nil {
			return err
		}
		s.Spec.VNI = free
	}
	return a.own(indexVNI(s.Spec.VNI), s.Metadata.Name, fmt.Sprintf("spec.vni: %d", s.Spec.VNI))
}

// freeVNI is the lowest VNI from 10001 up that nobody has; a later attempt skips some, so that writers who met diverge.
func (a *applying) freeVNI() (fabric.VNI, error) {
	taken, err := a.scan(indexVNIs(), true)
	if err != nil {
		return 0, err
	}
	used := make(map[string]bool, len(taken))
	for _, r := range taken {
		used[r.key] = true
	}
	skip := a.skip()
	for v := firstVNI; v <= fabric.MaxVNI; v++ {
		if used[indexVNI(v)] {
			continue
		}
		if skip == 0 {
			return v, nil
		}
		skip--
	}
	return 0, fmt.Errorf("spec.vni: all VNIs from %d to %d are taken: give a free one by hand: %w", firstVNI, fabric.MaxVNI, fabric.ErrConflict)
}

// skip is how many free values this attempt passes over: none at first, then a random number that grows.
func (a *applying) skip() uint32 {
	if a.attempt == 0 {
		return 0
	}
	return a.store.random(1 << min(a.attempt, 6))
}

// fits checks a configured MTU against the underlay of the hosts that are known.
func (a *applying) fits(s *fabric.Switch) error {
	if s.Spec.MTU == 0 {
		return nil
	}
	records, err := a.scan(kindPrefix(fabric.KindHost), false)
	if err != nil {
		return err
	}
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			continue // an unreadable host is reported by every snapshot, and says nothing about its MTU
		}
		h := as[*fabric.Host](o)
		if !s.Covers(fabric.HostID(h.Metadata.Name)) {
			continue
		}
		if room := h.Spec.UnderlayMTU - fabric.Overhead(h.Spec.VTEP); s.Spec.MTU > room {
			return fmt.Errorf("spec.mtu: %d does not fit host %s, whose underlay of %d bytes has room for %d inside a tunnel: use at most that, or leave it out: %w",
				s.Spec.MTU, h.Metadata.Name, h.Spec.UnderlayMTU, room, fabric.ErrInvalid)
		}
	}
	return nil
}

// subnets writes the switch's part of the one record of all subnets; through that record two overlapping subnets cannot be
// written at the same time.
func (a *applying) subnets(name string, wanted []netip.Prefix) error {
	all, err := a.allSubnets()
	if err != nil {
		return err
	}
	for i, p := range wanted {
		if j := slices.IndexFunc(wanted[:i], p.Overlaps); j >= 0 {
			return fmt.Errorf("spec.subnets: %s overlaps %s of another VLAN of the switch: choose another: %w", p, wanted[j], fabric.ErrConflict)
		}
		for other, theirs := range all {
			i := slices.IndexFunc(theirs, p.Overlaps)
			if other != name && i >= 0 {
				return fmt.Errorf("spec.subnets: %s overlaps %s of switch %s: choose another: %w", p, theirs[i], other, fabric.ErrConflict)
			}
		}
	}
	all[name] = wanted
	if len(wanted) == 0 {
		delete(all, name)
	}
	value, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode the record of all subnets: %w", err)
	}
	return a.put(subnetsKey, value)
}

// allSubnets reads the record of all subnets; one that cannot be read is made again from the switches.
func (d *draft) allSubnets() (map[string][]netip.Prefix, error) {
	all := map[string][]netip.Prefix{}
	r, err := d.get(subnetsKey)
	if err != nil || r.revision == 0 {
		return all, err
	}
	if json.Unmarshal(r.value, &all) == nil && all != nil {
		return all, nil
	}
	all = map[string][]netip.Prefix{}
	records, err := d.scan(kindPrefix(fabric.KindSwitch), false)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			return nil, fmt.Errorf("the record of all subnets cannot be read and not be made again: %w", err)
		}
		if s := as[*fabric.Switch](o); len(s.AllSubnets()) > 0 {
			all[s.Metadata.Name] = s.AllSubnets()
		}
	}
	d.store.log.Warn("the record of all subnets could not be read and is made again from the switches", "key", subnetsKey)
	return all, nil
}

// stillInside checks that every address of the switch's ports lies in its changed subnets.
func (a *applying) stillInside(s *fabric.Switch) error {
	below := indexAddresses(fabric.SwitchID(s.Metadata.Name))
	records, err := a.scan(below, false)
	if err != nil {
		return err
	}
	for _, r := range records {
		addr, err := netip.ParseAddr(r.key[len(below):])
		if err == nil && len(s.AllSubnets()) > 0 && !inside(s.AllSubnets(), addr) {
			return fmt.Errorf("spec.subnets: port %s has %s, which would be outside: keep its subnet, or change the port first: %w", r.value, addr, fabric.ErrConflict)
		}
	}
	a.untouched(below)
	return nil
}

func inside(subnets []netip.Prefix, addr netip.Addr) bool {
	return isLinkLocal(addr) || slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(addr) })
}
