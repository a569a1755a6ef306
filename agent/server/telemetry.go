package server

import (
	"github.com/danielgtaylor/huma/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/api"
)

// trace continues the caller's trace: one span for every operation that changes something or follows a packet. Reads and
// the steady reports of status are left out, or every poll would be a span.
func (s *Server) trace(ctx huma.Context, next func(huma.Context)) {
	r, _ := unwrap(ctx)
	op := ctx.Operation()
	parent := propagation.TraceContext{}.Extract(ctx.Context(), propagation.HeaderCarrier(r.Header))
	if api.AccessOf(op) == api.Read || op.OperationID == api.ReportHostStatus().OperationID {
		next(huma.WithContext(ctx, parent))
		return
	}
	c := callerOf(r)
	spanned, span := otel.Tracer("github.com/weftnet/weft/agent/server").Start(parent, op.OperationID,
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(
			attribute.String("weft.host", string(s.o.Self)), attribute.String("weft.caller", c.name),
			attribute.String("http.request.method", op.Method), attribute.String("http.route", op.Path)))
	defer span.End()
	ctx = huma.WithContext(ctx, spanned)
	next(ctx)
	if ctx.Status() >= 400 {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(attribute.Int("http.response.status_code", ctx.Status()))
	}
}
