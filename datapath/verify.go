package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// routesPerVerify bounds how many peers' routes one Verify asks for; a larger fleet's are asked for in turn.
const routesPerVerify = 64

// Verify compares what is attached with what must be, and puts back what is missing; call it every second. Each repair, each
// vanished device and each foreign program ahead of the core is an Event. Until a repair the sentinel keeps a port closed.
func (d *Datapath) Verify(ctx context.Context) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("verify the datapath: %w", err)
	}
	defer d.mu.Unlock()
	devices, err := nic.Devices()
	if err != nil {
		return fmt.Errorf("verify the datapath: %w", err)
	}
	d.verifyOpened()
	errs := []error{d.verifyHost(devices), d.verifyPorts(devices), d.verifyUplinks(devices), d.verifyMirrors(devices), d.verifyPaced(), d.verifyExits(), d.verifyShaper(devices), d.verifyPins(), d.verifyRoutes(), d.sweepProbes(monotonic()), d.prepareFlows()}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("verify the datapath: %w", err)
	}
	return nil
}

// verifyHost finds the host's own devices again when they were made anew, and checks their programs.
func (d *Datapath) verifyHost(devices map[int]nic.Device) error {
	if _, there := devices[d.tunnel.Index]; !there {
		again, err := nic.EnsureVXLAN(TunnelDevice)
		if err != nil {
			return err
		}
		d.moveHost(&d.tunnel, again)
	}
	if now := devices[d.underlay.Index]; now.Name != d.underlay.Name {
		again, err := nic.Find(d.underlay.Name)
		if err != nil {
			return fmt.Errorf("the underlay is gone: %w", err)
		}
		d.moveHost(&d.underlay, again)
	}
	d.shared.config.Tunnel, d.shared.config.Underlay = uint32(d.tunnel.Index), uint32(d.underlay.Index)
	if err := d.verifyAttachments(d.hostAttachments(), ""); err != nil {
		return err
	}
	if d.lowered[d.tunnel.Index] {
		return nil
	}
	return nic.SetUp(d.tunnel.Name)
}

// moveHost forgets the programs of a device that is gone and takes the one that has its name now.
func (d *Datapath) moveHost(old *nic.Device, now nic.Device) {
	var gone []attachment
	for key := range d.links {
		if key.ifindex == old.Index {
			gone = append(gone, attachment{key, old.Name})
		}
	}
	if err := d.detach(gone); err != nil {
		d.log.Warn("programs of a vanished device stay pinned", "device", old.Name, "error", err)
	}
	*old = now
	d.emit(Event{Kind: Repaired, Time: time.Now(), Device: now.Name, Message: fmt.Sprintf("The device %s was made anew; the core is on it again.", now.Name)})
}

func (d *Datapath) verifyPorts(devices map[int]nic.Device) error {
	for device, p := range maps.Clone(d.ports) {
		name := fabric.PortID(text(p.value.Name[:]))
		if now := devices[p.ifindex]; now.Name != device {
			if err := d.loseDevice(device, p, now); err != nil {
				return err
			}
			d.emit(Event{Kind: DeviceGone, Time: time.Now(), Port: name, Device: device, Message: fmt.Sprintf("The device %s of port %s is gone.", device, name)})
			continue
		}
		d.shared.setOut(p.value.Slot, p.value.home(), d.way(p.value.Slot, PortKind(p.value.Kind), devices[p.ifindex]), p.ifindex)
		if err := d.verifyAttachments(portAttachments(device, p.ifindex), name); err != nil {
			return err
		}
	}
	return nil
}

// verifyAttachments checks the programs of a port, or of the host. A device with nothing of ours left on one of its sides is
// lowered until there is again: without the core it would be a door into the host. The underlay is not: the host needs it, and
// VXLAN that ul_in misses still ends in vx_in.
func (d *Datapath) verifyAttachments(as []attachment, port fabric.PortID) error {
	type side struct {
		ifindex int
		out     bool
	}
	guarded, devices := map[side]bool{}, map[int]string{}
	for _, a := range as {
		there, err := d.verifyAttachment(a, port)
		if err != nil {
			return err
		}
		at := side{a.ifindex, a.out()}
		guarded[at] = guarded[at] || there || a.open()
		devices[a.ifindex] = a.device
	}
	for ifindex, device := range devices {
		_, hasOut := guarded[side{ifindex, true}]
		closed := guarded[side{ifindex, false}] && (!hasOut || guarded[side{ifindex, true}])
		switch {
		case !closed:
			d.lowered[ifindex] = true
			if err := nic.SetDownIfThere(device); err != nil {
				return err
			}
		case d.lowered[ifindex]:
			delete(d.lowered, ifindex)
			if err := nic.SetUp(device); err != nil {
				return err
			}
		}
	}
	return nil
}

