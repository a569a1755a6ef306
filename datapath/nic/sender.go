package nic

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Sender sends packets out of one device to stations that it names by MAC: to those too that have no address yet, and to one
// station what the packet itself addresses to many. It receives nothing.
type Sender struct {
	fd    int
	index int
}

// OpenSender makes a sender for the device of this namespace. One that is closed, or whose device is gone, sends no more.
func OpenSender(device string) (*Sender, error) {
	link, err := find(device)
	if err != nil {
		return nil, fail("send through", device, err)
	}
	// Protocol 0 receives nothing (packet(7)).
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket for %s: %w%s", device, err, remedy(err))
	}
	return &Sender{fd: fd, index: link.Attrs().Index}, nil
}

// Send sends an IP packet, from its IP header on, to a station. The kernel puts the device's MAC before it.
func (s *Sender) Send(to fabric.MAC, packet []byte) error {
	proto := uint16(unix.ETH_P_IP)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		proto = unix.ETH_P_IPV6
	}
	a := &unix.SockaddrLinklayer{Protocol: proto<<8 | proto>>8, Ifindex: s.index, Halen: uint8(len(to))}
	copy(a.Addr[:], to[:])
	if err := unix.Sendto(s.fd, packet, 0, a); err != nil {
		return fmt.Errorf("send a packet of %d bytes to station %s: %w", len(packet), to, err)
	}
	return nil
}

// Close ends it.
func (s *Sender) Close() error { return unix.Close(s.fd) }
