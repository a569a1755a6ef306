package export

import (
	"context"
	"log/slog"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/weftnet/weft/tracing"
)

// quiet is an exporter whose failures are counted and said when they begin and when they end, instead of once per batch
// on standard error, as the SDK does with an error that reaches it.
type quiet struct {
	sdktrace.SpanExporter
	name string
	log  *slog.Logger

	sent, lost atomic.Uint64
	failing    atomic.Bool
}

// ExportSpans never fails towards the SDK.
func (q *quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := q.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		q.lost.Add(uint64(len(spans)))
		if q.failing.CompareAndSwap(false, true) {
			q.log.Warn("Spans cannot be exported; they are counted as lost until this works again.", "to", q.name, tracing.KeyError, err)
		}
		return nil
	}
	q.sent.Add(uint64(len(spans)))
	if q.failing.CompareAndSwap(true, false) {
		q.log.Info("Spans are exported again.", "to", q.name, "lost", q.lost.Load())
	}
	return nil
}
