package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// echoPort is where a lab's virtual machines answer echoes (RFC 862).
const echoPort = 7

// StreamResult is what a stream saw.
type StreamResult struct {
	// Exchanges is how many messages came back as they were sent.
	Exchanges uint64 `json:"exchanges"`
	// LongestWait is the longest time a message took to come back.
	LongestWait time.Duration `json:"longestWait"`
}

// Stream is one TCP connection on which messages go back and forth, one at a time, until it is stopped.
type Stream struct {
	conn net.Conn
	quit context.CancelFunc
	done chan error

	mu     sync.Mutex
	result StreamResult
}

// OpenStream connects from a guest in a namespace to the echo service of a virtual machine at this address, and keeps one
// message on its way at any time. Stop it after use.
func (l *Lab) OpenStream(ctx context.Context, from string, to netip.Addr) (*Stream, error) {
	address := net.JoinHostPort(to.String(), strconv.Itoa(echoPort))
	var conn net.Conn
	err := l.GuestNamespace(from).Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a TCP connection from guest %s to %s: %w", from, address, err)
	}
	ctx, quit := context.WithCancel(ctx)
	s := &Stream{conn: conn, quit: quit, done: make(chan error, 1)}
	go func() { s.done <- s.run(ctx) }()
	return s, nil
}

// run exchanges messages until ctx ends; the message under way then still comes back.
func (s *Stream) run(ctx context.Context) error {
	defer s.conn.Close()
	sent, back := make([]byte, 1024), make([]byte, 1024)
	for n := uint64(0); ctx.Err() == nil; n++ {
		copy(sent, strconv.FormatUint(n, 10)+" ")
		begun := time.Now()
		if err := s.conn.SetDeadline(begun.Add(30 * time.Second)); err != nil {
			return err
		}
		if _, err := s.conn.Write(sent); err != nil {
			return fmt.Errorf("after %d messages: %w", n, err)
		}
		if _, err := io.ReadFull(s.conn, back); err != nil {
			return fmt.Errorf("after %d messages: %w", n, err)
		}
		if !bytes.Equal(sent, back) {
			return fmt.Errorf("message %d came back changed", n)
		}
		s.mu.Lock()
		s.result.Exchanges++
		s.result.LongestWait = max(s.result.LongestWait, time.Since(begun))
		s.mu.Unlock()
	}
	return nil
}

// Stop ends the stream and says what it saw; the error says how the connection broke, if it did.
func (s *Stream) Stop() (StreamResult, error) {
	s.quit()
	err := <-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the other end closed the connection: %w", err)
	}
	return s.result, err
}
