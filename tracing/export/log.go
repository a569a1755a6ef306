package export

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/tracing"
)

// LogHandler is inner with the trace and span id of the line's context added, so that a line is found from its trace and
// the other way round.
func LogHandler(inner slog.Handler) slog.Handler { return logHandler{inner} }

type logHandler struct{ slog.Handler }

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if s := trace.SpanContextFromContext(ctx); s.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String(tracing.KeyTraceID, s.TraceID().String()), slog.String(tracing.KeySpanID, s.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs)}
}
func (h logHandler) WithGroup(name string) slog.Handler { return logHandler{h.Handler.WithGroup(name)} }
