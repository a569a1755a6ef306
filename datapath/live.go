package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Bits of config.tracing and flags of sessions, the same as in bpf/sessions.h.
const (
	tracingProbes = 1
	tracingLive   = 16
	sessionDrops  = 1
	sessionEvery  = 2
	// maxBacklog is how many records of a session wait here for who asked for them; more are lost, and counted.
	maxBacklog = 65536
	// hostRecords is the budget of all sessions together, in records per second.
	hostRecords = 2 * tracing.MaxRecords
	// atOnce is the part of a second whose records may come at once.
	atOnce = 10
)

// lives are the live sessions of this host.
type lives struct {
	reader *ringbuf.Reader
	done   chan struct{}

	mu       sync.Mutex
	sessions [tracing.MaxSessions]*live
}

// live is a session and what was recorded for it.
type live struct {
	id      uint32
	what    string
	since   uint64
	until   uint64
	records []coreRecord
	// overflow are records beyond maxBacklog.
	overflow uint64
}

// openLive takes over sessions that a loader before has armed.
func (d *Datapath) openLive(context.Context, Options) (err error) {
	now := monotonic()
	if err := d.maps.SessionsV1.Put(uint32(tracing.MaxSessions), budget(hostRecords)); err != nil {
		return err
	}
	for i := range d.lives.sessions {
		var s coreSession
		if err := d.maps.SessionsV1.Lookup(uint32(i), &s); err != nil {
			return err
		}
		if s.Until > now {
			d.lives.sessions[i] = &live{id: s.Id, until: s.Until, what: "from before the agent was restarted"}
		} else {
			atomic.AndUint32(&d.shared.config.Tracing, ^uint32(1<<(tracingLive+i)))
		}
	}
	if d.lives.running() {
		return d.readLive()
	}
	return nil
}

// readLive reads records from now on. The ring counts twice in this process's memory, so that it is mapped only while a session runs.
func (d *Datapath) readLive() (err error) {
	if d.lives.reader != nil {
		return nil
	}
	if d.lives.reader, err = ringbuf.NewReader(d.maps.RecordsV1); err != nil {
		return err
	}
	d.lives.done = make(chan struct{})
	go d.lives.drain(d.lives.reader)
	return nil
}

// running reports whether there is a session.
func (l *lives) running() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.sessions[:], func(s *live) bool { return s != nil })
}

// Close ends the reading; the sessions go on until their time is over.
func (l *lives) Close() {
	if l.reader != nil {
		l.reader.Close()
		<-l.done
		l.reader = nil
	}
}

// drain moves records from the ring to the sessions that asked for them.
func (l *lives) drain(from *ringbuf.Reader) {
	defer close(l.done)
	var raw ringbuf.Record
	for {
		err := from.ReadInto(&raw)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if r, ok := readRecord[coreRecord](raw.RawSample); err == nil && ok {
			l.keep(&r)
		}
	}
}

// keep gives a record to its sessions.
func (l *lives) keep(r *coreRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.sessions {
		switch {
		case s == nil || r.Hop.Session>>i&1 == 0 || r.Hop.Ts < s.since: // the ring may have records of one that had the number before
		case len(s.records) == maxBacklog:
			s.overflow++
		default:
			s.records = append(s.records, *r)
		}
	}
}

// budget is an entry that allows so many records per second.
func budget(rate uint32) *coreSession {
	return &coreSession{Interval: uint64(time.Second) / uint64(max(1, rate)), Tolerance: uint64(time.Second) / atOnce}
}

// Watch records the frames that the session asks for. Of one that is recorded already only the time is set anew. The error wraps
// fabric.ErrConflict when the host has as many sessions as it may have; it names them.
func (d *Datapath) Watch(ctx context.Context, s tracing.LiveSession) error {
	if err := s.Check(); err != nil {
		return err
	}
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("arm live session %d: %w", s.ID, err)
	}
	defer d.mu.Unlock()
	now := monotonic()
	d.sweepLive(now)
	number, err := d.lives.place(s)
	if err != nil {
		return err
	}
	value := budget(s.MaxRate)
	value.Until, value.Threshold, value.Id, value.Picks = now+uint64(s.TTL), s.Threshold(), s.ID, uint32(len(s.Picks))
	if s.Drops {
		value.Flags |= sessionDrops
	}
	if s.Every {
		value.Flags |= sessionEvery
	}
	for i, p := range s.Picks {
		value.Pick[i] = d.pickToCore(p)
	}
	if err := d.readLive(); err != nil {
		return fmt.Errorf("arm live session %d: %w", s.ID, err)
	}
	zero := make([]coreSessionStats, ebpf.MustPossibleCPU())
	if err := errors.Join(d.maps.SessionsV1.Put(uint32(number), &coreSession{}), d.maps.SessionStatsV1.Put(uint32(number), zero), d.maps.SessionsV1.Put(uint32(number), value)); err != nil {
		return fmt.Errorf("arm live session %d: %w", s.ID, err)
	}
	d.lives.mu.Lock()
	d.lives.sessions[number] = &live{id: s.ID, what: s.What, since: now, until: value.Until}
	d.lives.mu.Unlock()
	atomic.OrUint32(&d.shared.config.Tracing, 1<<(tracingLive+number))
	return nil
}

// place is the number of the session, or a free one.
func (l *lives) place(s tracing.LiveSession) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, at := range l.sessions {
		if at != nil && at.id == s.ID {
			return i, nil
		}
	}
	if i := slices.Index(l.sessions[:], nil); i >= 0 {
		return i, nil
	}
	var running []string
	for _, at := range l.sessions {
		running = append(running, fmt.Sprintf("%d (%s)", at.id, at.what))
	}
	return 0, fmt.Errorf("arm live session %d: %d are under way on this host, the most there may be: %s; end one with weft trace live --end NUMBER: %w",
		s.ID, len(running), strings.Join(running, ", "), fabric.ErrConflict)
}

