package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

const (
	// smallPayload makes a frame of 64 bytes on an Ethernet: 14 + 20 + 8 + 18 and 4 of checksum.
	smallPayload = 18
	// batch is how many frames one sendmmsg hands over.
	batch = 64
	// sinkPort is where datagrams end.
	sinkPort = 9
)

// sink swallows datagrams in a guest at the cheapest place that proves delivery: the socket's filter refuses every one
// after the guest's stack has found the socket and checked the sum, and the guest counts it (Udp InErrors). No receiving
// thread disturbs the core that forwards.
type sink struct {
	space nic.Namespace
	fd    int
}

// openSink opens the sink in the receiving guest of the lane.
func openSink(e ends) (*sink, error) {
	var fd int
	err := e.to.Do(func() (err error) {
		fd, err = open(unix.SOCK_DGRAM)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, sockaddr(e.addr, sinkPort)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open the sink in %s: %w", e.to.Name, err)
	}
	return &sink{space: e.to, fd: fd}, nil
}

// Establish answers the first datagram, so that all that track connections hold this one for established, and refuses what
// follows.
func (s *sink) Establish() error {
	for deadline := time.Now().Add(patience); ; {
		var one [smallPayload]byte
		_, from, err := unix.Recvfrom(s.fd, one[:], 0)
		if err == nil {
			if err := unix.Sendto(s.fd, one[:], 0, from); err != nil {
				return fmt.Errorf("answer a datagram in %s: %w", s.space.Name, err)
			}
			break
		}
		if !again(err) {
			return fmt.Errorf("wait for a datagram in %s: %w", s.space.Name, err)
		}
		if time.Now().After(deadline) {
			return errNothing
		}
	}
	refuse := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: uint16(len(refuse)), Filter: &refuse[0]}
	return unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
}

// Close closes the socket.
func (s *sink) Close() error { return unix.Close(s.fd) }

// Delivered reads how many datagrams have reached the guest's sockets since it was made.
func (s *sink) Delivered() (n uint64, err error) {
	err = s.space.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		n, err = counter(string(text), "Udp:", "InErrors")
		return err
	})
	return n, err
}

// counter finds a value in /proc/net/snmp, where a line of names stands before each line of values.
func counter(text, section, name string) (uint64, error) {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != section {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, n := range names {
			if n == name && i < len(fields) {
				return strconv.ParseUint(fields[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("/proc/net/snmp has no %s %s", section, name)
}

// blaster sends the same small datagram again and again.
type blaster struct {
	ends ends
	rate int // per second; 0 is as fast as it goes
	stop atomic.Bool
	// started is closed when the first batch has left.
	started chan struct{}
}

// run sends batches until stopped; a paced one sleeps until the next batch is due.
func (b *blaster) run() error {
	fd, err := open(unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(b.ends.addr, sinkPort)); err != nil {
		return fmt.Errorf("send to %s: %w", b.ends.addr, err)
	}
	payload := make([]byte, smallPayload)
	vector := unix.Iovec{Base: &payload[0], Len: smallPayload}
	messages := make([]unix.Mmsghdr, batch)
	for i := range messages {
		messages[i].Hdr.Iov, messages[i].Hdr.Iovlen = &vector, 1
	}
	start, sent := time.Now(), 0
	for !b.stop.Load() {
		// Not raw, though it does not block: a loop the scheduler cannot interrupt would hold up the collector, and with it all else.
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), batch, 0, 0, 0)
		switch {
		case errno == 0:
			if sent == 0 {
				close(b.started)
			}
			sent += int(n)
		case errno != unix.ENOBUFS && errno != unix.EINTR && errno != unix.EAGAIN:
			return fmt.Errorf("send datagrams: %w", errno)
		}
		if b.rate > 0 {
			pace(start, sent, b.rate)
		}
	}
	return nil
}

// pace sleeps until so many are due at a rate per second.
func pace(start time.Time, sent, rate int) {
	due := start.Add(time.Duration(sent) * time.Second / time.Duration(rate))
	if wait := time.Until(due); wait > 0 {
		t := unix.NsecToTimespec(wait.Nanoseconds())
		_ = unix.Nanosleep(&t, nil)
	}
}

// errNothing: a path that carries nothing has no figure.
var errNothing = errors.New("nothing arrived at the other guest")

// span is what happened while datagrams were sent at an even pace.
type span struct {
	delivered uint64
	busy      time.Duration // of all cores, in the kernel
	took      time.Duration
}

// blast sends for the time given, after a short start that is not counted.
func blast(ctx context.Context, e ends, rate int, d time.Duration) (counted span, err error) {
	s, err := openSink(e)
	if err != nil {
		return counted, err
	}
	defer s.Close()
	b := &blaster{ends: e, rate: rate, started: make(chan struct{})}
	done := run(e.from, senderCore, b.run)
	select {
	case <-b.started:
	case err := <-done:
		return counted, errors.Join(errNothing, err)
	case <-ctx.Done():
	}
	defer func() {
		b.stop.Store(true)
		err = errors.Join(err, <-done)
	}()
	if err := s.Establish(); err != nil {
		return counted, err
	}
	if err := wait(ctx, d/8); err != nil {
		return counted, err
	}
	return s.count(ctx, d)
}

// count counts for the time given.
func (s *sink) count(ctx context.Context, d time.Duration) (counted span, err error) {
	start := time.Now()
	delivered, err := s.Delivered()
	busy, busyErr := kernelTime()
	if err := errors.Join(err, busyErr, wait(ctx, d)); err != nil {
		return counted, err
	}
	counted.took = time.Since(start)
	end, err := s.Delivered()
	busyEnd, busyErr := kernelTime()
	counted.delivered, counted.busy = end-delivered, busyEnd-busy
	if counted.delivered == 0 && err == nil {
		err = errNothing
	}
	return counted, errors.Join(err, busyErr)
}

// packetRate is how many small datagrams per second reach the guest from one sending core.
func packetRate(ctx context.Context, e ends, d time.Duration) (float64, error) {
	s, err := blast(ctx, e, 0, d)
	return float64(s.delivered) / s.took.Seconds(), err
}

// pacedRate is the rate at which CPU time per packet is measured: far below what any peer can carry.
const pacedRate = 100_000

// packetCost is the nanoseconds all cores spend in the kernel for one small datagram from guest to guest, both guests'
// own stacks included. The kernel counts whole ticks: slices are added up until it has counted one.
func packetCost(ctx context.Context, e ends, d time.Duration) (float64, error) {
	var sum span
	for range slicesPerTick {
		s, err := blast(ctx, e, pacedRate, d)
		if err != nil {
			return 0, err
		}
		sum.busy += s.busy
		sum.delivered += s.delivered
		if sum.busy > 0 {
			return float64(sum.busy.Nanoseconds()) / float64(sum.delivered), nil
		}
	}
	return 0, fmt.Errorf("%d slices of %v took less than one tick of the kernel's clock: take longer slices", slicesPerTick, d)
}

// slicesPerTick bounds the slices in which the kernel is to count a tick.
const slicesPerTick = 50

// wait returns after the time given, or when the context ends, with its cause.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
