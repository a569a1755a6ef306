package nic

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Class is a queue of a device with a rate of its own (tc-htb(8)).
type Class struct {
	// Minor is its number, 1 to 0xffff, Parent that of the class whose rate it has a part of; 0: none.
	Minor, Parent uint16
	// Rate is what it has for certain, Ceil what it has at most, in bits a second. What leaves together is what they allow in 5 ms, or one
	// aggregate.
	Rate, Ceil uint64
	// Share is what it takes of what is left over, against its siblings: bytes in turn, 1,000 to 200,000; 0: one aggregate.
	Share uint32
	// Prio is its turn at what is left over: 0 takes before 1.
	Prio uint32
	// Waiting are frames in it, Lost those that found no room; read only.
	Waiting, Lost uint32
}

// Queues are the classes of a device under one root.
type Queues struct {
	Device string
	// Major is the root's number, and of its classes.
	Major uint16
	// Default is the class of frames that name none; 0: they leave at once.
	Default uint16
}

// ErrForeign: a queueing discipline that somebody else has put on the device is in the way.
var ErrForeign = errors.New("somebody else's queueing discipline")

// Put makes the root, unless it is there. Somebody else's is an error that wraps ErrForeign.
func (q Queues) Put() error {
	return change("queue at", q.Device, func(l netlink.Link) error {
		there, err := q.isThere(l)
		if err != nil || there {
			return err
		}
		root := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(q.Major, 0), Parent: netlink.HANDLE_ROOT})
		root.Defcls = uint32(q.Default)
		return netlink.QdiscReplace(root)
	})
}

// Remove takes the root and its classes away; what the kernel puts there by itself comes back. One that is not there is done, and so is
// that of a device that is gone.
func (q Queues) Remove() error {
	err := change("remove the queues of", q.Device, func(l netlink.Link) error {
		there, err := q.isThere(l)
		if err != nil || !there {
			return ignoreForeign(err)
		}
		return netlink.QdiscDel(netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(q.Major, 0), Parent: netlink.HANDLE_ROOT}))
	})
	if IsGone(err) {
		return nil
	}
	return err
}

func ignoreForeign(err error) error {
	if errors.Is(err, ErrForeign) {
		return nil
	}
	return err
}

// Are reports whether the root is there.
func (q Queues) Are() (there bool, err error) {
	err = change("look at the queues of", q.Device, func(l netlink.Link) (err error) {
		there, err = q.isThere(l)
		return ignoreForeign(err)
	})
	return there, err
}

func (q Queues) isThere(l netlink.Link) (bool, error) {
	all, err := netlink.QdiscList(l)
	if err != nil {
		return false, err
	}
	for _, one := range all {
		a := one.Attrs()
		if a.Parent != netlink.HANDLE_ROOT {
			continue
		}
		if major, _ := netlink.MajorMinor(a.Handle); major == q.Major {
			return one.Type() == "htb", nil
		} else if major != 0 {
			return false, fmt.Errorf("%w: %s; remove it (tc qdisc del dev %s root)", ErrForeign, one.Type(), l.Attrs().Name)
		}
	}
	return false, nil
}

// Set makes the class, or changes it; what waits in it goes on to wait.
func (q Queues) Set(c Class) error {
	return change("queue at", q.Device, func(l netlink.Link) error { return netlink.ClassReplace(q.class(l, c)) })
}

// Delete removes the class, with what waits in it.
func (q Queues) Delete(minor uint16) error {
	return change("delete a queue at", q.Device, func(l netlink.Link) error { return netlink.ClassDel(q.class(l, Class{Minor: minor})) })
}

// classBurst is what the longest aggregate holds; of a fast class what takes 1/200 of a second.
func classBurst(rate uint64) uint32 { return uint32(min(max(paceBurst, rate/paceParts), 1<<31)) }

