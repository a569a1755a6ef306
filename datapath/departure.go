package datapath

import (
	"context"
	"sync/atomic"

	"github.com/weftnet/weft/datapath/nic"
)

// openDepartures has ports closed as soon as their devices leave the namespace: the kernel may give a device's index to the
// next one made, and frames for the port would enter it. While no loader runs nobody does this; whoever makes devices then
// should let the kernel choose their indices, which it gives again only after all others.
func (d *Datapath) openDepartures(context.Context, Options) error {
	ctx, cancel := context.WithCancel(context.Background())
	gone, err := nic.Gone(ctx)
	if err != nil {
		cancel()
		return err
	}
	d.departures.Go(func() {
		for ifindex := range gone {
			d.shared.lose(uint32(ifindex))
		}
	})
	d.endDepartures = cancel
	return nil
}

// lose closes the slot of a device that is gone, and forgets the device: nothing reaches whatever has its index next. Verify
// removes the port; a port whose device is back by then is read as closed, and put again.
func (s shared) lose(ifindex uint32) {
	for i := range s.slots {
		slot := &s.slots[i]
		out := atomic.LoadUint64(&slot.Out)
		if uint32(out) != ifindex || out == 0 {
			continue
		}
		atomic.CompareAndSwapUint64(&slot.Out, out, 0)
		for {
			gate := atomic.LoadUint64(&slot.Gate)
			if Gate(gate&gateMask) == Relay { // passes nothing here either, and late frames still go on to the new host
				break
			}
			if atomic.CompareAndSwapUint64(&slot.Gate, gate, gate&^gateMask|uint64(Closed)) {
				break
			}
		}
	}
}
