package nic

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// primer is a frame that nobody takes: from one address to another that no station has, of the EtherType for local experiments (IEEE 802
// section 9.2.4). It reads so with its first two bytes taken off, too.
var primer = append([]byte{
	0x0a, 0x57, 0x0a, 0x57, 0x0a, 0x57, 0x0a, 0x57, 0x0a, 0x57, 0x0a, 0x57,
	0x88, 0xb5, 0x88, 0xb5,
}, make([]byte, 44)...)

// Prime sends a frame that nobody takes into a tap whose guest is still to come. QEMU reads one frame ahead while its machine waits for
// the guest, with the virtio header of a device without a driver (10 bytes), and hands it to the guest with that of the driver (12 bytes),
// two bytes short: what came first was lost with every move (ADR 27). A frame more does no harm.
func Prime(device string) error {
	link, err := find(device)
	if err != nil {
		return fail("prime", device, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket for %s: %w%s", device, err, remedy(err))
	}
	defer unix.Close(fd)
	// Programs at the device let nothing out that is not switched: the frame passes them by.
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	if err == nil {
		err = unix.Sendto(fd, primer, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index})
	}
	if err != nil {
		return fmt.Errorf("prime %s: %w", device, err)
	}
	return nil
}
