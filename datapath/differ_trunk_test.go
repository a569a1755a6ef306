package datapath_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// The segments of the differ's switch: its VNIs are vni, vni+1 and vni+2. All stations send untagged on the first.
var segmentIDs = [3]fabric.VLANID{100, 10, 20}

// untaggedVNI is that of the switch itself, which no port is on.
const untaggedVNI = vni + 9

// segments draws how the ports are on the segments: a trunk knows the second and the third by their tags; a promiscuous port of a
// private VLAN receives them untagged, and sends on the first; others are on the first alone.
func (u *universe) segments(s *fabric.Snapshot) {
	sw := s.Switches["sw"]
	sw.Spec.VNI = untaggedVNI
	for i, id := range segmentIDs {
		sw.Spec.VLANs = append(sw.Spec.VLANs, fabric.SwitchVLAN{ID: id, VNI: vni + fabric.VNI(i)})
	}
	for _, id := range []fabric.PortID{"g1", "g2"} {
		v := &fabric.VLAN{}
		switch u.IntN(8) {
		case 0:
			v.Access = segmentIDs[0]
		case 1, 2:
			v.PVLAN = &fabric.PVLAN{Mode: fabric.Promiscuous, Primary: segmentIDs[0], Secondary: []fabric.VLANID{segmentIDs[1], segmentIDs[2]}}
		default:
			v.Trunk = &fabric.Trunk{Native: segmentIDs[0], Allowed: []fabric.VLANRange{{First: segmentIDs[1], Last: segmentIDs[2]}}}
		}
		s.Ports[id].Spec.VLAN = v
	}
}

// isTrunk reports whether a guest knows segments by tags.
func (d *differ) isTrunk(n int) bool { return d.ports[n] == nil || d.ports[n].port.Trunk }

// hears reports whether a guest receives what is on a segment.
func (d *differ) hears(n int, on fabric.VNI) bool {
	if on == vni || d.ports[n] == nil {
		return true
	}
	_, is := d.onSegments[datapath.SegmentKey{Device: d.ports[n].device, VNI: on}]
	return is
}

// wayOf is the VNI that a talk's packet travels on: sometimes another than the talk's, where it is of no connection or of another one
// with the same ends.
func (d *differ) wayOf(t *talk, w *trip) fabric.VNI {
	on := vni + fabric.VNI(t.segment)
	if d.u.IntN(12) == 0 {
		on = vni + fabric.VNI(d.u.IntN(len(segmentIDs)))
	}
	if !d.isTrunk(w.src) || !w.group && !d.hears(w.dst, on) {
		return vni
	}
	return on
}

// segmentAt is the segment of a trip at a port, as the model is told it.
func (d *differ) segmentAt(g *guarded, on fabric.VNI) fabric.VNI {
	if on == vni || !g.port.Trunk {
		return 0
	}
	return on
}

// tagOf is what the program that tags frames is told: a tag, or none (0). What is on the first segment has sometimes one of VLAN 0,
// which is a priority alone.
func (d *differ) tagOf(w *trip) uint32 {
	const tagged = 1 << 16
	switch {
	case w.vni != vni:
		return tagged | uint32(d.u.IntN(8))<<13 | uint32(segmentIDs[w.vni-vni])
	case d.u.IntN(32) == 0:
		return tagged | uint32(1+d.u.IntN(7))<<13
	}
	return 0
}

// resegment puts the ports on the segments that the snapshot in force has them on; before is to be applied first.
func (d *differ) resegment(wanted map[datapath.SegmentKey]datapath.Segment, c *datapath.Change) {
	gone := map[datapath.SegmentKey]datapath.Segment{}
	for key, s := range d.onSegments {
		if _, stays := wanted[key]; !stays {
			gone[key] = s
		}
	}
	if len(gone) > 0 {
		d.h.apply(datapath.Change{Delete: datapath.State{Segments: gone}})
	}
	c.Put.Segments = wanted
	d.onSegments = maps.Clone(wanted)
}

// joinAll puts all stations on all segments in the FDB, and the port without rules on those that it is not on.
func (d *differ) joinAll() {
	c := datapath.Change{Put: datapath.State{Switches: map[fabric.VNI]datapath.Switch{}, FDB: map[datapath.FDBKey]datapath.FDB{}, Segments: map[datapath.SegmentKey]datapath.Segment{}}}
	for _, on := range []fabric.VNI{vni + 1, vni + 2} {
		c.Put.Switches[on] = datapath.Switch{MTU: 1500}
		for n, device := range []string{1: "tap1", 2: "tap2", 3: "tap3"} {
			if device != "" {
				c.Put.FDB[datapath.FDBKey{VNI: on, MAC: mac(n)}] = datapath.FDB{Device: device, Epoch: 1}
			}
		}
		c.Put.FDB[datapath.FDBKey{VNI: on, MAC: mac(remoteGuest)}] = datapath.FDB{Peer: d.x.vteps[0], Epoch: 1}
		c.Put.Segments[datapath.SegmentKey{Device: "tap3", VNI: on}] = datapath.Segment{Tag: uint16(segmentIDs[on-vni])}
	}
	d.h.apply(c)
}

// lookAtMembers learns who gets copies of group frames, in which order.
func (d *differ) lookAtMembers() {
	for i := range d.members {
		members, err := d.h.Members(vni + fabric.VNI(i))
		if err != nil {
			d.tb.Fatal(err)
		}
		d.members[i] = d.members[i][:0]
		for _, slot := range members {
			d.members[i] = append(d.members[i], slices.Index(d.slots[:], slot))
		}
	}
}

// tagging is a program that gives a frame the tag in the first word of its control block, as the kernel has it of a frame that a
// guest has sent tagged, and goes on with another program: what a test run is given cannot have one.
func tagging(tb testing.TB, next *ebpf.Program) *ebpf.Program {
	tb.Helper()
	jumps, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { jumps.Close() })
	const (
		controlBlock = 48     // offset of __sk_buff.cb
		typeVLAN     = 0x0081 // 0x8100 in network order
	)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R3, asm.R1, controlBlock, asm.Word),
		asm.And.Imm(asm.R3, 0xffff),
		asm.Mov.Imm(asm.R2, typeVLAN),
		asm.FnSkbVlanPush.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, jumps.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, -1),
		asm.Return(),
	}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	if err := jumps.Put(uint32(0), next); err != nil {
		tb.Fatal(err)
	}
	return p
}
