package nic

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// listed is a device as a list of all has it.
type listed struct {
	Device
	// Flags are the kernel's (IFF_UP and its like).
	Flags uint32
	// Master is the index of the bridge or bond that the device is on, 0 when it is on none.
	Master int
	Alias  string
}

// skipStats has the kernel leave out the counters, half of what it has to say (RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h).
const skipStats = 1 << 3

// listLinks asks for all devices. It reads no more of the answer than is needed here: a host with a thousand ports asks every second.
func listLinks() ([]listed, error) {
	links, err := dump(func() (all []listed, err error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		request.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
		var failed error
		err = request.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWLINK, func(m []byte) bool {
			l, err := readLink(m)
			all, failed = append(all, l), errors.Join(failed, err)
			return true
		})
		return all, errors.Join(err, failed)
	})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w%s", err, remedy(err))
	}
	return links, nil
}

// dumpAttempts is how often a list is asked for while it changes.
const dumpAttempts = 16

// dump asks for a list. While somebody changes what is listed, the kernel may say that an answer is of two moments
// (NLM_F_DUMP_INTR, rtnetlink(7)); then it is asked again, a few times.
func dump[T any](ask func() ([]T, error)) (list []T, err error) {
	for range dumpAttempts {
		if list, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}

// readLink reads one device (struct ifinfomsg and its attributes, rtnetlink(7)).
func readLink(m []byte) (l listed, err error) {
	if len(m) < unix.SizeofIfInfomsg {
		return l, fmt.Errorf("%d bytes are no device", len(m))
	}
	info := nl.DeserializeIfInfomsg(m)
	l.Index, l.Flags = int(info.Index), info.Flags
	l.Up, l.Promiscuous = info.Flags&unix.IFF_UP != 0, info.Flags&unix.IFF_PROMISC != 0
	elsewhere := false
	err = eachAttribute(m[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = nl.BytesToString(value)
		case unix.IFLA_IFALIAS:
			l.Alias = nl.BytesToString(value)
		case unix.IFLA_ADDRESS:
			copy(l.MAC[:], value)
		case unix.IFLA_MTU:
			l.MTU = int(number(value))
		case unix.IFLA_MASTER:
			l.Master = int(number(value))
		case unix.IFLA_LINK_NETNSID: // the kernel names the peer's namespace only when it is not this one
			elsewhere = true
		case unix.IFLA_LINKINFO:
			err = errors.Join(err, eachAttribute(value, func(kind uint16, value []byte) {
				if kind == nl.IFLA_INFO_KIND {
					l.Kind = nl.BytesToString(value)
				}
			}))
		}
	})
	l.PeerElsewhere = l.Kind == "veth" && elsewhere
	return l, err
}

// number is an attribute of four bytes; 0 when it is shorter.
func number(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return nl.NativeEndian().Uint32(value)
}

// eachAttribute calls do for each attribute of a message (struct rtattr, rtnetlink(7)).
func eachAttribute(b []byte, do func(kind uint16, value []byte)) error {
	const head = unix.SizeofRtAttr
	for len(b) >= head {
		length, kind := int(nl.NativeEndian().Uint16(b)), nl.NativeEndian().Uint16(b[2:])
		if length < head || length > len(b) {
			return fmt.Errorf("an attribute of a device has %d bytes of %d", length, len(b))
		}
		do(kind&nl.NLA_TYPE_MASK, b[head:length])
		b = b[min((length+3)&^3, len(b)):]
	}
	return nil
}
