package store

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// segment makes the port's switch list the VLANs that the port names, in the same transaction: each with a VNI of its own and, of a
// private VLAN, with its part. It returns the switch as it is then. Two ports that use one VLAN in ways that contradict each other
// are fabric.ErrConflict.
func (a *applying) segment(p *fabric.Port, sw *fabric.Switch) (*fabric.Switch, error) {
	v, err := a.vlanOf(p, sw)
	if err != nil || len(v.Uses()) == 0 {
		return sw, err
	}
	next := *sw
	next.Spec.VLANs = slices.Clone(sw.Spec.VLANs)
	for _, use := range v.Uses() {
		if err := a.use(p, &next, use); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(next.Spec.VLANs, func(x, y fabric.SwitchVLAN) int { return cmp.Compare(x.ID, y.ID) })
	if slices.EqualFunc(next.Spec.VLANs, sw.Spec.VLANs, sameVLAN) {
		return sw, nil
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("spec.vlan: switch %s: %w", sw.Metadata.Name, err)
	}
	value, err := encodeObject(&next)
	if err != nil {
		return nil, err
	}
	return &next, a.put(objectKey(&next), value)
}

func sameVLAN(x, y fabric.SwitchVLAN) bool {
	return x.ID == y.ID && x.VNI == y.VNI && x.Primary == y.Primary && x.Mode == y.Mode &&
		(x.Subnets == nil) == (y.Subnets == nil) && slices.Equal(x.Subnets, y.Subnets)
}

// vlanOf is the VLAN setting of a port as the draft would leave it: its own, else its profile's.
func (a *applying) vlanOf(p *fabric.Port, sw *fabric.Switch) (*fabric.VLAN, error) {
	name := p.Spec.Profile
	if name == "" && !p.IsHost() { // as fabric.Snapshot.VLAN has it
		name = sw.Spec.Profile
	}
	if p.Spec.VLAN != nil || name == "" {
		return p.Spec.VLAN, nil
	}
	o, err := a.object(fabric.KindProfile, name)
	if err != nil {
		return nil, err
	}
	a.unchanged(key(fabric.KindProfile, name))
	if profile := as[*fabric.Profile](o); profile != nil {
		return profile.Spec.VLAN, nil
	}
	return nil, nil
}

// use puts one VLAN into the switch's list.
func (a *applying) use(p *fabric.Port, sw *fabric.Switch, use fabric.VLANUse) error {
	entry := sw.VLAN(use.ID)
	if entry == nil {
		vni, err := a.segmentVNI(sw, use.ID, 0)
		if err != nil {
			return fmt.Errorf("spec.vlan: VLAN %d: %w", use.ID, err)
		}
		sw.Spec.VLANs = append(sw.Spec.VLANs, fabric.SwitchVLAN{ID: use.ID, VNI: vni, Primary: use.Primary, Mode: use.Mode})
		return nil
	}
	listed := fabric.VLANUse{ID: entry.ID, Primary: entry.Primary, Mode: entry.Mode}
	if !listed.IsPrimary && listed.Primary == 0 {
		listed.IsPrimary = slices.ContainsFunc(sw.Spec.VLANs, func(v fabric.SwitchVLAN) bool { return v.Primary == use.ID })
	}
	if !use.Contradicts(listed) {
		entry.Mode = cmp.Or(entry.Mode, use.Mode)
		return nil
	}
	// What the list says is what some port has said; if none says so any more, the VLAN is free for another use.
	other, its, err := a.contradicting(p, sw, use)
	if err != nil {
		return err
	}
	if other != "" {
		return fmt.Errorf("spec.vlan: VLAN %d would be %s for this port, and is %s for port %s on switch %s: both together would not isolate; change one of them, or prune the VLAN from the trunk: %w",
			use.ID, use, its, other, sw.Metadata.Name, fabric.ErrConflict)
	}
	if listed.IsPrimary && !use.IsPrimary {
		for i := range sw.Spec.VLANs {
			if v := &sw.Spec.VLANs[i]; v.Primary == use.ID {
				v.Primary, v.Mode = 0, ""
			}
		}
	}
	entry.Primary, entry.Mode = use.Primary, use.Mode
	return nil
}

// contradicting finds another port of the switch that uses the VLAN in a way that contradicts this use; empty when there is none.
// Every port that names a VLAN depends on its switch's record, so that no two writers pass each other here.
func (a *applying) contradicting(p *fabric.Port, sw *fabric.Switch, use fabric.VLANUse) (string, fabric.VLANUse, error) {
	records, err := a.scan(portsOf(fabric.SwitchID(sw.Metadata.Name)), false)
	if err != nil {
		return "", fabric.VLANUse{}, err
	}
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			return "", fabric.VLANUse{}, fmt.Errorf("it cannot be told which VLANs a port uses: %w", err)
		}
		other := as[*fabric.Port](o)
		if other.Metadata.Name == p.Metadata.Name {
			continue
		}
		v, err := a.vlanOf(other, sw)
		if err != nil {
			return "", fabric.VLANUse{}, err
		}
		for _, its := range v.Uses() {
			if use.Contradicts(its) {
				return other.Metadata.Name, its, nil
			}
		}
	}
	return "", fabric.VLANUse{}, nil
}

