// Package qmp speaks to a QEMU monitor: it drives a live migration and tells the switchover as QEMU sees it, in order and
// with QEMU's own times.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client is one connection to a monitor. Its methods may be called from several goroutines.
type Client struct {
	conn    net.Conn
	version Version
	notice  func(Notice)
	done    chan struct{}

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]func(message)
	err     error
}

// Dial connects to the monitor behind the unix socket, takes its greeting and enters command mode. Each event is given to
// notice, if it is not nil, in the order of the stream and on the client's only reading goroutine: it must not wait for
// an answer of the same client. A monitor serves one client at a time; while another holds it, Dial waits for ctx.
// Errors: ErrProtocol, those of net.Dialer, *Error.
func Dial(ctx context.Context, path string, notice func(Notice)) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the QEMU monitor at %s: %w", path, err)
	}
	c := &Client{conn: conn, notice: notice, done: make(chan struct{}), waiting: map[uint64]func(message){}}
	if err := c.greet(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet the QEMU monitor at %s: %w", path, err)
	}
	return c, nil
}

// greet reads the greeting, starts the reader and negotiates.
func (c *Client) greet(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	r := bufio.NewReader(c.conn)
	line, err := readLine(r)
	if !stop() {
		return fmt.Errorf("it did not greet; another client may hold it: %w", ctx.Err())
	}
	if err != nil {
		return err
	}
	m, err := decode(line)
	if err != nil {
		return err
	}
	if m.greeting == nil {
		return fmt.Errorf("%w: the first line is no greeting", ErrProtocol)
	}
	c.version = *m.greeting
	go c.read(r)
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Version is what the monitor said it is.
func (c *Client) Version() Version { return c.version }

// Process is the id of the process that serves the socket (unix(7), SO_PEERCRED); 0 when the kernel does not tell.
func (c *Client) Process() int {
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// Done is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the connection ended; nil while it stands.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and waits for the reader. The machine runs on.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	<-c.done
	return nil
}

// Execute sends a command with its arguments and stores what it returns in result; either may be nil. A caller that gives
// up leaves the command running in QEMU. Errors: *Error, those of the connection, ctx.Err().
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	answer := make(chan message, 1)
	id, err := c.send(command, arguments, func(m message) { answer <- m })
	if err != nil {
		return err
	}
	select {
	case m := <-answer:
		return c.settle(command, m, result)
	case <-c.done:
		select {
		case m := <-answer: // the answer was the last line
			return c.settle(command, m, result)
		default:
		}
		return fmt.Errorf("%s: the monitor's connection ended: %w", command, c.Err())
	case <-ctx.Done():
		c.forget(id)
		return fmt.Errorf("%s: no answer from the monitor: %w", command, ctx.Err())
	}
}

// settle turns an answer into a result.
func (c *Client) settle(command string, m message, result any) error {
	if m.refusal != nil {
		m.refusal.Command = command
		return m.refusal
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.reply, result); err != nil {
		return fmt.Errorf("%s: %w: %w", command, ErrProtocol, err)
	}
	return nil
}

// send writes a command; answer is called on the reading goroutine, in the order of the stream.
func (c *Client) send(command string, arguments any, answer func(message)) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, fmt.Errorf("%s: the monitor's connection ended: %w", command, c.err)
	}
	c.last++
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, c.last})
	if err != nil {
		return 0, fmt.Errorf("%s: encode its arguments: %w", command, err)
	}
	c.waiting[c.last] = answer
	// A monitor that does not read must not hold the caller for ever.
	c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		delete(c.waiting, c.last)
		c.err = err
		c.conn.Close()
		return 0, fmt.Errorf("%s: write to the monitor: %w", command, err)
	}
	return c.last, nil
}

// writeTimeout is how long one command line may take to be written; a unix socket buffer holds hundreds of them.
const writeTimeout = 2 * time.Second

// forget drops interest in an answer.
func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// read hands out every line until the connection ends.
func (c *Client) read(r *bufio.Reader) {
	defer close(c.done)
	for {
		line, err := readLine(r)
		if err != nil {
			c.fail(err)
			return
		}
		m, err := decode(line)
		if err == nil {
			err = c.route(m)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// route gives a message to whom it is for.
func (c *Client) route(m message) error {
	switch {
	case m.notice != nil:
		if c.notice != nil {
			c.notice(*m.notice)
		}
		return nil
	case m.greeting != nil:
		return fmt.Errorf("%w: a second greeting", ErrProtocol)
	case m.id == 0 && m.refusal != nil:
		return fmt.Errorf("%w: it could not read a command: %s", ErrProtocol, m.refusal.Desc)
	}
	c.mu.Lock()
	answer := c.waiting[m.id]
	delete(c.waiting, m.id)
	c.mu.Unlock()
	if answer != nil {
		answer(m)
	}
	return nil
}

// fail keeps the first reason and closes the connection.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.conn.Close()
}

// Lost reports whether an error is that of a connection that ended, not of a command that was refused.
func Lost(err error) bool {
	var e *Error
	return err != nil && !errors.As(err, &e)
}
