package nic

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Listener hears every frame that comes in by one device, with the tag that the kernel has taken off put back.
type Listener struct {
	file    *os.File
	buffer  []byte
	control []byte
	dropped uint64
}

// listenerBuffer is how many bytes of frames wait for the reader in the kernel; more are dropped, and counted.
const listenerBuffer = 16 << 20

// Listen hears a device of this namespace from now on.
func Listen(device string) (*Listener, error) {
	link, err := find(device)
	if err != nil {
		return nil, fail("listen on", device, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket for %s: %w%s", device, err, remedy(err))
	}
	all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8
	for _, step := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, listenerBuffer) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) },
		func() error {
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
		},
	} {
		if err := step(); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("listen on %s: %w%s", device, err, remedy(err))
		}
	}
	return &Listener{file: os.NewFile(uintptr(fd), device), buffer: make([]byte, 1<<17), control: make([]byte, 256)}, nil
}

// Next waits for a frame and says when it came in. The frame is valid until the next call. After Close, and when the device is gone,
// the error says so; os.ErrDeadlineExceeded when none came until the deadline.
func (l *Listener) Next(deadline time.Time) (frame []byte, at time.Time, err error) {
	if err := l.file.SetReadDeadline(deadline); err != nil {
		return nil, at, err
	}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, at, err
	}
	var n, used int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, used, _, _, failed = unix.Recvmsg(int(fd), l.buffer, l.control, 0)
		return failed != unix.EAGAIN && failed != unix.EINTR
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, at, err
	}
	at, tag, tagged := l.beside(l.control[:used])
	frame = l.buffer[:n]
	if tagged && n >= 12 {
		frame = slices.Concat(frame[:12], binary.BigEndian.AppendUint32(nil, tag), frame[12:])
	}
	return frame, at, nil
}

// beside reads what the kernel says of a frame beside it: its time, and a tag that was taken off.
func (l *Listener) beside(control []byte) (at time.Time, tag uint32, tagged bool) {
	at = time.Now()
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return at, 0, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16:
			at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})):
			status := binary.NativeEndian.Uint32(m.Data)
			if status&unix.TP_STATUS_VLAN_VALID == 0 {
				continue
			}
			protocol := uint32(0x8100)
			if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
				protocol = uint32(binary.NativeEndian.Uint16(m.Data[18:]))
			}
			tag, tagged = protocol<<16|uint32(binary.NativeEndian.Uint16(m.Data[16:])), true
		}
	}
	return at, tag, tagged
}

// Dropped is how many frames found no room in the kernel since Listen.
func (l *Listener) Dropped() (uint64, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return l.dropped, err
	}
	var stats *unix.TpacketStats
	if err := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); err != nil {
		return l.dropped, err
	}
	if err != nil {
		return l.dropped, err
	}
	l.dropped += uint64(stats.Drops) // the kernel begins anew with each question
	return l.dropped, nil
}

// Close ends it; a call of Next that waits returns.
func (l *Listener) Close() error { return l.file.Close() }
