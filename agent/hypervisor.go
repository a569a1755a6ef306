package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
)

var _ server.Hypervisor = (*Agent)(nil)

// callTimeout is how long a hook may keep a hypervisor waiting; libvirt manages no other guest's start meanwhile.
const callTimeout = 15 * time.Second

// Call takes what the hypervisor's hook tells, and returns when the hypervisor may go on. NICs that are on no bridge of a switch
// are none of the fabric's.
func (a *Agent) Call(ctx context.Context, c api.HypervisorCall) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("not done after %s", callTimeout))
	defer cancel()
	if !a.await(ctx, func() bool { return a.Latest() != nil }) {
		return fmt.Errorf("%s %s: this host does not know the fabric's records yet: see 'weft status': %w", c.Act, c.VM, api.ErrUnavailable)
	}
	switch c.Act {
	case api.GuestReceive:
		return a.receive(ctx, c)
	case api.GuestEnded:
		a.libvirt.Ended(c.VM)
		return nil
	}
	act := map[api.HypervisorAct]func(context.Context, string, fabric.SwitchID, api.GuestNIC) error{
		api.GuestPlug: a.welcome, api.GuestBegin: a.plugIn, api.GuestRelease: a.free, api.GuestUnplug: a.free,
	}[c.Act]
	if act == nil {
		return fmt.Errorf("%q is nothing that a hypervisor does: %w", c.Act, fabric.ErrInvalid)
	}
	var all error
	for _, n := range c.NICs {
		if sw, ours := switchOf(a.Latest(), n); ours {
			all = errors.Join(all, act(ctx, c.VM, sw, n))
		}
	}
	return all
}

// switchOf is the switch whose façade the NIC is on, or whose name its network has when no bridge is named.
func switchOf(snap *fabric.Snapshot, n api.GuestNIC) (fabric.SwitchID, bool) {
	if n.Bridge == "" {
		sw := fabric.SwitchID(n.Network)
		return sw, snap.Switches[sw] != nil
	}
	for sw := range snap.Switches {
		if nic.FacadeName(sw) == n.Bridge {
			return sw, true
		}
	}
	return "", false
}

// portWith is the port of the switch that has the MAC.
func portWith(snap *fabric.Snapshot, sw fabric.SwitchID, mac fabric.MAC) *fabric.Port {
	for _, p := range snap.Ports {
		if p.Spec.Switch == sw && p.Spec.MAC == mac && !p.IsHost() {
			return p
		}
	}
	return nil
}

// welcome sees that the NIC has a port which it may be plugged into here; one is made where there is none.
func (a *Agent) welcome(ctx context.Context, vm string, sw fabric.SwitchID, n api.GuestNIC) error {
	port := portWith(a.Latest(), sw, n.MAC)
	if port == nil {
		report := api.LocationReport{Host: a.config.Host, Act: api.Welcome, Switch: sw, VM: vm, MAC: n.MAC, Profile: n.Profile}
		if _, err := a.reports.ReportLocation(ctx, report); err != nil {
			return fmt.Errorf("make a port of switch %s for %s (%s): %w", sw, vm, n.MAC, err)
		}
		if !a.await(ctx, func() bool { port = portWith(a.Latest(), sw, n.MAC); return port != nil }) {
			return fmt.Errorf("make a port of switch %s for %s (%s): this host has not heard of it: %w", sw, vm, n.MAC, context.Cause(ctx))
		}
	}
	return a.suits(ctx, port, vm, n)
}

// suits refuses a NIC that the port's record does not describe: whoever writes the guest's description may not give it more than the
// record does, and a port is at one host.
func (a *Agent) suits(ctx context.Context, port *fabric.Port, vm string, n api.GuestNIC) error {
	name := fabric.PortID(port.Metadata.Name)
	if owner := cmp.Or(port.Spec.VM, port.Metadata.Name); owner != vm {
		return fmt.Errorf("port %s has the MAC %s and belongs to %s, not to %s: give the NIC another MAC, or delete the port: %w", name, n.MAC, owner, vm, fabric.ErrConflict)
	}
	if n.Profile != "" && n.Profile != port.Spec.Profile {
		return fmt.Errorf("%s asks for profile %q, and its port %s has %q: name that as the portgroup or none, or change the port: weft set port %s profile=%s: %w",
			vm, n.Profile, name, port.Spec.Profile, name, n.Profile, fabric.ErrConflict)
	}
	if a.arriving(name) != "" {
		return nil
	}
	loc := a.holder(ctx, name)
	if loc.Host == "" || loc.Host == a.config.Host {
		return nil
	}
	return fmt.Errorf("host %s holds port %s of %s at epoch %d: migrate the guest or stop it there; if that host is lost, 'weft delete port %s', and it is made anew: %w",
		loc.Host, name, vm, loc.Epoch, name, fabric.ErrConflict)
}

