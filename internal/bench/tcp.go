package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bulkBuffer is how much one write hands over and one read takes, in bytes: iperf3's default.
const bulkBuffer = 128 << 10

// transfer is a load between two guests: the client in ends.from, the server in ends.to, whose socket listen opens.
type transfer struct {
	ends     ends
	core     int // the server's; the client is on senderCore
	listen   func(netip.Addr) (fd, port int, err error)
	listener int
	port     int
	count    atomic.Uint64 // what the measured side has completed
	started  chan struct{} // closed with the first of it
	stop     atomic.Bool
}

// add counts what was completed.
func (t *transfer) add(n int) {
	if n > 0 && t.count.Add(uint64(n)) == uint64(n) {
		close(t.started)
	}
}

// run starts both sides, each on its core, counts for the time given after a short start, and stops them.
func (t *transfer) run(ctx context.Context, d time.Duration, server, client func() error) (perSecond float64, err error) {
	err = t.ends.to.Do(func() (err error) {
		t.listener, t.port, err = t.listen(t.ends.addr)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer unix.Close(t.listener)
	t.started = make(chan struct{})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	serverDone := run(t.ends.to, t.core, func() error { return t.side(cancel, server) })
	clientDone := run(t.ends.from, senderCore, func() error { return t.side(cancel, client) })
	defer func() {
		t.stop.Store(true)
		_ = unix.Shutdown(t.listener, unix.SHUT_RD) // wakes the server if it waits for a connection
		err = errors.Join(err, <-clientDone, <-serverDone)
	}()
	select {
	case <-t.started:
	case <-ctx.Done():
	}
	if err := wait(ctx, d/4); err != nil {
		return 0, err
	}
	start, before := time.Now(), t.count.Load()
	if err := wait(ctx, d); err != nil {
		return 0, err
	}
	n, took := t.count.Load()-before, time.Since(start)
	if n == 0 {
		return 0, errNothing
	}
	return float64(n) / took.Seconds(), nil
}

// side runs one side. A failure before the end stops the measure; after it, the other side may have closed first.
func (t *transfer) side(cancel context.CancelCauseFunc, fn func() error) error {
	if err := fn(); err != nil && !t.stop.Load() {
		cancel(err)
	}
	return nil
}

// bulk is how many bits per second one TCP stream brings from guest to guest.
func bulk(ctx context.Context, e ends, d time.Duration) (float64, error) {
	t := &transfer{ends: e, core: receiverCore, listen: listen}
	bytes, err := t.run(ctx, d, t.takeAll, t.sendAll)
	return 8 * bytes, err
}

// takeAll reads one connection to its end.
func (t *transfer) takeAll() error {
	fd, err := accept(t.listener)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buffer := make([]byte, bulkBuffer)
	for !t.stop.Load() {
		n, err := unix.Read(fd, buffer)
		if err == nil && n == 0 {
			return errors.New("receive the stream: it ended early")
		}
		if err != nil && !again(err) {
			return fmt.Errorf("receive the stream: %w", err)
		}
		t.add(n)
	}
	return nil
}

// sendAll writes until stopped, and leaves nothing to be sent afterwards.
func (t *transfer) sendAll() error {
	fd, err := connect(t.ends.addr, t.port)
	if err != nil {
		return err
	}
	defer closeHard(fd)
	buffer := make([]byte, bulkBuffer)
	for !t.stop.Load() {
		if _, err := unix.Write(fd, buffer); err != nil && !again(err) {
			return fmt.Errorf("send the stream: %w", err)
		}
	}
	return nil
}

// requestRate is how many one-byte requests per second are answered over one connection, with both guests on one core, so
// that the figure is the way there and back and not the time it takes to wake an idle core.
func requestRate(ctx context.Context, e ends, d time.Duration) (float64, error) {
	t := &transfer{ends: e, core: senderCore, listen: listen}
	return t.run(ctx, d, t.answerOne, t.ask)
}

// requestRateApart is requestRate with a core for each guest: every request and every answer wakes the other core.
func requestRateApart(ctx context.Context, e ends, d time.Duration) (float64, error) {
	t := &transfer{ends: e, core: receiverCore, listen: listen}
	return t.run(ctx, d, t.answerOne, t.ask)
}

// answerOne answers every byte of one connection.
func (t *transfer) answerOne() error {
	fd, err := accept(t.listener)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return t.answer(fd)
}

// answer sends every byte back until the connection ends.
func (t *transfer) answer(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	var one [1]byte
	for !t.stop.Load() {
		n, err := unix.Read(fd, one[:])
		if again(err) {
			continue
		}
		if n == 0 || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err == nil {
			_, err = unix.Write(fd, one[:])
		}
		if err != nil {
			return fmt.Errorf("answer a request: %w", err)
		}
	}
	return nil
}

// ask asks over one connection, one request at a time.
func (t *transfer) ask() error {
	fd, err := connect(t.ends.addr, t.port)
	if err != nil {
		return err
	}
	defer closeHard(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	for !t.stop.Load() {
		if err := t.exchange(fd); err != nil {
			return err
		}
		t.add(1)
	}
	return nil
}

// exchange sends one byte and waits for the answer.
func (t *transfer) exchange(fd int) error {
	var one [1]byte
	if _, err := unix.Write(fd, one[:]); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	for {
		n, err := unix.Read(fd, one[:])
		switch {
		case n == 1:
			return nil
		case again(err) && !t.stop.Load():
		case err == nil:
			return errors.New("wait for an answer: the connection ended")
		default:
			return fmt.Errorf("wait for an answer: %w", err)
		}
	}
}

// connectionRate is how many connections per second are opened, used for one request and closed, one after another
// and on one core.
func connectionRate(ctx context.Context, e ends, d time.Duration) (float64, error) {
	t := &transfer{ends: e, core: senderCore, listen: listen}
	return t.run(ctx, d, t.answerAll, t.askAnew)
}

// answerAll serves one connection after another.
func (t *transfer) answerAll() error {
	for !t.stop.Load() {
		fd, err := accept(t.listener)
		if err != nil {
			return err
		}
		err = t.answer(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// askAnew opens a connection for each request. It ends with a reset, so that no port waits for a minute (TIME_WAIT,
// RFC 9293 3.6.1) and the rate can be held.
func (t *transfer) askAnew() error {
	for !t.stop.Load() {
		fd, err := connect(t.ends.addr, t.port)
		if err != nil {
			return err
		}
		err = t.exchange(fd)
		closeHard(fd)
		if err != nil {
			return err
		}
		t.add(1)
	}
	return nil
}

// closeHard ends a connection with a reset and forgets what was not sent.
func closeHard(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
	unix.Close(fd)
}