// loseDevice removes a port whose device has vanished, or lives on under another name and is lowered there.
func (d *Datapath) loseDevice(device string, p *port, now nic.Device) error {
	if now.Name != "" {
		if err := nic.SetDown(now.Name); err != nil {
			return err
		}
	}
	return d.removePort(device)
}

// verifyAttachment checks that a program is on its device and in its place among the others, and puts it back unless it was
// taken away too often. It reports whether it is there now.
func (d *Datapath) verifyAttachment(a attachment, port fabric.PortID) (there bool, err error) {
	direction := ebpf.AttachTCXIngress
	if a.out() {
		direction = ebpf.AttachTCXEgress
	}
	attached, err := link.QueryPrograms(link.QueryOptions{Target: a.ifindex, Attach: direction})
	if err != nil {
		return false, fmt.Errorf("look at the programs of %s: %w", a.device, err)
	}
	place := slices.IndexFunc(attached.Programs, func(p link.AttachedProgram) bool {
		id, ok := p.LinkID()
		return ok && id == d.links[a.linkKey].id
	})
	if there, err = d.defend(a, port, place >= 0); err != nil || !there {
		return there, err
	}
	if place > 0 && a.core() && d.isForeign(attached.Programs[:place]) && d.foreign[a.linkKey] != attached.Revision {
		d.foreign[a.linkKey] = attached.Revision
		message := fmt.Sprintf("Another program is ahead of %s on %s; it may let frames pass the core by.", a.program, a.device)
		d.log.Warn(message, "port", port, "device", a.device)
		d.emit(Event{Kind: ForeignProgram, Time: time.Now(), Port: port, Device: a.device, Message: message})
	}
	return true, nil
}

// isForeign reports whether one of the programs is not the core's.
func (d *Datapath) isForeign(programs []link.AttachedProgram) bool {
	mine := map[link.ID]bool{}
	for _, l := range d.links {
		mine[l.id] = true
	}
	return slices.ContainsFunc(programs, func(p link.AttachedProgram) bool {
		id, ok := p.LinkID()
		return !ok || !mine[id]
	})
}

// defend takes the next step in the fight over a program's place, and reports whether the program is there after it.
func (d *Datapath) defend(a attachment, port fabric.PortID, present bool) (there bool, err error) {
	was := d.fights[a.linkKey]
	now := time.Now()
	next, repair := was.step(present, now)
	if repair {
		if err := d.attach(a); err != nil {
			return false, err // the next look tries again, and is not another removal
		}
		message := fmt.Sprintf("The program %s was missing from %s and is attached again.", a.program, a.device)
		d.log.Warn(message, "port", port, "device", a.device)
		d.emit(Event{Kind: Repaired, Time: now, Port: port, Device: a.device, Message: message})
	}
	if next.truces > was.truces {
		message := d.contest(a.linkKey, next).String()
		d.log.Error(message, "port", port, "device", a.device)
		d.emit(Event{Kind: Contested, Time: now, Port: port, Device: a.device, Message: message})
	}
	if d.fights[a.linkKey] = next; len(next.lost) == 0 {
		delete(d.fights, a.linkKey)
	}
	return present || repair, nil
}

// verifyPins puts back names that somebody has removed: without them the core would end with this process.
func (d *Datapath) verifyPins() error {
	links, err := d.pins.names("links")
	if err != nil {
		return err
	}
	for key, l := range d.links {
		if !links[key.file()] {
			if err := d.pins.pin(l, "links", key.file()); err != nil {
				return err
			}
		}
	}
	programs, err := d.pins.names("progs")
	if err != nil {
		return err
	}
	for name, p := range d.programs {
		if !programs[name] {
			if err := d.pins.pin(p, "progs", name); err != nil {
				return err
			}
		}
	}
	pinned, err := d.pins.names("maps")
	if err != nil {
		return err
	}
	for name, m := range d.maps.byName() {
		if !pinned[name] {
			if err := d.pins.pin(m, "maps", name); err != nil {
				return err
			}
		}
	}
	return nil
}

// names lists what is pinned of one kind.
func (p pins) names(kind string) (map[string]bool, error) {
	dir := filepath.Join(p.dir, kind)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	names := make(map[string]bool, len(entries))
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names, err
}

// verifyRoutes asks the kernel for the way to some peers, in turn, and writes what has changed.
func (d *Datapath) verifyRoutes() error {
	if len(d.routed) == 0 {
		d.routed = slices.Collect(maps.Keys(d.peers))
	}
	n := min(routesPerVerify, len(d.routed))
	for _, vtep := range d.routed[:n] {
		p := d.peers[vtep]
		if p == nil {
			continue
		}
		changed, err := p.route(vtep)
		if err != nil && !errors.Is(err, nic.ErrNoRoute) {
			return err
		}
		if changed {
			if err := d.writePeer(p); err != nil {
				return fmt.Errorf("write the way to %s: %w", vtep, err)
			}
		}
	}
	d.routed = d.routed[n:]
	return nil
}
