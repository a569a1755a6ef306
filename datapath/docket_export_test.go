package datapath

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Docket is what the core found about the packet that it judged last on a CPU.
type Docket = coreJudgement

// Flow and FlowKey are a flow of a port as the core holds it.
type (
	Flow    = coreFlow
	FlowKey = coreFlowKey
)

// Fragment and FragmentKey are what the core remembers of a first fragment.
type (
	Fragment    = coreFragment
	FragmentKey = coreFragmentKey
)

// CoreAddress is an address as the core holds it.
func CoreAddress(a netip.Addr) coreAddress { return toCore(a) }

// SlotOf is the slot of the port on a device.
func (d *Datapath) SlotOf(device string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ports[device].value.Slot
}

// Adopting reports whether connections of a slot are adopted now.
func (d *Datapath) Adopting(slot uint32) bool { return d.shared.slots[slot].Adopt > monotonic() }

// SetAdopting has a slot adopt connections from now on, or no longer.
func (d *Datapath) SetAdopting(slot uint32, on bool) {
	d.shared.slots[slot].Adopt = monotonic() - 1<<30 // it is over, by the coarse clock too
	if on {
		d.shared.slots[slot].Adopt = ^uint64(0)
	}
}

// SetBudgets gives a slot enough for group frames, and enough or nothing for answers, for a while.
func (d *Datapath) SetBudgets(slot uint32, answers bool) {
	s := &d.shared.slots[slot]
	if s.Storm, s.Told = 0, 0; !answers {
		s.Told = monotonic() + 1<<40
	}
}

// Mark is what the core marks a frame with that it hands to the device of a slot.
func (d *Datapath) Mark(slot uint32) uint32 { return d.shared.config.Mark | slot }

// Members are the slots of a switch's ports here, in the order in which they get copies of a group frame.
func (d *Datapath) Members(vni fabric.VNI) ([]uint32, error) {
	var n coreNetwork
	if err := d.maps.NetworksV2.Lookup(uint32(vni), &n); err != nil {
		return nil, err
	}
	slots := make([]uint32, n.PortsCount)
	for i := range slots {
		slots[i] = uint32(n.Ports[i])
	}
	return slots, nil
}

// Judges reports whether the packets of a slot's port are judged in a direction at all: those that its guest sends, or receives.
func (d *Datapath) Judges(slot uint32, in bool) bool {
	bit := uint64(policyOut)
	if in {
		bit = policyIn
	}
	return d.shared.policyWord(slot)&bit != 0
}

// Witness is the core's programs loaded once more, on the same maps: the same instructions, but their docket is one for all
// CPUs and can be read in memory while they run on one.
type Witness struct {
	Programs map[string]*ebpf.Program
	Docket   *Docket
	maps     *ebpf.Collection
	memory   []byte
	poison   []byte
}

// Witness loads the programs once more.
func (d *Datapath) Witness() (w *Witness, err error) {
	spec, err := coreSpec()
	if err != nil {
		return nil, err
	}
	docket := spec.Maps["docket"]
	docket.Type, docket.Flags = ebpf.Array, docket.Flags|unix.BPF_F_MMAPABLE
	w = &Witness{}
	if w.maps, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: d.maps.byName()}); err != nil {
		return nil, fmt.Errorf("load the programs once more: %w", err)
	}
	w.Programs = w.maps.Programs
	if w.memory, err = mapArray(w.maps.Maps["docket"], int(docket.ValueSize*docket.MaxEntries)); err != nil {
		w.maps.Close()
		return nil, err
	}
	w.memory, w.Docket = w.memory[:docket.ValueSize*docket.MaxEntries], (*Docket)(unsafe.Pointer(&w.memory[0]))
	w.poison = make([]byte, len(w.memory))
	for i := range int(docket.MaxEntries) {
		poisonOf(reflect.TypeFor[Docket](), w.poison[i*int(docket.ValueSize):])
	}
	return w, nil
}

// Poison fills the docket with what nobody wrote there: programs may read only what they have written for the packet at hand,
// and the padding of keys, which is zero from the start and never written.
func (w *Witness) Poison() { copy(w.memory, w.poison) }

// poisonOf marks the bytes of a value's fields that are not padding.
func poisonOf(t reflect.Type, to []byte) {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); !strings.HasPrefix(f.Name, "Zero") {
				poisonOf(f.Type, to[f.Offset:])
			}
		}
	case reflect.Array:
		for i := range t.Len() {
			poisonOf(t.Elem(), to[uintptr(i)*t.Elem().Size():])
		}
	default:
		for i := range t.Size() {
			to[i] = 0xa5
		}
	}
}

// Close lets go of the programs.
func (w *Witness) Close() error {
	w.maps.Close()
	return unix.Munmap(w.memory[:cap(w.memory)])
}
