package datapath

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// paceFrom is the slowest rate, in bits a second, that is paced: with less the kernel's bucket has no room for an aggregate.
const paceFrom = 150_000

// The pair of devices by which frames go that wait for what their guests may send (bpf/pace.h).
const (
	ShaperDevice = "weftsh0"
	shaperPeer   = "weftsh1"
	// shaperMajor is the number of its queues, shaperRoom how many frames wait there at most; their bytes are bounded by the buckets.
	shaperMajor = 0x57f7
	shaperRoom  = 1 << 20
)

var shaperQueues = nic.Queues{Device: ShaperDevice, Major: shaperMajor}

// paceBy has what is beyond the rates of a port wait (ADR 17): what its guest is to receive at its device, what it sends at the shaper. The
// core's bucket bounds what waits, so that every drop is the core's own. Where nothing can wait the core holds the rate all the same, by
// drops alone.
func (d *Datapath) paceBy(slot uint32, device nic.Device, p Port) {
	if err := d.paceOut(slot, p.Limits.Out); err != nil {
		d.log.Warn(fmt.Sprintf("what port %s sends does not wait; its rate is held by drops alone", p.Name), "device", device.Name, "error", err)
	}
	in := p.Limits.In
	if in.Rate < paceFrom || p.Kind == HostEnd {
		in = Limit{}
	}
	if in.Rate == 0 && !d.shared.isPaced(slot) {
		return
	}
	if err := nic.Pace(device.Name, in.Rate, in.Burst/8); err != nil {
		d.log.Warn(fmt.Sprintf("what port %s receives does not wait; its rate is held by drops alone", p.Name), "device", device.Name, "error", err)
	}
}

// paceOut gives what a slot's guest sends a queue of its rate, or lets the one that it had run empty; Verify takes that away.
func (d *Datapath) paceOut(slot uint32, out Limit) error {
	shaper := &d.shared.limits[slot].Shaper
	if out.Rate < paceFrom {
		if atomic.LoadUint32(shaper) == 0 {
			return nil
		}
		delete(d.shaped, slot)
		err := shaperQueues.Set(nic.Class{Minor: uint16(slot), Rate: nic.DrainRate})
		atomic.StoreUint32(shaper, 0)
		return err
	}
	if err := d.shape(slot, out.Rate); err != nil {
		atomic.StoreUint32(shaper, 0)
		return err
	}
	atomic.StoreUint32(shaper, uint32(d.shaper[0].Index))
	return nil
}

// shape makes a slot's queue at the shaper, in bits a second, and the shaper where there is none.
func (d *Datapath) shape(slot uint32, rate uint64) error {
	if d.shaped[slot] == rate {
		return nil
	}
	if d.shaper[0].Index == 0 {
		if err := d.openShaper(); err != nil {
			return err
		}
	}
	if err := shaperQueues.Set(nic.Class{Minor: uint16(slot), Rate: rate}); err != nil {
		return err
	}
	d.shaped[slot] = rate
	return nil
}

// openShaper makes the pair with its program, before it is raised.
func (d *Datapath) openShaper() error {
	if err := nic.CreateVeth(nic.Veth{Name: ShaperDevice, Peer: shaperPeer, MTU: 65535}); err != nil {
		return err
	}
	var found [2]nic.Device
	for i, name := range []string{ShaperDevice, shaperPeer} {
		if err := errors.Join(nic.DisableIPv6(name), nic.SetQueueLength(name, shaperRoom)); err != nil {
			return err
		}
		one, err := nic.Find(name)
		if err != nil {
			return err
		}
		found[i] = one
	}
	for _, a := range shaperAttachments(found[1]) {
		if err := d.attach(a); err != nil {
			return err
		}
	}
	if err := errors.Join(shaperQueues.Put(), nic.SetUp(shaperPeer), nic.SetUp(ShaperDevice)); err != nil {
		return err
	}
	d.shaper, d.shaped = found, map[uint32]uint64{}
	return nil
}

// shaperAttachments are the programs that belong where what has waited comes out.
func shaperAttachments(out nic.Device) []attachment {
	return []attachment{{linkKey{out.Index, sentinelIn}, out.Name}, {linkKey{out.Index, shIn}, out.Name}}
}

// adoptShaper takes over the pair that a loader before has made.
func (d *Datapath) adoptShaper() error {
	d.shaped = map[uint32]uint64{}
	in, err := nic.Find(ShaperDevice)
	if errors.Is(err, nic.ErrNoDevice) {
		return nil
	}
	out, err2 := nic.Find(shaperPeer)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	d.shaper = [2]nic.Device{in, out}
	return nil
}