// segmentVNI takes the VNI of a switch's VLAN: the one wanted, an isolation id's own number, or a free one.
func (a *applying) segmentVNI(sw *fabric.Switch, id fabric.VLANID, wanted fabric.VNI) (fabric.VNI, error) {
	if wanted == 0 && id >= fabric.MinIsolation {
		wanted = fabric.VNI(id)
	}
	if wanted == 0 {
		free, err := a.freeVNI()
		if err != nil {
			return 0, err
		}
		wanted = free
	}
	taken := slices.ContainsFunc(sw.Spec.VLANs, func(v fabric.SwitchVLAN) bool { return v.ID != id && v.VNI == wanted })
	if taken || wanted == sw.Spec.VNI {
		return 0, fmt.Errorf("VNI %d is another segment's of switch %s: give the VLAN one in spec.vlans of the switch: %w", wanted, sw.Metadata.Name, fabric.ErrConflict)
	}
	return wanted, a.own(indexVNI(wanted), sw.Metadata.Name, fmt.Sprintf("VNI %d", wanted))
}

// vlans keeps, takes or allocates the VNIs of a switch's VLANs, and keeps those that its ports are on. An absent list stays what it
// was.
func (a *applying) vlans(s, before *fabric.Switch) error {
	if before != nil && s.Spec.VLANs == nil {
		s.Spec.VLANs = slices.Clone(before.Spec.VLANs)
	}
	if before != nil {
		if err := a.dropVLANs(s, before); err != nil {
			return err
		}
	}
	for i := range s.Spec.VLANs {
		v := &s.Spec.VLANs[i]
		if before != nil && v.VNI == 0 {
			v.VNI = before.VNIOf(v.ID)
		}
		vni, err := a.segmentVNI(s, v.ID, v.VNI)
		if err != nil {
			return fmt.Errorf("spec.vlans[%d]: %w", i, err)
		}
		v.VNI = vni
	}
	return nil
}

// dropVLANs gives up the VLANs, or their VNIs, that a switch no longer lists, as long as no port needs them.
func (a *applying) dropVLANs(s, before *fabric.Switch) error {
	for _, old := range before.Spec.VLANs {
		now := s.VLAN(old.ID)
		if now != nil && (now.VNI == old.VNI || now.VNI == 0) && now.Primary == old.Primary && now.Mode == old.Mode {
			continue
		}
		user, err := a.userOf(s, old.ID)
		if err != nil {
			return err
		}
		if user != "" {
			return fmt.Errorf("spec.vlans: port %s is on VLAN %d: keep it as it is, or take the port off the VLAN first: %w", user, old.ID, fabric.ErrConflict)
		}
		if now == nil || now.VNI != 0 && now.VNI != old.VNI {
			if err := a.remove(indexVNI(old.VNI)); err != nil {
				return err
			}
		}
	}
	return nil
}

// userOf names a port of the switch that uses the VLAN; empty when none does.
func (a *applying) userOf(s *fabric.Switch, id fabric.VLANID) (string, error) {
	below := portsOf(fabric.SwitchID(s.Metadata.Name))
	records, err := a.scan(below, false)
	if err != nil {
		return "", err
	}
	a.untouched(below)
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			return "", fmt.Errorf("it cannot be told which VLANs a port uses: %w", err)
		}
		v, err := a.vlanOf(as[*fabric.Port](o), s)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(v.Uses(), func(u fabric.VLANUse) bool { return u.ID == id }) {
			return o.Meta().Name, nil
		}
	}
	return "", nil
}

// segments gives the ports of changed profiles and switches the VLANs they are on from now, in the state the draft leaves behind.
func (a *applying) segments() error {
	if !a.segmented {
		return nil
	}
	records, err := a.scan(kindPrefix(fabric.KindPort), false)
	if err != nil {
		return err
	}
	for _, r := range records {
		o, err := decodeObject(r)
		if err != nil {
			continue // reported by every snapshot; the port is closed until it is applied again
		}
		p := as[*fabric.Port](o)
		if p.Spec.VLAN != nil {
			continue
		}
		sw, err := a.switchOf(p)
		if err != nil {
			return err
		}
		if _, err := a.segment(p, sw); err != nil {
			return fmt.Errorf("port %s: %w", p.Metadata.Name, err)
		}
	}
	return nil
}
