package tracing

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Watcher is what a live session asks of the hosts; each call concerns one host and must return when its context ends.
type Watcher interface {
	// Watch makes the host record the frames that the session asks for, until it is told to end or the session's TTL is over.
	Watch(ctx context.Context, host fabric.HostID, s LiveSession) error
	// Watched is what the host has recorded since it was asked last.
	Watched(ctx context.Context, host fabric.HostID, s LiveSession) (LiveBatch, error)
	// Unwatch ends the session on the host; to end what is not armed succeeds.
	Unwatch(ctx context.Context, host fabric.HostID, s LiveSession) error
}

// LiveOptions say what to follow where. All are required.
type LiveOptions struct {
	Session LiveSession
	// For is how long.
	For   time.Duration
	Hosts []fabric.HostID
	// VTEPs says which host owns which tunnel end point.
	VTEPs map[netip.Addr]fabric.HostID
	// Keep is how many ways are kept whole, 0 keeps a few examples alone; Because, needed with it, finds the operations that wrote what
	// decided one.
	Keep    int
	Because func(*Path) []Change
}

const (
	armWithin    = 2 * time.Second
	collectEvery = 200 * time.Millisecond
	// lateFor is how long after a session's end hosts are asked for what was under way then.
	lateFor = settled + 300*time.Millisecond
)

// Live is a live session under way.
type Live struct {
	watcher Watcher
	o       LiveOptions
	end     chan struct{}
	ended   chan struct{}
	once    sync.Once

	mu       sync.Mutex
	gatherer *Gatherer
	over     bool
	last     time.Time // the moment of the report, once it is over
}

// StartLive arms all hosts. A host that cannot be armed takes no part, and the report says so; the error is theirs if none can.
func StartLive(ctx context.Context, w Watcher, o LiveOptions) (*Live, error) {
	l := &Live{watcher: w, o: o, end: make(chan struct{}), ended: make(chan struct{})}
	armed := make([]error, len(o.Hosts))
	within, cancel := context.WithTimeout(ctx, armWithin)
	defer cancel()
	l.each(func(i int, host fabric.HostID) { armed[i] = w.Watch(within, host, o.Session) })
	l.gatherer = NewGatherer(o.Session, o.VTEPs, time.Now())
	l.gatherer.Keep(o.Keep, o.Because)
	for i, host := range o.Hosts {
		l.gatherer.Arm(host, armed[i])
	}
	if !slices.Contains(armed, nil) || slices.ContainsFunc(armed, func(err error) bool { return errors.Is(err, fabric.ErrInvalid) || refused(err) }) {
		l.disarm(ctx)
		return nil, errors.Join(armed...)
	}
	return l, nil
}

// refused reports whether a host has no room for one more session: all hosts are asked for the same, or none.
func refused(err error) bool {
	return errors.Is(err, fabric.ErrConflict) || err != nil && strings.Contains(err.Error(), "the most there may be")
}

// Run collects what hosts record until the session's time is over, End is called or ctx ends, and disarms the hosts.
func (l *Live) Run(ctx context.Context) {
	defer close(l.ended)
	defer l.disarm(ctx)
	timer := time.NewTimer(l.o.For)
	defer timer.Stop()
	for running := true; running; {
		select {
		case <-ctx.Done():
			return
		case <-l.end:
			running = false
		case <-timer.C:
			running = false
		case <-time.After(collectEvery):
		}
		l.collect(ctx)
	}
	l.mu.Lock()
	l.gatherer.Until(time.Now())
	l.mu.Unlock()
	for stop := time.Now().Add(lateFor); time.Now().Before(stop) && sleep(ctx, collectEvery); {
		l.collect(ctx)
	}
	l.mu.Lock()
	l.gatherer.Settle(time.Now().Add(settled))
	l.over, l.last = true, time.Now()
	l.mu.Unlock()
}

// collect asks every host once.
func (l *Live) collect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	l.each(func(_ int, host fabric.HostID) {
		if !l.takesPart(host) {
			return
		}
		asked := time.Now()
		b, err := l.watcher.Watched(ctx, host, l.o.Session)
		answered := time.Now()
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			l.gatherer.Fail(host, err)
			return
		}
		l.gatherer.Add(host, asked, answered, b)
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gatherer.Settle(time.Now())
}

func (l *Live) takesPart(host fabric.HostID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gatherer.hosts[host].armed
}

// End ends the session before its time and waits for what is under way.
func (l *Live) End(ctx context.Context) {
	l.once.Do(func() { close(l.end) })
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
}

// Ended is closed when the session is over.
func (l *Live) Ended() <-chan struct{} { return l.ended }

// Report is what was found so far.
func (l *Live) Report() LiveReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return l.gatherer.Report(l.last, true)
	}
	return l.gatherer.Report(time.Now(), false)
}

// disarm tells every host, even when the caller has gone. A host that does not hear it ends the session when its TTL is over.
func (l *Live) disarm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answer)
	defer cancel()
	l.each(func(_ int, host fabric.HostID) { _ = l.watcher.Unwatch(ctx, host, l.o.Session) })
}

// each calls do for all hosts at once and waits for all.
func (l *Live) each(do func(int, fabric.HostID)) {
	var wg sync.WaitGroup
	for i, host := range l.o.Hosts {
		wg.Go(func() { do(i, host) })
	}
	wg.Wait()
}
