package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
)

// Flows of a port on their way to another host: flowsForm, then as many records as there are, in little-endian order.
const (
	flowsForm = "weft flows 2\n"
	// mostCarried is the most flows of one port.
	mostCarried = fabric.MaxConnections
	// takenAtOnce is how many are taken before others get their turn at the kernel's maps.
	takenAtOnce = 4096
)

// carriedFlow is one flow on its way: flow_key and flow of bpf/tables.h, with its age instead of a time of one host's clock, and
// without the table, which the other host has under another number.
type carriedFlow struct {
	Key          carriedKey
	Age, Rule    uint64 // ns; number of the rule's name
	Idle, Sample uint32
	Sides        [2]carriedSide
}

type carriedKey struct {
	Local, Remote [4]uint32
	Lport, Rport  uint16
	Proto         uint8
	Segment       [3]uint8
	State, Opener uint8
	Zero          [2]uint8
}

type carriedSide struct {
	End, Ack         uint32
	Sent, Acked, Fin uint8
	Zero             uint8
}

// Mark is a time on one host's clock that flows have been exported up to; 0 is before all of them.
type Mark uint64

// markSlack is by how much a mark lies before the time of the export: the time of a flow's last packet is a coarse clock's, and is
// written after the packet was judged.
const markSlack = 50 * time.Millisecond

// ExportFlows returns the flows of a port that have met a packet since the mark, for ImportFlows on another host, and the mark
// to go on from. Nothing when there are none. The error wraps fabric.ErrNotFound where no device here carries the port.
func (d *Datapath) ExportFlows(ctx context.Context, port fabric.PortID, since Mark) (carried []byte, next Mark, err error) {
	flows, unlock, err := d.flowsAt(ctx, port)
	if err != nil {
		return nil, since, fmt.Errorf("export the flows of port %s: %w", port, err)
	}
	defer unlock()
	now := monotonic()
	if flows == nil {
		return nil, Mark(now), nil
	}
	defer flows.Close()
	carried = []byte(flowsForm)
	var b batch[coreFlowKey, coreFlow]
	err = each(flows, &b, func(k *coreFlowKey, f *coreFlow) {
		if f.Seen < uint64(since) {
			return
		}
		c := carriedFlow{
			Key: carriedKey{Local: k.Local.W, Remote: k.Remote.W, Lport: k.Lport, Rport: k.Rport, Proto: k.Proto, Segment: k.Segment, State: f.State, Opener: f.Opener},
			Age: uint64(max(0, int64(now-f.Seen))), Rule: f.Rule, Idle: f.Idle, Sample: f.Sample,
		}
		for i, s := range f.Sides {
			c.Sides[i] = carriedSide{End: s.End, Ack: s.Ack, Sent: s.Sent, Acked: s.Acked, Fin: s.Fin}
		}
		carried, _ = binary.Append(carried, binary.LittleEndian, &c) // its size is fixed: it cannot fail
	})
	if err != nil {
		return nil, since, fmt.Errorf("export the flows of port %s: %w", port, err)
	}
	if len(carried) == len(flowsForm) {
		carried = nil
	}
	return carried, Mark(now - min(now, uint64(markSlack))), nil
}

// FlowsSince are those of exported flows that have met a packet since the mark; next is the mark that they were exported with.
func FlowsSince(carried []byte, next, since Mark) []byte {
	size, age := binary.Size(carriedFlow{}), binary.Size(carriedKey{})
	exported := uint64(next) + uint64(markSlack)
	newer := []byte(flowsForm)
	for at := len(flowsForm); at+size <= len(carried); at += size {
		if exported-binary.LittleEndian.Uint64(carried[at+age:]) >= uint64(since) {
			newer = append(newer, carried[at:at+size]...)
		}
	}
	if len(newer) == len(flowsForm) {
		return nil
	}
	return newer
}

// ImportFlows gives a port the flows that it had on another host, age after they were exported, and returns how many. What an
// earlier call has brought gives way to what this one brings; what has met a packet here stays as it is. Each is judged by the
// rules of this host before it lets anything pass. An error wraps fabric.ErrInvalid when they are not of the form that ExportFlows
// writes, of which then none is taken, and fabric.ErrNotFound where no device here carries the port.
func (d *Datapath) ImportFlows(ctx context.Context, port fabric.PortID, carried []byte, age time.Duration) (n int, err error) {
	all, err := readFlows(carried)
	if err != nil {
		return 0, fmt.Errorf("import the flows of port %s: %w", port, err)
	}
	now := monotonic()
	for part := range slices.Chunk(all, takenAtOnce) {
		taken, err := d.takeFlows(ctx, port, part, now, age)
		if n += taken; err != nil {
			return n, fmt.Errorf("import the flows of port %s: %w", port, err)
		}
	}
	return n, nil
}

