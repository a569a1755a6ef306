package datapath

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// tallies is how many rules of ports a CPU counts in places of its own (TALLIES in bpf/tables.h).
const tallies = 4096

// coreSpec is the core as this machine loads it: each of its CPUs has tallies of its own.
func coreSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadCore()
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil || cpus > math.MaxInt32/tallies {
		return nil, fmt.Errorf("count the CPUs of this machine: %d, %w", cpus, err)
	}
	spec.Maps["tallies_v1"].MaxEntries = uint32(cpus * tallies)
	return spec, nil
}

// eachTally calls fn with what each CPU has counted in each of its places. Counting goes on meanwhile; nobody but the holder of the
// datapath's lock frees a place, so that one whose rule is there belongs to that rule until fn returns.
func (s shared) eachTally(fn func(key coreHitKey, h coreHits)) {
	for i := range s.tallies {
		t := &s.tallies[i]
		if rule := atomic.LoadUint64(&t.Rule); rule != 0 {
			fn(coreHitKey{Rule: rule, Slot: t.Slot}, t.Hits)
		}
	}
}

// freeTallies gives away the places whose rule and slot are asked for, and what was counted there: of slots and rules that count no
// more.
func (s shared) freeTallies(asked func(key coreHitKey) bool) {
	for i := range s.tallies {
		t := &s.tallies[i]
		if rule := atomic.LoadUint64(&t.Rule); rule != 0 && asked(coreHitKey{Rule: rule, Slot: t.Slot}) {
			atomic.StoreUint64(&t.Rule, 0)
		}
	}
}
