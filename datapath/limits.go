package datapath

import (
	"context"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Limit is a rate and what may pass beyond it at once; the zero value limits nothing.
type Limit struct {
	// Rate is in units a second, 1 to MaxRate, Burst in units, 1 to MaxBurst: bits on a wire, or packets. What is longer than the
	// burst never passes.
	Rate, Burst uint64
}

// Bounds of a Limit.
const (
	MaxRate  = 1e13
	MaxBurst = 1 << 40
	// MaxFill is the longest that a burst may take at its rate.
	MaxFill = time.Hour
	// MaxWeight is the largest weight of a Least.
	MaxWeight = 100
)

// Storm is a kind of frames that a guest sends to more than one station, or to one that nobody knows.
type Storm int

// The kinds of storms, in the order of Limits.Storm.
const (
	Broadcast Storm = iota
	Multicast
	Unknown
	storms
)

// Limits are what a port may send and receive at most. Of a kind of storm without a limit the core's own budget for copies of
// group frames holds: 10,000 a second, 2,000 at once.
type Limits struct {
	// Out is what the guest sends, In what it receives, in bits on a wire from the Ethernet header on, without preamble and frame
	// check sequence; of an aggregate the headers of every packet count.
	Out, In Limit
	// Storm is what it sends, by kind.
	Storm [storms]StormLimit
	// Least is what it can send for certain.
	Least Least
}

// Least is what a port has for certain at the host's way out, whatever others send: bits a second, or a part of what nobody has in bits
// (Weight, 1 to 100). Neither: it shares the default flow.
type Least struct {
	Rate   uint64
	Weight uint64
}

// StormLimit limits packets and bits; either may be without a limit.
type StormLimit struct {
	Packets, Bits Limit
}

// Bits of a slot's policy word, the same as in bpf/tables.h.
const (
	limitOut   = 1 << 40
	limitIn    = 1 << 41
	limitStorm = 1 << 42
	paceOut    = 1 << 45
	classOut   = 1 << 46
	// judgedMask is the part of the word that says what judges the port.
	judgedMask = 1<<40 - 1
)

// lost is what is read of a limit that a port names and that is not there: nothing passes it.
var lost = Limit{Burst: 1}

// fraction is the part of a nanosecond in which the core reckons (FRACTION in bpf/limits.h), as a shift.
const fraction = 6

func (l Limit) check(what string) error {
	switch {
	case l == Limit{}:
		return nil
	case l.Rate < 1 || l.Rate > MaxRate:
		return fmt.Errorf("%s: a rate of %d is not in 1 to %d a second", what, l.Rate, uint64(MaxRate))
	case l.Burst < 1 || l.Burst > MaxBurst:
		return fmt.Errorf("%s: a burst of %d is not in 1 to %d", what, l.Burst, uint64(MaxBurst))
	case l.tolerance()>>fraction > uint64(MaxFill):
		return fmt.Errorf("%s: a burst of %d takes longer than %v at %d a second", what, l.Burst, MaxFill, l.Rate)
	}
	return nil
}

// check reports what the core cannot keep.
func (l Limits) check() error {
	for i, one := range l.all() {
		if err := one.check(limitNames[i]); err != nil {
			return err
		}
	}
	if l.Least.Rate > MaxRate || l.Least.Weight > MaxWeight || (l.Least.Rate != 0 && l.Least.Weight != 0) {
		return fmt.Errorf("least out: %d bits a second and weight %d: give up to %d bits a second or a weight up to %d", l.Least.Rate, l.Least.Weight, uint64(MaxRate), MaxWeight)
	}
	return nil
}

// all are the limits in the order of the core's buckets.
func (l Limits) all() [buckets]Limit {
	return [buckets]Limit{
		l.Out, l.In, l.Storm[Broadcast].Packets, l.Storm[Broadcast].Bits, l.Storm[Multicast].Packets, l.Storm[Multicast].Bits,
		l.Storm[Unknown].Packets, l.Storm[Unknown].Bits,
	}
}

// buckets is how many limits a port has.
const buckets = 2 + 2*int(storms)

var limitNames = [buckets]string{
	"rate out", "rate in", "packets of broadcasts", "bits of broadcasts", "packets of multicasts", "bits of multicasts",
	"packets to unknown stations", "bits to unknown stations",
}

// tolerance is the time that the burst takes at the rate, in the core's parts of a nanosecond.
func (l Limit) tolerance() uint64 {
	if l.Rate == 0 {
		return 0
	}
	hi, lo := bits.Mul64(l.Burst, uint64(time.Second)<<fraction)
	if hi >= l.Rate {
		return 1<<64 - 1
	}
	t, _ := bits.Div64(hi, lo, l.Rate)
	return t
}

// word are the bits that tell the programs to look.
func (l Limits) word() (word uint64) {
	if l.Out.Rate != 0 {
		word |= limitOut
	}
	if l.Out.Rate >= paceFrom {
		word |= paceOut
	}
	if l.In.Rate != 0 {
		word |= limitIn
	}
	if l.Storm != ([storms]StormLimit{}) {
		word |= limitStorm
	}
	return word
}

// limitsOf are the limits in force at a slot.
func (s shared) limitsOf(slot uint32) (l Limits) {
	word := atomic.LoadUint64(&s.slots[slot].Policy)
	for i, to := range []*Limit{&l.Out, &l.In} {
		bit := uint64(limitOut) << i
		switch *to = limitFromCore(&s.limits[slot].Rate[i]); {
		case word&bit == 0:
			*to = Limit{}
		case to.Rate == 0:
			*to = lost
		}
	}
	l.Least = s.leastOf(slot)
	if word&limitStorm == 0 {
		return l
	}
	for i := range l.Storm {
		b := &s.limits[slot].Storm[i]
		l.Storm[i] = StormLimit{limitFromCore(&b[0]), limitFromCore(&b[1])}
	}
	if l.Storm == ([storms]StormLimit{}) {
		l.Storm[Broadcast].Packets = lost
	}
	return l
}

func limitFromCore(b *coreBucket) Limit {
	return Limit{Rate: atomic.LoadUint64(&b.Rate), Burst: atomic.LoadUint64(&b.Burst)}
}

// bucketsOf are a slot's buckets, in the order of Limits.all.
func (s shared) bucketsOf(slot uint32) [buckets]*coreBucket {
	l := &s.limits[slot]
	return [buckets]*coreBucket{
		&l.Rate[0], &l.Rate[1], &l.Storm[0][0], &l.Storm[0][1], &l.Storm[1][0], &l.Storm[1][1], &l.Storm[2][0], &l.Storm[2][1],
	}
}

// limitBy changes a slot's limits: each bucket is told before the programs are told to look at it, and looked at no more before
// it is emptied. How far it is used up stays.
func (s shared) limitBy(slot uint32, l Limits) {
	word := &s.slots[slot].Policy
	now := atomic.LoadUint64(word)
	atomic.StoreUint64(word, now&(judgedMask|mirrorMask|classOut|l.word()))
	for i, b := range s.bucketsOf(slot) {
		one := l.all()[i]
		if limitFromCore(b) == one {
			continue
		}
		atomic.StoreUint64(&b.Burst, one.Burst)
		atomic.StoreUint64(&b.Tolerance, one.tolerance())
		atomic.StoreUint64(&b.Rate, one.Rate)
	}
	atomic.StoreUint64(word, now&(judgedMask|mirrorMask|classOut)|l.word())
}

// refill begins what is used up of a slot's limits, the count of marked packets and what is told of drops anew.
func (s shared) refill(slot uint32) {
	for _, b := range s.bucketsOf(slot) {
		atomic.StoreUint64(&b.At, ticks())
	}
	for i := range s.limits[slot].Marked {
		atomic.StoreUint64(&s.limits[slot].Marked[i], 0)
	}
	for i := range s.limits[slot].Quiet {
		atomic.StoreUint64(&s.limits[slot].Quiet[i], 0)
	}
}

// ticks is the time in the core's parts of a nanosecond.
func ticks() uint64 { return monotonic() << fraction }

// Backlog is how long the limits of a port need to become empty: out, in, then packets and bits of broadcasts, multicasts and
// unknown stations, in ns.
type Backlog [buckets]time.Duration

// ExportBacklog returns how far the limits of a port are used up, for ImportBacklog on another host. The error wraps
// fabric.ErrNotFound where no device here carries the port.
func (d *Datapath) ExportBacklog(ctx context.Context, port fabric.PortID) (b Backlog, err error) {
	slot, unlock, err := d.slotAt(ctx, port)
	if err != nil {
		return b, fmt.Errorf("export what is used up of the limits of port %s: %w", port, err)
	}
	defer unlock()
	for i, bucket := range d.shared.bucketsOf(slot) {
		b[i] = time.Duration(max(0, int64(atomic.LoadUint64(&bucket.At)-ticks())) >> fraction)
	}
	return b, nil
}

// ImportBacklog uses the limits of a port up as far as they were on another host, age before; no further than their burst, and
// what is used up further here stays so. The error wraps fabric.ErrNotFound where no device here carries the port.
func (d *Datapath) ImportBacklog(ctx context.Context, port fabric.PortID, carried Backlog, age time.Duration) error {
	slot, unlock, err := d.slotAt(ctx, port)
	if err != nil {
		return fmt.Errorf("import what is used up of the limits of port %s: %w", port, err)
	}
	defer unlock()
	now := ticks()
	for i, b := range d.shared.bucketsOf(slot) {
		left := min(uint64(max(0, carried[i]-max(0, age)))<<fraction, atomic.LoadUint64(&b.Tolerance))
		for {
			at := atomic.LoadUint64(&b.At)
			if int64(now+left-at) <= 0 || atomic.CompareAndSwapUint64(&b.At, at, now+left) {
				break
			}
		}
	}
	return nil
}

// slotAt is the slot of a port, and holds everything else up until unlock is called.
func (d *Datapath) slotAt(ctx context.Context, port fabric.PortID) (slot uint32, unlock func(), err error) {
	if err := d.begin(ctx); err != nil {
		return 0, nil, err
	}
	for _, p := range d.ports {
		if fabric.PortID(text(p.value.Name[:])) == port {
			return p.value.Slot, d.mu.Unlock, nil
		}
	}
	d.mu.Unlock()
	return 0, nil, fmt.Errorf("no device here carries it: %w", fabric.ErrNotFound)
}
