package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

// GuestKind says what a guest is.
type GuestKind string

// The kinds of guests.
const (
	// Pump is a network namespace behind a real tap: it can be paused and moved with its TCP state alive.
	Pump GuestKind = "pump"
	// Veth is a network namespace behind a veth, as a container; it cannot move.
	Veth GuestKind = "veth"
	// QEMU is a small real virtual machine.
	QEMU GuestKind = "qemu"
)

// GuestOptions describe a guest; name, host and switch are needed.
type GuestOptions struct {
	// Name is the guest's and its port's name.
	Name   string        `json:"name"`
	Host   fabric.HostID `json:"host"`
	Switch fabric.SwitchID
	// Address is one the fabric chooses when zero. A bare lab has no fabric: there it is needed, and is taken as of a /24
	// or a /64.
	Address netip.Addr
	// Kind is Pump when empty.
	Kind GuestKind
	// Pause is how long a pump's guest stands still in a migration, besides the hand-over itself.
	Pause time.Duration
	// Copy is how long a pump's guest runs on after a migration has begun, before it stops.
	Copy time.Duration
	// PostCopy lets a QEMU guest go on at its new host before its memory is there, once somebody asks for that.
	PostCopy bool
	// MTU of a guest in a bare lab, in bytes; 0 means 1450.
	MTU int
}

// Guest is a guest with everything it was made of.
type Guest struct {
	Name   string          `json:"name"`
	Kind   GuestKind       `json:"kind"`
	Switch fabric.SwitchID `json:"switch"`
	NIC    NIC             `json:"nic"`
	Pause  time.Duration   `json:"pause,omitempty"`
	Copy   time.Duration   `json:"copy,omitempty"`
	// PostCopy is GuestOptions.PostCopy.
	PostCopy bool `json:"postCopy,omitempty"`
	// Instances are the places it runs or is about to run at: one, and two while it moves.
	Instances []Instance `json:"instances"`
}

// NIC is what the fabric gave the guest.
type NIC struct {
	MAC fabric.MAC `json:"mac"`
	// Addresses with the prefix lengths of their subnets.
	Addresses []netip.Prefix `json:"addresses"`
	MTU       int            `json:"mtu"`
}

// Instance is a guest's device and hypervisor on one host.
type Instance struct {
	Host   fabric.HostID `json:"host"`
	Device string        `json:"device"`
	// Process is the hypervisor or pump; zero for a veth.
	Process Process `json:"process"`
	// Dir has its sockets and logs.
	Dir string `json:"dir"`
	// Move is the move that it was started for, and From the machine the guest was to come from; zero where a guest begins.
	Move fabric.MoveID `json:"move,omitempty"`
	From Process       `json:"from,omitzero"`
}

// Port is the port of the guest's NIC.
func (g *Guest) Port() fabric.PortID { return fabric.PortID(g.Name) }

// Host is where the guest runs, as far as the lab has been told.
func (g *Guest) Host() fabric.HostID {
	if len(g.Instances) == 0 {
		return ""
	}
	return g.Instances[0].Host
}

// AddGuest makes a guest, plugs it into the switch and starts it; when it returns the guest's NIC is configured and, for a
// virtual machine, the guest has booted. What was made is taken away again when it fails.
func (l *Lab) AddGuest(ctx context.Context, o GuestOptions, progress Progress) (_ *Guest, err error) {
	if progress == nil {
		progress = func(string, ...any) {}
	}
	if err := l.checkGuest(&o); err != nil {
		return nil, err
	}
	if o.Kind == QEMU {
		if _, err := theImages.machine(ctx, progress); err != nil { // before anything of the guest is made
			return nil, err
		}
	}
	g := &Guest{Name: o.Name, Kind: o.Kind, Switch: o.Switch, Pause: o.Pause, Copy: o.Copy, PostCopy: o.PostCopy}
	if err := l.enter(g); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			err = errors.Join(err, l.RemoveGuest(clean, g.Name))
		}
	}()
	if g.NIC, err = l.outlet().port(ctx, o); err != nil {
		return nil, err
	}
	instance, err := l.start(ctx, g, o.Host)
	if instance.Device != "" { // what a failed start has made is written down too, so that it can be taken away
		g.Instances = []Instance{instance}
		err = errors.Join(err, l.updateGuest(g.Name, func(have *Guest) { *have = *g }))
	}
	if err != nil {
		return nil, fmt.Errorf("start guest %s on %s: %w", g.Name, o.Host, err)
	}
	return g, nil
}

