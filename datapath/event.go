package datapath

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// eventBacklog is how many events wait for a reader of Events; beyond it the ring in the kernel fills, and then hops are
// lost and counted (Counters.Untold).
const eventBacklog = 1024

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of events.
const (
	// PortOpened: the first frame of a staged port's guest has opened the port, in the kernel.
	PortOpened EventKind = 1 + iota
	// HopSeen: a followed frame was at a stage.
	HopSeen
	// Repaired: Verify has put back what was missing; Message says what.
	Repaired
	// DeviceGone: a port's device has vanished, and its entry with it.
	DeviceGone
	// ForeignProgram: somebody's program is ahead of the core on a device, and may let frames pass the core by.
	ForeignProgram
	// RuleLogged: a rule with log has decided a packet (Decision).
	RuleLogged
	// Contested: somebody takes a program off a device again and again, and Verify has left it off for a while (Contests).
	Contested
	// StoodIn: a port sends with the MAC of another port of the same VM (Alarm.MAC), and has its place from now on.
	StoodIn
	// Alarmed: a port does not let pass what its guest sends (Alarm); for one port and reason told every ten seconds at most.
	Alarmed
)

// Event is something that happened in the datapath.
type Event struct {
	Kind   EventKind
	Time   time.Time
	Port   fabric.PortID
	Device string
	// Message is a sentence for people.
	Message string
	// Hop is set for HopSeen.
	Hop tracing.Hop
	// Decision is set for RuleLogged.
	Decision Decision
	// Alarm is set for Alarmed.
	Alarm Alarm
}

// Alarm is why a port drops what its guest sends, and the source MAC of the frame that was met first.
type Alarm struct {
	Reason tracing.Reason
	MAC    fabric.MAC
}

// Decision is what a rule has decided about a packet.
type Decision struct {
	Rule      policy.RuleID
	Direction fabric.Direction
	// Reason is why it was dropped; 0: it passes.
	Reason    tracing.Reason
	EtherType fabric.EtherType
	// Source and Destination are of IP packets; their ports are of protocols that have them, TCP, UDP and SCTP.
	Source, Destination netip.AddrPort
	Protocol            uint8
	ICMPType, ICMPCode  uint8
	// Length is in bytes on a wire, from the Ethernet header on.
	Length uint32
}

// The kinds of records in the ring (bpf/types.h).
const (
	kindHop    = 1
	kindOpened = 2
	kindLogged = 3
	kindAlarm  = 4
)

// Events returns the channel of events. There is one, for one reader; Close closes it.
func (d *Datapath) Events() <-chan Event { return d.events }

func (d *Datapath) openEvents(context.Context, Options) (err error) {
	if d.reader, err = ringbuf.NewReader(d.maps.EventsV1); err != nil {
		return err
	}
	go d.drain()
	return nil
}

// drain moves records from the ring to the channel until the reader is closed.
func (d *Datapath) drain() {
	defer close(d.done)
	defer d.endEvents()
	var record ringbuf.Record
	for {
		err := d.reader.ReadInto(&record)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			d.log.Warn("an event could not be read", "error", err)
			continue
		}
		e, told := d.eventOf(record.RawSample)
		if !told {
			continue
		}
		select { // waiting lets the ring fill, which is counted
		case d.events <- e:
		case <-d.quit:
			return
		}
	}
}

// eventOf makes an event of a record; false for what is no event for the reader.
func (d *Datapath) eventOf(raw []byte) (Event, bool) {
	if r, ok := readRecord[coreLogged](raw); ok && r.Kind == kindLogged {
		return d.logged(&r), true
	}
	r, ok := readRecord[coreHop](raw)
	switch {
	case ok && r.Kind == kindHop:
		return d.event(&r), true
	case ok && r.Kind == kindAlarm:
		return d.alarmed(&r), true
	case ok && r.Kind == kindOpened:
		d.tellOpened(int(r.Ifindex), wallClock(r.Ts))
	}
	return Event{}, false
}

// readRecord is a record of the ring; ok is false for what is too short. A record of a kind that only another release's core
// writes is nobody's.
func readRecord[R any](raw []byte) (r R, ok bool) {
	if len(raw) < int(unsafe.Sizeof(r)) {
		return r, false
	}
	return *(*R)(unsafe.Pointer(&raw[0])), true
}

// endEvents closes the channel; what is emitted from then on is nobody's.
func (d *Datapath) endEvents() {
	d.emitting.Lock()
	defer d.emitting.Unlock()
	d.ended = true
	close(d.events)
}

// emit hands an event to the reader and reports whether it could; when the reader has stopped reading, the event is dropped.
func (d *Datapath) emit(e Event) bool {
	d.emitting.Lock()
	defer d.emitting.Unlock()
	if d.ended {
		return false
	}
	select {
	case d.events <- e:
		return true
	default:
		d.log.Warn("an event was dropped: nobody reads them", "kind", e.Kind, "port", e.Port)
		return false
	}
}

