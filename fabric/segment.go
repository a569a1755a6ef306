package fabric

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// SwitchVLAN is a segment of a switch beside its untagged one. It has a VNI of its own, so that no tag travels between hosts
// (RFC 7348 section 6.1; ADR 12).
type SwitchVLAN struct {
	ID VLANID `json:"id"`
	// VNI is allocated when 0; an isolation id is its own VNI.
	VNI VNI `json:"vni,omitempty"`
	// Subnets are the prefixes that addresses on the VLAN come from; absent, the switch's; an empty list means none.
	Subnets []netip.Prefix `json:"subnets,omitzero"`
	// Primary is the VLAN that this one is a secondary of, and Mode whether isolated or community; the fabric keeps both, as the
	// ports say. Mode is absent while only promiscuous ports name the VLAN.
	Primary VLANID    `json:"primary,omitempty"`
	Mode    PVLANMode `json:"mode,omitempty"`
}

// VLAN is the switch's entry of a VLAN; nil when it lists none.
func (s *Switch) VLAN(id VLANID) *SwitchVLAN {
	for i := range s.Spec.VLANs {
		if s.Spec.VLANs[i].ID == id {
			return &s.Spec.VLANs[i]
		}
	}
	return nil
}

// VNIOf is the VNI of a segment; 0 when the switch does not list it.
func (s *Switch) VNIOf(id VLANID) VNI {
	if id == 0 {
		return s.Spec.VNI
	}
	if v := s.VLAN(id); v != nil {
		return v.VNI
	}
	return 0
}

// SubnetsOf are the prefixes that addresses on a segment come from.
func (s *Switch) SubnetsOf(id VLANID) []netip.Prefix {
	if v := s.VLAN(id); v != nil && v.Subnets != nil {
		return v.Subnets
	}
	return s.Spec.Subnets
}

// AllSubnets are the switch's own subnets and those of its VLANs.
func (s *Switch) AllSubnets() []netip.Prefix {
	all := slices.Clone(s.Spec.Subnets)
	for _, v := range s.Spec.VLANs {
		all = append(all, v.Subnets...)
	}
	return all
}

// isPrimary reports whether a secondary of the switch belongs to the VLAN.
func (s *Switch) isPrimary(id VLANID) bool {
	return slices.ContainsFunc(s.Spec.VLANs, func(v SwitchVLAN) bool { return v.Primary == id })
}

// checkVLANs checks the list of VLANs by itself.
func (s *Switch) checkVLANs(f *Findings) {
	if n := len(s.Spec.VLANs); n > MaxVLANs {
		f.add("spec.vlans", "%d VLANs, a switch has at most %d", n, MaxVLANs)
		return
	}
	seen, vnis := map[VLANID]bool{}, map[VNI]VLANID{}
	for i, v := range s.Spec.VLANs {
		path := fmt.Sprintf("spec.vlans[%d]", i)
		other, taken := vnis[v.VNI]
		switch {
		case !v.ID.valid():
			f.add(path+".id", "%d %s", v.ID, badVLAN)
		case seen[v.ID]:
			f.add(path+".id", "VLAN %d is given twice: remove one", v.ID)
		case v.VNI > MaxVNI:
			f.add(path+".vni", "%d does not fit: a VNI is 1 to %d; leave it out to have one allocated", v.VNI, MaxVNI)
		case v.VNI != 0 && v.VNI == s.Spec.VNI:
			f.add(path+".vni", "%d is the switch's own: leave it out to have one allocated", v.VNI)
		case v.VNI != 0 && taken:
			f.add(path+".vni", "%d is VLAN %d's: leave it out to have one allocated", v.VNI, other)
		case v.Primary > MaxTag || v.Primary == v.ID && v.ID != 0:
			f.add(path+".primary", "%d cannot be the primary VLAN of %d", v.Primary, v.ID)
		case v.Mode != "" && v.Mode != Isolated && v.Mode != Community:
			f.add(path+".mode", "%s", unknown("mode", string(v.Mode), []string{string(Isolated), string(Community)}))
		case v.Mode != "" && v.Primary == 0:
			f.add(path+".primary", "is missing: an %s VLAN is a secondary of another one", v.Mode)
		}
		seen[v.ID], vnis[v.VNI] = true, v.ID
		checkSubnets(f, path+".subnets", v.Subnets)
		if s.Spec.Type == Internal && len(v.Subnets) > 0 {
			f.add(path+".subnets", "the hosts are on an internal switch's untagged segment alone: nobody is the gateway of VLAN %d, or serves DHCP there; give these subnets to an internal switch of their own, or take them away", v.ID)
		}
	}
}

