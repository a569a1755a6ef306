package datapath

import (
	"context"
	"fmt"
	"time"

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
	var key coreHitKey
	var perCPU []coreHits
	entries := d.maps.HitsV1.Iterate()
	for entries.Next(&key, &perCPU) {
		name, known := names[key.Slot]
		if !known {
			continue
		}
		if all[name] == nil {
			all[name] = map[policy.RuleID]Hits{}
		}
		all[name][policy.RuleID(key.Rule)] = hitsOf(perCPU)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the hits of rules: %w", err)
	}
	return all, nil
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
	var key coreHitKey
	var perCPU []coreHits
	entries := d.maps.HitsV1.Iterate()
	for entries.Next(&key, &perCPU) {
		if key.Slot == slot {
			stale = append(stale, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("clear the hits of slot %d: %w", slot, err)
	}
	return remove(d.maps.HitsV1, stale)
}
