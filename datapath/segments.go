package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
)

// SegmentKey is a port, by its device, and a segment.
type SegmentKey struct {
	Device string
	VNI    fabric.VNI
}

// Segment says how a port is on a segment beside the one of Port.Receives, or what more there is to say of that one.
type Segment struct {
	// Tag is what a trunk's guest knows the segment by, both ways; 0: the guest receives its frames untagged, and sends none on it.
	Tag uint16
	// QinQ lets frames pass whose tag is payload.
	QinQ bool
}

// guardTrunk is Port.Trunk among the bits of a port's guards, the same as in bpf/types.h.
const guardTrunk = 1 << 15

// wrongTag stands for a segment whose tag the kernel does not hold both ways.
const wrongTag = 0xffff

// Check refuses what the core cannot hold of a segment.
func (s Segment) Check(key SegmentKey) error {
	if key.VNI == 0 || key.VNI > fabric.MaxVNI || s.Tag > uint16(fabric.MaxTag) {
		return fmt.Errorf("put VNI %d with tag %d on %s: a VNI is 1 to %d, a tag 1 to %d, or 0 for none", key.VNI, s.Tag, key.Device, fabric.MaxVNI, fabric.MaxTag)
	}
	return nil
}

// home is the VNI that the port receives first.
func (p Port) home() fabric.VNI {
	if p.Receives != 0 {
		return p.Receives
	}
	return p.VNI
}

// home is the same of a port in the kernel.
func (c *corePort) home() fabric.VNI { return fabric.VNI(c.Home) }

func (d *Datapath) applySegments(c Change, failed *failures) {
	for key, s := range c.Put.Segments {
		failed.add(d.putSegment(key, s))
	}
}

func (d *Datapath) unapplySegments(c Change, failed *failures) {
	for key := range c.Delete.Segments {
		failed.add(d.deleteSegment(key))
	}
}

// putSegment puts a port on a segment: what the guest receives first, then what it may send.
func (d *Datapath) putSegment(key SegmentKey, s Segment) error {
	if err := s.Check(key); err != nil {
		return err
	}
	p := d.ports[key.Device]
	if p == nil || p.value.Name[0] == 0 {
		return fmt.Errorf("put VNI %d on %s: it carries no port here; put the port first", key.VNI, key.Device)
	}
	slot := p.value.Slot
	value := coreSegment{Tag: s.Tag}
	if s.QinQ {
		value.Flags = segmentQinQ
	}
	if err := d.dropTags(slot, func(tag uint16, vni uint32) bool { return vni == uint32(key.VNI) && tag != s.Tag }); err != nil {
		return err
	}
	if err := d.maps.SegmentsV1.Put(&coreSegmentKey{Slot: slot, Vni: uint32(key.VNI)}, &value); err != nil {
		return fullError(fmt.Sprintf("put VNI %d on %s", key.VNI, key.Device), err)
	}
	if s.Tag != 0 {
		vni := uint32(key.VNI)
		if err := d.maps.TrunksV1.Put(&coreTrunkKey{Slot: slot, Vid: s.Tag}, &vni); err != nil {
			return fullError(fmt.Sprintf("put tag %d on %s", s.Tag, key.Device), err)
		}
	}
	return d.changeMembers(key.VNI, []uint16{uint16(slot)}, nil)
}

// deleteSegment takes a port off a segment.
func (d *Datapath) deleteSegment(key SegmentKey) error {
	p := d.ports[key.Device]
	if p == nil {
		return nil
	}
	slot := p.value.Slot
	errs := []error{
		d.dropTags(slot, func(_ uint16, vni uint32) bool { return vni == uint32(key.VNI) }),
		gone(d.maps.SegmentsV1.Delete(&coreSegmentKey{Slot: slot, Vni: uint32(key.VNI)})),
	}
	if p.value.home() != key.VNI {
		errs = append(errs, d.changeMembers(key.VNI, nil, []uint16{uint16(slot)}))
	}
	return errors.Join(errs...)
}

// gone is the error of a deletion; what is not there is gone already.
func gone(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// dropTags removes the tags of a slot that match.
func (d *Datapath) dropTags(slot uint32, match func(tag uint16, vni uint32) bool) error {
	var keys []coreTrunkKey
	err := each(d.maps.TrunksV1, &d.buffers.trunks, func(k *coreTrunkKey, vni *uint32) {
		if k.Slot == slot && match(k.Vid, *vni) {
			keys = append(keys, *k)
		}
	})
	return errors.Join(err, remove(d.maps.TrunksV1, keys))
}

// clearSegments takes a slot off all segments, before it carries another port.
func (d *Datapath) clearSegments(slot uint32) error {
	var keys []coreSegmentKey
	errs := []error{
		each(d.maps.SegmentsV1, &d.buffers.segments, func(k *coreSegmentKey, _ *coreSegment) {
			if k.Slot == slot {
				keys = append(keys, *k)
			}
		}),
		d.dropTags(slot, func(uint16, uint32) bool { return true }),
	}
	errs = append(errs, remove(d.maps.SegmentsV1, keys))
	for _, k := range keys {
		errs = append(errs, d.changeMembers(fabric.VNI(k.Vni), nil, []uint16{uint16(slot)}))
	}
	return errors.Join(errs...)
}

// membersOf are the slots of the ports that receive on a segment.
func (d *Datapath) membersOf(vni fabric.VNI) (slots []uint16, err error) {
	for _, p := range d.ports {
		if p.value.home() == vni {
			slots = append(slots, uint16(p.value.Slot))
		}
	}
	err = each(d.maps.SegmentsV1, &d.buffers.segments, func(k *coreSegmentKey, _ *coreSegment) {
		if k.Vni == uint32(vni) {
			slots = append(slots, uint16(k.Slot))
		}
	})
	slices.Sort(slots)
	return slices.Compact(slots), err
}

// readSegments reads the segments; one whose tag is not held both ways, and a tag without a segment, have wrongTag. Those of a slot
// without a port mean nothing: they are cleared before it carries one.
func (d *Datapath) readSegments(s *State, devices map[uint32]string) error {
	tags := map[coreSegmentKey]uint16{}
	err := each(d.maps.TrunksV1, &d.buffers.trunks, func(k *coreTrunkKey, vni *uint32) {
		key := coreSegmentKey{Slot: k.Slot, Vni: *vni}
		if devices[k.Slot] == "" {
			return
		}
		if _, twice := tags[key]; twice {
			tags[key] = wrongTag
			return
		}
		tags[key] = k.Vid
	})
	if err != nil {
		return err
	}
	err = each(d.maps.SegmentsV1, &d.buffers.segments, func(k *coreSegmentKey, v *coreSegment) {
		if devices[k.Slot] == "" {
			return
		}
		one := Segment{Tag: v.Tag, QinQ: v.Flags&segmentQinQ != 0}
		if tags[*k] != v.Tag {
			one.Tag = wrongTag
		}
		delete(tags, *k)
		s.Segments[SegmentKey{Device: devices[k.Slot], VNI: fabric.VNI(k.Vni)}] = one
	})
	for key := range tags {
		s.Segments[SegmentKey{Device: devices[key.Slot], VNI: fabric.VNI(key.Vni)}] = Segment{Tag: wrongTag}
	}
	return err
}
