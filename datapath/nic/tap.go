package nic

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// VnetHeader is the size of the header before every frame of a tap, in bytes: struct virtio_net_hdr_mrg_rxbuf
// (linux/virtio_net.h), what QEMU uses too.
const VnetHeader = 12

// Offloads a tap's reader declares that its guest can take (linux/if_tun.h).
const (
	tunCsum   = 0x01
	tunTSO4   = 0x02
	tunTSO6   = 0x04
	tunTSOECN = 0x08
	tunUSO4   = 0x20
	tunUSO6   = 0x40

	// FullOffload: checksums and segmentation of TCP and UDP are left to whoever sends to a wire, so that frames of up to
	// 64 kB pass whole.
	FullOffload = tunCsum | tunTSO4 | tunTSO6 | tunTSOECN | tunUSO4 | tunUSO6
)

// TapOptions are the settings of a tap; the zero value is a tap as a hypervisor makes it, without offloads.
type TapOptions struct {
	// MTU in bytes; 0 leaves the kernel's 1500.
	MTU int
	// MAC of the host's end; zero leaves the random one.
	MAC fabric.MAC
	// QueueLength is how many frames wait for the reader; 0 leaves the kernel's 1000 (TUN_READQ_SIZE is 500).
	QueueLength int
	// Offload is a set of TUN_F_ bits, see FullOffload.
	Offload int
	// NoIPv6 keeps the namespace's own IPv6 stack off the device: on a host's tap it would speak to the guest.
	NoIPv6 bool
}

// OpenTap makes a tap with a vnet header before every frame, single queue, down, and returns the file frames are read
// from and written to. The tap lives until the file and its copies are closed. A tap of that name that another process
// has open is an error (EBUSY).
func OpenTap(name string, o TapOptions) (tap *os.File, err error) {
	if err := checkName(name); err != nil {
		return nil, fail("create tap", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("create tap %s: open /dev/net/tun: %w%s", name, err, tunRemedy(err))
	}
	if err := bindTap(fd, name, o.Offload); err != nil {
		unix.Close(fd)
		return nil, fail("create tap", name, err)
	}
	tap = os.NewFile(uintptr(fd), "/dev/net/tun:"+name)
	defer closeOnError(tap, &err)
	return tap, setTap(name, o)
}

// bindTap names the device behind an open /dev/net/tun and sets the shape of its frames.
func bindTap(fd int, name string, offload int) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, VnetHeader); err != nil {
		return fmt.Errorf("set the vnet header to %d bytes: %w", VnetHeader, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload); err != nil {
		return fmt.Errorf("set offloads %#x: %w", offload, err)
	}
	return nil
}

func setTap(name string, o TapOptions) error {
	if o.NoIPv6 {
		if err := DisableIPv6(name); err != nil {
			return err
		}
	}
	if !o.MAC.IsZero() {
		if err := SetMAC(name, o.MAC); err != nil {
			return err
		}
	}
	if o.MTU != 0 {
		if err := SetMTU(name, o.MTU); err != nil {
			return err
		}
	}
	if o.QueueLength != 0 {
		return SetQueueLength(name, o.QueueLength)
	}
	return nil
}

// HostMAC is the address a host's end of a guest's tap gets: the guest's with the first octet fe, as libvirt does, so that
// it is neither the guest's nor ever the smallest on a bridge.
func HostMAC(guest fabric.MAC) fabric.MAC {
	guest[0] = 0xfe
	return guest
}

func tunRemedy(err error) string {
	if os.IsNotExist(err) {
		return " (load the tun module: modprobe tun)"
	}
	return remedy(err)
}
