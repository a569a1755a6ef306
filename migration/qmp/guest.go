package qmp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// Options are the choices for a Guest; the zero value works.
type Options struct {
	// Appear is how long the monitor may take to appear; 0 means 5 s. A monitor that was there and refuses connections is gone
	// at once, because only the end of the process closes its socket.
	Appear time.Duration
	// Retry is the pause between attempts to connect; 0 means 20 ms.
	Retry time.Duration
	// Logger gets what went wrong and was mended; nil discards.
	Logger *slog.Logger
}

// Guest is a running machine seen through its monitor. It connects anew when the connection breaks, and then says again
// how things stand, so that nobody acts on what was missed.
type Guest struct {
	path    string
	options Options
	events  chan Event
	cancel  context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	client *Client
	change chan struct{} // closed when client changes
	gone   bool
}

// Watch follows the machine behind the monitor socket until Close, or until the machine ends.
func Watch(path string, options Options) *Guest {
	if options.Appear == 0 {
		options.Appear = 5 * time.Second
	}
	if options.Retry == 0 {
		options.Retry = 20 * time.Millisecond
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Guest{path: path, options: options, events: make(chan Event, 256), cancel: cancel, done: make(chan struct{}), change: make(chan struct{})}
	go g.run(ctx)
	return g
}

// Events tells what happens, in order. The channel is closed after Gone and after Close.
func (g *Guest) Events() <-chan Event { return g.events }

// Close stops watching. The machine runs on.
func (g *Guest) Close() error {
	g.cancel()
	<-g.done
	return nil
}

// Migrate sends the guest to a waiting machine. Where the monitor can, the migration waits before its switchover for
// Continue. Errors: *Error, those of the connection, ErrGone.
func (g *Guest) Migrate(ctx context.Context, uri string) error {
	return g.with(ctx, func(c *Client) error {
		err := c.SetMigrationCapabilities(ctx, map[string]bool{"events": true, "pause-before-switchover": true})
		if err != nil && !Unknown(err) {
			return err
		}
		return c.Migrate(ctx, uri)
	})
}

// Continue lets a migration that is Waiting switch over.
func (g *Guest) Continue(ctx context.Context) error {
	return g.with(ctx, func(c *Client) error { return c.MigrateContinue(ctx) })
}

// Cancel gives the migration up; the guest runs on here unless everything has been sent already. One whose memory follows the
// guest is not given up: QEMU would do it, and the guest would be in pieces at both ends. Errors: ErrNoReturn.
func (g *Guest) Cancel(ctx context.Context) error {
	return g.with(ctx, func(c *Client) error {
		s, err := c.Migration(ctx)
		if err != nil {
			return err
		}
		if kinds[s.Status].follows() {
			return fmt.Errorf("cancel a migration that is %s: %w", s.Status, ErrNoReturn)
		}
		return c.MigrateCancel(ctx)
	})
}

// ErrNoReturn: the guest runs at the destination, or may, with its memory on the way.
var ErrNoReturn = errors.New("the guest's memory follows it to the destination")

// Resume lets a stopped guest run here again. QEMU refuses for a moment after a migration has completed; Resume tries
// again until ctx ends.
func (g *Guest) Resume(ctx context.Context) error {
	return g.with(ctx, func(c *Client) error {
		for {
			err := c.Cont(ctx)
			if err == nil || Lost(err) {
				return err
			}
			select {
			case <-time.After(g.options.Retry):
			case <-ctx.Done():
				return err
			}
		}
	})
}

// Announce makes the machine tell the switches around it where it is. A monitor that cannot is no error.
func (g *Guest) Announce(ctx context.Context) error {
	err := g.with(ctx, func(c *Client) error { return c.AnnounceSelf(ctx) })
	if Unknown(err) {
		return nil
	}
	return err
}

// Quit ends the machine. One that is gone is no error.
func (g *Guest) Quit(ctx context.Context) error {
	err := g.with(ctx, func(c *Client) error { return c.Quit(ctx) })
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// Process is the id of the machine's process; 0 while there is no connection to it.
func (g *Guest) Process() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == nil {
		return 0
	}
	return g.client.Process()
}

// ErrGone: the machine has ended.
var ErrGone = errors.New("the machine has ended")

// with runs a command on the connection, waiting for one if need be.
func (g *Guest) with(ctx context.Context, fn func(*Client) error) error {
	for {
		g.mu.Lock()
		client, change, gone := g.client, g.change, g.gone
		g.mu.Unlock()
		switch {
		case gone:
			return ErrGone
		case client != nil:
			return fn(client)
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// set publishes the connection.
func (g *Guest) set(c *Client, gone bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.client, g.gone = c, gone
	close(g.change)
	g.change = make(chan struct{})
}

// run connects, tells how things stand, and does it again whenever the connection breaks.
func (g *Guest) run(ctx context.Context) {
	defer close(g.done)
	defer close(g.events)
	appear := g.options.Appear
	for {
		client, err := g.connect(ctx, appear)
		if ctx.Err() != nil {
			g.set(nil, true)
			return
		}
		if err != nil {
			g.set(nil, true)
			g.tell(ctx, Event{Kind: Gone, Time: time.Now(), Desc: err.Error()})
			return
		}
		appear = 0
		g.set(client, false)
		select {
		case <-client.Done():
		case <-ctx.Done():
		}
		client.Close()
		g.set(nil, false)
		g.options.Logger.Debug("the connection to the monitor ended", "socket", g.path, "error", client.Err())
	}
}

// connect tries until the monitor answers, ctx ends, or the monitor has been away for as long as it may.
func (g *Guest) connect(ctx context.Context, appear time.Duration) (*Client, error) {
	deadline := time.Now().Add(appear)
	level := slog.LevelWarn // once, then it is known
	for {
		client, err := g.dial(ctx)
		if err == nil || ctx.Err() != nil {
			return client, err
		}
		away := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
		if away && time.Now().After(deadline) {
			return nil, err
		}
		if away {
			g.options.Logger.Debug("the monitor does not answer yet", "socket", g.path, "error", err)
		} else {
			g.options.Logger.Log(ctx, level, "the monitor cannot be spoken with; it is tried again", "socket", g.path, "error", err)
			level = slog.LevelDebug
		}
		select {
		case <-time.After(g.options.Retry):
		case <-ctx.Done():
		}
	}
}

// dialTimeout is how long a monitor may take to greet and to answer the first questions; another client may hold it.
const dialTimeout = 2 * time.Second

// dial connects once and tells how things stand.
func (g *Guest) dial(ctx context.Context) (*Client, error) {
	limited, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	client, err := Dial(limited, g.path, func(n Notice) {
		if e, matters := EventOf(n); matters {
			g.tell(ctx, e)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := g.ask(limited, ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// ask turns on migration events and tells both states, at the place in the stream where the monitor answered: an answer
// that overtook a STOP would undo it.
func (g *Guest) ask(limited, ctx context.Context, client *Client) error {
	// A machine whose migration runs refuses this, and has it on already.
	err := client.SetMigrationCapabilities(limited, map[string]bool{"events": true})
	if err != nil && Lost(err) {
		return err
	}
	answered := make(chan error, 2)
	_, err = client.send("query-migrate", nil, func(m message) {
		var s MigrationState
		err := client.settle("query-migrate", m, &s)
		if kind, known := kinds[s.Status]; known && err == nil {
			g.tell(ctx, Event{Kind: kind, Time: time.Now(), Desc: s.Desc})
		}
		answered <- err
	})
	if err != nil {
		return err
	}
	_, err = client.send("query-status", nil, func(m message) {
		var s RunState
		err := client.settle("query-status", m, &s)
		switch {
		case err != nil:
		case s.Running:
			g.tell(ctx, Event{Kind: Runs, Time: time.Now()})
		default:
			g.tell(ctx, Event{Kind: Stops, Time: time.Now()})
		}
		answered <- err
	})
	if err != nil {
		return err
	}
	for range 2 {
		select {
		case err := <-answered:
			if err != nil {
				return err
			}
		case <-client.Done():
			return client.Err()
		case <-limited.Done():
			return limited.Err()
		}
	}
	return nil
}

// tell hands an event out. It waits for the reader of Events: an event that is dropped could be the one that matters.
func (g *Guest) tell(ctx context.Context, e Event) {
	select {
	case g.events <- e:
	case <-ctx.Done():
	}
}
