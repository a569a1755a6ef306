package datapath

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// Hits are what a rule has decided, or metered, at one port. Packets are those on a wire, and Bytes are theirs from the Ethernet
// header on, without preamble and frame check sequence: of an aggregate of n packets the headers count n times.
type Hits struct {
	Packets, Bytes uint64
	// Last is when the last one came.
	Last time.Time
}

// RuleHits returns what every rule has decided or metered since the port's device was plugged in; a rule that has met no packet
// is left out. A rule keeps its hits when its port's policy changes. Where no rule of a port decides and its default is to
// allow, nothing is counted unless another rule of that direction, or flows, are there.
func (d *Datapath) RuleHits(ctx context.Context) (map[fabric.PortID]map[policy.RuleID]Hits, error) {
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("read the hits of rules: %w", err)
	}
	defer d.mu.Unlock()
	names := make(map[uint32]fabric.PortID, len(d.ports))
	for _, p := range d.ports {
		names[p.value.Slot] = fabric.PortID(text(p.value.Name[:]))
	}
	all := map[fabric.PortID]map[policy.RuleID]Hits{}
	err := d.eachHit(func(key *coreHitKey, perCPU []coreHits) {
		name, known := names[key.Slot]
		if !known {
			return
		}
		if all[name] == nil {
			all[name] = map[policy.RuleID]Hits{}
		}
		id := policy.RuleID(key.Rule)
		all[name][id] = all[name][id].plus(hitsOf(perCPU))
	})
	if err != nil {
		return nil, err
	}
	d.shared.eachTally(func(key coreHitKey, h coreHits) {
		if name, known := names[key.Slot]; known {
			if all[name] == nil {
				all[name] = map[policy.RuleID]Hits{}
			}
			id := policy.RuleID(key.Rule)
			all[name][id] = all[name][id].plus(hitsOf([]coreHits{h}))
		}
	})
	return all, nil
}

// InheritHits adds what the port's rules have met on the hosts where it was before; said again, it replaces what was said.
// An error wraps fabric.ErrNotFound where no device here carries the port.
func (d *Datapath) InheritHits(ctx context.Context, port fabric.PortID, hits map[policy.RuleID]Hits) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("inherit the hits of port %s: %w", port, err)
	}
	defer d.mu.Unlock()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	for _, p := range d.ports {
		if fabric.PortID(text(p.value.Name[:])) != port {
			continue
		}
		for id, h := range hits {
			perCPU := make([]coreHits, cpus)
			perCPU[0] = coreHits{Packets: h.Packets, Bytes: h.Bytes, Last: h.monotonic()}
			key := coreHitKey{Rule: uint64(id), Slot: p.value.Slot, Before: 1}
			if err := d.maps.HitsV1.Put(&key, perCPU); err != nil {
				return fullError(fmt.Sprintf("inherit the hits of port %s", port), err)
			}
		}
		return nil
	}
	return fmt.Errorf("inherit the hits of port %s: no device here carries it: %w", port, fabric.ErrNotFound)
}

// plus adds up what was met in two places.
func (h Hits) plus(o Hits) Hits {
	h.Packets, h.Bytes = h.Packets+o.Packets, h.Bytes+o.Bytes
	if o.Last.After(h.Last) {
		h.Last = o.Last
	}
	return h
}

// monotonic is when the last one came, as a CLOCK_MONOTONIC reading of this boot; 0 when it was before or never.
func (h Hits) monotonic() uint64 {
	if h.Last.IsZero() {
		return 0
	}
	return uint64(max(0, int64(monotonic())-int64(time.Since(h.Last))))
}

// hitBatch is how many rules' hits one system call reads, at most.
const hitBatch = 4096

// eachHit calls fn with what every rule of every slot has met, per CPU; fn must not keep what it gets.
func (d *Datapath) eachHit(fn func(key *coreHitKey, perCPU []coreHits)) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("read the hits of rules: %w", err)
	}
	keys, values := make([]coreHitKey, hitBatch), make([]coreHits, hitBatch*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := d.maps.HitsV1.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, errNoSpace) { // one bucket holds more than the batch
			keys, values = make([]coreHitKey, 2*len(keys)), make([]coreHits, 2*len(values))
			continue
		}
		for i := range n {
			fn(&keys[i], values[i*cpus:(i+1)*cpus])
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("read the hits of rules: %w", err)
		}
	}
}

// hitsOf adds up what the CPUs have counted.
func hitsOf(perCPU []coreHits) (h Hits) {
	last := uint64(0)
	for _, c := range perCPU {
		h.Packets += c.Packets
		h.Bytes += c.Bytes
		last = max(last, c.Last)
	}
	if last != 0 {
		h.Last = wallClock(last)
	}
	return h
}

// clearHits begins the hits of a slot's rules anew.
func (d *Datapath) clearHits(slot uint32) error {
	var stale []coreHitKey
	err := d.eachHit(func(key *coreHitKey, _ []coreHits) {
		if key.Slot == slot {
			stale = append(stale, *key)
		}
	})
	if err != nil {
		return err
	}
	d.shared.freeTallies(func(key coreHitKey) bool { return key.Slot == slot })
	return remove(d.maps.HitsV1, stale)
}

// mostKeptHits is how many rules' hits are kept before those of rules that judge no port here any more give way.
const mostKeptHits = maxHits / 2

// pruneHits makes room for the hits of new rules: of slots that have no port, and, when there are more than most, of rules
// that are in no table.
func (d *Datapath) pruneHits(most int) error {
	slots := make(map[uint32]bool, len(d.ports))
	for _, p := range d.ports {
		slots[p.value.Slot] = true
	}
	rules := map[uint64]bool{}
	if err := each(d.maps.RulesV1, &batch[coreRuleKey, coreRule]{}, func(_ *coreRuleKey, r *coreRule) { rules[r.Id] = true }); err != nil {
		return err
	}
	for _, direction := range []fabric.Direction{fabric.In, fabric.Out} {
		rules[uint64(policy.DefaultID(direction))] = true
	}
	var orphans, strays []coreHitKey
	kept := 0
	err := d.eachHit(func(key *coreHitKey, _ []coreHits) {
		switch {
		case !slots[key.Slot]:
			orphans = append(orphans, *key)
		case !rules[key.Rule]:
			strays = append(strays, *key)
		default:
			kept++
		}
	})
	if err != nil {
		return err
	}
	if kept+len(strays) > most {
		orphans = append(orphans, strays...)
	}
	taken := 0
	d.shared.eachTally(func(coreHitKey, coreHits) { taken++ })
	crowded := taken > min(most, len(d.shared.tallies)/2)
	d.shared.freeTallies(func(key coreHitKey) bool { return !slots[key.Slot] || crowded && !rules[key.Rule] })
	return remove(d.maps.HitsV1, orphans)
}
