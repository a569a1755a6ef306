package migration

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// mailbox holds the newest of what was put into it.
type mailbox[T any] struct {
	// ready has a token while there is something to take.
	ready chan struct{}
	slot  chan T
}

func newMailbox[T any]() mailbox[T] {
	return mailbox[T]{ready: make(chan struct{}, 1), slot: make(chan T, 1)}
}

// put replaces what is there. It never waits; one goroutine puts.
func (m mailbox[T]) put(v T) {
	select {
	case <-m.slot:
	default:
	}
	m.slot <- v
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// take returns what is there, after a token was taken from ready.
func (m mailbox[T]) take() (v T, ok bool) {
	select {
	case v = <-m.slot:
		return v, true
	default:
		return v, false
	}
}

// order is something that a machine is told.
type order struct {
	do Do
	fn func(context.Context) error
}

// order finds who is told.
func (r *runner) order(a Action) order {
	o := order{do: a.Do, fn: func(context.Context) error { return errNoGuest }}
	if r.guest == nil {
		return o
	}
	switch a.Do {
	case Announce:
		o.fn = r.guest.Announce
	case Quit:
		o.fn = r.guest.Quit
	case Migrate:
		o.fn = func(ctx context.Context) error { return r.sender.Migrate(ctx, a.Text) }
	case Continue:
		o.fn = r.sender.Continue
	case Cancel:
		o.fn = r.sender.Cancel
	case Resume:
		o.fn = r.sender.Resume
	}
	return o
}

// orders gives a machine its orders, one after the other, beside the main loop: an answer that is late must not keep the
// loop from hearing that the guest has stopped.
type orders struct {
	log   *slog.Logger
	limit time.Duration
	queue chan order
}

func newOrders(log *slog.Logger, limit time.Duration) *orders {
	return &orders{log: log, limit: limit, queue: make(chan order, 64)}
}

// put queues an order. When the queue is full, the machine has not answered 64 times: the deadlines give the order again.
func (o *orders) put(next order) {
	select {
	case o.queue <- next:
	default:
		o.log.Error("the machine does not answer; an order was dropped", "order", string(next.do))
	}
}

// run gives the orders until ctx ends. Only of Migrate does the session need to know that it failed: every other order
// is known by its effect, and given again when that does not come.
func (o *orders) run(ctx context.Context, results chan<- Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-o.queue:
			err := o.give(ctx, next)
			if err == nil || next.do != Migrate {
				continue
			}
			unsure := qmp.Lost(err) && !errors.Is(err, qmp.ErrGone)
			select {
			case results <- Event{Kind: Undone, Do: Migrate, Text: err.Error(), Unsure: unsure}:
			case <-ctx.Done():
			}
		}
	}
}

// give gives one order.
func (o *orders) give(ctx context.Context, next order) error {
	if next.fn == nil {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	err := next.fn(limited)
	if err != nil {
		o.log.Warn("the machine did not follow an order", "order", string(next.do), "error", err)
	} else {
		o.log.Debug("the machine follows", "order", string(next.do))
	}
	return err
}

// flush waits until the orders given so far were given, or ctx ends.
func (o *orders) flush(ctx context.Context) {
	done := make(chan struct{})
	last := order{fn: func(context.Context) error { close(done); return nil }}
	select {
	case o.queue <- last:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// reports makes the newest report until it is accepted or refused.
type reports struct {
	records Records
	id      fabric.MoveID
	host    fabric.HostID
	log     *slog.Logger
	box     mailbox[fabric.MoveStatus]
	flushes chan chan struct{}
}

func newReports(records Records, id fabric.MoveID, host fabric.HostID, log *slog.Logger) *reports {
	return &reports{records: records, id: id, host: host, log: log, box: newMailbox[fabric.MoveStatus](), flushes: make(chan chan struct{}, 1)}
}

// put replaces what is still to be reported: a status says everything that those before it said.
func (r *reports) put(s fabric.MoveStatus) { r.box.put(s) }

// Timings of reports.
const (
	reportTimeout = 5 * time.Second
	retryFirst    = 50 * time.Millisecond
	retryLast     = 2 * time.Second
	flushTimeout  = 5 * time.Second
)

// run reports until ctx ends.
func (r *reports) run(ctx context.Context, results chan<- Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case done := <-r.flushes:
			if len(r.box.ready) > 0 {
				r.flushes <- done // first the report
				continue
			}
			close(done)
			continue
		case <-r.box.ready:
		}
		status, ok := r.box.take()
		if !ok {
			continue
		}
		result, ok := r.report(ctx, status)
		if !ok {
			continue
		}
		select {
		case results <- result:
		case <-ctx.Done():
			return
		}
	}
}

// report tries until there is an answer, something newer to report, or an end of ctx.
func (r *reports) report(ctx context.Context, status fabric.MoveStatus) (Event, bool) {
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		limited, cancel := context.WithTimeout(ctx, reportTimeout)
		move, err := r.records.Advance(limited, r.id, r.host, status)
		cancel()
		e := Event{Kind: Done, Do: Report, Phase: status.Phase, Record: move}
		switch {
		case err == nil:
			return e, true
		case final(err):
			r.log.Warn("a report was refused", "phase", string(status.Phase), "error", err)
			e.Kind, e.Text = Undone, err.Error()
			if errors.Is(err, fabric.ErrNotFound) {
				e.Record = nil
			}
			return e, true
		}
		r.log.Warn("a report could not be made; trying again", "phase", string(status.Phase), "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return Event{}, false
		}
		if len(r.box.ready) > 0 {
			return Event{}, false
		}
	}
}

// final reports whether a refusal will not change by asking again.
func final(err error) bool {
	for _, kind := range []error{fabric.ErrConflict, fabric.ErrStaleEpoch, fabric.ErrInvalid, fabric.ErrNotFound} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// flush waits until everything was reported, for a limited time.
func (r *reports) flush(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	done := make(chan struct{})
	r.flushes <- done
	select {
	case <-done:
	case <-limited.Done():
	}
}