// tellOpened emits PortOpened for a port that was staged, once. What the ring or the channel has no room for is told by the
// next Verify, which looks at the gates.
func (d *Datapath) tellOpened(ifindex int, at time.Time) {
	d.emitting.Lock()
	p, staged := d.staged[ifindex]
	delete(d.staged, ifindex)
	d.emitting.Unlock()
	if staged && !d.emit(Event{Kind: PortOpened, Time: at, Port: p.name, Device: p.device}) {
		d.expectOpened(ifindex, p, true)
	}
}

// expectOpened says whether the opening of the port on a device is to be told.
func (d *Datapath) expectOpened(ifindex int, p place, staged bool) {
	d.emitting.Lock()
	defer d.emitting.Unlock()
	delete(d.staged, ifindex)
	if staged {
		d.staged[ifindex] = p
	}
}

// verifyOpened tells of openings whose record was lost.
func (d *Datapath) verifyOpened() {
	for _, p := range d.ports {
		if gate, _ := d.shared.loadGate(p.value.Slot); gate == Open {
			d.tellOpened(p.ifindex, time.Now())
		}
	}
}

// place is a port and its device.
type place struct {
	name   fabric.PortID
	device string
}

func (d *Datapath) event(r *coreHop) Event {
	e := Event{Kind: HopSeen, Time: wallClock(r.Ts)}
	e.Port, e.Device = d.portAt(int(r.Ifindex))
	e.Hop = hopOf(r)
	e.Hop.Port, e.Hop.Device, e.Hop.Time = e.Port, e.Device, e.Time
	return e
}

func (d *Datapath) alarmed(r *coreHop) Event {
	e := Event{Kind: Alarmed, Time: wallClock(r.Ts), Alarm: Alarm{Reason: tracing.Reason(r.Reason)}}
	if r.Reason == 0 {
		e.Kind = StoodIn
	}
	e.Port, e.Device = d.portAt(int(r.Ifindex))
	for i := range e.Alarm.MAC {
		e.Alarm.MAC[i] = byte(r.Label >> (40 - 8*i))
	}
	return e
}

func (d *Datapath) logged(r *coreLogged) Event {
	e := Event{Kind: RuleLogged, Time: wallClock(r.Ts)}
	e.Port, e.Device = d.portAt(int(r.Ifindex))
	e.Decision = Decision{
		Rule: policy.RuleID(r.Rule), Direction: fabric.Out, Reason: tracing.Reason(r.Reason), EtherType: fabric.EtherType(r.Ethertype),
		Source: netip.AddrPortFrom(fromCore(r.Source), r.Sport), Destination: netip.AddrPortFrom(fromCore(r.Destination), r.Dport),
		Protocol: r.Proto, ICMPType: r.IcmpType, ICMPCode: r.IcmpCode, Length: r.Len,
	}
	if r.In != 0 {
		e.Decision.Direction = fabric.In
	}
	return e
}

// hopOf is what a record says; the port, the device and the time of day are not in it.
func hopOf(r *coreHop) tracing.Hop {
	return tracing.Hop{
		Ifindex: r.Ifindex,
		Stage:   tracing.Stage(r.Stage), Result: tracing.Result(r.Result), Reason: tracing.Reason(r.Reason),
		Ktime: r.Ts, Label: r.Label, Session: r.Session,
		VNI: fabric.VNI(r.Vni), Peer: fromCore(r.Peer), Generation: fabric.Revision(r.Generation), RuleID: r.Rule, Length: r.Len,
		Source: fromCore(r.Source), SourcePort: r.Sport, Destination: fromCore(r.Destination), DestinationPort: r.Dport,
		Protocol: r.Proto,
	}
}

// portAt names the port and device of an index.
func (d *Datapath) portAt(ifindex int) (fabric.PortID, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at(ifindex)
}

// at is portAt for who holds mu.
func (d *Datapath) at(ifindex int) (fabric.PortID, string) {
	for device, p := range d.ports {
		if p.ifindex == ifindex {
			return fabric.PortID(text(p.value.Name[:])), device
		}
	}
	switch ifindex {
	case d.underlay.Index:
		return "", d.underlay.Name
	case d.tunnel.Index:
		return "", d.tunnel.Name
	}
	for device, u := range d.uplinks {
		if int(u.value.Ifindex) == ifindex {
			return "", device
		}
	}
	return "", ""
}

// wallClock is the wall-clock time of a CLOCK_MONOTONIC reading of this boot.
func wallClock(then uint64) time.Time {
	return time.Now().Add(time.Duration(int64(then) - int64(monotonic())))
}
