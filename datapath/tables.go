package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/policy"
)

// Bits of a slot's policy word beside the table's number, the same as in bpf/tables.h.
const (
	policyOut      = 1 << 32
	policyIn       = 1 << 33
	policyStateful = 1 << 34
	policyHandover = 1 << 38
	policyMeters   = 1 << 35 // one bit further for what the guest receives
	policyRejects  = 1 << 37
	policyTrunk    = 1 << 39 // of the port, whatever table it has
)

// Bits of a table's side (SIDE_ in bpf/tables.h).
const (
	sideMeters = 1 << 0
	sideOpen   = 1 << 1
)

// table is one table: its number and its entry in the kernel.
type table struct {
	id    uint32
	value coreTable
}

// tables are the tables in the kernel, by the digest of their source, with the parts that they share. A table never changes
// once a port names it.
type tables struct {
	byDigest map[policy.Digest]*table
	// shapes and places are the parts' numbers by digest.
	shapes, places map[policy.Digest]uint32
	// refused are those that could not be made.
	refused map[policy.Digest]refusal
}

// refusal is why a table could not be made, and when it is tried again: after 1 s, then twice as long each time.
type refusal struct {
	err      error
	attempts int
	until    time.Time
}

// slowest is the longest wait before a table that could not be made is tried again.
const slowest = time.Minute

// word is what the slot of a port holds that this table judges.
func (t *table) word() uint64 {
	word := uint64(t.id)
	for in, bit := range []uint64{policyOut, policyIn} {
		if t.value.Stateful != 0 || t.value.Sides[in].Flags&sideOpen == 0 {
			word |= bit
		}
		if t.value.Sides[in].Flags&sideMeters != 0 {
			word |= policyMeters << in
		}
	}
	if t.value.Stateful != 0 {
		word |= policyStateful
	}
	if t.value.Rejects != 0 {
		word |= policyRejects
	}
	return word
}

// adoptTables learns which tables a loader before has left, and removes the parts of those that it could not complete.
func (d *Datapath) adoptTables() error {
	d.tables = tables{byDigest: map[policy.Digest]*table{}, shapes: map[policy.Digest]uint32{}, places: map[policy.Digest]uint32{}, refused: map[policy.Digest]refusal{}}
	known := liveParts{}
	lost := d.shared.config.Parts == 0
	var id uint32
	var value coreTable
	entries := d.maps.TablesV2.Iterate()
	for entries.Next(&id, &value) {
		d.tables.add(&table{id, value})
		known.add(id, &value)
		d.shared.config.Parts = max(d.shared.config.Parts, id, value.Shape, value.Places)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the tables of rules: %w", err)
	}
	if lost {
		// Numbers are never given twice: flows and combinations that were found under one are kept by it. Where the last one is not
		// known, they begin anew far beyond all that can have been given.
		d.shared.config.Parts = max(d.shared.config.Parts, uint32(time.Now().Unix())) + 1<<24
	}
	return d.sweepParts(known)
}

func (ts *tables) add(t *table) {
	ts.byDigest[policy.Digest(t.value.Digest)] = t
	ts.shapes[policy.Digest(t.value.ShapeDigest)] = t.value.Shape
	ts.places[policy.Digest(t.value.PlacesDigest)] = t.value.Places
}

// nextPart is a number that no table or part has had.
func (d *Datapath) nextPart() uint32 { return atomic.AddUint32(&d.shared.config.Parts, 1) }

// putTable makes the table of a source, unless it is there or was refused a moment ago.
func (d *Datapath) putTable(digest policy.Digest, source *policy.Source) error {
	if d.tables.byDigest[digest] != nil {
		return nil
	}
	was := d.tables.refused[digest]
	if time.Now().Before(was.until) {
		return was.err
	}
	delete(d.tables.refused, digest)
	if err := d.makeTable(digest, source); err != nil {
		wait := min(time.Second<<min(was.attempts, 16), slowest)
		next := refusal{err: err, attempts: was.attempts + 1, until: time.Now().Add(wait)}
		maps.DeleteFunc(d.tables.refused, func(_ policy.Digest, r refusal) bool { return time.Since(r.until) > slowest })
		d.tables.refused[digest] = next
		return err
	}
	return nil
}