// VLANUse is how a port uses one VLAN of its switch.
type VLANUse struct {
	ID VLANID
	// IsPrimary of a private VLAN; or a secondary of Primary, of Mode, which is empty for what a promiscuous port lists.
	IsPrimary bool
	Primary   VLANID
	Mode      PVLANMode
}

// Uses are the VLANs that a port's setting names, in no order. Those that a trunk carries because the switch lists them (all) are
// not among them.
func (v *VLAN) Uses() (uses []VLANUse) {
	switch {
	case v == nil:
	case v.Trunk != nil:
		for _, id := range v.Trunk.named() {
			uses = append(uses, VLANUse{ID: id})
		}
		if v.Trunk.Native != 0 {
			uses = append(uses, VLANUse{ID: v.Trunk.Native})
		}
	case v.PVLAN != nil:
		uses = append(uses, VLANUse{ID: v.PVLAN.Primary, IsPrimary: true})
		mode := v.PVLAN.Mode
		if mode == Promiscuous {
			mode = ""
		}
		for _, id := range v.PVLAN.Secondary {
			uses = append(uses, VLANUse{ID: id, Primary: v.PVLAN.Primary, Mode: mode})
		}
	case v.Access != 0:
		uses = append(uses, VLANUse{ID: v.Access})
	}
	return uses
}

// Contradicts reports whether two ports of a switch cannot use one VLAN in these two ways: it would not isolate what it is to.
func (u VLANUse) Contradicts(o VLANUse) bool {
	if u.ID != o.ID {
		return false
	}
	return u.IsPrimary != o.IsPrimary || u.Primary != o.Primary || u.Mode != "" && o.Mode != "" && u.Mode != o.Mode
}

// String is the use as a clause: "the isolated secondary of VLAN 100".
func (u VLANUse) String() string {
	switch {
	case u.IsPrimary:
		return "the primary of a private VLAN"
	case u.Primary == 0:
		return "an ordinary VLAN"
	case u.Mode == "":
		return fmt.Sprintf("a secondary of VLAN %d", u.Primary)
	}
	return fmt.Sprintf("the %s secondary of VLAN %d", u.Mode, u.Primary)
}

// Segments are the VNIs that a port sends and receives on.
type Segments struct {
	// Sends is the VNI of what the guest sends untagged, and VLAN the switch's number of it, 0 for the untagged segment.
	Sends VNI
	VLAN  VLANID
	// Receives is the VNI whose frames reach the guest untagged first of all: that of its primary VLAN in a private VLAN, else Sends.
	Receives VNI
	// Also are more VNIs whose frames reach the guest untagged.
	Also []VNI
	// Tags are the VNIs of a trunk's VLANs, both ways.
	Tags map[VLANID]VNI
	QinQ bool
	// Known is false when the switch is not known, or does not list a VLAN that the port needs: the port passes nothing then.
	Known bool
}

// Heard are all VNIs whose frames reach the guest, the one of Receives first, each once.
func (s *Segments) Heard() []VNI { return s.AppendHeard(nil) }

// AppendHeard appends them to a list.
func (s *Segments) AppendHeard(heard []VNI) []VNI {
	heard = append(append(heard, s.Receives), s.Also...)
	if len(s.Tags) == 0 {
		return heard
	}
	for _, id := range slices.Sorted(maps.Keys(s.Tags)) {
		heard = append(heard, s.Tags[id])
	}
	return heard
}