// plugIn has the NIC's port in force on its device before the guest starts.
func (a *Agent) plugIn(ctx context.Context, vm string, sw fabric.SwitchID, n api.GuestNIC) error {
	if n.Device == "" {
		return nil
	}
	if err := a.welcome(ctx, vm, sw, n); err != nil {
		return err
	}
	port := fabric.PortID(portWith(a.Latest(), sw, n.MAC).Metadata.Name)
	if move := a.arriving(port); move != "" {
		if err := a.arrivals.plugArriving(ctx, port, n.Device, move); err != nil {
			return err
		}
		return a.awaitCopy(ctx, move)
	}
	return a.attachAdopted(ctx, port, api.Attachment{Device: n.Device, Kind: api.Tap})
}

// free lets other hosts hold the NIC's port.
func (a *Agent) free(ctx context.Context, _ string, sw fabric.SwitchID, n api.GuestNIC) error {
	port := portWith(a.Latest(), sw, n.MAC)
	if port == nil {
		return nil
	}
	return a.giveUp(ctx, fabric.PortID(port.Metadata.Name))
}

// giveUp lets other hosts hold a port whose guest is gone from here, unless a move says where it is.
func (a *Agent) giveUp(ctx context.Context, name fabric.PortID) error {
	if loc := a.Latest().Locations[name]; loc.Host != a.config.Host || loc.Grant != nil {
		return nil
	}
	err := a.Detach(ctx, name)
	if errors.Is(err, fabric.ErrConflict) {
		return nil
	}
	return err
}

// receive begins the move of a guest that is about to be sent here. A guest none of whose ports is held anywhere has nothing to move.
func (a *Agent) receive(ctx context.Context, c api.HypervisorCall) error {
	snap := a.Latest()
	ports := location.MovingPorts(snap, c.VM)
	held := slices.ContainsFunc(ports, func(p fabric.PortID) bool { return snap.Locations[p].Host != "" })
	if !held {
		return nil
	}
	for _, name := range ports {
		p := snap.Ports[name]
		described := slices.ContainsFunc(c.NICs, func(n api.GuestNIC) bool {
			sw, ours := switchOf(snap, n)
			return ours && sw == p.Spec.Switch && n.MAC == p.Spec.MAC
		})
		if !described {
			return fmt.Errorf("%s is to be sent here without the NIC of its port %s (%s on switch %s), which host %s holds: see that the switch is known to libvirt on both hosts ('weft integrate libvirt'), or detach the port: %w",
				c.VM, name, p.Spec.MAC, p.Spec.Switch, snap.Locations[name].Host, fabric.ErrConflict)
		}
	}
	loc, err := a.reports.ReportLocation(ctx, api.LocationReport{Host: a.config.Host, Act: api.Receive, VM: c.VM})
	if err != nil {
		return err
	}
	if !a.await(ctx, func() bool { return a.Latest().Moves[loc.Grant.Move] != nil }) {
		return fmt.Errorf("move %s of %s: this host has not heard of it: %w", loc.Grant.Move, c.VM, context.Cause(ctx))
	}
	return nil
}

// arriving is the move by which libvirt brings the port's guest here; empty when none does.
func (a *Agent) arriving(port fabric.PortID) fabric.MoveID {
	snap := a.Latest()
	if g := snap.Locations[port].Grant; g != nil && g.To == a.config.Host {
		if m := snap.Moves[g.Move]; m != nil && m.Spec.Driver == fabric.DriverLibvirt {
			return g.Move
		}
	}
	return ""
}

// awaitCopy waits until the source knows that the guest's memory will be copied: only then does it send frames on the moment the
// guest stops. It waits only after the last of the guest's devices.
func (a *Agent) awaitCopy(ctx context.Context, id fabric.MoveID) error {
	var move *fabric.Move
	done := a.await(ctx, func() bool {
		move = a.Latest().Moves[id]
		if move == nil || move.Status.Fault != "" || location.Over(move.Status.Phase) {
			return true
		}
		return move.Status.Phase != fabric.MoveGranted && move.Status.Phase != fabric.MoveStaged || !a.keeper.staged(move)
	})
	switch {
	case move == nil:
		return fmt.Errorf("move %s has been forgotten: %w", id, fabric.ErrNotFound)
	case !done:
		return fmt.Errorf("move %s of %s is %s: host %s does not go on: see its log: %w", id, move.Spec.VM, move.Status.Phase, move.Spec.From, context.Cause(ctx))
	case move.Status.Fault != "" || location.Over(move.Status.Phase):
		return fmt.Errorf("move %s of %s was given up: %s: %w", id, move.Spec.VM, cmp.Or(move.Status.Reason, move.Status.Fault), fabric.ErrConflict)
	}
	return nil
}

// staged reports whether all of the move's ports have their devices here.
func (k *keeper) staged(move *fabric.Move) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, port := range move.Spec.Ports {
		if k.local.Staged[port] != fabric.MoveID(move.Metadata.Name) {
			return false
		}
	}
	return true
}
