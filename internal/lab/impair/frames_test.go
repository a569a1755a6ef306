package impair

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// transmit sends frames of EtherType 88b5, which is for private use (IEEE 802), out of a device.
func transmit(device string, n int) error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	const etherType = 0xb588 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := make([]byte, 60)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	to := &unix.SockaddrLinklayer{Protocol: etherType, Ifindex: link.Index, Halen: 6}
	for range n {
		if err := unix.Sendto(fd, frame, 0, to); err != nil && err != unix.ENOBUFS { // a dropped frame is told so
			return err
		}
	}
	return nil
}

// received is how many frames a device took in.
func received(device string) (uint64, error) {
	b, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, numbers, found := strings.Cut(strings.TrimSpace(line), ":")
		if !found || name != device {
			continue
		}
		var bytes, packets uint64
		_, err := fmt.Sscan(numbers, &bytes, &packets)
		return packets, err
	}
	return 0, fmt.Errorf("no device %s", device)
}