func (q Queues) class(l netlink.Link, c Class) *netlink.HtbClass {
	rate, ceil := (c.Rate+7)/8, (max(c.Ceil, c.Rate)+7)/8
	parent := uint32(netlink.HANDLE_ROOT)
	if parent = netlink.MakeHandle(q.Major, 0); c.Parent != 0 {
		parent = netlink.MakeHandle(q.Major, c.Parent)
	}
	h := &netlink.HtbClass{
		ClassAttrs: netlink.ClassAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(q.Major, c.Minor), Parent: parent},
		Rate:       rate, Ceil: ceil, Quantum: c.Share, Prio: c.Prio,
	}
	if rate != 0 {
		h.Buffer, h.Cbuffer = netlink.Xmittime(rate, classBurst(rate)), netlink.Xmittime(ceil, classBurst(ceil))
	}
	if h.Quantum == 0 {
		h.Quantum = paceBurst
	}
	return h
}

// List are the classes of the root; none where it is not there.
func (q Queues) List() (map[uint16]Class, error) {
	all := map[uint16]Class{}
	err := change("list the queues of", q.Device, func(l netlink.Link) error {
		list, err := dump(func() ([]netlink.Class, error) { return netlink.ClassList(l, netlink.HANDLE_NONE) })
		for _, one := range list {
			h, ok := one.(*netlink.HtbClass)
			if !ok {
				continue
			}
			major, minor := netlink.MajorMinor(h.Handle)
			if major != q.Major {
				continue
			}
			c := Class{Minor: minor, Rate: 8 * h.Rate, Ceil: 8 * h.Ceil, Share: h.Quantum, Prio: h.Prio}
			if major, parent := netlink.MajorMinor(h.Parent); major == q.Major {
				c.Parent = parent
			}
			if s := h.Statistics; s != nil && s.Queue != nil {
				c.Waiting, c.Lost = s.Queue.Qlen, s.Queue.Drops
			}
			all[minor] = c
		}
		return err
	})
	return all, err
}

// Keep brings the root and its classes to what is wanted, by number. A class that is not wanted goes when it is empty, and so does the root
// when none is wanted; the error for a root that is somebody else's wraps ErrForeign where some are. It reports whether it had to change
// or to make anything.
func (q Queues) Keep(want map[uint16]Class) (changed bool, err error) {
	there, err := q.Are()
	if err != nil {
		return false, err
	}
	if !there {
		if len(want) == 0 {
			return false, nil
		}
		if err := q.Put(); err != nil {
			return true, err
		}
	}
	have, err := q.List()
	if err != nil {
		return !there, err
	}
	if len(want) == 0 {
		return true, q.drain(have)
	}
	changed = !there
	for _, inner := range []bool{true, false} { // a class comes after its parent, and goes before it
		for minor, c := range want {
			now, is := have[minor]
			now.Waiting, now.Lost = 0, 0
			if (c.Parent == 0) != inner || (is && now == c.rounded()) {
				continue
			}
			changed = true
			if err := q.Set(c); err != nil {
				return changed, err
			}
		}
	}
	for minor, c := range have {
		if _, wanted := want[minor]; !wanted && c.Waiting == 0 {
			if err := q.Delete(minor); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

// DrainRate is of classes that nobody is to have any more, in bits a second.
const DrainRate = 1_000_000_000_000

// drain removes the root when nothing waits in its classes, and lets that go until then.
func (q Queues) drain(have map[uint16]Class) error {
	waits := false
	for _, c := range have {
		waits = waits || c.Waiting != 0
	}
	if !waits {
		return q.Remove()
	}
	for _, c := range have {
		c.Rate, c.Ceil = DrainRate, DrainRate
		if err := q.Set(c); err != nil {
			return err
		}
	}
	return nil
}

// rounded is the class as the kernel holds it, in whole bytes a second.
func (c Class) rounded() Class {
	c.Rate, c.Ceil = (c.Rate+7)/8*8, (max(c.Ceil, c.Rate)+7)/8*8
	if c.Share == 0 {
		c.Share = paceBurst
	}
	return c
}
