package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// frameBuffer holds the largest frame a tap passes: 64 kB of payload, with headers to spare.
const frameBuffer = 128 << 10

// pump copies frames with their vnet headers between a host's tap and a guest's, one thread each way: the work of a
// hypervisor's virtio backend in user space, at native speed.
type pump struct {
	stop  atomic.Bool
	wake  int // an eventfd that becomes readable when the pump is to stop
	lanes sync.WaitGroup
}

// startPump begins to copy; the taps must stay open until Close has returned.
func startPump(host, guest *os.File) (*pump, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("start pump: %w", err)
	}
	p := &pump{wake: wake}
	h, g := int(host.Fd()), int(guest.Fd())
	// After Fd, which makes a file blocking.
	if err := errors.Join(unix.SetNonblock(h, true), unix.SetNonblock(g, true)); err != nil {
		unix.Close(wake)
		return nil, fmt.Errorf("start pump: %w", err)
	}
	p.lanes.Go(func() { p.copy(h, g) })
	p.lanes.Go(func() { p.copy(g, h) })
	return p, nil
}

// Close returns when both directions are at rest.
func (p *pump) Close() error {
	p.stop.Store(true)
	_, err := unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	p.lanes.Wait()
	return errors.Join(err, unix.Close(p.wake))
}

// copy moves frames one way until the pump stops.
func (p *pump) copy(from, to int) {
	runtime.LockOSThread() // the thread ends with the goroutine
	_ = hurry()            // as fast as it goes otherwise
	buffer := make([]byte, frameBuffer)
	for !p.stop.Load() {
		n, err := unix.Read(from, buffer)
		switch {
		case err == nil:
			_, _ = unix.Write(to, buffer[:n]) // a full device loses the frame, as a NIC does
		case errors.Is(err, unix.EAGAIN):
			p.await(from)
		case !errors.Is(err, unix.EINTR):
			return
		}
	}
}

// await sleeps until a frame can be read or the pump is to stop.
func (p *pump) await(fd int) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(p.wake), Events: unix.POLLIN}}, -1)
}
