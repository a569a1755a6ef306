package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// HostEnds are this host's own devices on internal switches.
type HostEnds interface {
	HostEnds() (map[fabric.SwitchID]string, error)
	// SetHostEnd reports whether it changed anything.
	SetHostEnd(e nic.HostEnd) (bool, error)
	DropHostEnd(device string) error
	// Networks are the prefixes that the host has an address or a route for, save those behind some devices.
	Networks(without []string) ([]netip.Prefix, error)
}

// HostEnds asks the kernel.
func (kernelDevices) HostEnds() (map[fabric.SwitchID]string, error) { return nic.HostEnds() }

// SetHostEnd makes a device, or puts it right.
func (kernelDevices) SetHostEnd(e nic.HostEnd) (bool, error) { return nic.SetHostEnd(e) }

// DropHostEnd removes a device with its other end.
func (kernelDevices) DropHostEnd(device string) error { return nic.Delete(device) }

// Networks asks the kernel.
func (kernelDevices) Networks(without []string) ([]netip.Prefix, error) { return nic.Networks(without) }

// networks are what this host tells of the networks it is on, the widest ones; nil when there are none.
func (a *Agent) networks() ([]netip.Prefix, error) {
	if a.machine.HostEnds == nil {
		return nil, nil
	}
	ends, err := a.machine.HostEnds.HostEnds()
	if err != nil {
		return nil, err
	}
	found, err := a.machine.Networks(slices.Collect(maps.Values(ends)))
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if len(found) > fabric.MaxNetworks {
		slices.SortStableFunc(found, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
		found = found[:fabric.MaxNetworks]
	}
	return found, nil
}

// keepHostPorts has this host on every internal switch of the fabric (ADR 14): its port, made through a server host where it is
// missing, and its device. It looks whenever something has changed, and each second, because nobody tells of an address that was
// taken away.
func (a *Agent) keepHostPorts(ctx context.Context) error {
	if a.machine.HostEnds == nil { // a machine in memory
		return nil
	}
	var left time.Time // when it was last looked for switches to leave, which takes a list of all devices
	for ctx.Err() == nil {
		change := a.news.wait()
		if snap := a.keeper.snapshot(); snap != nil {
			leave := time.Since(left) >= checkEvery
			if leave {
				left = time.Now()
			}
			a.lookAtHostPorts(ctx, snap, leave)
		}
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(checkEvery):
		}
	}
	return nil
}

func (a *Agent) lookAtHostPorts(ctx context.Context, snap *fabric.Snapshot, leave bool) {
	for _, name := range slices.Sorted(maps.Keys(snap.Switches)) {
		sw := snap.Switches[name]
		if !joins(sw, a.config.Host) {
			continue
		}
		err := a.joinSwitch(ctx, snap, sw)
		if ctx.Err() != nil {
			return
		}
		a.trouble(joining+string(name), err)
	}
	if leave {
		a.trouble("host ports", a.leaveSwitches(ctx, snap))
	}
	a.forgetTroubles(joining, func(name string) bool {
		sw := snap.Switches[fabric.SwitchID(name)]
		return joins(sw, a.config.Host)
	})
}

// joins reports whether a host has a port of its own on a switch.
func joins(sw *fabric.Switch, host fabric.HostID) bool {
	return sw != nil && sw.Spec.Type == fabric.Internal && sw.Spec.VNI != 0 && sw.Covers(host)
}

// joined is the newest revision up to which this host is on every internal switch: a switch is in force here when the host's own port
// is plugged in. One that the host cannot join keeps nothing else back; the status says why.
func (a *Agent) joined(newest fabric.Revision) fabric.Revision {
	snap := a.keeper.snapshot()
	if a.machine.HostEnds == nil || snap == nil {
		return newest
	}
	for id, sw := range snap.Switches {
		if !joins(sw, a.config.Host) {
			continue
		}
		if _, attached := a.keeper.attachment(fabric.HostPort(a.config.Host, id)); !attached && !a.troubled(joining+string(id)) {
			newest = min(newest, sw.Metadata.Revision-1)
		}
	}
	return newest
}

// joining is what the subject of a trouble with a switch begins with.
const joining = "host port on "

