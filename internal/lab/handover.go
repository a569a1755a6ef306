package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// handoverLimit is how long one side waits for the other's next word. No memory is copied, so milliseconds are normal.
const handoverLimit = 5 * time.Second

// word is one message between two pumps: hello, ready, guest (with the guest's tap as a descriptor), loaded, run.
type word struct {
	Say   string `json:"say"`
	Guest string `json:"guest,omitempty"`
}

// beginMove starts handing the guest to the pump behind the socket.
func (p *pump) beginMove(socket string) error {
	p.mu.Lock()
	switch {
	case p.wire == nil && p.guest < 0:
		p.mu.Unlock()
		return fmt.Errorf("the guest %s is not here", p.config.Guest)
	case p.cancel != nil:
		p.mu.Unlock()
		return errors.New("there's a migration process in progress")
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.proceed = cancel, make(chan struct{})
	p.mu.Unlock()
	p.work.Go(func() error {
		defer cancel()
		p.endMove(ctx, p.handOver(ctx, socket))
		return nil
	})
	return nil
}

// endMove says how the migration ended; after a failure the guest goes on here.
func (p *pump) endMove(ctx context.Context, err error) {
	p.mu.Lock()
	p.cancel = nil
	here := p.guest >= 0 && p.wire == nil
	if err != nil {
		p.reason = err.Error()
	}
	p.mu.Unlock()
	switch {
	case err == nil:
		p.setMove(moveCompleted)
		return
	case here:
		if again := p.resume(); again != nil {
			fmt.Fprintln(os.Stderr, again)
		}
	}
	fmt.Fprintln(os.Stderr, "migration:", err)
	if ctx.Err() != nil {
		p.setMove(moveCancelled)
		return
	}
	p.setMove(moveFailed)
}

// handOver is the source's side of a migration.
func (p *pump) handOver(ctx context.Context, socket string) error {
	p.setMove(moveSetup)
	dialer := net.Dialer{Timeout: handoverLimit}
	c, err := dialer.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return fmt.Errorf("reach the destination: %w", err)
	}
	conn := c.(*net.UnixConn)
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	if err := ask(conn, word{Say: "hello", Guest: p.config.Guest}, -1, "ready"); err != nil {
		return err
	}
	p.setMove(moveActive)
	p.mu.Lock()
	pause, copying := p.config.Pause, p.config.Copy
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(copying):
	}
	p.stop(stateFinish, true)
	p.mu.Lock()
	p.stopped = time.Now()
	p.mu.Unlock()
	if err := p.beforeSwitchover(ctx, pause); err != nil {
		return err
	}
	p.setMove(moveDevice)
	if err := ask(conn, word{Say: "guest"}, p.guest, "loaded"); err != nil {
		return err
	}
	return p.letGo(conn)
}

// beforeSwitchover waits with the guest stopped: for migrate-continue if that was asked for, and for the simulated pause.
func (p *pump) beforeSwitchover(ctx context.Context, pause time.Duration) error {
	p.mu.Lock()
	wait := p.caps["pause-before-switchover"]
	p.mu.Unlock()
	if wait {
		p.setMove(movePre)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.proceed:
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// letGo is the point of no return: after "run" the guest is the destination's.
func (p *pump) letGo(conn *net.UnixConn) error {
	if err := say(conn, word{Say: "run"}, -1); err != nil {
		return err
	}
	p.mu.Lock()
	unix.Close(p.guest)
	p.guest, p.state = -1, statePost
	p.downtime = time.Since(p.stopped)
	p.mu.Unlock()
	return nil
}

// receive is the destination's side: it waits for one guest, and fails, as QEMU does, if that goes wrong.
func (p *pump) receive(ctx context.Context, listener *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	conn, err := listener.AcceptUnix()
	listener.Close()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		defer conn.Close()
		err = p.load(conn)
	}
	if err != nil {
		p.setMove(moveFailed)
		return fmt.Errorf("receive guest %s: %w", p.config.Guest, err)
	}
	p.work.Go(func() error { p.announce(ctx); return nil })
	return nil
}

// load takes over the guest's tap and starts copying.
func (p *pump) load(conn *net.UnixConn) error {
	p.setMove(moveSetup)
	hello, _, err := hear(conn, 0)
	if err != nil {
		return err
	}
	if hello.Guest != p.config.Guest {
		return fmt.Errorf("guest %s came instead", hello.Guest)
	}
	if err := say(conn, word{Say: "ready"}, -1); err != nil {
		return err
	}
	p.setMove(moveActive)
	_, guest, err := hear(conn, 0) // however long the source lets its guest run, or stand still
	if err != nil {
		return err
	}
	if guest < 0 {
		return errors.New("no guest came")
	}
	if err := ask(conn, word{Say: "loaded"}, -1, "run"); err != nil {
		unix.Close(guest)
		return err
	}
	p.mu.Lock()
	p.guest = guest
	p.mu.Unlock()
	if err := p.resume(); err != nil {
		return err
	}
	p.setMove(moveCompleted)
	return nil
}

// ask says something and waits for the answer it must get.
func ask(conn *net.UnixConn, w word, fd int, want string) error {
	if err := say(conn, w, fd); err != nil {
		return err
	}
	answer, _, err := hear(conn, handoverLimit)
	if err == nil && answer.Say != want {
		err = fmt.Errorf("it answered %q to %q", answer.Say, w.Say)
	}
	if err != nil {
		return fmt.Errorf("wait for the other side: %w", err)
	}
	return nil
}

// say sends one word, with a descriptor unless it is negative.
func say(conn *net.UnixConn, w word, fd int) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_, _, err = conn.WriteMsgUnix(b, rights, nil)
	return err
}

// hear waits for one word, and returns the descriptor that came with it, -1 when none did. Without a limit it waits for
// as long as the connection lasts.
func hear(conn *net.UnixConn, limit time.Duration) (word, int, error) {
	if limit > 0 {
		_ = conn.SetReadDeadline(time.Now().Add(limit))
	}
	var w word
	b, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := conn.ReadMsgUnix(b, rights)
	if err != nil {
		return w, -1, err
	}
	if n == 0 {
		return w, -1, errors.New("the connection ended")
	}
	fd := -1
	if messages, err := unix.ParseSocketControlMessage(rights[:m]); err == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			fd = fds[0]
			unix.CloseOnExec(fd)
		}
	}
	return w, fd, json.Unmarshal(b[:n], &w)
}
