package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nic"
)

// tune tells a NIC, and the segments whose way it is, who leads, what the several share, and whether the host is on the switch.
func (d *Datapath) tune(u *uplink, want Uplink) error {
	leader := u
	if want.Leader != "" {
		if leader = d.uplinks[want.Leader]; leader == nil {
			return fmt.Errorf("%s, which is to lead, is no uplink here; put it first", want.Leader)
		}
	}
	flags := [...]uint16{Standby: 0, ByPort: uplinkByPort, ByFlow: uplinkByFlow}[want.Share]
	if want.HostAccess {
		flags |= uplinkHost
	}
	if want.Down {
		flags |= uplinkDown
	}
	if leader != u && (want.Share != ByFlow || want.Down) {
		flags |= uplinkSpare
	}
	const ways = uplinkHost | uplinkShared
	for vni, w := range d.wires {
		if w.Ifindex != u.value.Ifindex || w.Flags&ways == uint32(flags)&ways {
			continue
		}
		w.Flags = w.Flags&^ways | uint32(flags)&ways
		if err := d.maps.WiresV1.Put(uint32(vni), w); err != nil {
			return err
		}
	}
	u.value.Leader, u.value.Flags = uint16(leader.value.Slot), u.value.Flags&(uplinkWasPromisc|uplinkCarries)|flags
	return d.writeUplink(u)
}

// leaderOf is who leads the NIC of a slot; the slot itself where no NIC has it.
func (d *Datapath) leaderOf(slot uint32) uint32 {
	for _, u := range d.uplinks {
		if u.value.Slot == slot {
			return uint32(u.value.Leader)
		}
	}
	return slot
}

// unlead leaves the NICs that a slot led to themselves.
func (d *Datapath) unlead(slot uint32) error {
	var errs []error
	for _, u := range d.uplinks {
		if uint32(u.value.Leader) == slot {
			u.value.Leader = uint16(u.value.Slot)
			errs = append(errs, d.writeUplink(u))
		}
	}
	return errors.Join(append(errs, d.listen(), d.dropShares())...)
}

// listen lets the segments' frames in at the NICs of their leader, by the tag they have there, and nowhere else.
func (d *Datapath) listen() error {
	tags, next := map[coreTag]uint32{}, map[*uplink]coreUplink{}
	for _, u := range d.uplinks {
		value := u.value
		value.Vni, value.Flags = 0, value.Flags&^uplinkCarries
		next[u] = value
	}
	for vni, w := range d.wires {
		for u, value := range next {
			if w.Ifindex == 0 || uint32(u.value.Leader) != w.Slot {
				continue
			}
			value.Flags |= uint16(w.Flags & uplinkCarries)
			if w.Vid == 0 {
				value.Vni = uint32(vni)
			} else {
				tags[coreTag{Ifindex: u.value.Ifindex, Vid: uint32(w.Vid)}] = uint32(vni)
			}
			next[u] = value
		}
	}
	errs := []error{replace(d.maps.TagsV1, d.tags, tags)}
	d.tags = tags
	for u, value := range next {
		if value != u.value {
			u.value = value
			errs = append(errs, d.writeUplink(u))
		}
	}
	return errors.Join(errs...)
}

// replace makes a map of the core hold want instead of have.
func replace[K, V comparable](m *ebpf.Map, have, want map[K]V) error {
	var errs []error
	for key, value := range want {
		if was, there := have[key]; !there || was != value {
			errs = append(errs, m.Put(key, value))
		}
	}
	return errors.Join(append(errs, prune(m, have, want))...)
}

