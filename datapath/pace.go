package datapath

import (
	"fmt"
	"sync/atomic"

	"github.com/weftnet/weft/datapath/nic"
)

// paceFrom is the slowest rate, in bits a second, that is paced: with less the kernel's bucket has no room for an aggregate.
const paceFrom = 150_000

// paceBy has what a guest is to receive beyond its rate wait at its device (ADR 17). The core's bucket bounds what waits, so that every
// drop is the core's own. Where nothing can wait the core holds the rate all the same, by drops alone.
func (d *Datapath) paceBy(slot uint32, device nic.Device, p Port) {
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

// unpace leaves a device as it was found.
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
