package lab

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// frameBuffer holds the largest frame a tap passes: 64 kB of payload, with headers to spare.
const frameBuffer = 128 << 10

// wire copies frames, each with its vnet header, between two taps in both directions, as a virtio backend in user space
// does. It drops nothing by itself: it reads the next frame when the last one was taken.
type wire struct {
	stop    atomic.Bool
	wake    int // an eventfd that becomes readable when the wire is to stop
	lanes   sync.WaitGroup
	refused atomic.Uint64 // frames a device did not take because it was down
}

// joinTaps starts copying. The files stay the caller's; they must be open until Stop has returned.
func joinTaps(host, guest int) (*wire, error) {
	for _, fd := range []int{host, guest} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("join taps: %w", err)
		}
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("join taps: %w", err)
	}
	w := &wire{wake: wake}
	w.lanes.Go(func() { w.copy(host, guest) })
	w.lanes.Go(func() { w.copy(guest, host) })
	return w, nil
}

// Stop returns when both directions are at rest and no frame is in hand.
func (w *wire) Stop() {
	w.stop.Store(true)
	_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	w.lanes.Wait()
	unix.Close(w.wake)
}

// copy moves frames one way until the wire stops or the source device is gone.
func (w *wire) copy(from, to int) {
	runtime.LockOSThread() // one thread each: a frame must not wait for a goroutine to be scheduled
	defer runtime.UnlockOSThread()
	buffer := make([]byte, frameBuffer)
	for !w.stop.Load() {
		n, err := unix.Read(from, buffer)
		switch {
		case err == nil:
			w.deliver(to, buffer[:n])
		case errors.Is(err, unix.EAGAIN):
			w.await(from, unix.POLLIN)
		case errors.Is(err, unix.EINTR):
		default: // the device was deleted (EBADFD): its guest has no NIC any more
			return
		}
	}
}

// deliver hands over one frame and waits while the device is full.
func (w *wire) deliver(to int, frame []byte) {
	for {
		_, err := unix.Write(to, frame)
		switch {
		case errors.Is(err, unix.EAGAIN) && !w.stop.Load():
			w.await(to, unix.POLLOUT)
		case errors.Is(err, unix.EINTR):
		case err != nil: // the device is down (EIO), or refuses the frame: a NIC without a link loses it as well
			w.refused.Add(1)
			return
		default:
			return
		}
	}
}

// await sleeps until the descriptor is ready or the wire is to stop.
func (w *wire) await(fd int, events int16) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(w.wake), Events: unix.POLLIN}}, -1)
}

// announcements are the times after the first at which QEMU repeats its RARP when a guest starts on a new host
// (net/announce.c: 5 rounds, 50 ms, then 100 ms more each time).
var announcements = []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 250 * time.Millisecond, 350 * time.Millisecond}

// announce tells the network, as QEMU does, where the guest is now: a reverse ARP request for itself (RFC 903) in a frame
// of 60 bytes, behind an empty vnet header.
func announce(host int, mac [6]byte) error {
	frame := make([]byte, nic.VnetHeader+60)
	eth := frame[nic.VnetHeader:]
	copy(eth[0:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(eth[6:], mac[:])
	copy(eth[12:], []byte{0x80, 0x35, 0, 1, 0x08, 0x00, 6, 4, 0, 3})
	copy(eth[22:], mac[:])
	copy(eth[32:], mac[:])
	if _, err := unix.Write(host, frame); err != nil {
		return fmt.Errorf("announce the guest: %w", err)
	}
	return nil
}
