package datapath

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/fabric"
)

// How long Verify struggles for a place on a device with somebody who takes a program away again and again.
const (
	// fightWindow is how long a program must stay where it is for its removals to be forgotten.
	fightWindow = time.Minute
	// repairsAtOnce is how many removals within the window are repaired at once; the next one is an alarm.
	repairsAtOnce = 3
	// minTruce and maxTruce bound how long a program stays away then; each time twice as long as the last.
	minTruce = 10 * time.Second
	maxTruce = 5 * time.Minute
)

// fight is what is known of the removals of one program from one device. The zero value is peace.
type fight struct {
	lost   []time.Time // removals within the window before the newest, and that one
	last   time.Time   // the newest repair
	truces int
	until  time.Time // the program is not put back before; zero when it is in its place
}

// step is the fight after a look at the device, and whether to put the program back now.
func (f fight) step(present bool, now time.Time) (next fight, repair bool) {
	switch {
	case present && now.Sub(f.last) > fightWindow:
		return fight{}, false
	case present:
		f.until = time.Time{}
		return f, false
	case now.Before(f.until):
		return f, false
	case !f.until.IsZero():
		f.last, f.until = now, time.Time{}
		return f, true
	}
	f.lost = append(slices.DeleteFunc(slices.Clone(f.lost), func(at time.Time) bool { return now.Sub(at) > fightWindow }), now)
	if f.truces == 0 && len(f.lost) <= repairsAtOnce {
		f.last = now
		return f, true
	}
	f.until = now.Add(min(minTruce<<min(f.truces, 5), maxTruce))
	f.truces++
	return f, false
}

// Contest is a program that somebody has taken off a device again and again. What it guards is closed meanwhile, by another
// program of the core or because the device is lowered, unless another one does its work.
type Contest struct {
	Device, Program string
	// Port is the port on the device; empty for a device of the host's own.
	Port fabric.PortID
	// Until is when the program is put back; zero when it is in its place again, and watched.
	Until time.Time
	// Shut is true when nothing passes the device meanwhile: a sentinel may be off while the core judges on.
	Shut bool
}

// String says what happens, and what to do.
func (c Contest) String() string {
	if c.Until.IsZero() {
		return fmt.Sprintf("The program %s on %s was taken away again and again; it is back, and watched for %s.", c.Program, c.Device, fightWindow)
	}
	meanwhile := "nothing passes there meanwhile"
	switch {
	case c.Program == extIn || c.Program == extOut:
		meanwhile = "guests and the wire do not reach each other by this NIC meanwhile, the host does"
	case c.Program == ulIn:
		meanwhile = "frames from other hosts take the slower way by the kernel's VXLAN device meanwhile"
	case !c.Shut:
		meanwhile = "the core judges every frame meanwhile"
	}
	return fmt.Sprintf("Somebody has taken the program %s off %s more than %d times within %s; it is put back at %s, and %s. Find out who attaches and detaches there, with bpftool net show dev %s, and stop it.",
		c.Program, c.Device, repairsAtOnce, fightWindow, c.Until.Format(time.TimeOnly), meanwhile, c.Device)
}

// Contests are the programs that others fight over now, in the order of their devices.
func (d *Datapath) Contests() []Contest {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Contest
	for key, f := range d.fights {
		if f.truces == 0 {
			continue
		}
		all = append(all, d.contest(key, f))
	}
	slices.SortFunc(all, func(a, b Contest) int { return strings.Compare(a.Device+" "+a.Program, b.Device+" "+b.Program) })
	return all
}

// contest is a fight as others see it.
func (d *Datapath) contest(key linkKey, f fight) Contest {
	c := Contest{Program: key.program, Until: f.until}
	c.Port, c.Device = d.at(key.ifindex)
	c.Shut = !f.until.IsZero() && (key.core() && !key.open() || d.unjudged(key))
	return c
}

// unjudged reports whether the core itself is off on the side that a sentinel guards.
func (d *Datapath) unjudged(sentinel linkKey) bool {
	for key, f := range d.fights {
		if key.core() && !key.open() && key.ifindex == sentinel.ifindex && key.out() == sentinel.out() && !f.until.IsZero() {
			return true
		}
	}
	return false
}

// core reports whether the program is one that lets frames pass at all.
func (k linkKey) core() bool { return k.program != sentinelIn && k.program != sentinelOut }

// open reports whether the program is on a NIC of the host's own, which lives on without it.
func (k linkKey) open() bool { return k.program == ulIn || k.program == extIn || k.program == extOut }
