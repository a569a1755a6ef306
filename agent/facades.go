package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// Facades are the bridges of this host that stand for switches.
type Facades interface {
	Facades() (map[fabric.SwitchID]nic.Facade, error)
	SetFacade(sw fabric.SwitchID, mtu int) (string, error)
	DropFacade(f nic.Facade) error
}

// Facades asks the kernel.
func (kernelDevices) Facades() (map[fabric.SwitchID]nic.Facade, error) { return nic.Facades() }

// SetFacade makes a bridge, or puts it right.
func (kernelDevices) SetFacade(sw fabric.SwitchID, mtu int) (string, error) {
	return nic.SetFacade(sw, mtu)
}

// DropFacade removes a bridge.
func (kernelDevices) DropFacade(f nic.Facade) error { return nic.Delete(f.Bridge) }

// keepFacades has a façade bridge for every switch that is on this host, and plugs in what hypervisors put there.
// It looks whenever something has changed, and each second, because nobody tells of a bridge that was raised.
func (a *Agent) keepFacades(ctx context.Context) error {
	if a.machine.Facades == nil { // a machine in memory
		return nil
	}
	for ctx.Err() == nil {
		change := a.news.wait()
		begun := time.Now()
		a.lookAtFacades(ctx)
		pause(ctx, afterLook(begun))
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(checkEvery):
		}
	}
	return nil
}

func (a *Agent) lookAtFacades(ctx context.Context) {
	snap := a.keeper.snapshot()
	if snap == nil {
		return
	}
	have, err := a.machine.Facades.Facades()
	if err == nil {
		err = errors.Join(a.setFacades(snap, have), a.dropFacades(snap, have))
	}
	a.trouble("facades", err)
	for sw, f := range have {
		a.adopt(ctx, snap, sw, f)
	}
	for _, port := range a.keeper.orphans() {
		a.trouble("give up port "+string(port), a.giveUp(ctx, port))
	}
}

// setFacades makes what is missing, and lowers what somebody has raised: a raised bridge would forward past the core.
func (a *Agent) setFacades(snap *fabric.Snapshot, have map[fabric.SwitchID]nic.Facade) error {
	var all error
	for name, sw := range snap.Switches {
		if !sw.Covers(a.config.Host) {
			continue
		}
		mtu := snap.SwitchMTU(sw)
		f, there := have[name]
		if there && !f.Up && f.MTU == mtu {
			continue
		}
		if f.Up {
			a.emit(a.event("facade.lowered", "switch/"+string(name), fmt.Sprintf(
				"Somebody raised the bridge %s on host %s; it is lowered again: raised, it would forward past the switch.", f.Bridge, a.config.Host)))
		}
		_, err := a.machine.SetFacade(name, mtu)
		all = errors.Join(all, err)
	}
	return all
}

// dropFacades removes the bridges of switches that are gone, or not on this host. One that still carries a
// device stays, and stays down: its switch may have been renamed.
func (a *Agent) dropFacades(snap *fabric.Snapshot, have map[fabric.SwitchID]nic.Facade) error {
	var all error
	for name, f := range have {
		switch sw := snap.Switches[name]; {
		case sw != nil && sw.Covers(a.config.Host):
		case len(f.Plugged) == 0:
			all = errors.Join(all, a.machine.DropFacade(f))
		case f.Up:
			_, err := a.machine.SetFacade(name, f.MTU)
			all = errors.Join(all, err)
		}
	}
	return all
}

// adopt plugs in the devices that somebody has put on a façade. A hypervisor gives the tap the guest's MAC with another
// first octet (libvirt: fe), so the other five name the port; nothing is guessed when two ports fit.
func (a *Agent) adopt(ctx context.Context, snap *fabric.Snapshot, sw fabric.SwitchID, f nic.Facade) {
	for device, plugged := range f.Plugged {
		port, found := portOf(snap, sw, plugged.MAC)
		if snap.Switches[sw] == nil && a.keeper.carries(device) {
			a.trouble("adopt "+device, nil) // the switch has been renamed since it was plugged in
			continue
		}
		if !found {
			a.trouble("adopt "+device, fmt.Errorf("the device %s on bridge %s belongs to no port of switch %s: create a port with the guest's MAC, or let libvirt have it made: weft integrate libvirt", device, f.Bridge, sw))
			continue
		}
		now, attached := a.keeper.attachment(port)
		if attached && now.Device == device {
			a.trouble("adopt "+device, nil)
			continue
		}
		kind := api.Tap
		if plugged.Veth {
			kind = api.Veth
		}
		var err error
		if move := a.arriving(port); move != "" {
			err = a.arrivals.plugArriving(ctx, port, device, move)
		} else {
			err = a.attachAdopted(ctx, port, api.Attachment{Device: device, Kind: kind})
		}
		a.trouble("adopt "+device, err)
		if err == nil {
			a.emit(a.event("port.adopted", "port/"+string(port), fmt.Sprintf("Port %s was plugged in on host %s as %s, found on bridge %s.", port, a.config.Host, device, f.Bridge)))
		}
	}
}

// attachAdopted plugs in a device that goes when its hypervisor takes it away.
func (a *Agent) attachAdopted(ctx context.Context, port fabric.PortID, how api.Attachment) error {
	if _, err := a.Attach(ctx, port, how); err != nil {
		return err
	}
	return a.keeper.change(ctx, func(l *local) error {
		if at, there := l.Attachments[port]; there && at.Device == how.Device {
			at.Adopted = true
			l.Attachments[port] = at
		}
		return nil
	})
}

// orphans are the ports whose adopted devices are gone, and that no move needs here.
func (k *keeper) orphans() (ports []fabric.PortID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for port, at := range k.local.Attachments {
		_, handed := k.local.Handoffs[port]
		if at.Adopted && k.present[at.Device] == 0 && !handed && k.local.Staged[port] == "" {
			ports = append(ports, port)
		}
	}
	return ports
}

// portOf is the one port of the switch whose MAC ends as the device's.
func portOf(snap *fabric.Snapshot, sw fabric.SwitchID, mac fabric.MAC) (found fabric.PortID, one bool) {
	n := 0
	for name, port := range snap.Ports {
		if port.Spec.Switch == sw && !port.IsHost() && bytes.Equal(port.Spec.MAC[1:], mac[1:]) {
			found = name
			n++
		}
	}
	return found, n == 1
}
