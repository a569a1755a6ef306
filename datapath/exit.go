package datapath

import (
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/datapath/nic"
)

// Exit is what ports share on their way out of the host: the underlay, and the NICs that external switches are on. The zero value shares
// nothing; else every port here has a class there, its own or that of the default flow, and the host has one.
type Exit struct {
	// Capacity is what goes out at most at each of these NICs, Host what the host itself has of it for certain, in bits a second.
	Capacity, Host uint64
	// Default is what all ports without a Least have together.
	Default Least
}

// exitMajor is the number of the classes at the ways out, whose minor numbers are slots and these; the class of a port is a word that the
// core writes to what its guest sends (bpf/pace.h).
const (
	exitMajor   = 0x57f8
	exitAll     = 0x1000
	exitHost    = 0x1001
	exitDefault = 0x1002
	// exitTurn is what the class with the smallest weight takes in turn of what is left over, in bytes: an aggregate.
	exitTurn = 66_000
	// exitLeast is the least that a class can have, in bits a second.
	exitLeast = 8_000
)

// exits are the NICs by which frames leave the host.
func (d *Datapath) exits() []string {
	all := []string{d.underlay.Name}
	for device := range d.uplinks {
		if device != d.underlay.Name {
			all = append(all, device)
		}
	}
	return all
}

// leastBy gives a port its class, before anything else of it is in force.
func (d *Datapath) leastBy(slot uint32, l Limits) {
	to := &d.shared.limits[slot]
	changed := d.shared.leastOf(slot) != l.Least
	atomic.StoreUint64(&to.Least, l.Least.Rate)
	atomic.StoreUint64(&to.Weight, l.Least.Weight)
	if d.exit.Capacity == 0 {
		return
	}
	d.exitStale = true
	if !changed {
		return
	}
	class, ours := d.exitClasses()[uint16(slot)]
	if ours {
		for _, device := range d.exits() {
			if err := (nic.Queues{Device: device, Major: exitMajor}).Set(class); err != nil {
				d.log.Warn("a port has no class at the host's way out yet", "device", device, "error", err)
			}
		}
	}
	d.classify(slot, ours)
}

// classify tells the programs which class a port's frames are of.
func (d *Datapath) classify(slot uint32, ours bool) {
	class, word := uint32(0), &d.shared.slots[slot].Policy
	if d.exit.Capacity != 0 {
		if class = exitMajor<<16 | exitDefault; ours {
			class = exitMajor<<16 | slot
		}
	}
	atomic.StoreUint32(&d.shared.limits[slot].Class, class)
	if now := atomic.LoadUint64(word); class != 0 {
		atomic.StoreUint64(word, now|classOut)
	} else {
		atomic.StoreUint64(word, now&^classOut)
	}
}

func (s shared) leastOf(slot uint32) Least {
	return Least{Rate: atomic.LoadUint64(&s.limits[slot].Least), Weight: atomic.LoadUint64(&s.limits[slot].Weight)}
}

// exitClasses are the classes at each way out. What is not given away in bits is shared by weight.
func (d *Datapath) exitClasses() map[uint16]nic.Class {
	e := d.exit
	given, weights, lightest := e.Host+e.Default.Rate, e.Default.Weight, e.Default.Weight
	for _, p := range d.ports {
		l := d.shared.leastOf(p.value.Slot)
		given, weights = given+l.Rate, weights+l.Weight
		if l.Weight != 0 && (lightest == 0 || l.Weight < lightest) {
			lightest = l.Weight
		}
	}
	left := e.Capacity - min(e.Capacity, given)
	class := func(minor uint16, l Least, most uint64) nic.Class {
		c := nic.Class{Minor: minor, Parent: exitAll, Rate: max(l.Rate, exitLeast), Share: exitTurn, Prio: 1}
		if l.Weight != 0 {
			c.Rate, c.Share = max(left/weights*l.Weight, exitLeast), uint32(exitTurn*l.Weight/lightest)
		}
		if c.Ceil = e.Capacity; most != 0 {
			c.Ceil = min(c.Ceil, most)
		}
		c.Ceil = max(c.Ceil, c.Rate)
		return c
	}
	all := map[uint16]nic.Class{
		exitAll:     {Minor: exitAll, Rate: e.Capacity, Ceil: e.Capacity, Share: exitTurn},
		exitHost:    {Minor: exitHost, Parent: exitAll, Rate: max(e.Host, exitLeast), Ceil: e.Capacity, Share: exitTurn},
		exitDefault: class(exitDefault, e.Default, 0),
	}
	for _, p := range d.ports {
		if l := d.shared.leastOf(p.value.Slot); l != (Least{}) {
			all[uint16(p.value.Slot)] = class(uint16(p.value.Slot), l, d.shared.limitsOf(p.value.Slot).Out.Rate)
		}
	}
	return all
}