func (d *Datapath) pickToCore(p tracing.Pick) corePick {
	c := Clause{Family: p.Family, Local: p.Source, Remote: p.Destination, LocalPorts: p.SourcePorts, RemotePorts: p.DestinationPorts}
	if p.Protocol != nil {
		c.HasProtocol, c.Protocol = true, *p.Protocol
	}
	core := corePick{Ends: c.toCore(), Vni: uint32(p.VNI), From: macNumber(p.FromMAC), To: macNumber(p.ToMAC)}
	for _, port := range d.ports {
		if p.From != "" && text(port.value.Name[:]) == string(p.From) {
			core.Slot = port.value.Slot
		}
	}
	return core
}

// macNumber is a MAC as a number, its first byte highest.
func macNumber(m fabric.MAC) (n uint64) {
	for _, b := range m {
		n = n<<8 | uint64(b)
	}
	return n
}

// Unwatch ends a session; one that is not armed is no error.
func (d *Datapath) Unwatch(ctx context.Context, id uint32) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("end live session %d: %w", id, err)
	}
	defer d.mu.Unlock()
	if i := d.lives.find(id); i >= 0 {
		return d.endLive(i)
	}
	return nil
}

// find is the number of a session; -1: it is not armed.
func (l *lives) find(id uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.IndexFunc(l.sessions[:], func(s *live) bool { return s != nil && s.id == id })
}

// sweepLive ends the sessions whose time is over.
func (d *Datapath) sweepLive(now uint64) {
	for i := range d.lives.sessions {
		d.lives.mu.Lock()
		s := d.lives.sessions[i]
		d.lives.mu.Unlock()
		if s != nil && s.until <= now {
			_ = d.endLive(i) // its time is over in the kernel, too
		}
	}
}

func (d *Datapath) endLive(number int) error {
	atomic.AndUint32(&d.shared.config.Tracing, ^uint32(1<<(tracingLive+number)))
	d.lives.mu.Lock()
	d.lives.sessions[number] = nil
	d.lives.mu.Unlock()
	if !d.lives.running() {
		d.lives.Close()
	}
	return d.maps.SessionsV1.Put(uint32(number), &coreSession{})
}

// Watched is what was recorded of a session since the last call. Its hosts, and the names of its rules, are not filled in. The error
// wraps fabric.ErrNotFound when the session is not armed here.
func (d *Datapath) Watched(ctx context.Context, id uint32) (b tracing.LiveBatch, err error) {
	if err := d.begin(ctx); err != nil {
		return b, fmt.Errorf("collect live session %d: %w", id, err)
	}
	defer d.mu.Unlock()
	number := d.lives.find(id)
	if number < 0 {
		return b, fmt.Errorf("collect live session %d: it is not armed on this host: %w", id, fabric.ErrNotFound)
	}
	if b.Count, err = d.countLive(number); err != nil {
		return b, fmt.Errorf("collect live session %d: %w", id, err)
	}
	d.lives.mu.Lock()
	s := d.lives.sessions[number]
	records := s.records
	s.records = nil
	b.Count.Lost += s.overflow
	b.Count.Sent -= s.overflow
	d.lives.mu.Unlock()
	b.Now = time.Now()
	b.Ended = s.until <= monotonic()
	names := map[uint32]place{}
	boot := wallClock(0)
	for i := range records {
		b.Runs = append(b.Runs, d.runOf(&records[i], boot, names))
	}
	return b, nil
}

// countLive adds the CPUs up.
func (d *Datapath) countLive(number int) (c tracing.LiveCount, err error) {
	var s coreSession
	var per []coreSessionStats
	if err := errors.Join(d.maps.SessionsV1.Lookup(uint32(number), &s), d.maps.SessionStatsV1.Lookup(uint32(number), &per)); err != nil {
		return c, err
	}
	for _, n := range per {
		c.Met += n.Met
		c.Sent += n.Sent
		c.Lost += n.Lost
		c.Denied += n.Denied
	}
	c.Threshold = s.Threshold
	return c, nil
}

// runOf is what a record says; boot is the wall clock when the kernel's clock was 0.
func (d *Datapath) runOf(r *coreRecord, boot time.Time, names map[uint32]place) tracing.Run {
	h := &r.Hop
	run := tracing.Run{
		Reason: tracing.Reason(h.Reason), Time: boot.Add(time.Duration(h.Ts)), Ktime: h.Ts, Took: time.Duration(r.Took), Label: h.Label, CPU: r.Cpu, Number: r.Number,
		VNI: fabric.VNI(h.Vni), Peer: fromCore(h.Peer), Length: h.Len, Source: fromCore(h.Source), SourcePort: h.Sport,
		Destination: fromCore(h.Destination), DestinationPort: h.Dport, Protocol: h.Proto, Marks: []tracing.Mark{},
	}
	for _, step := range r.Step[:min(int(r.Steps), len(r.Step))] {
		run.Marks = append(run.Marks, tracing.Mark{Stage: tracing.Stage(step >> 8), Result: tracing.Result(step & 0xff)})
	}
	for i, s := range r.Side {
		at, known := names[s.Ifindex]
		if !known {
			at.name, at.device = d.at(int(s.Ifindex))
			names[s.Ifindex] = at
		}
		run.Sides[i] = tracing.Side{Port: at.name, Device: at.device, Ifindex: s.Ifindex, Generation: fabric.Revision(s.Generation), RuleID: s.Rule}
	}
	return run
}
