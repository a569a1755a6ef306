package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// Check refuses what the core cannot hold of a mirror's sink.
func (s Sink) Check(vni fabric.VNI) error {
	if vni == 0 || vni > fabric.MaxVNI || s.Device == "" || len(s.Device) > nic.MaxName {
		return fmt.Errorf("put the sink %q of mirror VNI %d: it needs the name of a device and a VNI of 1 to %d", s.Device, vni, fabric.MaxVNI)
	}
	return nil
}

// ListenDevice is the device on which the copies of the mirror of that name are seen: wm-NAME, shortened where it is too long.
func ListenDevice(mirror string) string { return nic.SinkName(mirror) }

// putSink lets the copies of a mirror end here. What they ended at before gets none from then on.
func (d *Datapath) putSink(vni fabric.VNI, s Sink) error {
	if err := s.Check(vni); err != nil {
		return err
	}
	now := d.sinks[vni]
	if now != nil && sinkFromCore(now) != s {
		if err := d.deleteSink(vni); err != nil {
			return err
		}
	}
	next := &coreSink{Vni: uint32(vni)}
	copy(next.Device[:], s.Device)
	if s.Listen {
		device, err := d.listenOn(s.Device)
		if err != nil {
			return fmt.Errorf("put the sink of mirror VNI %d: %w", vni, err)
		}
		next.Ifindex = uint32(device.Index)
	} else {
		p := d.ports[s.Device]
		if p == nil || p.value.Name[0] == 0 {
			return fmt.Errorf("put the sink of mirror VNI %d: device %s carries no port here; put the port first", vni, s.Device)
		}
		next.Ifindex, next.Slot = uint32(p.ifindex), p.value.Slot
	}
	if err := errors.Join(d.countMirror(vni), d.maps.SinksV1.Put(uint32(vni), next)); err != nil {
		return fmt.Errorf("put the sink of mirror VNI %d: %w", vni, err)
	}
	d.sinks[vni] = next
	return nil
}

// listenOn makes a device on which copies are seen; its program, behind which nothing gets into the host, is there before it is raised.
func (d *Datapath) listenOn(name string) (nic.Device, error) {
	device, err := nic.EnsureSink(name)
	if err != nil {
		return device, err
	}
	for _, a := range sinkAttachments(name, device.Index) {
		if err := d.attach(a); err != nil {
			return device, err
		}
	}
	return device, nic.SetUp(name)
}

// sinkAttachments are the programs that belong on a device on which copies are seen.
func sinkAttachments(device string, ifindex int) []attachment {
	return []attachment{{linkKey{ifindex, sinkIn}, device}}
}

// deleteSink ends the copies of a mirror here, and removes the device that was made for them.
func (d *Datapath) deleteSink(vni fabric.VNI) error {
	s := d.sinks[vni]
	if s == nil {
		return nil
	}
	if err := gone(d.maps.SinksV1.Delete(uint32(vni))); err != nil {
		return fmt.Errorf("delete the sink of mirror VNI %d: %w", vni, err)
	}
	if s.Slot == 0 {
		name := text(s.Device[:])
		if err := errors.Join(nic.SetDownIfThere(name), d.detach(sinkAttachments(name, int(s.Ifindex))), nic.Delete(name)); err != nil {
			return fmt.Errorf("delete the sink of mirror VNI %d: %w", vni, err)
		}
	}
	delete(d.sinks, vni)
	return d.uncountMirror(vni)
}

// forgetSinks ends the copies for the port in a slot, before the slot has another owner.
func (d *Datapath) forgetSinks(slot uint32) (err error) {
	for vni, s := range d.sinks {
		if s.Slot == slot {
			err = errors.Join(err, d.deleteSink(vni))
		}
	}
	return err
}

func sinkFromCore(c *coreSink) Sink { return Sink{Device: text(c.Device[:]), Listen: c.Slot == 0} }

// readMirrors reads what is copied here, and where copies end.
func (d *Datapath) readMirrors(s *State) error {
	for vni, one := range d.mirrors {
		var c coreMirror
		if err := d.maps.MirrorsV1.Lookup(one.id, &c); err != nil {
			return err
		}
		if c.Until != 0 && c.Vni == uint32(vni) {
			s.Mirrors[vni] = d.mirrorFromCore(&c)
		}
	}
	var vni uint32
	var c coreSink
	entries := d.maps.SinksV1.Iterate()
	for entries.Next(&vni, &c) {
		s.Sinks[fabric.VNI(vni)] = sinkFromCore(&c)
	}
	return entries.Err()
}

// adoptMirrors learns from the kernel what a loader before has left. Of two entries of one mirror, which one that was ended
// between two writings leaves, ports name the one that is found first, or none.
func (d *Datapath) adoptMirrors() error {
	for id := uint32(1); id < maxMirrors; id++ {
		s := &session{id: id}
		if err := d.maps.MirrorsV1.Lookup(id, &s.value); err != nil {
			return err
		}
		vni := fabric.VNI(s.value.Vni)
		switch {
		case s.value.Until == 0:
			continue
		case d.mirrors[vni] != nil || s.value.Device != uint32(d.mirror.Index):
			s.value.Until = 0
			if err := d.maps.MirrorsV1.Put(id, &s.value); err != nil {
				return err
			}
			continue
		}
		d.mirrors[vni] = s
		d.mirrorIDs.adopt(id)
		d.mirrorIDs.next = max(d.mirrorIDs.next, id+1)
	}
	var vni uint32
	var c coreSink
	entries := d.maps.SinksV1.Iterate()
	for entries.Next(&vni, &c) {
		mine := c
		d.sinks[fabric.VNI(vni)] = &mine
	}
	return entries.Err()
}

// verifyMirrors finds the device by which copies leave again, when it was made anew, and the devices on which they are seen.
func (d *Datapath) verifyMirrors(devices map[int]nic.Device) error {
	if now := devices[d.mirror.Index]; now.Name != d.mirror.Name {
		again, err := nic.EnsureMirrorDevice(MirrorDevice)
		if err != nil {
			return err
		}
		d.moveHost(&d.mirror, again)
		for vni := range d.mirrors {
			if err := d.deleteMirror(vni); err != nil { // they named the device that is gone, and are put again
				return err
			}
		}
	}
	if _, err := d.verifyAttachment(mirrorAttachment(d.mirror), ""); err != nil {
		return err
	}
	for vni, s := range d.sinks {
		if s.Slot != 0 {
			continue
		}
		name := text(s.Device[:])
		if now := devices[int(s.Ifindex)]; now.Name != name {
			if err := d.deleteSink(vni); err != nil {
				return err
			}
			d.emit(Event{Kind: DeviceGone, Time: time.Now(), Device: name, Message: fmt.Sprintf("The device %s of a mirror is gone.", name)})
			continue
		}
		if err := d.verifyAttachments(sinkAttachments(name, int(s.Ifindex)), ""); err != nil {
			return err
		}
	}
	return nil
}

// mirrorAttachment is the program by which copies leave.
func mirrorAttachment(device nic.Device) attachment {
	return attachment{linkKey{device.Index, mirrorOutProgram}, device.Name}
}
