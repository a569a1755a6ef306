package datapath

import (
	"context"
	"fmt"

	"github.com/weftnet/weft/fabric"
)

// Announce tells the network where the guest of the port on a device is now, as if the guest had said so: by a reverse ARP request
// for itself (RFC 903), which bridges learn from and stations ignore. A device without an open port is left as it is.
func (d *Datapath) Announce(ctx context.Context, device string) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("announce the guest on %s: %w", device, err)
	}
	defer d.mu.Unlock()
	if p := d.ports[device]; p != nil {
		return d.announce(device, p)
	}
	return nil
}

func (d *Datapath) announce(device string, p *port) error {
	if gate, _ := d.shared.loadGate(p.value.Slot); gate != Open {
		return nil
	}
	if err := d.sendInto(p, rarp(p.value.Mac), 1); err != nil {
		return fmt.Errorf("announce the guest on %s: %w", device, err)
	}
	return nil
}

// announceAll announces the guests on a segment whose way to the wire has changed: the wire would send to the old one until each of
// them says something.
func (d *Datapath) announceAll(vni fabric.VNI) {
	for device, p := range d.ports {
		if p.value.Vni != uint32(vni) {
			continue
		}
		if err := d.announce(device, p); err != nil {
			d.log.Warn("the wire learns where a guest is when it speaks", "device", device, "error", err)
		}
	}
}

// rarp is a guest's reverse ARP request for itself, in the shortest frame (RFC 903).
func rarp(mac [6]uint8) []byte {
	frame := make([]byte, 60)
	for i := range 6 {
		frame[i] = 0xff
	}
	copy(frame[6:], mac[:])
	copy(frame[12:], []byte{0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3})
	copy(frame[22:], mac[:])
	copy(frame[32:], mac[:])
	return frame
}
