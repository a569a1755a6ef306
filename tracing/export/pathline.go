package export

import (
	"context"
	"fmt"
	"io"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/weftnet/weft/tracing"
)

// WritePaths writes packets' ways as OpenTelemetry's file format has traces: one TracesData message in OTLP's JSON encoding a line and
// way, as a collector's otlpjsonfile receiver reads it. The spans are those that Path exports; ways that are nil are left out.
func WritePaths(ctx context.Context, w io.Writer, version string, paths ...*tracing.Path) error {
	exporter, err := otlptrace.New(ctx, lines{w})
	if err != nil {
		return err
	}
	t := &Telemetry{version: version}
	for _, p := range paths {
		if p == nil {
			continue
		}
		if err := exporter.ExportSpans(ctx, t.pathSpans(ctx, p).Snapshots()); err != nil {
			return fmt.Errorf("write a way as OTLP: %w", err)
		}
	}
	return nil
}

// lines writes every batch of spans as a line.
type lines struct{ out io.Writer }

var _ otlptrace.Client = lines{}

// Start has nothing to connect.
func (lines) Start(context.Context) error { return nil }

// Stop leaves the writer to its owner.
func (lines) Stop(context.Context) error { return nil }

// UploadTraces writes one line.
func (l lines) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	line, err := spanLine(spans)
	if err != nil {
		return err
	}
	_, err = l.out.Write(line)
	return err
}

// because links a packet to the operations that wrote what decided it.
func because(changes []tracing.Change) (links []sdktrace.Link) {
	for _, c := range changes {
		if s := trace.SpanContextFromContext(WithTraceparent(context.Background(), c.Trace)); s.IsValid() {
			links = append(links, sdktrace.Link{SpanContext: s, Attributes: []attribute.KeyValue{
				attribute.String(tracing.KeyObject, c.Object), attribute.Int64(tracing.KeyRevision, int64(c.Revision)),
			}})
		}
	}
	return links
}
