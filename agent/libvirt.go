package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/libvirt"
)

// Libvirt says where libvirt is on this host. It is spoken to only once 'weft integrate libvirt' was run.
type Libvirt struct {
	// URI is how virsh reaches it; qemu:///system when empty.
	URI string `yaml:"uri"`
	// Hooks is the directory where it looks for hooks; /etc/libvirt/hooks when empty.
	Hooks string `yaml:"hooks"`
}

// libvirt is this host's libvirt.
func (c *Config) libvirt() libvirt.Host {
	return libvirt.Host{URI: c.Libvirt.URI, Hooks: c.Libvirt.Hooks}
}

// Integrate gives this host's libvirt the hooks and networks that its guests need, or takes them away. From then on the networks
// follow the switches by themselves.
func (a *Agent) Integrate(ctx context.Context, r api.IntegrateRequest) (api.Integration, error) {
	a.integrating.Lock()
	defer a.integrating.Unlock()
	done := api.Integration{Host: a.config.Host, Changes: []api.IntegrationChange{}}
	want, err := a.wantedOfLibvirt(!r.Undo)
	if err != nil {
		return done, err
	}
	if !r.DryRun && !r.Undo { // before the change: what is half done is completed by the next look
		if err := a.integrated(ctx, true); err != nil {
			return done, err
		}
	}
	changes, err := a.config.libvirt().Plan(ctx, want)
	if len(changes) == 0 && err != nil {
		return done, err
	}
	for _, c := range changes {
		if !r.DryRun {
			if err := c.Do(ctx); err != nil {
				return done, err
			}
		}
		done.Restart = done.Restart || c.Hook
		done.Changes = append(done.Changes, api.IntegrationChange{Object: c.Object, Diff: c.Diff})
	}
	if !r.DryRun && r.Undo {
		err = errors.Join(err, a.integrated(ctx, false))
	}
	return done, err
}

// wantedOfLibvirt is what libvirt shall have; nothing when it is not to be integrated.
func (a *Agent) wantedOfLibvirt(integrated bool) (libvirt.Wanted, error) {
	snap := a.Latest()
	if snap == nil {
		return libvirt.Wanted{}, fmt.Errorf("this host does not know the fabric's records yet: see 'weft status': %w", api.ErrUnavailable)
	}
	if !integrated {
		return libvirt.Wanted{}, nil
	}
	program, err := os.Executable()
	if err != nil {
		return libvirt.Wanted{}, err
	}
	return libvirt.Wanted{Command: []string{program, "--socket", a.config.Socket}, Switches: switchesOn(snap, a.config.Host)}, nil
}

// switchesOn are the switches that exist on a host, in order.
func switchesOn(snap *fabric.Snapshot, host fabric.HostID) []fabric.SwitchID {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(snap.Switches)), func(id fabric.SwitchID) bool { return !snap.Switches[id].Covers(host) })
}

// integrated remembers whether libvirt uses the fabric.
func (a *Agent) integrated(ctx context.Context, is bool) error {
	defer a.news.tell()
	return a.keeper.change(ctx, func(l *local) error { l.Libvirt = is; return nil })
}

// usesLibvirt reports whether libvirt uses the fabric here.
func (k *keeper) usesLibvirt() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.local.Libvirt
}

// libvirtEvery is how often libvirt's networks are compared with the switches though nothing of theirs has changed here.
const libvirtEvery = 30 * time.Second

// keepLibvirt has a network of libvirt for every switch of the fabric, as long as libvirt uses it.
func (a *Agent) keepLibvirt(ctx context.Context) error {
	var said string
	var at time.Time
	for ctx.Err() == nil {
		change := a.news.wait()
		if snap := a.Latest(); snap != nil && a.keeper.usesLibvirt() {
			names := fmt.Sprint(switchesOn(snap, a.config.Host))
			if names != said || time.Since(at) >= libvirtEvery {
				a.trouble("libvirt", a.followSwitches(ctx))
				said, at = names, time.Now()
			}
		} else {
			said = ""
			a.trouble("libvirt", nil)
		}
		select {
		case <-ctx.Done():
		case <-change:
		case <-time.After(libvirtEvery):
		}
	}
	return nil
}

// followSwitches makes what is missing. A libvirt that is stopped needs no networks.
func (a *Agent) followSwitches(ctx context.Context) error {
	a.integrating.Lock()
	defer a.integrating.Unlock()
	want, err := a.wantedOfLibvirt(true)
	if err != nil {
		return err
	}
	changes, err := a.config.libvirt().Plan(ctx, want)
	if errors.Is(err, libvirt.ErrAbsent) {
		return nil
	}
	for _, c := range changes {
		err = errors.Join(err, c.Do(ctx))
	}
	return err
}