// prune takes out of a map of the core what is not wanted.
func prune[K, V comparable](m *ebpf.Map, have, want map[K]V) error {
	var errs []error
	for key := range have {
		if _, stays := want[key]; stays {
			continue
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// wantedShares says which NIC serves which part. A part stays with its NIC while that leads anywhere: a link that is lost moves
// nobody else.
func (d *Datapath) wantedShares() map[coreShare]coreExit {
	teams := map[uint32][]*uplink{}
	for _, device := range slices.Sorted(maps.Keys(d.uplinks)) {
		if u := d.uplinks[device]; u.value.Flags&uplinkShared != 0 {
			teams[uint32(u.value.Leader)] = append(teams[uint32(u.value.Leader)], u)
		}
	}
	shares := map[coreShare]coreExit{}
	for leader, team := range teams {
		live := slices.DeleteFunc(slices.Clone(team), func(u *uplink) bool { return u.value.Flags&uplinkDown != 0 })
		for part := range uint32(maxShares) {
			u := team[int(part)%len(team)]
			if u.value.Flags&uplinkDown != 0 && len(live) > 0 {
				u = live[int(part)/len(team)%len(live)]
			}
			exit := coreExit{Ifindex: u.value.Ifindex, Slot: u.value.Slot}
			if found, err := nic.Find(text(u.value.Device[:])); err == nil {
				exit.Mac = found.MAC
			}
			shares[coreShare{Leader: leader, Part: part}] = exit
		}
	}
	return shares
}

// putShares writes which NIC serves which part, and returns the leaders with parts that have moved to another. Parts of leaders that
// segments still name stay until dropShares.
func (d *Datapath) putShares() (moved map[uint32]bool, err error) {
	var errs []error
	moved = map[uint32]bool{}
	for key, exit := range d.wantedShares() {
		was, there := d.shares[key]
		if there && was == exit {
			continue
		}
		moved[key.Leader] = moved[key.Leader] || there && was.Slot != exit.Slot
		if err := d.maps.SharesV1.Put(key, exit); err != nil {
			errs = append(errs, fmt.Errorf("share the uplinks: %w", err))
			continue
		}
		d.shares[key] = exit
	}
	return moved, errors.Join(errs...)
}

// dropShares forgets the parts of NICs that lead no others any more.
func (d *Datapath) dropShares() error {
	want := d.wantedShares()
	err := prune(d.maps.SharesV1, d.shares, want)
	maps.DeleteFunc(d.shares, func(key coreShare, _ coreExit) bool { _, stays := want[key]; return !stays })
	return err
}

// adoptTeams learns what the core holds of several NICs of a switch.
func (d *Datapath) adoptTeams() error {
	var tag coreTag
	var vni uint32
	entries := d.maps.TagsV1.Iterate()
	for entries.Next(&tag, &vni) {
		d.tags[tag] = vni
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the VLANs on the wire: %w", err)
	}
	var key coreShare
	var exit coreExit
	entries = d.maps.SharesV1.Iterate()
	for entries.Next(&key, &exit) {
		d.shares[key] = exit
	}
	return entries.Err()
}

// readUplink is what the core holds of a NIC.
func readUplink(u coreUplink, bySlot map[uint32]string) Uplink {
	read := Uplink{HostAccess: u.Flags&uplinkHost != 0, Down: u.Flags&uplinkDown != 0}
	if uint32(u.Leader) != u.Slot {
		read.Leader = bySlot[uint32(u.Leader)]
	}
	switch {
	case u.Flags&uplinkByPort != 0:
		read.Share = ByPort
	case u.Flags&uplinkByFlow != 0:
		read.Share = ByFlow
	}
	return read
}

// Check refuses what the core cannot hold of an uplink on the device.
func (u Uplink) Check(device string) error {
	for _, name := range []string{device, cmp.Or(u.Leader, device)} {
		if name == "" || len(name) > nic.MaxName {
			return fmt.Errorf("put uplink: %q is no device name", name)
		}
	}
	switch {
	case u.Leader == device:
		return fmt.Errorf("put uplink %s: it cannot be led by itself", device)
	case u.Share > ByFlow:
		return fmt.Errorf("put uplink %s: there is no way %d to share", device, u.Share)
	}
	return nil
}
