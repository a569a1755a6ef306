package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// port is a port with a device here: its entry in the kernel.
type port struct {
	ifindex int
	value   corePort
}

// putPort brings the entry of a device to p. A new device gets its programs before it is raised; whatever it was before,
// it is never open without them.
func (d *Datapath) putPort(device string, p Port, mtus map[fabric.VNI]uint16) error {
	if err := p.Check(device); err != nil {
		return err
	}
	found, err := nic.Find(device)
	if err != nil {
		return fmt.Errorf("put port %s: %w", p.Name, err)
	}
	now := d.ports[device]
	if now != nil && now.ifindex != found.Index {
		if err := d.removePort(device); err != nil {
			return err
		}
		now = nil
	}
	if now == nil {
		if now, err = d.newPort(found); err != nil {
			return fmt.Errorf("put port %s on %s: %w", p.Name, device, errors.Join(err, d.abandon(found)))
		}
	} else if err := d.refuseOld(now, p); err != nil {
		return err
	} else if err := d.renew(now, p); err != nil {
		return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
	}
	if gate, _ := d.shared.loadGate(now.value.Slot); p.Gate == Staged && gate != Staged && gate != Open {
		// The port comes from elsewhere, with all that is left of what its rules have met and let pass here before in its bags.
		if err := errors.Join(d.clearMemory(now.value.Slot), d.clearHits(now.value.Slot)); err != nil {
			return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
		}
		d.shared.refill(now.value.Slot)
	}
	was := now.value.home()
	table, err := d.judgedBy(p)
	if err != nil {
		d.closeFor(now, p)
		return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
	}
	if err := d.judgeBy(now, table, p); err != nil {
		d.closeFor(now, p)
		return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
	}
	d.leastBy(now.value.Slot, p.Limits)
	d.paceBy(now.value.Slot, found, p)
	d.shared.limitBy(now.value.Slot, p.Limits)
	if err := d.mirrorBy(now.value.Slot, p.Mirrors); err != nil {
		return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
	}
	hadMACs := now.value.Guards&guardMACs != 0
	now.value = p.toCore(device, now.value.Slot, mtus[p.VNI])
	if err := d.install(now, found, p, was); err != nil {
		return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
	}
	if hadMACs || now.value.Guards&guardMACs != 0 {
		if err := d.trimMACs(now.value.Slot, p.MACs); err != nil {
			return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
		}
	}
	return nil
}

// refuseOld keeps a port from being opened by an older epoch than it was held under; closing is always allowed.
func (d *Datapath) refuseOld(now *port, p Port) error {
	gate, epoch := d.shared.loadGate(now.value.Slot)
	if p.Epoch < epoch && p.Gate.Openness() > gate.Openness() {
		return fmt.Errorf("put port %s on %s with epoch %d: the kernel has epoch %d: %w", p.Name, text(now.value.Device[:]), p.Epoch, epoch, fabric.ErrStaleEpoch)
	}
	return nil
}

// newPort puts the core on a device, which closes it before anything else can fail, and takes a slot for it.
func (d *Datapath) newPort(device nic.Device) (*port, error) {
	for former, p := range d.ports {
		if p.ifindex == device.Index { // the device had another name
			if err := d.removePort(former); err != nil {
				return nil, err
			}
		}
	}
	for _, a := range coreAttachments(device.Name, device.Index) {
		if err := d.attach(a); err != nil {
			return nil, err
		}
	}
	slot, ok := d.slots.take()
	if !ok {
		return nil, fmt.Errorf("this host has %d ports already, the most the core holds", maxPorts-firstSlot)
	}
	d.shared.setOut(slot, 0, 0, 0)
	d.shared.setGate(slot, Closed, 0, 0)
	d.shared.forgetPolicy(slot)
	d.shared.refill(slot)
	if err := errors.Join(d.clearCounters(slot), d.clearHits(slot), d.clearMemory(slot), d.clearSegments(slot)); err != nil {
		d.slots.release(slot)
		return nil, err
	}
	if err := nic.DisableIPv6(device.Name); err != nil {
		d.log.Warn("the host's IPv6 stays on a port's device; what it sends there is dropped", "device", device.Name, "error", err)
	}
	p := &port{ifindex: device.Index}
	p.value.Slot = slot
	d.ports[device.Name] = p
	return p, nil
}

