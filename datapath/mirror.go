package datapath

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// MirrorDevice is the name of the device by which copies leave for their mirrors' sinks; it is never up.
const MirrorDevice = "weftmir0"

// Bounds of mirrors on one host, the same as in bpf/types.h.
const (
	maxMirrors = 256
	// MaxPortMirrors is how many mirrors may copy at one port in each direction, MaxMirrorClauses how many clauses a filter has.
	MaxPortMirrors   = 8
	MaxMirrorClauses = 8
)

// Bits of a slot's policy word, the same as in bpf/tables.h.
const (
	mirrorOut  = 1 << 43
	mirrorIn   = 1 << 44
	mirrorMask = mirrorOut | mirrorIn
)

// Mirror is what the mirror of a VNI copies at the ports of this host that name it, and where its copies go.
type Mirror struct {
	// Peer is the tunnel end point of the sink's host; not valid: the sink is on this host.
	Peer netip.Addr
	// Sample copies one of so many packets; 0 and 1: each. Truncate cuts copies to so many bytes, from 64 on; 0: not at all.
	Sample, Truncate uint32
	// Deadline is when it ends, in ns since 1970; 0: it does not end. The kernel keeps it, by its monotonic clock.
	Deadline int64
	// Filter asks for packets that meet one of its first Clauses clauses; 0 clauses: for all.
	Filter  [MaxMirrorClauses]Clause
	Clauses int
}

// Sink is where the copies of a mirror end on this host.
type Sink struct {
	// Device is that of a port, or, where Listen is true, one that is made here for somebody to listen on.
	Device string
	Listen bool
}

// Mirrors are the mirrors that copy at a port: what its guest sends, what it receives. In order of VNI, zeros last.
type Mirrors struct {
	Sent, Received [MaxPortMirrors]fabric.VNI
}

// MirrorCount is what a mirror has copied on this host, and what has reached its sink here.
type MirrorCount struct {
	// Seen are packets on a wire that the filter asks for, before sampling; Copied are frames: of several packets, if the guest or
	// the NIC has put those together.
	Seen, Copied uint64
	// Given are frames that the sink on this host was given, with their bytes; Lost those that were lost on this host.
	Given, GivenBytes, Lost uint64
}

// session is a mirror's entry in the kernel.
type session struct {
	id    uint32
	value coreMirror
}

// openMirrors makes the device by which copies leave.
func (d *Datapath) openMirrors() (err error) {
	d.mirror, err = nic.EnsureMirrorDevice(MirrorDevice)
	return err
}

// Check refuses what the core cannot hold of a mirror.
func (m Mirror) Check(vni fabric.VNI) error {
	switch {
	case vni == 0 || vni > fabric.MaxVNI:
		return fmt.Errorf("put mirror: %d is no VNI", vni)
	case m.Clauses < 0 || m.Clauses > MaxMirrorClauses:
		return fmt.Errorf("put mirror with VNI %d: %d clauses, the core holds %d", vni, m.Clauses, MaxMirrorClauses)
	case m.Truncate != 0 && m.Truncate < 64:
		return fmt.Errorf("put mirror with VNI %d: %d bytes are less than the smallest frame", vni, m.Truncate)
	}
	return nil
}

// putMirror brings a mirror to what is wanted. Its entry is never changed while a port names it: a mirror that is to be another
// gets another entry, and the ports name that one from then on.
func (d *Datapath) putMirror(vni fabric.VNI, m Mirror) error {
	if err := m.Check(vni); err != nil {
		return err
	}
	now := d.mirrors[vni]
	if now != nil && d.mirrorFromCore(&now.value) == m {
		return nil
	}
	value, err := d.mirrorToCore(vni, m)
	if err != nil {
		return fmt.Errorf("put mirror with VNI %d: %w", vni, err)
	}
	id, ok := d.mirrorIDs.take()
	if !ok {
		return fmt.Errorf("put mirror with VNI %d: this host has %d mirrors already, the most the core holds", vni, maxMirrors-1)
	}
	next := &session{id: id, value: value}
	if err := errors.Join(d.countMirror(vni), d.writeSession(next)); err != nil {
		d.mirrorIDs.release(id)
		return fmt.Errorf("put mirror with VNI %d: %w", vni, err)
	}
	d.mirrors[vni] = next
	if now == nil {
		return nil
	}
	for _, p := range d.ports {
		if err := d.renameSession(p.value.Slot, now.id, id); err != nil {
			return fmt.Errorf("put mirror with VNI %d: %w", vni, err)
		}
	}
	return d.endSession(now)
}