// makeTable compiles a source and writes its table, complete before anything can name it.
func (d *Datapath) makeTable(digest policy.Digest, source *policy.Source) (err error) {
	if source == nil {
		return fmt.Errorf("put table %s: it has no rules to be made of", digest)
	}
	compiled, err := policy.Compile(*source)
	if err != nil {
		return fmt.Errorf("make the table of %s: %w", rulesOf(source), err)
	}
	t := newTable(digest, compiled)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make the table of %s: %w", rulesOf(source), err), d.sweepParts(d.liveParts()))
		}
	}()
	var there bool
	if t.value.Shape, there = d.tables.shapes[compiled.Shape]; !there {
		t.value.Shape = d.nextPart()
		if err := d.writeShape(t.value.Shape, compiled); err != nil {
			return err
		}
	}
	if t.value.Places, there = d.tables.places[compiled.Places]; !there {
		t.value.Places = d.nextPart()
		if err := d.writePlaces(t.value.Places, compiled); err != nil {
			return err
		}
	}
	t.id = d.nextPart()
	if err := d.writeRules(t.id, compiled); err != nil {
		return err
	}
	if err := d.maps.TablesV2.Put(t.id, &t.value); err != nil {
		return fullError(fmt.Sprintf("write %s", d.maps.TablesV2), err)
	}
	d.tables.add(t)
	return nil
}

// rulesOf names the policies of a source, for people.
func rulesOf(s *policy.Source) string {
	var names []string
	for _, p := range s.Policies {
		names = append(names, p.Metadata.Name)
	}
	switch len(names) {
	case 0:
		return "the default action"
	case 1:
		return "policy " + names[0]
	}
	return "policies " + strings.Join(names, ", ")
}

// newTable is the head of a table.
func newTable(digest policy.Digest, compiled *policy.Table) *table {
	t := &table{value: coreTable{Digest: digest, ShapeDigest: compiled.Shape, PlacesDigest: compiled.Places}}
	for i := range compiled.Sides {
		s, side := &compiled.Sides[i], &t.value.Sides[i]
		side.Dims = s.Dims
		side.Blocks = uint8((len(s.Decides) + policy.BlockBits - 1) / policy.BlockBits)
		if len(s.Meters) > 0 {
			side.Flags |= sideMeters
		}
		if s.IsOpen() {
			side.Flags |= sideOpen
		}
		if s.Stateful() {
			t.value.Stateful = 1
		}
		if i == 1 && slices.ContainsFunc(s.Decides, func(o policy.Outcome) bool { return o.Act == policy.ActReject }) {
			t.value.Rejects = 1
		}
	}
	return t
}

// releaseTables removes tables that no port names, after the programs that may still read them have ended.
func (d *Datapath) releaseTables(digests map[policy.Digest]*policy.Source) error {
	named := map[uint32]bool{}
	for _, p := range d.ports {
		named[uint32(d.shared.policyWord(p.value.Slot))] = true
	}
	gone := false
	for digest := range digests {
		t := d.tables.byDigest[digest]
		if t == nil || named[t.id] {
			continue
		}
		if err := d.maps.TablesV2.Delete(t.id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete table %s: %w", digest, err)
		}
		delete(d.tables.byDigest, digest)
		gone = true
	}
	if !gone {
		return nil
	}
	clear(d.tables.refused) // there is room again
	live := d.liveParts()
	for digest, id := range d.tables.shapes {
		if !live.shapes[id] {
			delete(d.tables.shapes, digest)
		}
	}
	for digest, id := range d.tables.places {
		if !live.places[id] {
			delete(d.tables.places, digest)
		}
	}
	if err := d.grace(); err != nil {
		return err
	}
	return errors.Join(d.sweepParts(live), d.pruneHits(mostKeptHits))
}

// grace waits until every program that ran when it was called has ended: synchronize_rcu by way of membarrier(2), or, on hosts
// with nohz_full, which refuse that, of a map of maps that changes (maybe_wait_bpf_programs in kernel/bpf/syscall.c).
func (d *Datapath) grace() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return d.graceOfMaps()
	}
	return nil
}

func (d *Datapath) graceOfMaps() error {
	if err := errors.Join(d.ensureFlows(slotNowhere, 0), d.dropFlows(slotNowhere)); err != nil {
		return fmt.Errorf("wait for the programs that still read what changes: %w", err)
	}
	return nil
}

// judgedBy is the table that judges a port, nil for none; an error if it is not there, because it could not be made.
func (d *Datapath) judgedBy(p Port) (*table, error) {
	if p.Policy.IsZero() {
		return nil, nil
	}
	t := d.tables.byDigest[p.Policy]
	if t == nil {
		return nil, fmt.Errorf("its rules (table %s) are not in force here; what was in force stays", p.Policy)
	}
	return t, nil
}

// policyWord is what the policy word of a slot says of what judges the port, setPolicyWord changes it with one store. Nobody else
// changes the word.
func (s shared) policyWord(slot uint32) uint64 {
	return atomic.LoadUint64(&s.slots[slot].Policy) & judgedMask
}

func (s shared) setPolicyWord(slot uint32, word uint64) {
	limits := atomic.LoadUint64(&s.slots[slot].Policy) &^ judgedMask
	atomic.StoreUint64(&s.slots[slot].Policy, word|limits)
}