// renew closes a device that is to carry another port, or the same one on another switch, and ends what its packets have
// left behind: no flow that the one has opened lets anything pass to the other.
func (d *Datapath) renew(now *port, p Port) error {
	name := fabric.PortID(text(now.value.Name[:]))
	slot := now.value.Slot
	if name == p.Name && fabric.VNI(now.value.Vni) == p.VNI && now.value.home() == p.home() {
		return nil
	}
	_, epoch := d.shared.loadGate(slot)
	if name != p.Name {
		epoch = 0
	}
	d.shared.setGate(slot, Closed, epoch, fabric.Revision(now.value.Generation))
	d.shared.forgetPolicy(slot)
	if err := d.grace(); err != nil {
		return err
	}
	errs := []error{d.clearMemory(slot)}
	if name != p.Name {
		d.shared.refill(slot)
		errs = append(errs, d.clearSegments(slot), d.clearHits(slot), d.clearCounters(slot), d.forgetSinks(slot))
	}
	return errors.Join(errs...)
}

// writePort replaces the port's settings as a whole, under a version that no other writing on this host has: by it a reader
// who finds the memory of the old ones in use again knows (is_stale in bpf/weft.c).
func (d *Datapath) writePort(p *port) error {
	p.value.Ifindex = uint32(p.ifindex)
	p.value.Version = atomic.AddUint64(&d.shared.slots[p.value.Slot].Version, 1)*maxPorts + uint64(p.value.Slot)
	return d.maps.PortsV1.Put(p.value.Ifindex, &p.value)
}

// abandon leaves a device that did not become a port: lowered, because without the core it would be a door into the host. One
// that cannot be lowered keeps the programs.
func (d *Datapath) abandon(device nic.Device) error {
	if err := nic.SetDownIfThere(device.Name); err != nil {
		return err
	}
	return d.detach(portAttachments(device.Name, device.Index))
}

// finishPort does what need not keep a port's first packet waiting: the sentinels behind the core, and room for the tunnel's
// header in what a container sends.
func (d *Datapath) finishPort(device string, p *port) error {
	for _, a := range portAttachments(device, p.ifindex) {
		if !d.fights[a.linkKey].until.IsZero() {
			continue // Verify puts it back
		}
		if err := d.attach(a); err != nil {
			return fmt.Errorf("guard the device of port %s: %w", text(p.value.Name[:]), err)
		}
	}
	if PortKind(p.value.Kind) == Tap {
		return nil
	}
	if err := nic.GiveHeadroom(device); err != nil {
		d.log.Info("a container's packets are copied once more than needed", "device", device, "error", err)
	}
	return nil
}

// install writes the port where the programs read it. What closes is written first, what opens last.
func (d *Datapath) install(now *port, device nic.Device, p Port, was fabric.VNI) error {
	slot := now.value.Slot
	gate, epoch := d.shared.loadGate(slot)
	if p.Gate.Openness() < gate.Openness() {
		d.shared.setGate(slot, p.Gate, p.Epoch, p.Generation)
	}
	if err := d.putMACs(slot, p.MACs); err != nil {
		return err
	}
	if err := d.writePort(now); err != nil {
		return err
	}
	d.shared.setOut(slot, p.home(), d.way(slot, p.Kind, device), device.Index)
	if gate != Open || epoch != p.Epoch { // else the guest's first frame has opened it under this epoch, and that is told
		d.expectOpened(now.ifindex, place{p.Name, device.Name}, p.Gate == Staged)
	}
	d.shared.setGate(slot, p.Gate, p.Epoch, p.Generation)
	if was != p.home() {
		if err := d.changeMembers(was, nil, []uint16{uint16(slot)}); err != nil {
			return err
		}
	}
	if err := d.changeMembers(p.home(), []uint16{uint16(slot)}, nil); err != nil {
		return err
	}
	if device.Up || d.lowered[device.Index] {
		return nil
	}
	return nic.SetUp(device.Name)
}