// applyExit changes what the ways out are shared by.
func (d *Datapath) applyExit(c Change, _ *failures) {
	if c.Put.Local.VTEP.IsValid() && c.Put.Local.Exit != d.exit {
		d.exit, d.exitStale = c.Put.Local.Exit, true
	}
}

// arrangeExits brings the ways out to what ports and host are to have there, when something of that has changed.
func (d *Datapath) arrangeExits(c Change, failed *failures) {
	if len(c.Put.Uplinks)+len(c.Delete.Uplinks) > 0 && d.exit.Capacity != 0 {
		d.exitStale = true
	}
	if !d.exitStale {
		return
	}
	if _, err := d.arrange(); err != nil {
		failed.add(err)
	}
}

// arrange makes the classes and puts back what is missing of them; a class that nobody has any more goes when it is empty, and so does the
// root when nothing is shared. It reports whether something was missing.
func (d *Datapath) arrange() (mended bool, err error) {
	want := map[uint16]nic.Class{}
	if d.exit.Capacity != 0 {
		want = d.exitClasses()
	}
	var errs []error
	for _, device := range d.exits() {
		again, err := (nic.Queues{Device: device, Major: exitMajor, Default: exitHost}).Keep(want)
		mended, errs = mended || again, append(errs, err)
	}
	for _, p := range d.ports {
		_, ours := want[uint16(p.value.Slot)]
		d.classify(p.value.Slot, ours)
	}
	if err := errors.Join(errs...); err != nil {
		return mended, fmt.Errorf("share the host's way out among its ports: %w", err)
	}
	d.exitStale, d.exitMade = false, d.exit.Capacity != 0 || mended
	return mended, nil
}

// verifyExits looks whether the ways out are shared as they are to be.
func (d *Datapath) verifyExits() error {
	if d.exit.Capacity == 0 && !d.exitMade {
		return nil
	}
	stale := d.exitStale
	mended, err := d.arrange()
	if mended && !stale && d.exit.Capacity != 0 {
		d.emit(Event{Kind: Repaired, Time: time.Now(), Device: d.underlay.Name, Message: "Classes by which ports share the host's way out were missing or changed, and are as they are to be again."})
	}
	return err
}

// adoptExit learns what a loader before has made of the ways out; what it was told of weights is told again.
func (d *Datapath) adoptExit() error {
	classes, err := (nic.Queues{Device: d.underlay.Name, Major: exitMajor}).List()
	if all, there := classes[exitAll]; there {
		d.exit, d.exitMade = Exit{Capacity: all.Rate, Host: classes[exitHost].Rate, Default: Least{Rate: classes[exitDefault].Rate}}, true
	}
	return err
}

// releaseExits takes the classes off the devices of this namespace.
func releaseExits() error {
	devices, err := nic.Devices()
	errs := []error{err}
	for device := range maps.Values(devices) {
		errs = append(errs, nic.Queues{Device: device.Name, Major: exitMajor}.Remove())
	}
	return errors.Join(errs...)
}