// verifyShaper puts back what is missing of the queues that what guests send waits in: the pair, its program, the root, the classes. A
// class that no port has any more goes when it is empty.
func (d *Datapath) verifyShaper(devices map[int]nic.Device) error {
	if d.shaper[0].Index == 0 {
		return nil
	}
	if devices[d.shaper[0].Index].Name != ShaperDevice || devices[d.shaper[1].Index].Name != shaperPeer {
		if err := d.renewShaper(); err != nil {
			return err
		}
	} else if err := d.verifyAttachments(shaperAttachments(d.shaper[1]), ""); err != nil {
		return err
	}
	for _, one := range d.shaper {
		if !devices[one.Index].Up && !d.lowered[one.Index] {
			if err := nic.SetUp(one.Name); err != nil {
				return err
			}
		}
	}
	if err := shaperQueues.Put(); err != nil {
		return err
	}
	classes, err := shaperQueues.List()
	if err != nil {
		return err
	}
	d.queueLost = map[uint16]uint32{}
	for minor, c := range classes {
		if c.Lost != 0 {
			d.queueLost[minor] = c.Lost
		}
	}
	for _, p := range d.ports {
		if err := d.verifyShaped(p, classes); err != nil {
			return err
		}
	}
	for minor, c := range classes {
		if c.Waiting == 0 {
			if err := shaperQueues.Delete(minor); err != nil {
				return err
			}
		}
	}
	return nil
}

// renewShaper makes the pair anew, of which an end is gone or has another name.
func (d *Datapath) renewShaper() error {
	if err := d.detach(shaperAttachments(d.shaper[1])); err != nil {
		d.log.Warn("programs of a vanished device stay pinned", "device", shaperPeer, "error", err)
	}
	d.shaper = [2]nic.Device{}
	if err := d.openShaper(); err != nil {
		return err
	}
	d.emit(Event{Kind: Repaired, Time: time.Now(), Device: ShaperDevice, Message: fmt.Sprintf("The devices %s and %s, where what is over a rate waits, were made anew.", ShaperDevice, shaperPeer)})
	return nil
}

// verifyShaped checks the queue of a port, and takes it off the list of classes.
func (d *Datapath) verifyShaped(p *port, classes map[uint16]nic.Class) error {
	slot := p.value.Slot
	out := d.shared.limitsOf(slot).Out
	if out.Rate < paceFrom {
		return nil
	}
	c, there := classes[uint16(slot)]
	delete(classes, uint16(slot))
	if want := (out.Rate + 7) / 8 * 8; !there || c.Rate != want {
		delete(d.shaped, slot)
		name := fabric.PortID(text(p.value.Name[:]))
		d.emit(Event{Kind: Repaired, Time: time.Now(), Port: name, Device: ShaperDevice, Message: fmt.Sprintf("The queue of what port %s sends beyond its rate was missing and is there again.", name)})
	}
	return d.paceOut(slot, out)
}

// verifyPaced puts back the queues in which what guests receive waits. Where somebody else's is in the way that one stays.
func (d *Datapath) verifyPaced() error {
	var now map[int]uint64
	for device, p := range d.ports {
		in := d.shared.limitsOf(p.value.Slot).In
		if in.Rate < paceFrom || PortKind(p.value.Kind) == HostEnd {
			continue
		}
		if now == nil {
			var err error
			if now, err = nic.Paced(); err != nil {
				return err
			}
		}
		if now[p.ifindex] == in.Rate/8*8 || nic.Pace(device, in.Rate, in.Burst/8) != nil {
			continue
		}
		name := fabric.PortID(text(p.value.Name[:]))
		d.emit(Event{Kind: Repaired, Time: time.Now(), Port: name, Device: device, Message: fmt.Sprintf("The queue of what port %s receives beyond its rate was missing and is there again.", name)})
	}
	return nil
}

// unpace leaves a device as it was found, and lets what its guest has sent go.
func (d *Datapath) unpace(slot uint32, device string) error {
	if !d.shared.isPaced(slot) {
		return nil
	}
	return nic.Pace(device, 0, 0)
}

// isPaced reports whether what the port in the slot receives has a rate, so that it goes by the device's queue.
func (s shared) isPaced(slot uint32) bool {
	return atomic.LoadUint64(&s.slots[slot].Policy)&limitIn != 0
}

// waiting are the frames from a slot's guest that wait for its rate.
func (s shared) waiting(slot uint32) uint64 {
	out := atomic.LoadUint64(&s.limits[slot].Resumed) // first: what comes out between the two was waiting
	return uint64(max(0, int64(atomic.LoadUint64(&s.limits[slot].Waited)-out)))
}

// addLost adds what the queues themselves had lost when Verify looked. They have room for all that the buckets let pass: it is nothing,
// unless somebody else has changed them.
func (d *Datapath) addLost(all drops) {
	for slot, n := range d.queueLost {
		place := [2]uint16{slot, 0}
		if all[place] == nil {
			all[place] = map[tracing.Reason]uint64{}
		}
		all[place][tracing.ReasonRateLimited] += uint64(n)
	}
}
