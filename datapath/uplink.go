package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// uplink is a NIC of this host that a switch is on.
type uplink struct {
	value coreUplink
}

// uplinkAttachments are the programs that belong on an uplink. There is no sentinel: what the host itself sends and receives
// must pass.
func uplinkAttachments(device string, ifindex int) []attachment {
	return []attachment{{linkKey{ifindex, extOut}, device}, {linkKey{ifindex, extIn}, device}}
}

// putUplink puts the core on a NIC, which keeps whatever it has and loses no packet: the programs pass everything by until a
// segment has its way to the wire there.
func (d *Datapath) putUplink(device string, u Uplink) error {
	if err := u.Check(device); err != nil {
		return err
	}
	found, err := nic.Find(device)
	if err != nil {
		return fmt.Errorf("put uplink %s: %w", device, err)
	}
	now := d.uplinks[device]
	if now != nil && int(now.value.Ifindex) != found.Index {
		if err := d.deleteUplink(device); err != nil {
			return err
		}
		now = nil
	}
	if now == nil {
		if now, err = d.newUplink(found); err != nil {
			return fmt.Errorf("put uplink %s: %w", device, err)
		}
	}
	if err := d.tune(now, u); err != nil {
		return fmt.Errorf("put uplink %s: %w", device, err)
	}
	for _, a := range uplinkAttachments(device, found.Index) {
		if err := d.attach(a); err != nil {
			return fmt.Errorf("put uplink %s: %w", device, err)
		}
	}
	if err := nic.SetPromiscuous(device, true); err != nil {
		return fmt.Errorf("put uplink %s: %w", device, err)
	}
	if err := nic.DisableLRO(device); err != nil {
		d.log.Warn("the NIC merges packets in a way that cannot be undone for guests", "device", device, "error", err)
	}
	return nil
}

// newUplink takes a slot for a NIC.
func (d *Datapath) newUplink(device nic.Device) (*uplink, error) {
	if len(d.uplinks) >= maxUplinks {
		return nil, fmt.Errorf("this host has %d uplinks already, the most the core holds", maxUplinks)
	}
	slot, ok := d.slots.take()
	if !ok {
		return nil, fmt.Errorf("this host has %d ports already, the most the core holds", maxPorts-firstSlot)
	}
	d.shared.setOut(slot, 0, 0, 0)
	d.shared.setGate(slot, Closed, 0, 0)
	d.shared.forgetPolicy(slot)
	if err := errors.Join(d.clearCounters(slot), d.clearHits(slot)); err != nil {
		d.slots.release(slot)
		return nil, err
	}
	u := &uplink{coreUplink{Ifindex: uint32(device.Index), Slot: slot, Leader: uint16(slot)}}
	if device.Promiscuous {
		u.value.Flags = uplinkWasPromisc
	}
	copy(u.value.Device[:], device.Name)
	d.uplinks[device.Name] = u
	return u, nil
}

func (d *Datapath) writeUplink(u *uplink) error {
	return d.maps.UplinksV2.Put(u.value.Ifindex, &u.value)
}

// deleteUplink takes the core off a NIC, whose segments have lost their way to the wire before.
func (d *Datapath) deleteUplink(device string) error {
	u := d.uplinks[device]
	if u == nil {
		return nil
	}
	for vni, w := range d.wires {
		if w.Slot == u.value.Slot && w.Ifindex != 0 {
			if err := d.deleteWire(vni); err != nil {
				return err
			}
		}
	}
	errs := []error{d.detach(uplinkAttachments(device, int(u.value.Ifindex)))}
	if found, err := nic.Find(device); err == nil && found.Index == int(u.value.Ifindex) && u.value.Flags&uplinkWasPromisc == 0 {
		errs = append(errs, nic.SetPromiscuous(device, false))
	}
	if err := d.maps.UplinksV2.Delete(u.value.Ifindex); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete uplink %s: %w", device, err)
	}
	delete(d.uplinks, device)
	d.slots.release(u.value.Slot)
	return d.unlead(u.value.Slot)
}

// adoptUplinks learns which NICs a loader before has put the core on.
func (d *Datapath) adoptUplinks() error {
	d.uplinks, d.wires = map[string]*uplink{}, map[fabric.VNI]*coreWire{}
	d.tags, d.shares = map[coreTag]uint32{}, map[coreShare]coreExit{}
	var ifindex, vni uint32
	var u coreUplink
	entries := d.maps.UplinksV2.Iterate()
	for entries.Next(&ifindex, &u) {
		d.uplinks[text(u.Device[:])] = &uplink{u}
		d.slots.adopt(u.Slot)
		d.slots.next = max(d.slots.next, u.Slot+1)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the uplinks: %w", err)
	}
	var w coreWire
	entries = d.maps.WiresV1.Iterate()
	for entries.Next(&vni, &w) {
		mine := w
		d.wires[fabric.VNI(vni)] = &mine
	}
	return errors.Join(entries.Err(), d.adoptTeams())
}

// verifyUplinks checks the programs of the uplinks, and that the kernel's NICs are still as the segments' ways say.
func (d *Datapath) verifyUplinks(devices map[int]nic.Device) error {
	for device, u := range d.uplinks {
		now := devices[int(u.value.Ifindex)]
		if now.Name != device {
			if err := d.deleteUplink(device); err != nil {
				return err
			}
			d.emit(Event{Kind: DeviceGone, Time: time.Now(), Device: device, Message: fmt.Sprintf("The uplink %s is gone.", device)})
			continue
		}
		if !now.Promiscuous {
			if err := nic.SetPromiscuous(device, true); err != nil {
				return err
			}
		}
		if err := d.verifyAttachments(uplinkAttachments(device, now.Index), ""); err != nil {
			return err
		}
		for vni, w := range d.wires {
			if w.Ifindex != u.value.Ifindex || w.Mac == now.MAC && int(w.Mtu) == min(now.MTU, maxMTU) {
				continue
			}
			w.Mac, w.Mtu = now.MAC, uint16(min(now.MTU, maxMTU))
			if err := d.maps.WiresV1.Put(uint32(vni), w); err != nil {
				return fmt.Errorf("write the way of VNI %d to the wire: %w", vni, err)
			}
		}
	}
	return nil
}

// uplinkCounters are what the NICs that switches are on have seen, by device: Rx are frames from the wire or the host that guests
// were concerned in, Tx frames of guests for the wire.
func (d *Datapath) uplinkCounters(drops drops) (map[string]Counters, error) {
	all := make(map[string]Counters, len(d.uplinks))
	for device, u := range d.uplinks {
		c, err := d.countersOf(u.value.Slot, drops)
		if err != nil {
			return nil, err
		}
		all[device] = c
	}
	return all, nil
}
