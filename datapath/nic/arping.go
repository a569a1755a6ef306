package nic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Arping asks stations behind a device whether they are there, by ARP probes (RFC 5227 section 2.1.1): they name no address of the asker,
// so that no station notes the device's MAC for one. It is for one goroutine.
type Arping struct {
	fd, index int
	mac       fabric.MAC
	// known are the MACs that have answered: those are asked alone, so that a wire is not filled with broadcasts.
	known map[netip.Addr]fabric.MAC
}

const (
	arpLength  = 42
	arpRequest = 1
	arpReply   = 2
)

// NewArping opens a device of this namespace.
func NewArping(device string) (*Arping, error) {
	d, err := Find(device)
	if err != nil {
		return nil, err
	}
	proto := int(bits16(unix.ETH_P_ARP))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	a := &Arping{fd: fd, index: d.Index, mac: d.MAC, known: map[netip.Addr]fabric.MAC{}}
	// The queueing discipline and the programs at its side are passed by: a host that is kept off its switch looks all the same.
	if err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: d.Index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ask by ARP at %s: %w", device, err)
	}
	return a, nil
}

// Index is the number of the device that was opened: another device may have its name by now.
func (a *Arping) Index() int { return a.index }

// Close ends it.
func (a *Arping) Close() error { return unix.Close(a.fd) }

// Ask asks one IPv4 address: the station that answered last, or all where all is true or none has answered.
func (a *Arping) Ask(target netip.Addr, all bool) error {
	to, known := a.known[target]
	if all || !known {
		to = fabric.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	frame := make([]byte, 60)
	copy(frame, to[:])
	copy(frame[6:], a.mac[:])
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_ARP)
	copy(frame[14:], []byte{0, 1, 8, 0, 6, 4, 0, arpRequest})
	copy(frame[22:], a.mac[:])
	copy(frame[38:], target.AsSlice())
	return unix.Sendto(a.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: a.index, Protocol: bits16(unix.ETH_P_ARP)})
}

// Answered is how many answers of the targets have come in since it was called last.
func (a *Arping) Answered(targets []netip.Addr) (n int) {
	frame := make([]byte, 2048)
	for range 1024 {
		size, _, err := unix.Recvfrom(a.fd, frame, 0)
		if err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return n
		}
		if size < arpLength || !bytes.Equal(frame[14:22], []byte{0, 1, 8, 0, 6, 4, 0, arpReply}) || !bytes.Equal(frame[32:38], a.mac[:]) {
			continue
		}
		from := netip.AddrFrom4([4]byte(frame[28:32]))
		for _, t := range targets {
			if t == from {
				a.known[t] = fabric.MAC(frame[22:28])
				n++
			}
		}
	}
	return n
}

// bits16 is a number in network byte order.
func bits16(v uint16) uint16 { return v<<8 | v>>8 }
