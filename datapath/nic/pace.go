package nic

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Queueing disciplines of ours have the handle 57f7:. What the longest aggregate holds may leave at once, else it would be cut into
// packets; of a fast device what takes 1/200 of a second.
const (
	paceMajor = 0x57f7
	paceBurst = 66_000
	paceParts = 200
)

// Pace lets what is sent to a device leave at a rate, in bits a second; what waits is at most so many bytes. A rate of 0 ends that. A
// queueing discipline that somebody else has put there stays, and is an error.
func Pace(device string, rate, waiting uint64) error {
	return change("pace", device, func(l netlink.Link) error {
		ours, err := isPaced(l)
		if err != nil || (rate == 0 && !ours) {
			return err
		}
		burst := max(paceBurst, rate/8/paceParts)
		q := &netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(paceMajor, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       rate / 8, Buffer: netlink.Xmittime(rate/8, uint32(burst)), Limit: uint32(min(2*waiting+burst, 1<<32-1)),
		}
		if rate == 0 {
			return netlink.QdiscDel(q)
		}
		return netlink.QdiscReplace(q)
	})
}

// Paced are the rates of all devices that Pace has given one, by index, in bits a second.
func Paced() (map[int]uint64, error) {
	list, err := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w%s", err, remedy(err))
	}
	all := map[int]uint64{}
	for _, q := range list {
		t, ok := q.(*netlink.Tbf)
		if !ok || t.Parent != netlink.HANDLE_ROOT {
			continue
		}
		if major, _ := netlink.MajorMinor(t.Handle); major == paceMajor {
			all[t.LinkIndex] = 8 * t.Rate
		}
	}
	return all, nil
}

// isPaced reports whether the device's queueing discipline is one of ours; one that somebody else has put there is an error.
func isPaced(l netlink.Link) (bool, error) {
	all, err := netlink.QdiscList(l)
	if err != nil {
		return false, err
	}
	for _, q := range all {
		a := q.Attrs()
		if a.Parent != netlink.HANDLE_ROOT {
			continue
		}
		if major, _ := netlink.MajorMinor(a.Handle); major == paceMajor {
			return true, nil
		} else if major != 0 {
			return false, fmt.Errorf("it has a queueing discipline %s already; remove it (tc qdisc del dev %s root)", q.Type(), l.Attrs().Name)
		}
	}
	return false, nil
}