// way is how frames are handed to a device: straight into the other namespace where the kernel can (bpf_redirect_peer), or
// out of the device, which is where what is over a rate waits; to the host itself under its own MAC.
func (d *Datapath) way(slot uint32, kind PortKind, device nic.Device) int {
	if kind == HostEnd {
		return outHost
	}
	if kind == Veth && device.PeerElsewhere && !d.shared.isPaced(slot) {
		return outPeer
	}
	return outEgress
}

// removePort takes a port away. Its device is lowered first if it is still there: without the core it would be a door
// into the host.
func (d *Datapath) removePort(device string) error {
	p := d.ports[device]
	if p == nil {
		return nil
	}
	slot := p.value.Slot
	d.shared.setGate(slot, Closed, 0, 0)
	d.leastBy(slot, Limits{})
	if err := d.paceOut(slot, Limit{}); err != nil {
		d.log.Warn("what a port has sent waits longer than it need", "device", device, "error", err)
	}
	if found, err := nic.Find(device); err == nil && found.Index == p.ifindex {
		if err := errors.Join(nic.SetDown(device), d.unpace(slot, device)); err != nil {
			return err
		}
	}
	errs := []error{
		d.changeMembers(p.value.home(), nil, []uint16{uint16(slot)}),
		d.clearSegments(slot),
		d.forgetSlot(slot),
		d.forgetSinks(slot),
		d.detach(portAttachments(device, p.ifindex)),
	}
	if p.value.Guards&guardMACs != 0 {
		errs = append(errs, d.trimMACs(slot, MACs{}))
	}
	d.shared.setOut(slot, 0, 0, 0)
	d.shared.forgetPolicy(slot)
	if err := d.maps.PortsV1.Delete(uint32(p.ifindex)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, err)
	}
	errs = append(errs, d.dropFlows(slot))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove port %s from %s: %w", text(p.value.Name[:]), device, err)
	}
	delete(d.ports, device)
	d.expectOpened(p.ifindex, place{}, false)
	d.slots.release(slot)
	return nil
}

// toCore is the port as the programs hold it. The addresses keep their places up to the last valid one.
func (p Port) toCore(device string, slot uint32, mtu uint16) corePort {
	c := corePort{
		Epoch: uint64(p.Epoch), Generation: uint64(p.Generation), Slot: slot, Vni: uint32(p.VNI), Guards: uint32(p.Guards&guardMask) | p.MACs.bits() | p.Priority.bits(), Mtu: mtu,
		Kind: uint8(p.Kind), Mac: p.MAC, Home: uint32(p.home()), Flows: uint16(p.Connections / flowsUnit),
	}
	for i, a := range p.Addresses {
		if a.IsValid() {
			c.Addresses[i] = toCore(a)
			c.AddressesCount = uint8(i + 1)
		}
	}
	if p.Trunk {
		c.Guards |= guardTrunk
	}
	copy(c.Device[:], device)
	copy(c.Name[:], p.Name)
	return c
}

// fromCore is the reverse; the gate and its epoch are the slot's.
func (d *Datapath) portFromCore(c *corePort) (device string, p Port) {
	p = Port{
		Name: fabric.PortID(text(c.Name[:])), VNI: fabric.VNI(c.Vni), Kind: PortKind(c.Kind), MAC: c.Mac, Guards: GuardSet(c.Guards & guardMask),
		Epoch: fabric.Epoch(c.Epoch), Generation: fabric.Revision(c.Generation),
	}
	p.Gate, _ = d.shared.loadGate(c.Slot)
	p.Limits, p.Priority = d.shared.limitsOf(c.Slot), priorityFromCore(c.Guards)
	p.Mirrors = d.mirrorsOf(c.Slot)
	p.Connections = int(c.Flows) * flowsUnit
	p.Trunk = c.Guards&guardTrunk != 0
	if c.home() != p.VNI {
		p.Receives = c.home()
	}
	for i, a := range c.Addresses[:min(c.AddressesCount, MaxPortAddresses)] {
		p.Addresses[i] = fromCore(a)
	}
	return text(c.Device[:]), p
}

// text is a zero-terminated string.
func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}