// writeSession fills an entry before its time begins, because the programs look at the time first.
func (d *Datapath) writeSession(s *session) error {
	waiting := s.value
	waiting.Until = 0
	return errors.Join(d.maps.MirrorsV1.Put(s.id, &waiting), d.maps.MirrorsV1.Put(s.id, &s.value))
}

// endSession ends an entry and gives its number back, which is used again last.
func (d *Datapath) endSession(s *session) error {
	s.value.Until = 0
	if err := d.maps.MirrorsV1.Put(s.id, &s.value); err != nil {
		return err
	}
	d.mirrorIDs.release(s.id)
	return nil
}

// renameSession lets a slot name another entry in place of one.
func (d *Datapath) renameSession(slot, from, to uint32) error {
	var word coreMirrored
	if err := d.maps.MirroredV1.Lookup(slot, &word); err != nil {
		return err
	}
	next := coreMirrored{Out: renamed(word.Out, from, to), In: renamed(word.In, from, to)}
	if next == word {
		return nil
	}
	return d.maps.MirroredV1.Put(slot, &next)
}

// renamed replaces one byte's value in all bytes of a word that have it.
func renamed(word uint64, from, to uint32) (next uint64) {
	for shift := 0; shift < 64; shift += 8 {
		id := uint32(word >> shift & 0xff)
		if id == from {
			id = to
		}
		next |= uint64(id) << shift
	}
	return next
}

// deleteMirror ends a mirror here, which no port names any more.
func (d *Datapath) deleteMirror(vni fabric.VNI) error {
	s := d.mirrors[vni]
	if s == nil {
		return nil
	}
	errs := []error{d.endSession(s)}
	for _, p := range d.ports {
		errs = append(errs, d.renameSession(p.value.Slot, s.id, 0))
	}
	delete(d.mirrors, vni)
	return errors.Join(append(errs, d.uncountMirror(vni))...)
}

// mirrorBy says which mirrors copy at a slot: its entries are written before the programs are told to look at them.
func (d *Datapath) mirrorBy(slot uint32, m Mirrors) error {
	word := &d.shared.slots[slot].Policy
	out, err := d.sessionsOf(m.Sent)
	if err != nil {
		return err
	}
	in, err := d.sessionsOf(m.Received)
	if err != nil {
		return err
	}
	told := uint64(0)
	if out != 0 {
		told |= mirrorOut
	}
	if in != 0 {
		told |= mirrorIn
	}
	now := atomic.LoadUint64(word)
	if told|now&mirrorMask == 0 {
		return nil
	}
	if err := d.maps.MirroredV1.Put(slot, &coreMirrored{Out: out, In: in}); err != nil {
		return err
	}
	atomic.StoreUint64(word, now&^mirrorMask|told)
	return nil
}

// sessionsOf are the entries of mirrors in one word.
func (d *Datapath) sessionsOf(vnis [MaxPortMirrors]fabric.VNI) (word uint64, err error) {
	n := 0
	for _, vni := range vnis {
		if vni == 0 {
			continue
		}
		s := d.mirrors[vni]
		if s == nil {
			return 0, fmt.Errorf("the mirror with VNI %d is not in force here; put the mirror first", vni)
		}
		word |= uint64(s.id) << (8 * n)
		n++
	}
	return word, nil
}

