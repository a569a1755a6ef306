package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
	"github.com/weftnet/weft/tracing"
)

// Options are what both ends of a move need. Move, Host and Records must be given.
type Options struct {
	// Move is the record as it is now: new, or as an agent finds it that was away.
	Move *fabric.Move
	// Host is this host.
	Host    fabric.HostID
	Records Records
	Limits  Limits
	// Fresh says that Move has come to be since this agent began: no agent before it had a part in it, and nothing newer is known of it.
	Fresh bool
	// Alarm gets a sentence when a person must look; nil only logs it.
	Alarm func(text string)
	// Logger discards when nil.
	Logger *slog.Logger
	// Tracer makes the spans; the global provider's when nil.
	Tracer trace.Tracer
}

// RunSource does the source's part of a move until it has ended, and returns how: settled, failed or aborted. When ctx
// ends first it returns ctx's error; called again with the record as it then is, it goes on. The caller closes the guest.
func RunSource(ctx context.Context, o Options, guest interface {
	Guest
	Sender
}, plane SourcePlane) (fabric.Phase, error) {
	r := newRunner(o, Source)
	r.guest, r.sender = guest, guest
	r.plane = map[Do]func(context.Context, *fabric.Move) error{
		Handoff: plane.Handoff, Restore: plane.Restore, Finish: plane.Finish,
		Remember: func(ctx context.Context, m *fabric.Move) error { return plane.Remember(ctx, m, r.session.Incoming) },
	}
	r.counted, r.inherited = plane.Counted, plane.Inherited
	machine, known := guest.(interface{ Process() int })
	if drainer, able := plane.(Drainer); able && known {
		r.drain = func(ctx context.Context, m *fabric.Move) (Counts, error) {
			return drainer.Drain(ctx, m, machine.Process())
		}
	}
	return r.run(ctx)
}

// RunDestination does the destination's part of a move until it has ended, and returns how: active means that the guest
// runs here and that it is recorded, failed and aborted that the ports here are closed. When ctx ends first it returns
// ctx's error; called again with the record as it then is, it goes on.
func RunDestination(ctx context.Context, o Options, plane DestinationPlane) (fabric.Phase, error) {
	r := newRunner(o, Destination)
	r.stage, r.opened = plane.Stage, plane.Opened
	r.plane = map[Do]func(context.Context, *fabric.Move) error{Unstage: func(ctx context.Context, m *fabric.Move) error {
		r.unstaging()
		return plane.Unstage(ctx, m)
	}}
	r.counted = plane.Counted
	return r.run(ctx)
}

// runner carries out what a session decides. Only its main loop touches the session.
type runner struct {
	o       Options
	session Session
	move    *fabric.Move // the newest record
	before  Counts       // counted before the move
	spans   *spans

	guest   Guest
	sender  Sender
	plane   map[Do]func(context.Context, *fabric.Move) error
	counted func(context.Context, *fabric.Move) (Counts, error)
	drain   func(context.Context, *fabric.Move) (Counts, error) // nil when it cannot be done here
	stage   func(context.Context, *fabric.Move) (Staged, error)
	opened  func(context.Context, *fabric.Move) <-chan FirstFrame

	inherited func(context.Context, *fabric.Move) <-chan struct{} // nil at the destination

	frames  <-chan FirstFrame
	all     <-chan struct{}
	staging chan staged // the result of a Stage under way; nil when none is
	abandon context.CancelFunc
	records mailbox[*fabric.Move]
	results chan Event
	orders  *orders
	reports *reports
}

func newRunner(o Options, role Role) *runner {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With(tracing.KeyMove, o.Move.Metadata.Name, tracing.KeyVM, o.Move.Spec.VM, "role", string(role))
	if o.Tracer == nil {
		o.Tracer = otel.GetTracerProvider().Tracer(scope)
	}
	return &runner{o: o, session: Session{Role: role}, move: o.Move, records: newMailbox[*fabric.Move](), results: make(chan Event, 16)}
}

// patience are the limits for what is done on the main loop, which must not hang: kernel writes and the like.
const patience = 10 * time.Second

