package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// echoPort is the TCP port on which virtual machines answer what they are sent (RFC 862).
const echoPort = 7

// streamSilence is how long a stream waits for an answer before it counts as broken.
const streamSilence = 30 * time.Second

// streamPause is the time between an answer and the next message.
const streamPause = 2 * time.Millisecond

// Stream is one TCP connection on which a message goes there and back all the time.
type Stream struct {
	conn net.Conn
	stop context.CancelFunc
	done sync.WaitGroup
	seen StreamResult // written by the stream's goroutine, read after it has ended
	err  error
}

// StreamResult is what a stream saw.
type StreamResult struct {
	// Exchanges are messages that went there and back.
	Exchanges int
	// LongestWait is the longest time between a message and its answer.
	LongestWait time.Duration
}

// OpenStream connects from a guest that is a namespace to the echo service at the address, and begins. Virtual machines of
// a lab have that service.
func (l *Lab) OpenStream(ctx context.Context, guest string, to netip.Addr) (*Stream, error) {
	if _, err := l.Guest(guest); err != nil {
		return nil, err
	}
	s := &Stream{}
	err := l.GuestNamespace(guest).Do(func() (err error) {
		dialer := net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}
		s.conn, err = dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(to, echoPort).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a TCP connection from guest %s to %s: %w", guest, to, err)
	}
	if err := s.exchange(); err != nil { // it works before anybody relies on it
		s.conn.Close()
		return nil, fmt.Errorf("talk from guest %s to %s: %w", guest, to, err)
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() { s.run(ctx) })
	return s, nil
}

// Stop ends the stream after the answer it waits for, and returns what it saw. The error says how the connection broke.
func (s *Stream) Stop() (StreamResult, error) {
	s.stop()
	s.done.Wait()
	s.conn.Close()
	return s.seen, s.err
}

func (s *Stream) run(ctx context.Context) {
	tick := time.NewTicker(streamPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.err = s.exchange(); s.err != nil {
			return
		}
	}
}

// exchange sends a message that differs from the last one and waits for it to come back.
func (s *Stream) exchange() error {
	message := fmt.Sprintf("%016d", s.seen.Exchanges)
	begun := time.Now()
	if err := s.conn.SetDeadline(begun.Add(streamSilence)); err != nil {
		return err
	}
	if _, err := io.WriteString(s.conn, message); err != nil {
		return err
	}
	answer := make([]byte, len(message))
	if _, err := io.ReadFull(s.conn, answer); err != nil {
		return err
	}
	if string(answer) != message {
		return errors.New("the answer is not what was sent")
	}
	s.seen.Exchanges++
	s.seen.LongestWait = max(s.seen.LongestWait, time.Since(begun))
	return nil
}
