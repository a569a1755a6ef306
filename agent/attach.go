package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

var _ server.Plugs = (*Agent)(nil)

// attachTimeout is how long a port may take to be in force on its device.
const attachTimeout = 10 * time.Second

// Attach plugs a device into a port, and returns when the port is in force on it. The device carries the core, closed,
// before this host claims the port, so that at no time anything passes that was not judged. An attachment that cannot
// be completed is undone. Attaching again as it is succeeds.
func (a *Agent) Attach(ctx context.Context, port fabric.PortID, how api.Attachment) (fabric.PortStatus, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, attachTimeout, fmt.Errorf("not in force after %s", attachTimeout))
	defer cancel()
	status, err := a.attach(ctx, port, how)
	if err != nil {
		return status, fmt.Errorf("attach port %s to %s on %s: %w", port, how.Device, a.config.Host, err)
	}
	a.metrics.Attached(time.Since(begin))
	return status, nil
}

func (a *Agent) attach(ctx context.Context, port fabric.PortID, how api.Attachment) (fabric.PortStatus, error) {
	if err := a.ofGuest(port); err != nil {
		return fabric.PortStatus{}, err
	}
	want, err := a.attachment(how)
	if err != nil {
		return fabric.PortStatus{}, err
	}
	if !a.await(ctx, func() bool { s := a.Latest(); return s != nil && s.Ports[port] != nil }) {
		return fabric.PortStatus{}, fmt.Errorf("this host does not know the port: %w", errors.Join(fabric.ErrNotFound, context.Cause(ctx)))
	}
	snap := a.Latest()
	if sw := snap.Switches[snap.Ports[port].Spec.Switch]; sw != nil && !sw.Covers(a.config.Host) {
		return fabric.PortStatus{}, fmt.Errorf("switch %s is not on this host, but on %v: plug it in there, or add the host with 'weft set switch %s hosts=[…]': %w",
			sw.Metadata.Name, sw.Spec.Hosts, sw.Metadata.Name, fabric.ErrConflict)
	}
	if lacks := snap.Lacking(snap.Ports[port], a.machine.capabilities); len(lacks) > 0 {
		return fabric.PortStatus{}, fmt.Errorf("the port needs %s, which this host does not have: plug it in at a host that reports it ('weft get hosts -o json'), bring this host to a newer release, or take it out of the port's settings: %w",
			strings.Join(lacks, ", "), fabric.ErrConflict)
	}
	if snap.Settings(snap.Ports[port]).Least != (fabric.Least{}) {
		if err := snap.Budget(a.config.Host, port).Err(); err != nil {
			return fabric.PortStatus{}, err
		}
	}
	if loc := a.holder(ctx, port); loc.Host != "" && loc.Host != a.config.Host {
		return fabric.PortStatus{}, fmt.Errorf("host %s holds it at epoch %d: move the guest with 'weft migrate', or detach the port there: %w",
			loc.Host, loc.Epoch, fabric.ErrConflict)
	}
	var before *attachment
	err = a.keeper.change(ctx, func(l *local) error {
		before, err = l.plug(port, want, a.keeper.present)
		return err
	})
	if err != nil {
		return fabric.PortStatus{}, err
	}
	if err := a.claim(ctx, port); err != nil {
		return fabric.PortStatus{}, errors.Join(err, a.unplug(ctx, port, before))
	}
	var status fabric.PortStatus
	done := a.await(ctx, func() bool {
		status = a.keeper.portStatus(port)
		return status.State == fabric.PortActive || status.State == fabric.PortStaged
	})
	if !done {
		return status, fmt.Errorf("%s: %w", status.Reason, context.Cause(ctx))
	}
	return status, nil
}

// letGoWithin is for how long it is waited for the news that another host does not hold a port any more.
const letGoWithin = 3 * time.Second

// holder is where the port is. That another host holds it may be old news, when the records have just been taken up again; the
// device is left alone until it is known.
func (a *Agent) holder(ctx context.Context, port fabric.PortID) (loc fabric.Location) {
	ctx, cancel := context.WithTimeout(ctx, letGoWithin)
	defer cancel()
	a.await(ctx, func() bool {
		loc = a.Latest().Locations[port]
		return loc.Host == "" || loc.Host == a.config.Host
	})
	return loc
}

