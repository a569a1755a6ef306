package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
)

// Connection is a connection that a stateful rule has allowed at a port.
type Connection struct {
	Protocol uint8
	// Segment is the VNI of the VLAN that a trunk's guest tags it with; 0 for all else.
	Segment fabric.VNI
	// Local is the guest's end, Remote the other: ports of TCP, UDP and SCTP, for ICMP echoes twice the identifier, else 0.
	Local, Remote netip.AddrPort
	// Opener is the direction of the packets of the side that opened it, seen from the guest.
	Opener fabric.Direction
}

// Connections returns those that the port on the device remembers, in no order. One that has been idle for too long stays among
// them until the kernel needs its room. A device without a port has none.
func (d *Datapath) Connections(ctx context.Context, device string) (all []Connection, err error) {
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("read the connections at %s: %w", device, err)
	}
	defer d.mu.Unlock()
	p := d.ports[device]
	if p == nil {
		return nil, nil
	}
	flows, err := d.flowsOf(p.value.Slot)
	if err != nil || flows == nil {
		return nil, err
	}
	defer flows.Close()
	var b batch[coreFlowKey, coreFlow]
	err = each(flows, &b, func(k *coreFlowKey, f *coreFlow) {
		c := Connection{Protocol: k.Proto, Segment: fabric.VNI(k.Segment[0])<<16 | fabric.VNI(k.Segment[1])<<8 | fabric.VNI(k.Segment[2]), Opener: fabric.Out,
			Local: netip.AddrPortFrom(fromCore(k.Local), k.Lport), Remote: netip.AddrPortFrom(fromCore(k.Remote), k.Rport)}
		if f.Opener != 0 {
			c.Opener = fabric.In
		}
		all = append(all, c)
	})
	if err != nil {
		return nil, fmt.Errorf("read the connections at %s: %w", device, err)
	}
	return all, nil
}

// Remembered is how many connections a port remembers, and for how many it has room.
type Remembered struct {
	Connections, Room int
	// Full: the kernel has begun to take the room of the oldest for new ones.
	Full bool
}

// lruBatch is how many entries of an LRU map the kernel makes free for each CPU at once, when none is left (LOCAL_FREE_TARGET in
// kernel/bpf/bpf_lru_list.c): a map that is full holds fewer than it has room for.
const lruBatch = 128

// Remembered counts the connections of the ports that are here and have room for any.
func (d *Datapath) Remembered(ctx context.Context, ports []fabric.PortID) (map[fabric.PortID]Remembered, error) {
	all := map[fabric.PortID]Remembered{}
	for _, port := range ports {
		flows, unlock, err := d.flowsAt(ctx, port)
		if errors.Is(err, fabric.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("count the connections of port %s: %w", port, err)
		}
		unlock() // the map stays readable without holding everybody up
		if flows == nil {
			continue
		}
		r := Remembered{Room: int(flows.MaxEntries())}
		var b batch[coreFlowKey, coreFlow]
		err = errors.Join(each(flows, &b, func(*coreFlowKey, *coreFlow) { r.Connections++ }), flows.Close())
		if err != nil {
			return nil, fmt.Errorf("count the connections of port %s: %w", port, err)
		}
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return nil, fmt.Errorf("count the connections of port %s: %w", port, err)
		}
		r.Full = r.Connections+min(lruBatch, r.Room/cpus/2)*(cpus+1) >= r.Room
		all[port] = r
	}
	return all, nil
}

// Memory returns how many bytes of the kernel's memory each map of the core takes, by its name without version, as the kernel
// counts them (map_mem_usage; not the inner nodes of tries). "flows" are those of all ports together.
func (d *Datapath) Memory(ctx context.Context) (map[string]uint64, error) {
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("read the memory of maps: %w", err)
	}
	defer d.mu.Unlock()
	sizes := map[string]uint64{}
	for name, m := range d.maps.byName() {
		size, err := sizeOf(m)
		if err != nil {
			return nil, err
		}
		sizes[name[:strings.LastIndex(name, "_v")]] = size
	}
	for slot := range uint32(maxPorts) {
		flows, err := d.flowsOf(slot)
		if err != nil {
			return nil, err
		}
		if flows == nil {
			continue
		}
		size, err := sizeOf(flows)
		flows.Close()
		if err != nil {
			return nil, err
		}
		sizes["flows"] += size
	}
	return sizes, nil
}

// sizeOf is how much of the kernel's memory a map takes.
func sizeOf(m *ebpf.Map) (uint64, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", m, err)
	}
	size, _ := info.Memlock() // unknown is how an empty trie looks, which takes nothing
	return size, nil
}