// enter adds a guest to the record, unless there is one of this name.
func (l *Lab) enter(g *Guest) error {
	var taken bool
	err := l.update(func() {
		if taken = l.guest(g.Name) != nil; !taken {
			l.Guests = append(l.Guests, g)
		}
	})
	if taken {
		return fmt.Errorf("guest %s: there is one of this name in lab %s; remove it with: weft lab vm %s --remove: %w", g.Name, l.Name, g.Name, fabric.ErrConflict)
	}
	return err
}

// checkGuest refuses what cannot work, before anything is made.
func (l *Lab) checkGuest(o *GuestOptions) error {
	if o.Kind == "" {
		o.Kind = Pump
	}
	if err := l.load(); err != nil {
		return err
	}
	if err := fabric.CheckName(o.Name); err != nil {
		return fmt.Errorf("guest %q: %w", o.Name, err)
	}
	if len(o.Name) > 24 {
		return fmt.Errorf("guest name %q has %d characters; its unix sockets leave room for 24: %w", o.Name, len(o.Name), fabric.ErrInvalid)
	}
	if !slices.Contains([]GuestKind{Pump, Veth, QEMU}, o.Kind) {
		return fmt.Errorf("guest kind %q: use pump, veth or qemu: %w", o.Kind, fabric.ErrInvalid)
	}
	return l.checkHost(o.Host)
}

// start makes the guest's device on the host, plugs it in and starts what is behind it.
func (l *Lab) start(ctx context.Context, g *Guest, host fabric.HostID) (Instance, error) {
	switch g.Kind {
	case Veth:
		return l.startVeth(ctx, g, host)
	case QEMU:
		return l.startQEMU(ctx, g, host)
	}
	return l.startPump(ctx, g, host)
}

// RemoveGuest ends a guest and removes its port, devices and files. Removing what is not there succeeds.
func (l *Lab) RemoveGuest(ctx context.Context, name string) error {
	if err := l.load(); err != nil {
		return err
	}
	g := l.guest(name)
	if g == nil {
		return nil
	}
	var errs []error
	for _, i := range g.Instances {
		errs = append(errs, l.endInstance(i))
	}
	if g.Kind != QEMU {
		errs = append(errs, l.dropNamespace("vm-"+name))
	}
	errs = append(errs, l.outlet().remove(ctx, g.Port(), g.Host()))
	errs = append(errs, os.RemoveAll(l.file("guests", name)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove guest %s: %w", name, err)
	}
	return l.update(func() {
		l.Guests = slices.DeleteFunc(l.Guests, func(g *Guest) bool { return g.Name == name })
	})
}

// Guest returns the guest of this name; the error wraps fabric.ErrNotFound and says which there are.
func (l *Lab) Guest(name string) (*Guest, error) {
	if err := l.load(); err != nil {
		return nil, err
	}
	if g := l.guest(name); g != nil {
		return g, nil
	}
	var names []string
	for _, g := range l.Guests {
		names = append(names, g.Name)
	}
	return nil, fmt.Errorf("lab %s has no guest %q; it has %v: %w", l.Name, name, names, fabric.ErrNotFound)
}

func (r *record) guest(name string) *Guest {
	for _, g := range r.Guests {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// updateGuest changes one guest of the record, if it is still there.
func (l *Lab) updateGuest(name string, change func(*Guest)) error {
	return l.update(func() {
		if g := l.guest(name); g != nil {
			change(g)
		}
	})
}

// instanceDir makes the directory of a guest on a host, with no leftover of an earlier stay.
func (l *Lab) instanceDir(guest string, host fabric.HostID) (string, error) {
	dir := l.file("guests", guest, string(host))
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}
