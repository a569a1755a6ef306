package export

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
)

const traceparent = "traceparent"

// Traceparent is the W3C traceparent of the span in ctx, for the metadata of a record; empty when there is none
// (w3.org/TR/trace-context section 3.2).
func Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[traceparent]
}

// WithTraceparent is ctx continuing the trace of a record that was written elsewhere. Text that is no traceparent, such as
// none at all, leaves ctx as it is.
func WithTraceparent(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparent: parent})
}