// VLAN is the VLAN setting in force on a port: its own, else its profile's; nil for the untagged segment. The switch's profile speaks
// for VMs' ports alone here: a host's own port stays where the gateway is, unless it is moved by name.
func (s *Snapshot) VLAN(p *Port) *VLAN {
	if p.Spec.VLAN != nil {
		return p.Spec.VLAN
	}
	name := p.Spec.Profile
	if sw := s.Switches[p.Spec.Switch]; name == "" && sw != nil && !p.IsHost() {
		name = sw.Spec.Profile
	}
	if profile := s.Profiles[name]; profile != nil {
		return profile.Spec.VLAN
	}
	return nil
}

// Segments says which VNIs a port is on.
func (s *Snapshot) Segments(p *Port) Segments {
	sw := s.Switches[p.Spec.Switch]
	if sw == nil {
		return Segments{}
	}
	return sw.Segments(s.VLAN(p))
}

// Segments says which VNIs a port with this setting is on.
func (s *Switch) Segments(v *VLAN) Segments {
	if v == nil {
		v = &VLAN{}
	}
	seg := Segments{QinQ: v.QinQ, Sends: s.VNIOf(v.Access), VLAN: v.Access, Known: true}
	switch {
	case v.Trunk != nil:
		seg.Sends, seg.VLAN = s.VNIOf(v.Trunk.Native), v.Trunk.Native
		seg.Tags = s.tags(v.Trunk)
	case v.PVLAN != nil:
		seg.Receives, seg.VLAN = s.VNIOf(v.PVLAN.Primary), v.PVLAN.Primary
		s.private(v.PVLAN, &seg)
		seg.Known = seg.Receives != 0
	}
	if seg.Receives == 0 {
		seg.Receives = seg.Sends
	}
	seg.Known = seg.Known && seg.Sends != 0 && seg.Sends <= MaxVNI
	return seg
}

// tags are the VLANs that the switch lists and the trunk carries. A private one is not carried: its secondaries would be heard.
func (s *Switch) tags(t *Trunk) map[VLANID]VNI {
	tags := map[VLANID]VNI{}
	for _, v := range s.Spec.VLANs {
		if v.VNI != 0 && v.Primary == 0 && t.carries(v.ID) && !s.isPrimary(v.ID) {
			tags[v.ID] = v.VNI
		}
	}
	return tags
}

// private fills in what a port of a private VLAN sends on, and receives beside the primary.
func (s *Switch) private(p *PVLAN, seg *Segments) {
	if p.Mode == Promiscuous {
		seg.Sends = seg.Receives
		for _, id := range p.Secondary {
			if vni := s.VNIOf(id); vni != 0 {
				seg.Also = append(seg.Also, vni)
			}
		}
		return
	}
	seg.Sends = 0
	if len(p.Secondary) == 1 {
		seg.Sends, seg.VLAN = s.VNIOf(p.Secondary[0]), p.Secondary[0]
	}
	if p.Mode == Community && seg.Sends != 0 {
		seg.Also = []VNI{seg.Sends}
	}
}

// Home is the segment whose subnets a port's addresses come from: its VLAN, a trunk's native one, a private VLAN's primary.
func (v *VLAN) Home() VLANID {
	switch {
	case v == nil:
		return 0
	case v.Trunk != nil:
		return v.Trunk.Native
	case v.PVLAN != nil:
		return v.PVLAN.Primary
	}
	return v.Access
}

// Reach are the segments that a port may have addresses on: its home, and the VLANs of a trunk.
func (s *Switch) Reach(v *VLAN) []VLANID {
	ids := []VLANID{v.Home()}
	if v != nil && v.Trunk != nil {
		ids = append(ids, slices.Sorted(maps.Keys(s.tags(v.Trunk)))...)
	}
	return ids
}