// joinSwitch has this host on one switch.
func (a *Agent) joinSwitch(ctx context.Context, snap *fabric.Snapshot, sw *fabric.Switch) error {
	id := fabric.SwitchID(sw.Metadata.Name)
	name := fabric.HostPort(a.config.Host, id)
	port := snap.Ports[name]
	if port == nil || snap.Locations[name].Host != a.config.Host {
		if latest := a.Latest(); latest != nil && latest.Revision > snap.Revision && latest.Locations[name].Host == a.config.Host {
			return nil // it is on its way
		}
		ctx, cancel := context.WithTimeout(ctx, attachTimeout)
		defer cancel()
		_, err := a.reports.ReportLocation(ctx, api.LocationReport{Host: a.config.Host, Act: api.Join, Port: name, Switch: id})
		if err != nil {
			return fmt.Errorf("join switch %s with this host's own port: %w", id, err)
		}
		return nil
	}
	if !port.IsHost() || port.Spec.Switch != id {
		return fmt.Errorf("join switch %s: a port on switch %s is called %s: delete that", id, port.Spec.Switch, name)
	}
	end := hostEnd(snap, sw, port)
	at, attached := a.keeper.attachment(name)
	if !attached {
		if err := a.apart(sw); err != nil {
			return err
		}
	}
	changed, err := a.machine.SetHostEnd(end)
	if changed && attached && err == nil {
		a.emit(a.event("host-port.repaired", "port/"+string(name), fmt.Sprintf(
			"The device %s of host %s on switch %s was not as it must be, and is put right.", end.Device, a.config.Host, id)))
		a.keeper.devicesChanged(ctx)
	}
	if err != nil || attached && at.Device == end.Port {
		return err
	}
	a.log.Info("the host joins a switch", tracing.KeyPort, name, tracing.KeyDevice, end.Device)
	return a.keeper.change(ctx, func(l *local) error {
		want := attachment{Attachment: plan.Attachment{Device: end.Port, Kind: datapath.HostEnd}}
		_, err := l.plug(name, want, a.keeper.present)
		return err
	})
}

// apart refuses a switch whose subnet is, on this host, another network's: what the host sends there would go to the switch. The
// store refuses what it knows of; a host that comes later is on its own.
func (a *Agent) apart(sw *fabric.Switch) error {
	networks, err := a.networks()
	if err != nil {
		return err
	}
	for _, subnet := range sw.Spec.Subnets {
		if i := slices.IndexFunc(networks, subnet.Overlaps); i >= 0 {
			return fmt.Errorf("join switch %s: its subnet %s overlaps %s, which this host has an address or a route for: change one of them; until then its guests here have no gateway",
				sw.Metadata.Name, subnet, networks[i])
		}
	}
	return nil
}

// leaveSwitches takes this host off the switches that are gone, or are not internal any more.
func (a *Agent) leaveSwitches(ctx context.Context, snap *fabric.Snapshot) error {
	have, err := a.machine.HostEnds.HostEnds()
	if err != nil {
		return err
	}
	for id, device := range have {
		if sw := snap.Switches[id]; joins(sw, a.config.Host) {
			continue
		}
		if err := a.unplug(ctx, fabric.HostPort(a.config.Host, id), nil); err != nil {
			return err
		}
		if err := a.machine.DropHostEnd(device); err != nil {
			return errors.Join(fmt.Errorf("leave switch %s", id), err)
		}
		a.log.Info("the host has left a switch", "switch", id, tracing.KeyDevice, device)
	}
	return nil
}

// hostEnd is what the device of a host's port must be.
func hostEnd(snap *fabric.Snapshot, sw *fabric.Switch, port *fabric.Port) nic.HostEnd {
	id := fabric.SwitchID(sw.Metadata.Name)
	end := nic.HostEnd{
		Device: fabric.HostDevice(id), Port: fabric.HostPortDevice(id), Switch: id, MAC: port.Spec.MAC, MTU: snap.SwitchMTU(sw),
		Gateways: sw.Gateways(),
	}
	for _, addr := range port.Spec.Addresses {
		if i := slices.IndexFunc(sw.Spec.Subnets, func(p netip.Prefix) bool { return p.Contains(addr) }); i >= 0 {
			end.Addresses = append(end.Addresses, netip.PrefixFrom(addr, sw.Spec.Subnets[i].Bits()))
		}
	}
	if end.MTU >= fabric.MinMTU6 {
		end.Gateways = append(end.Gateways, fabric.GatewayLinkLocal(sw.Spec.VNI))
	}
	end.Neighbors = neighbors(snap, port)
	return end
}

// neighbors are the other stations of the segment that the host's port is on.
func neighbors(snap *fabric.Snapshot, own *fabric.Port) map[netip.Addr]fabric.MAC {
	found := map[netip.Addr]fabric.MAC{}
	at := snap.Segments(own).Sends
	for _, p := range snap.Ports {
		if p.Spec.Switch != own.Spec.Switch || p == own {
			continue
		}
		if on := snap.Segments(p); !slices.Contains(on.Heard(), at) {
			continue
		}
		found[p.Spec.MAC.LinkLocal()] = p.Spec.MAC
		for _, addr := range p.Spec.Addresses {
			found[addr] = p.Spec.MAC
		}
	}
	return found
}

// ofGuest refuses to plug or unplug by hand what the host plugs itself.
func (a *Agent) ofGuest(port fabric.PortID) error {
	snap := a.Latest()
	if snap == nil || snap.Ports[port] == nil || !snap.Ports[port].IsHost() {
		return nil
	}
	p := snap.Ports[port]
	return fmt.Errorf("%s is the port of host %s itself, which plugs it by itself into switch %s: %w", port, p.Spec.Host, p.Spec.Switch, fabric.ErrConflict)
}