// attachment checks what is to be attached.
func (a *Agent) attachment(how api.Attachment) (attachment, error) {
	out := attachment{Attachment: plan.Attachment{Device: how.Device, Kind: datapath.Tap}, QMP: how.QMP}
	switch how.Kind {
	case api.Tap:
	case api.Veth:
		out.Kind = datapath.Veth
	default:
		return out, fmt.Errorf("%q is no kind of device: write tap or veth: %w", how.Kind, fabric.ErrInvalid)
	}
	if how.Device == a.config.Underlay.Device || how.Device == tunnelDevice || how.Device == "lo" {
		return out, fmt.Errorf("%s is not a guest's device: name the guest's tap or veth: %w", how.Device, fabric.ErrInvalid)
	}
	return out, nil
}

// plug adds an attachment. It returns the one that was there before; the error wraps fabric.ErrConflict when the port or the
// device is taken, fabric.ErrNotFound when there is no such device.
func (l *local) plug(port fabric.PortID, want attachment, present map[string]int) (*attachment, error) {
	if present[want.Device] == 0 {
		return nil, fmt.Errorf("there is no such device in the agent's network namespace: make it first: %w", fabric.ErrNotFound)
	}
	for other, has := range l.Attachments {
		if other != port && has.Device == want.Device {
			return nil, fmt.Errorf("the device carries port %s: detach that first, or use another device: %w", other, fabric.ErrConflict)
		}
	}
	var before *attachment
	if has, there := l.Attachments[port]; there {
		if has.Device != want.Device && present[has.Device] != 0 {
			return nil, fmt.Errorf("the port is on device %s: detach it first: %w", has.Device, fabric.ErrConflict)
		}
		before = &has
	}
	l.Attachments[port] = want
	return before, nil
}

// unplug puts back what was plugged in before.
func (a *Agent) unplug(ctx context.Context, port fabric.PortID, before *attachment) error {
	return a.keeper.change(context.WithoutCancel(ctx), func(l *local) error {
		if before != nil {
			l.Attachments[port] = *before
			return nil
		}
		delete(l.Attachments, port)
		return nil
	})
}

// claim makes this host the holder of a port that nobody holds.
func (a *Agent) claim(ctx context.Context, port fabric.PortID) error {
	if loc := a.Latest().Locations[port]; loc.Host == a.config.Host {
		return nil
	}
	_, err := a.reports.ReportLocation(ctx, api.LocationReport{Host: a.config.Host, Act: api.Claim, Port: port})
	return err
}

// Detach takes a port off its device and lets other hosts hold it. A port that is moving is kept: fabric.ErrConflict.
func (a *Agent) Detach(ctx context.Context, port fabric.PortID) error {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	if _, attached := a.keeper.attachment(port); !attached {
		return nil
	}
	if err := a.ofGuest(port); err != nil {
		return fmt.Errorf("detach port %s: %w", port, err)
	}
	snap := a.Latest()
	if snap == nil {
		return fmt.Errorf("detach port %s: the wanted state is not known yet: wait until the host is ready: %w", port, api.ErrUnavailable)
	}
	if loc := snap.Locations[port]; loc.Host == a.config.Host {
		report := api.LocationReport{Host: a.config.Host, Act: api.Release, Port: port, Epoch: loc.Epoch}
		if _, err := a.reports.ReportLocation(ctx, report); err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return fmt.Errorf("detach port %s: %w", port, err)
		}
	}
	if err := a.unplug(ctx, port, nil); err != nil {
		return fmt.Errorf("detach port %s: %w", port, err)
	}
	return nil
}

// attachment is what a port is attached to.
func (k *keeper) attachment(port fabric.PortID) (attachment, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, there := k.local.Attachments[port]
	return a, there
}

// carries reports whether a port is on the device.
func (k *keeper) carries(device string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.local.Attachments {
		if a.Device == device {
			return true
		}
	}
	return false
}

// portStatus is one port as it is here.
func (k *keeper) portStatus(port fabric.PortID) fabric.PortStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.port(port)
}
