package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// putWire gives a segment its way to the wire: by an uplink of this host, or by the host that carries for it.
func (d *Datapath) putWire(vni fabric.VNI, w Wire) error {
	if err := w.Check(vni); err != nil {
		return err
	}
	next := &coreWire{Vni: uint32(vni)}
	if w.Device == "" {
		id, err := d.peerID(w.Carrier)
		if err != nil {
			return fmt.Errorf("put the way of VNI %d to the wire: %w", vni, err)
		}
		next.Peer = id
	} else if err := d.byUplink(next, w); err != nil {
		return fmt.Errorf("put the way of VNI %d to the wire: %w", vni, err)
	}
	was := d.wires[vni]
	if was != nil && was.Ifindex != 0 && (was.Vid != next.Vid || was.Slot != next.Slot && d.leaderOf(was.Slot) != next.Slot) {
		if err := d.deleteWire(vni); err != nil {
			return err
		}
	}
	if err := d.maps.WiresV1.Put(uint32(vni), next); err != nil {
		return fmt.Errorf("put the way of VNI %d to the wire: %w", vni, err)
	}
	d.wires[vni] = next
	if err := d.markNetwork(vni, next.Ifindex != 0); err != nil {
		return err
	}
	if was != nil && (was.Ifindex != next.Ifindex || was.Peer != next.Peer) {
		d.announceAll(vni)
	}
	return nil
}

// byUplink fills in what the NIC says.
func (d *Datapath) byUplink(next *coreWire, w Wire) error {
	u := d.uplinks[w.Device]
	if u == nil {
		return fmt.Errorf("%s is no uplink here; put the uplink first", w.Device)
	}
	found, err := nic.Find(w.Device)
	if err != nil {
		return err
	}
	next.Ifindex, next.Slot, next.Flags, next.Vid = u.value.Ifindex, u.value.Slot, uint32(u.value.Flags&(uplinkHost|uplinkShared)), w.VLAN
	next.Mac, next.Mtu = found.MAC, uint16(min(found.MTU, maxMTU))
	if w.Carries {
		next.Flags |= uplinkCarries
	}
	return nil
}

// deleteWire takes a segment off the wire: nothing comes in first, and nothing leaves then.
func (d *Datapath) deleteWire(vni fabric.VNI) error {
	w := d.wires[vni]
	if w == nil {
		return nil
	}
	delete(d.wires, vni)
	errs := []error{d.listen(), d.markNetwork(vni, false)}
	if err := d.maps.WiresV1.Delete(uint32(vni)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete the way of VNI %d to the wire: %w", vni, err)
	}
	return nil
}

// markNetwork says whether group frames of the switch are for an uplink here as well.
func (d *Datapath) markNetwork(vni fabric.VNI, wired bool) error {
	return d.changeNetwork(vni, func(n *coreNetwork) error {
		n.Flags &^= networkWire
		if wired {
			n.Flags |= networkWire
		}
		return nil
	})
}

// Check refuses what the core cannot hold of a segment's way to the wire.
func (w Wire) Check(vni fabric.VNI) error {
	switch {
	case vni == 0 || vni > fabric.MaxVNI:
		return fmt.Errorf("put a way to the wire: %d is no VNI", vni)
	case (w.Device == "") == !w.Carrier.IsValid():
		return fmt.Errorf("put the way of VNI %d to the wire: it needs a device or a carrier, and not both", vni)
	case w.Device == "" && (w.Carries || w.VLAN != 0), w.VLAN > maxVLAN:
		return fmt.Errorf("put the way of VNI %d to the wire: VLAN %d cannot be", vni, w.VLAN)
	}
	return nil
}

// readUplinks reads the uplinks, and the ways of the segments to the wire.
func (d *Datapath) readUplinks(s *State, vteps map[uint16]netip.Addr) error {
	devices, bySlot, all := map[uint32]string{}, map[uint32]string{}, map[string]coreUplink{}
	var ifindex, vni uint32
	var u coreUplink
	entries := d.maps.UplinksV2.Iterate()
	for entries.Next(&ifindex, &u) {
		devices[ifindex] = text(u.Device[:])
		bySlot[u.Slot], all[devices[ifindex]] = devices[ifindex], u
	}
	if err := entries.Err(); err != nil {
		return err
	}
	for device, u := range all {
		s.Uplinks[device] = readUplink(u, bySlot)
	}
	var w coreWire
	entries = d.maps.WiresV1.Iterate()
	for entries.Next(&vni, &w) {
		way := Wire{VLAN: w.Vid, Carries: w.Flags&uplinkCarries != 0}
		if way.Device = devices[w.Ifindex]; w.Ifindex == 0 {
			way.Carrier = vteps[w.Peer]
		}
		s.Wires[fabric.VNI(vni)] = way
	}
	return entries.Err()
}
