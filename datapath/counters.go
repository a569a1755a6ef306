package datapath

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Traffic is what went one way. Frames are what the kernel hands over at once, Packets what they become on a wire: a GSO
// frame of 44 segments is one frame and 44 packets. Bytes are of frames, from the Ethernet header on.
type Traffic struct {
	Frames, Packets, Bytes uint64
}

// Counters are what a port, or the host's side of the tunnels, has seen. All but Packets and Bytes are in frames.
type Counters struct {
	// Rx came from the guest (Host: from the underlay).
	Rx Traffic
	// What became of it: handed to a port here, sent to another host, copied to the group, answered by the core itself.
	Local, Remote, Flooded, Answered uint64
	// Passed was left to the kernel's VXLAN device, Relayed sent on to a station's new host; both are of the host only.
	Passed, Relayed uint64
	// Offered was meant for the guest, Tx was given to its device, which may still lose it: when its queue is full, or it or the
	// other end of a veth is down. Such losses are in the device's own counters (ip -s link).
	Offered uint64
	Tx      Traffic
	// SentOn are frames for the port that were relayed to its new host.
	SentOn uint64
	// Untold are hop records and events that the ring had no room for, Unlogged events about rules beyond the port's 100 a second.
	Untold, Unlogged uint64
	// MarkedOut and MarkedIn are packets from the guest and to it that were told to slow down (ECN's CE) near the port's rate.
	MarkedOut, MarkedIn uint64
	// Waiting are frames from the guest that wait for its rate.
	Waiting uint64
	// DropsIn are frames from the guest (Host: from the underlay) that ended here, DropsOut those for the guest.
	DropsIn, DropsOut map[tracing.Reason]uint64
}

// Unexplained is how many frames came in and neither wait, went anywhere nor were dropped for a reason, and how many were meant
// for the guest and neither handed over nor dropped. Both are 0 when no frame is under way, or the core has a defect. Frames that wait
// are not missed.
func (c Counters) Unexplained() (in, out int64) {
	in = int64(c.Rx.Frames) - int64(c.Local+c.Remote+c.Flooded+c.Answered+c.Passed+c.Relayed+c.Waiting+sum(c.DropsIn))
	if waiting := int64(c.Waiting); in > 0 {
		in = max(0, in-waiting)
	}
	return in, int64(c.Offered) - int64(c.Tx.Frames+sum(c.DropsOut))
}

// HostCounters are of frames that belong to no port (yet).
type HostCounters struct {
	// Underlay is VXLAN to this host's tunnel end point, Tunnel what the kernel's VXLAN device has unpacked, Nowhere frames
	// at devices without a port.
	Underlay, Tunnel, Nowhere Counters
	// Uplinks are the NICs that external switches are on, by device: Rx are frames from the wire or the host that guests were
	// concerned in, Tx those of guests for the wire.
	Uplinks map[string]Counters
}

// Counters returns what each port has seen since its device was plugged in.
func (d *Datapath) Counters(ctx context.Context) (map[fabric.PortID]Counters, error) {
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	defer d.mu.Unlock()
	all := make(map[fabric.PortID]Counters, len(d.ports))
	drops, err := d.readDrops()
	d.addLost(drops)
	for _, p := range d.ports {
		if err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		var c Counters
		c, err = d.countersOf(p.value.Slot, drops)
		all[fabric.PortID(text(p.value.Name[:]))] = c
	}
	return all, err
}

// Host returns what the host's side of the tunnels has seen since the core was installed.
func (d *Datapath) Host(ctx context.Context) (h HostCounters, err error) {
	if err := d.begin(ctx); err != nil {
		return h, fmt.Errorf("read counters: %w", err)
	}
	defer d.mu.Unlock()
	drops, err := d.readDrops()
	for slot, c := range map[uint32]*Counters{slotUnderlay: &h.Underlay, slotTunnel: &h.Tunnel, slotNowhere: &h.Nowhere} {
		if err != nil {
			return h, fmt.Errorf("read counters: %w", err)
		}
		*c, err = d.countersOf(slot, drops)
	}
	if err != nil {
		return h, fmt.Errorf("read counters: %w", err)
	}
	h.Uplinks, err = d.uplinkCounters(drops)
	return h, err
}

// drops are the counters of drops by slot and direction.
type drops map[[2]uint16]map[tracing.Reason]uint64

func (d *Datapath) readDrops() (drops, error) {
	all := drops{}
	var key coreDropKey
	var perCPU []uint64
	entries := d.maps.DropsV1.Iterate()
	for entries.Next(&key, &perCPU) {
		place := [2]uint16{key.Slot, key.Direction}
		if all[place] == nil {
			all[place] = map[tracing.Reason]uint64{}
		}
		for _, n := range perCPU {
			all[place][tracing.Reason(key.Reason)] += n
		}
	}
	return all, entries.Err()
}

func (d *Datapath) countersOf(slot uint32, drops drops) (c Counters, err error) {
	var perCPU []coreStats
	if err := d.maps.StatsV1.Lookup(slot, &perCPU); err != nil {
		return c, err
	}
	for _, s := range perCPU {
		c.Rx.add(s.RxFrames, s.RxPackets, s.RxBytes)
		c.Tx.add(s.TxFrames, s.TxPackets, s.TxBytes)
		c.Local += s.Local
		c.Remote += s.Remote
		c.Flooded += s.Flooded
		c.Answered += s.Answered
		c.Passed += s.Passed
		c.Relayed += s.Relayed
		c.Offered += s.Offered
		c.SentOn += s.SentOn
		c.Untold += s.Untold
		c.Unlogged += s.Unlogged
	}
	c.MarkedOut, c.MarkedIn = atomic.LoadUint64(&d.shared.limits[slot].Marked[0]), atomic.LoadUint64(&d.shared.limits[slot].Marked[1])
	c.Waiting = d.shared.waiting(slot)
	c.Waiting -= min(c.Waiting, uint64(d.queueLost[uint16(slot)]))
	c.DropsIn, c.DropsOut = drops[[2]uint16{uint16(slot), 0}], drops[[2]uint16{uint16(slot), 1}]
	return c, nil
}

// clearCounters begins a slot's counters anew.
func (d *Datapath) clearCounters(slot uint32) error {
	var stale []coreDropKey
	var key coreDropKey
	var perCPU []uint64
	entries := d.maps.DropsV1.Iterate()
	for entries.Next(&key, &perCPU) {
		if uint32(key.Slot) == slot {
			stale = append(stale, key)
		}
	}
	err := errors.Join(entries.Err(), remove(d.maps.DropsV1, stale))
	atomic.StoreUint64(&d.shared.limits[slot].Waited, 0)
	atomic.StoreUint64(&d.shared.limits[slot].Resumed, 0)
	return errors.Join(err, d.maps.StatsV1.Put(slot, make([]coreStats, ebpf.MustPossibleCPU())))
}

func (t *Traffic) add(frames, packets, bytes uint64) {
	t.Frames += frames
	t.Packets += packets
	t.Bytes += bytes
}

func sum(m map[tracing.Reason]uint64) (total uint64) {
	for _, n := range m {
		total += n
	}
	return total
}
