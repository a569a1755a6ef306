package datapath

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

// SlotOf is the slot of the port on a device.
func (d *Datapath) SlotOf(device string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ports[device].value.Slot
}

// Adopting reports whether connections of a slot are adopted now.
func (d *Datapath) Adopting(slot uint32) bool { return d.shared.slots[slot].Adopt > monotonic() }

// Judges reports whether the packets of a slot's port are judged in a direction at all: those that its guest sends, or receives.
func (d *Datapath) Judges(slot uint32, in bool) bool {
	bit := uint64(policyOut)
	if in {
		bit = policyIn
	}
	return d.shared.policyWord(slot)&bit != 0
}