// run is the main loop.
func (r *runner) run(ctx context.Context) (fabric.Phase, error) {
	inner, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	r.spans = startSpans(ctx, r.o, r.session.Role)
	defer func() { r.spans.end(r.session) }()
	id := fabric.MoveID(r.move.Metadata.Name)
	r.orders = newOrders(r.o.Logger, r.o.Limits.For(r.move).Answer)
	r.reports = newReports(r.o.Records, id, r.o.Host, r.o.Logger)
	wg.Go(func() { r.orders.run(inner, r.results) })
	wg.Go(func() { r.reports.run(inner, r.results) })
	wg.Go(func() { r.follow(inner, id) })
	if r.opened != nil {
		r.frames = r.opened(inner, r.move)
	}
	if r.inherited != nil {
		r.all = r.inherited(inner, r.move)
	}
	err := r.confirm(inner)
	if err == nil {
		r.countBefore(inner)
		session, actions := Begin(r.session.Role, r.move, r.o.Limits, time.Now())
		r.carry(inner, session, actions)
	}
	for r.session.State != Ended && err == nil {
		err = r.next(inner)
	}
	r.unstaging()
	if err != nil {
		return "", fmt.Errorf("move %s at its %s: %w", r.move.Metadata.Name, r.session.Role, err)
	}
	r.orders.flush(inner)
	r.reports.flush(inner)
	r.o.Logger.Info("the move has ended here", tracing.KeyPhase, string(r.session.Outcome), "reason", r.session.Reason)
	return r.session.Outcome, nil
}

