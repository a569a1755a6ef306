package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// inquiryRate is how many requests per second are answered that are a datagram each from a socket of their own, one after another
// and on one core: for all that tracks connections each is a new one.
func inquiryRate(ctx context.Context, e ends, d time.Duration) (float64, error) {
	t := &transfer{ends: e, core: senderCore, listen: receive}
	return t.run(ctx, d, t.answerDatagrams, t.inquire)
}

// receive opens a UDP socket on a port that the kernel chooses.
func receive(addr netip.Addr) (fd, port int, err error) {
	if fd, err = open(unix.SOCK_DGRAM); err != nil {
		return -1, 0, err
	}
	err = unix.Bind(fd, sockaddr(addr, 0))
	name, nameErr := unix.Getsockname(fd)
	if err = errors.Join(err, nameErr); err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("receive datagrams at %s: %w", addr, err)
	}
	return fd, name.(*unix.SockaddrInet4).Port, nil
}

// answerDatagrams sends every datagram back.
func (t *transfer) answerDatagrams() error {
	var one [1]byte
	for !t.stop.Load() {
		_, from, err := unix.Recvfrom(t.listener, one[:], 0)
		if again(err) || t.stop.Load() {
			continue
		}
		if err == nil {
			err = unix.Sendto(t.listener, one[:], 0, from)
		}
		if err != nil {
			return fmt.Errorf("answer a datagram: %w", err)
		}
	}
	return nil
}

// inquire opens a socket for each request.
func (t *transfer) inquire() error {
	for !t.stop.Load() {
		fd, err := open(unix.SOCK_DGRAM)
		if err != nil {
			return err
		}
		if err = unix.Connect(fd, sockaddr(t.ends.addr, t.port)); err == nil {
			err = t.exchange(fd)
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
		t.add(1)
	}
	return nil
}
