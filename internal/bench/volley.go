package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// volley sends frames of its own making out of a guest's NIC, as a guest does that minds no stack.
type volley struct {
	space nic.Namespace
	// next changes the frame into the one that follows it.
	next  func(frame []byte)
	frame []byte
	rate  int // per second; 0 is as fast as it goes
	stop  atomic.Bool
	sent  atomic.Uint64
}

// begin sends on the core until the function that it returns is called, which tells how many frames left per second.
func (v *volley) begin(core int) (end func() (perSecond float64, err error)) {
	start := time.Now()
	done := run(v.space, core, func() error { return v.send(1 << 62) })
	return func() (float64, error) {
		sent, took := v.sent.Load(), time.Since(start)
		v.stop.Store(true)
		return float64(sent) / took.Seconds(), <-done
	}
}

// send sends so many frames, in the namespace of the calling thread.
func (v *volley) send(most uint64) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	device, err := net.InterfaceByName("eth0")
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: device.Index})
	}
	if err != nil {
		return fmt.Errorf("send frames from %s: %w", v.space.Name, err)
	}
	frames := make([][]byte, batch)
	vectors, messages := make([]unix.Iovec, batch), make([]unix.Mmsghdr, batch)
	for i := range messages {
		frames[i] = make([]byte, len(v.frame))
		vectors[i] = unix.Iovec{Base: &frames[i][0], Len: uint64(len(v.frame))}
		messages[i].Hdr.Iov, messages[i].Hdr.Iovlen = &vectors[i], 1
	}
	start := time.Now()
	for sent := uint64(0); sent < most && !v.stop.Load(); {
		n := min(most-sent, batch)
		for i := range n {
			copy(frames[i], v.frame)
			v.next(v.frame)
		}
		took, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(n), 0, 0, 0)
		if errno != 0 && errno != unix.ENOBUFS && errno != unix.EINTR && errno != unix.EAGAIN {
			return fmt.Errorf("send frames from %s: %w", v.space.Name, errno)
		}
		if errno == 0 {
			sent += uint64(took)
			v.sent.Store(sent)
		}
		if v.rate > 0 {
			pace(start, int(sent), v.rate)
		}
	}
	return nil
}

// Places in a frame of IPv4 without options.
const (
	atChecksum    = 14 + 10
	atDestination = 14 + 16
	atSourcePort  = 14 + 20
	atTargetPort  = 14 + 22
	atTCPLength   = 14 + 32
	atTCPFlags    = 14 + 33
	tcpSYN        = 2
)

// random makes the frame one of addresses and ports that are drawn anew, among those that rules speak of, so that it is of a class
// of its own in each dimension.
func random(draw *rand.Rand) func([]byte) {
	return func(frame []byte) {
		n := draw.Uint64()
		frame[14+9] = []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP}[n>>63]
		binary.BigEndian.PutUint32(frame[atDestination:], 172<<24|16<<16|uint32(n&0x1ffff))
		binary.BigEndian.PutUint16(frame[atSourcePort:], uint16(1+n>>20%2048))
		binary.BigEndian.PutUint16(frame[atTargetPort:], uint16(1+n>>40%2048))
		frame[atTCPLength], frame[atTCPFlags] = 5<<4, tcpSYN // payload, where it is UDP
		setChecksum(frame)
	}
}

// count gives the frame the next source port from the one it has.
func count(frame []byte) {
	binary.BigEndian.PutUint16(frame[atSourcePort:], binary.BigEndian.Uint16(frame[atSourcePort:])+1)
}

// same leaves the frame as it is.
func same([]byte) {}

// setChecksum writes the IPv4 header's checksum (RFC 1071).
func setChecksum(frame []byte) {
	header := frame[14:34]
	header[atChecksum-14], header[atChecksum-13] = 0, 0
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(header[atChecksum-14:], ^uint16(sum))
}