// mirrorsOf are the mirrors that copy at a slot, from the kernel.
func (d *Datapath) mirrorsOf(slot uint32) (m Mirrors) {
	word := atomic.LoadUint64(&d.shared.slots[slot].Policy)
	var by coreMirrored
	if word&mirrorMask == 0 || d.maps.MirroredV1.Lookup(slot, &by) != nil {
		return m
	}
	if word&mirrorOut != 0 {
		m.Sent = d.vnisOf(by.Out)
	}
	if word&mirrorIn != 0 {
		m.Received = d.vnisOf(by.In)
	}
	return m
}

func (d *Datapath) vnisOf(word uint64) (vnis [MaxPortMirrors]fabric.VNI) {
	var found []fabric.VNI
	for vni, s := range d.mirrors {
		for shift := 0; shift < 64; shift += 8 {
			if uint32(word>>shift&0xff) == s.id {
				found = append(found, vni)
			}
		}
	}
	slices.Sort(found)
	copy(vnis[:], found)
	return vnis
}

// mirrorToCore is the mirror as the programs hold it.
func (d *Datapath) mirrorToCore(vni fabric.VNI, m Mirror) (c coreMirror, err error) {
	peer, err := d.peerID(m.Peer)
	if err != nil {
		return c, err
	}
	c = coreMirror{
		Until: math.MaxUint64, Deadline: uint64(m.Deadline), Vni: uint32(vni), Device: uint32(d.mirror.Index), Peer: uint32(peer),
		Sample: m.Sample, Truncate: m.Truncate, Clauses: uint32(m.Clauses),
	}
	if m.Deadline != 0 {
		left := time.Until(time.Unix(0, m.Deadline))
		c.Until = monotonic() + uint64(max(left, 0))
	}
	for i, one := range m.Filter[:m.Clauses] {
		c.Clause[i] = one.toCore()
	}
	return c, nil
}

// mirrorFromCore is the reverse.
func (d *Datapath) mirrorFromCore(c *coreMirror) Mirror {
	m := Mirror{
		Sample: c.Sample, Truncate: c.Truncate, Deadline: int64(c.Deadline), Clauses: int(min(c.Clauses, MaxMirrorClauses)),
	}
	for vtep, p := range d.peers {
		if c.Peer != 0 && uint32(p.id) == c.Peer {
			m.Peer = vtep
		}
	}
	for i := range m.Clauses {
		m.Filter[i] = clauseFromCore(&c.Clause[i])
	}
	return m
}

// Mirrors returns what each mirror has copied and given here, by its VNI.
func (d *Datapath) Mirrors(ctx context.Context) (map[fabric.VNI]MirrorCount, error) {
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("read the counters of mirrors: %w", err)
	}
	defer d.mu.Unlock()
	all := map[fabric.VNI]MirrorCount{}
	var vni uint32
	var perCPU []coreMirrorStats
	entries := d.maps.MirrorStatsV1.Iterate()
	for entries.Next(&vni, &perCPU) {
		var c MirrorCount
		for _, s := range perCPU {
			c.Seen += s.Seen
			c.Copied += s.Copied
			c.Given += s.Given
			c.GivenBytes += s.GivenBytes
			c.Lost += s.Lost
		}
		all[fabric.VNI(vni)] = c
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the counters of mirrors: %w", err)
	}
	return all, nil
}

// countMirror makes the counters of a mirror, unless they are there.
func (d *Datapath) countMirror(vni fabric.VNI) error {
	err := d.maps.MirrorStatsV1.Update(uint32(vni), make([]coreMirrorStats, ebpf.MustPossibleCPU()), ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return nil
	}
	return err
}

// uncountMirror forgets the counters of a mirror that neither copies here nor has its sink here.
func (d *Datapath) uncountMirror(vni fabric.VNI) error {
	if d.mirrors[vni] != nil || d.sinks[vni] != nil {
		return nil
	}
	return gone(d.maps.MirrorStatsV1.Delete(uint32(vni)))
}
