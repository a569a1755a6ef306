package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// patience is how long a socket call waits before it gives up, so that a path that loses everything ends with an error.
const patience = 3 * time.Second

// Cores of the generators: the sender's core does all the work up to the receiving socket, since a veth hands frames over
// on the core that sends.
const (
	senderCore   = 0
	receiverCore = 1
)

// open makes a socket in the namespace of the calling thread; its calls give up after patience with EAGAIN.
func open(kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	if err := setPatience(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setPatience(fd int) error {
	wait := unix.NsecToTimeval(patience.Nanoseconds())
	return errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
}

// sockaddr is an address and port as the kernel takes them.
func sockaddr(a netip.Addr, port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
}

// listen opens a TCP socket that accepts connections, on a port the kernel chooses.
func listen(addr netip.Addr) (fd, port int, err error) {
	fd, err = open(unix.SOCK_STREAM)
	if err != nil {
		return -1, 0, err
	}
	err = unix.Bind(fd, sockaddr(addr, 0))
	if err == nil {
		err = unix.Listen(fd, 1024)
	}
	name, nameErr := unix.Getsockname(fd)
	if err = errors.Join(err, nameErr); err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return fd, name.(*unix.SockaddrInet4).Port, nil
}

// connect opens a connection.
func connect(addr netip.Addr, port int) (int, error) {
	fd, err := open(unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	err = unix.Connect(fd, sockaddr(addr, port))
	if errors.Is(err, unix.EINTR) { // the runtime's signals; the connection goes on being made (connect(2))
		err = completed(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, nil
}

// completed waits for a connection that is being made.
func completed(fd int) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(patience.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n < 1 {
			continue
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		return err
	}
	return unix.ETIMEDOUT
}

// accept waits for the next connection.
func accept(listener int) (int, error) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return -1, fmt.Errorf("wait for a connection: %w", err)
		default:
			return fd, setPatience(fd)
		}
	}
}

// again reports whether the call is to be tried once more: it was interrupted, or its patience is over.
func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

// run runs fn in the namespace on a thread of its own that stays on the core; the channel has fn's error.
func run(space nic.Namespace, core int, fn func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		done <- space.Do(func() error {
			runtime.LockOSThread() // once more and never unlocked: the thread ends with the goroutine, and its core with it
			var set unix.CPUSet
			set.Set(core % runtime.NumCPU())
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return fmt.Errorf("stay on core %d: %w", core, err)
			}
			if err := hurry(); err != nil {
				return err
			}
			return fn()
		})
	}()
	return done
}

// hurry has the calling thread run before whatever else the machine does.
func hurry() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
		return fmt.Errorf("raise a generator's priority: %w", err)
	}
	return nil
}