// takeFlows puts flows in that were exported age before now.
func (d *Datapath) takeFlows(ctx context.Context, port fabric.PortID, part []carriedFlow, now uint64, age time.Duration) (n int, err error) {
	flows, unlock, err := d.flowsAt(ctx, port)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if flows == nil {
		return 0, nil // none of its rules opens any
	}
	defer flows.Close()
	for i := range part {
		k, f := part[i].toCore(now, age)
		taken, err := takeFlow(flows, &k, &f)
		if err != nil {
			return n, err
		}
		if taken {
			n++
		}
	}
	return n, nil
}

// takeFlow puts a flow in, unless this host has met it itself: then a table of this host has judged it.
func takeFlow(flows *ebpf.Map, k *coreFlowKey, f *coreFlow) (taken bool, err error) {
	err = flows.Update(k, f, ebpf.UpdateNoExist)
	if !errors.Is(err, ebpf.ErrKeyExist) {
		return err == nil, err
	}
	var have coreFlow
	if err := flows.Lookup(k, &have); err == nil && have.Table != 0 {
		return false, nil
	}
	return true, flows.Update(k, f, ebpf.UpdateAny)
}

// readFlows reads what ExportFlows has written.
func readFlows(carried []byte) ([]carriedFlow, error) {
	if len(carried) == 0 {
		return nil, nil
	}
	size := binary.Size(carriedFlow{})
	if len(carried) < len(flowsForm) || string(carried[:len(flowsForm)]) != flowsForm {
		return nil, fmt.Errorf("they are not of the form %q: is that host's release another one? %w", flowsForm, fabric.ErrInvalid)
	}
	records := carried[len(flowsForm):]
	if len(records)%size != 0 || len(records)/size > mostCarried {
		return nil, fmt.Errorf("%d bytes are no whole number of flows up to %d: %w", len(records), mostCarried, fabric.ErrInvalid)
	}
	all := make([]carriedFlow, len(records)/size)
	for i := range all {
		if _, err := binary.Decode(records[i*size:], binary.LittleEndian, &all[i]); err != nil {
			return nil, err
		}
		if c := &all[i]; c.Key.State < flowOpening || c.Key.State > flowClosing || c.Key.Opener > 1 || time.Duration(c.Idle)*time.Second > time.Duration(fabric.MaxIdle) {
			return nil, fmt.Errorf("flow %d of %d has state %d, opener %d and idle time %d s: %w", i+1, len(all), c.Key.State, c.Key.Opener, c.Idle, fabric.ErrInvalid)
		}
	}
	return all, nil
}

// States of flows (FLOW_ in bpf/tables.h).
const (
	flowOpening = 1
	flowClosing = 3
)

// toCore is the flow as the core holds it. It is of no table, so that its next packet has it judged.
func (c *carriedFlow) toCore(now uint64, later time.Duration) (k coreFlowKey, f coreFlow) {
	k.Local.W, k.Remote.W, k.Lport, k.Rport, k.Proto, k.Segment = c.Key.Local, c.Key.Remote, c.Key.Lport, c.Key.Rport, c.Key.Proto, c.Key.Segment
	f = coreFlow{Seen: now - c.Age - uint64(later), Rule: c.Rule, Idle: c.Idle, State: c.Key.State, Opener: c.Key.Opener, Sample: c.Sample}
	for i, s := range c.Sides {
		f.Sides[i].End, f.Sides[i].Ack, f.Sides[i].Sent, f.Sides[i].Acked, f.Sides[i].Fin = s.End, s.Ack, s.Sent, s.Acked, s.Fin
	}
	return k, f
}

// flowsAt opens the flows of a port, nil when it has none, and holds everything else up until unlock is called.
func (d *Datapath) flowsAt(ctx context.Context, port fabric.PortID) (flows *ebpf.Map, unlock func(), err error) {
	if err := d.begin(ctx); err != nil {
		return nil, nil, err
	}
	for _, p := range d.ports {
		if fabric.PortID(text(p.value.Name[:])) != port {
			continue
		}
		if flows, err = d.flowsOf(p.value.Slot); err != nil {
			d.mu.Unlock()
		}
		return flows, d.mu.Unlock, err
	}
	d.mu.Unlock()
	return nil, nil, fmt.Errorf("no device here carries it: %w", fabric.ErrNotFound)
}