// confirm reads the record from the store itself: what the caller knows may be from before this host's own last report. A
// source whose copy has begun does not wait for it: no later phase changes what it has to do first.
func (r *runner) confirm(ctx context.Context) error {
	p := r.move.Status.Phase
	if r.o.Fresh || r.session.Role == Source && p != fabric.MoveGranted && p != fabric.MoveStaged {
		return nil
	}
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		limited, cancel := context.WithTimeout(ctx, reportTimeout)
		m, err := r.o.Records.Advance(limited, fabric.MoveID(r.move.Metadata.Name), r.o.Host, fabric.MoveStatus{})
		cancel()
		if m != nil {
			r.move = m
		}
		if err == nil || final(err) {
			return err
		}
		r.o.Logger.Warn("the record of the move cannot be read; trying again", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// countBefore reads the source's counters before a move has moved anything. Taken up later, a move counts all there is.
func (r *runner) countBefore(ctx context.Context) {
	p := r.move.Status.Phase
	if r.session.Role != Source || p != fabric.MoveGranted && p != fabric.MoveStaged {
		return
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if counts, err := r.counted(limited, r.move); err == nil {
		r.before = counts
	}
}

// next waits for one event and takes it.
func (r *runner) next(ctx context.Context) error {
	var told <-chan qmp.Event
	if r.guest != nil {
		told = r.guest.Events()
	}
	var late <-chan time.Time
	if !r.session.Deadline.IsZero() {
		timer := time.NewTimer(time.Until(r.session.Deadline))
		defer timer.Stop()
		late = timer.C
	}
	// What the guest's processors do decides about packets: it goes before everything that waits besides it.
	select {
	case e, open := <-told:
		r.told(ctx, e, open)
		return nil
	default:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case e, open := <-told:
		r.told(ctx, e, open)
	case f, open := <-r.frames:
		r.framed(ctx, f, open)
	case <-r.records.ready:
		if m, ok := r.records.take(); ok {
			r.saw(ctx, m)
		}
	case s := <-r.staging:
		r.ready(ctx, s)
	case e := <-r.results:
		if e.Do == Report && e.Record != nil {
			r.move = e.Record
		}
		r.step(ctx, e)
	case <-r.all:
		r.all = nil
		r.step(ctx, Event{Kind: Inherited})
	case <-late:
		r.step(ctx, Event{Kind: Clock})
	}
	return nil
}

// saw takes the record as it is now, or nil when it was deleted.
func (r *runner) saw(ctx context.Context, m *fabric.Move) {
	if m != nil {
		r.move = m
	}
	r.step(ctx, Event{Kind: Saw, Record: m})
}

// told takes an event of the guest's monitor.
func (r *runner) told(ctx context.Context, e qmp.Event, open bool) {
	if !open {
		r.guest = deaf{r.guest}
		return
	}
	r.spans.event("guest "+string(e.Kind), e.Time)
	r.step(ctx, Event{Kind: Told, Guest: e.Kind, At: e.Time, Text: e.Desc})
}

// deaf is a guest whose monitor tells nothing more.
type deaf struct{ Guest }

func (deaf) Events() <-chan qmp.Event { return nil }

// framed takes the guest's first frame.
func (r *runner) framed(ctx context.Context, f FirstFrame, open bool) {
	if !open {
		r.frames = nil
		return
	}
	r.spans.event("first frame", f.Time)
	r.step(ctx, Event{Kind: Opened, At: f.Time})
}

// step makes one step and carries it out.
func (r *runner) step(ctx context.Context, e Event) {
	e.Now = time.Now()
	session, actions := Step(r.session, e)
	r.carry(ctx, session, actions)
}

// carry carries actions out in order, with those that follow from their results.
func (r *runner) carry(ctx context.Context, s Session, actions []Action) {
	r.enter(s)
	for len(actions) > 0 {
		a := actions[0]
		actions = actions[1:]
		result := r.do(ctx, a)
		if result.Kind == "" {
			continue
		}
		result.Now = time.Now()
		next, more := Step(r.session, result)
		r.enter(next)
		actions = append(actions, more...)
	}
}

// enter takes the session over.
func (r *runner) enter(s Session) {
	if s.State != r.session.State {
		r.o.Logger.Info("the move goes on", "state", string(s.State), "was", string(r.session.State), "reason", s.Reason)
		r.spans.state(s.State)
	}
	r.session = s
}

// do carries one action out; the event is its result, with no kind when it has none or when it comes later.
func (r *runner) do(ctx context.Context, a Action) Event {
	switch a.Do {
	case Report:
		r.reports.put(a.Status)
	case Migrate, Continue, Cancel, Resume, Announce, Quit:
		r.orders.put(r.order(a))
	case Stage:
		r.begin(ctx)
	case Count:
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		counts, err := r.counted(limited, r.move)
		if err != nil {
			r.o.Logger.Warn("the packets of the move cannot be counted", "error", err)
			return Event{Kind: Undone, Do: a.Do, Text: err.Error()}
		}
		return Event{Kind: Done, Do: a.Do, Counts: counts.less(r.before)}
	case Drain:
		return r.fetch(ctx)
	case Alarm:
		r.o.Logger.Error(a.Text)
		if r.o.Alarm != nil {
			r.o.Alarm(a.Text)
		}
	default:
		return r.forward(ctx, a.Do)
	}
	return Event{}
}

// fetch drains the guest's devices. What cannot be fetched is lost; the move goes on.
func (r *runner) fetch(ctx context.Context) Event {
	if r.drain == nil {
		return Event{Kind: Done, Do: Drain}
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	counts, err := r.drain(limited, r.move)
	if err != nil {
		r.o.Logger.Warn("frames that the guest had not read yet may be lost", "error", err)
	}
	r.o.Logger.Debug("what the guest had not read was sent on", "frames", counts.Relayed, "lost", counts.Lost)
	return Event{Kind: Done, Do: Drain, Counts: counts}
}

// forward has the plane do something.
func (r *runner) forward(ctx context.Context, do Do) Event {
	// A plane that is half changed is worse than an agent that stops a moment later.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	begun := time.Now()
	if err := r.plane[do](limited, r.move); err != nil {
		r.o.Logger.Error("the datapath did not follow", "action", string(do), "error", err)
		return Event{Kind: Undone, Do: do, Text: err.Error()}
	}
	r.spans.event(string(do), time.Now())
	r.o.Logger.Debug("the datapath followed", "action", string(do), "took", time.Since(begun))
	return Event{Kind: Done, Do: do}
}

// follow watches the record.
func (r *runner) follow(ctx context.Context, id fabric.MoveID) {
	for ctx.Err() == nil {
		err := r.o.Records.Follow(ctx, id, r.records.put)
		if err != nil && ctx.Err() == nil {
			r.o.Logger.Warn("the record of the move cannot be followed; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// errNoGuest: there is no machine to give an order to.
var errNoGuest = errors.New("no machine was started")
