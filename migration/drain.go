package migration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Leftovers are the frames that a guest's tap still holds when the guest has stopped: the kernel handed them over before
// the source began to send frames on, and the machine will never read them.
type Leftovers struct {
	// Process is the machine, which has the tap open.
	Process int
	// Device is the tap's name.
	Device string
	// VNI is the network of untagged frames for the guest, Tags those of a trunk's tags, From this host's tunnel end point, To that of the guest's new host.
	VNI      fabric.VNI
	Tags     map[fabric.VLANID]fabric.VNI
	From, To netip.Addr
}

// drainBudget bounds one SendOn; a full tap queue of a thousand frames takes a few milliseconds.
const drainBudget = 50 * time.Millisecond

// SendOn sends leftovers on to the guest's new host, and returns how many were sent (Relayed) and how many could not be
// (Lost). The machine must have stopped its guest: then it does not read the tap. It needs CAP_SYS_PTRACE over the
// machine, for a copy of its descriptor (pidfd_getfd(2), Linux 5.6).
func (l Leftovers) SendOn(ctx context.Context) (Counts, error) {
	taps, err := taps(l.Process, l.Device)
	defer closeAll(taps)
	if err != nil {
		return Counts{}, fmt.Errorf("fetch what tap %s of process %d still holds: %w", l.Device, l.Process, err)
	}
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.From, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.To, vxlanPort)))
	if err != nil {
		return Counts{}, fmt.Errorf("send what tap %s still holds to %s: %w", l.Device, l.To, err)
	}
	defer conn.Close()
	if err := vouch(conn, l.To.Is6()); err != nil {
		return Counts{}, fmt.Errorf("send what tap %s still holds to %s: %w", l.Device, l.To, err)
	}
	tunnel := &tunnel{conn: conn, vni: l.VNI, tags: l.Tags}
	limited, cancel := context.WithTimeout(ctx, drainBudget)
	defer cancel()
	for _, fd := range taps {
		if err := drainTap(limited, fd, tunnel); err != nil {
			return tunnel.counts, fmt.Errorf("read what tap %s still holds: %w", l.Device, err)
		}
	}
	return tunnel.counts, nil
}

// judgedTTL says that the rules of the port have let a frame pass at the host that it leaves, as they have everything that is in its
// tap (JUDGED_TTL in datapath/bpf/encap.h, ADR 22).
const judgedTTL = 255

// vouch has what a socket sends say so.
func vouch(conn *net.UDPConn, ipv6 bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if ipv6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, judgedTTL) })
	return errors.Join(err, failed)
}

// taps duplicates a process's descriptors of a tap, one for each of its queues.
func taps(pid int, device string) (fds []int, err error) {
	names, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	for _, name := range names {
		if to, err := os.Readlink(name); err != nil || to != "/dev/net/tun" {
			continue
		}
		number := filepath.Base(name)
		info, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "fdinfo", number))
		if err != nil || !carries(string(info), device) {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	if len(fds) == 0 {
		return nil, errors.New("the process does not have it open")
	}
	return fds, nil
}

// carries reports whether a tun descriptor's fdinfo names the device (drivers/net/tun.c, tun_chr_show_fdinfo).
func carries(info, device string) bool {
	for line := range strings.Lines(info) {
		if name, ok := strings.CutPrefix(line, "iff:"); ok && strings.TrimSpace(name) == device {
			return true
		}
	}
	return false
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// mostLeft bounds the frames read of one queue, far above what one holds: nothing new comes while the host sends on.
const mostLeft = 1 << 16

// drainTap reads one queue until it is empty. What it has no time to send on is counted as lost, not left behind in silence.
func drainTap(ctx context.Context, fd int, out *tunnel) error {
	size, err := headerSize(fd)
	if err != nil {
		return err
	}
	buffer := make([]byte, 128<<10)
	for range mostLeft {
		// The descriptor may be a blocking one, and its flags are the machine's: ask before each read.
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 0); err != nil && !errors.Is(err, unix.EINTR) || n == 0 || ready[0].Revents&unix.POLLIN == 0 {
			return nil
		}
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n < size:
			continue
		case ctx.Err() != nil:
			out.counts.Lost++
			continue
		}
		out.send(buffer[:size], buffer[size:n])
	}
	return nil
}

// headerSize is the length of the header in front of each frame: 0, 10 or 12 bytes (linux/virtio_net.h).
func headerSize(fd int) (int, error) {
	request, err := unix.NewIfreq("any")
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
		return 0, err
	}
	if request.Uint16()&unix.IFF_VNET_HDR == 0 {
		return 0, nil
	}
	return unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
}

// VXLAN on the wire (RFC 7348 section 5).
const (
	vxlanPort   = 4789
	vxlanHeader = 8
	vxlanI      = 0x08 // the VNI is valid
)

// tunnel sends frames to one end point.
type tunnel struct {
	conn   *net.UDPConn
	vni    fabric.VNI
	tags   map[fabric.VLANID]fabric.VNI
	counts Counts
}

// tag8021Q is the type of a VLAN's tag (IEEE 802.1Q 9.6).
const tag8021Q = 0x8100

// segment is the network that a frame for the guest was on, and the frame as it was there: without the tag of the guest's trunk.
func (t *tunnel) segment(frame []byte) (fabric.VNI, []byte) {
	if len(frame) < 18 || binary.BigEndian.Uint16(frame[12:]) != tag8021Q {
		return t.vni, frame
	}
	vni, known := t.tags[fabric.VLANID(binary.BigEndian.Uint16(frame[14:])&0xfff)]
	if !known { // a tag that is payload
		return t.vni, frame
	}
	return vni, append(frame[:12:12], frame[16:]...)
}

// send sends a frame with what its header asks for done: checksum, segments.
func (t *tunnel) send(header, frame []byte) {
	whole := 0
	err := finish(header, frame, func(f []byte) error {
		vni, f := t.segment(f)
		packet := make([]byte, vxlanHeader, vxlanHeader+len(f))
		packet[0] = vxlanI
		binary.BigEndian.PutUint32(packet[4:], uint32(vni)<<8)
		if _, err := t.conn.Write(append(packet, f...)); err != nil {
			return err
		}
		whole++
		return nil
	})
	t.counts.Relayed += uint64(whole)
	if err != nil {
		t.counts.Lost++
	}
}
