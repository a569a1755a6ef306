package migration

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// scope names this package's spans.
const scope = "github.com/weftnet/weft/migration"

// spans are one span for a host's part of the move, below the span of the command that began it, and one for each state.
type spans struct {
	tracer trace.Tracer
	ctx    context.Context
	whole  trace.Span
	part   trace.Span
}

// startSpans begins the span of the host's part.
func startSpans(ctx context.Context, o Options, role Role) *spans {
	carrier := propagation.MapCarrier{"traceparent": o.Move.Metadata.Trace}
	ctx = propagation.TraceContext{}.Extract(ctx, carrier)
	ctx, span := o.Tracer.Start(ctx, "migration."+string(role), trace.WithAttributes(
		attribute.String(tracing.KeyMove, o.Move.Metadata.Name), attribute.String(tracing.KeyVM, o.Move.Spec.VM),
		attribute.String(tracing.KeyHost, string(o.Host)), attribute.Int64(tracing.KeyEpoch, int64(o.Move.Status.Epoch)),
	))
	return &spans{tracer: o.Tracer, ctx: ctx, whole: span}
}

// state ends the span of the state before and begins the next.
func (s *spans) state(state State) {
	if s.part != nil {
		s.part.End()
		s.part = nil
	}
	if state != Ended {
		_, s.part = s.tracer.Start(s.ctx, "migration."+string(state))
	}
}

// event notes something that was measured.
func (s *spans) event(name string, at time.Time) {
	if at.IsZero() {
		s.whole.AddEvent(name)
		return
	}
	s.whole.AddEvent(name, trace.WithTimestamp(at))
}

// end ends the spans and says how the move ended here.
func (s *spans) end(session Session) {
	s.state(Ended)
	s.whole.SetAttributes(attribute.String(tracing.KeyPhase, string(session.Outcome)))
	if session.Outcome == fabric.MoveFailed || session.Outcome == fabric.MoveAborted {
		s.whole.SetStatus(codes.Error, session.Reason)
	}
	s.whole.End()
}
