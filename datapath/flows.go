package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
)

// How long TCP connections that are under way already are taken on where a stateful rule would have allowed them: after the first
// rules of a port that was open before, and at the destination of a move from when it is staged and again from when it opens.
const (
	adoptRunning = 30 * time.Second
	adoptStaged  = 5 * time.Minute
)

// flowsAhead is how many slots that are given next have their map of flows already: putting one into the map of maps takes the
// kernel 15 ms (it waits for a grace period), which a port that is plugged in need not.
const flowsAhead = 4

// flowsUnit is what a port's flows are counted in.
const flowsUnit = 1024

// fragmentPlaces is how many first fragments a port remembers of each direction (FRAGMENT_PLACES in bpf/tables.h).
const fragmentPlaces = 32

// ensureFlows gives a slot its map of so many flows, 0 for the standard; it stays until the slot's port is removed. A map of another
// size gives way, with what fits of its flows.
func (d *Datapath) ensureFlows(slot uint32, size int) error {
	want := uint32(cmp.Or(size, fabric.DefaultConnections))
	old, err := d.flowsOf(slot)
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
		if old.MaxEntries() == want {
			return nil
		}
	}
	spec, err := coreSpec()
	if err != nil {
		return err
	}
	inner := spec.Maps["flows_v2"].InnerMap
	inner.MaxEntries = want
	flows, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("make the flows of slot %d: %w", slot, err)
	}
	defer flows.Close()
	begun := monotonic() - uint64(markSlack)
	if err := copyFlows(flows, old, 0); err != nil {
		return fmt.Errorf("fill the flows of slot %d: %w", slot, err)
	}
	if err := d.maps.FlowsV2.Put(slot, flows); err != nil {
		return fmt.Errorf("put the flows of slot %d: %w", slot, err)
	}
	return copyFlows(flows, old, begun) // what has met a packet meanwhile
}

// copyFlows copies the flows that have met a packet since a time and are not in the other map under the same table yet.
func copyFlows(to, from *ebpf.Map, since uint64) error {
	if from == nil {
		return nil
	}
	var failed error
	var b batch[coreFlowKey, coreFlow]
	err := each(from, &b, func(k *coreFlowKey, f *coreFlow) {
		var have coreFlow
		if f.Seen < since || to.Lookup(k, &have) == nil && have.Seen >= f.Seen {
			return
		}
		failed = errors.Join(failed, to.Update(k, f, ebpf.UpdateAny))
	})
	return errors.Join(err, failed)
}

// prepareFlows gives the slots that ports are plugged into next their maps, once any rule here opens flows.
func (d *Datapath) prepareFlows() error {
	for _, t := range d.tables.byDigest {
		if t.value.Stateful == 0 {
			continue
		}
		for _, slot := range d.slots.ahead(flowsAhead) {
			if err := d.ensureFlows(slot, 0); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// flowsOf opens the map of a slot's flows; nil when it has none.
func (d *Datapath) flowsOf(slot uint32) (*ebpf.Map, error) {
	var id ebpf.MapID
	err := d.maps.FlowsV2.Lookup(slot, &id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the flows of slot %d: %w", slot, err)
	}
	flows, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open the flows of slot %d: %w", slot, err)
	}
	return flows, nil
}

// dropFlows takes the map of flows from a slot that no port has any more.
func (d *Datapath) dropFlows(slot uint32) error {
	if err := d.maps.FlowsV2.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("drop the flows of slot %d: %w", slot, err)
	}
	return nil
}

// clearMemory ends the flows of a slot and forgets its fragments, before another port gets it.
func (d *Datapath) clearMemory(slot uint32) error {
	for in := range uint8(2) {
		for place := range uint8(fragmentPlaces) {
			err := d.maps.FragmentsV2.Delete(coreFragmentKey{Slot: slot, In: in, Place: place})
			if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget the fragments of slot %d: %w", slot, err)
			}
		}
	}
	return d.endFlows(slot)
}

// endFlows ends the flows of a slot.
func (d *Datapath) endFlows(slot uint32) error {
	flows, err := d.flowsOf(slot)
	if err != nil || flows == nil {
		return err
	}
	defer flows.Close()
	return sweepKeys[coreFlowKey, coreFlow](flows, func(*coreFlowKey) bool { return false })
}

// judgeBy changes what a port is judged by, with one store; a port that is to pass less is closed before. Connections that were
// under way before are adopted by the first rules that open flows.
func (d *Datapath) judgeBy(now *port, t *table, p Port) error {
	slot, gate, word := now.value.Slot, p.Gate, uint64(0)
	if t != nil {
		word = t.word()
		if p.Handover {
			word |= policyHandover
		}
		if p.Trunk {
			word |= policyTrunk
		}
	}
	before, _ := d.shared.loadGate(slot)
	if t != nil && t.value.Stateful != 0 {
		if err := d.ensureFlows(slot, p.Connections); err != nil {
			return err
		}
		switch {
		case gate == Staged && before != Open:
			d.shared.adoptFor(slot, adoptStaged)
		case before == Staged && gate == Open, before == Open && d.shared.policyWord(slot)&policyStateful == 0:
			d.shared.adoptFor(slot, adoptRunning)
		}
	}
	if now := d.shared.policyWord(slot); word&policyHandover != 0 && now != 0 {
		d.shared.setPolicyWord(slot, now|policyHandover) // before anything is sent on
	}
	if gate != Staged { // which the guest's first frame opens anyway
		d.closeFor(now, p)
	}
	if d.shared.policyWord(slot) != word {
		d.shared.setPolicyWord(slot, word)
	}
	if word&policyStateful != 0 {
		return nil
	}
	return d.endFlows(slot) // no packet asks for them now, and none may find them under the next rules (ADR 10, 7)
}

// closeFor closes a port that cannot get all of its new settings, where they pass less than now.
func (d *Datapath) closeFor(now *port, p Port) {
	if now == nil {
		return
	}
	if gate, epoch := d.shared.loadGate(now.value.Slot); p.Gate.Openness() < gate.Openness() {
		d.shared.setGate(now.value.Slot, p.Gate, max(epoch, p.Epoch), fabric.Revision(now.value.Generation))
	}
}

// adoptFor takes connections on that are under way, for a while; nothing ends it earlier.
func (s shared) adoptFor(slot uint32, d time.Duration) {
	atomic.StoreUint64(&s.slots[slot].Adopt, monotonic()+uint64(d))
}

// forgetPolicy leaves a slot without rules, limits and adoption.
func (s shared) forgetPolicy(slot uint32) {
	atomic.StoreUint64(&s.slots[slot].Policy, 0)
	atomic.StoreUint64(&s.slots[slot].Adopt, 0)
}
