package agent

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// span begins the span of putting a snapshot in force. Its parent is the command that wrote the newest of the changed
// records; the commands behind the others are linked.
func (k *keeper) span(ctx context.Context, before, after *fabric.Snapshot) (context.Context, trace.Span) {
	causes := causesOf(before, after)
	opts := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attribute.String(tracing.KeyHost, string(k.host)), attribute.Int64(tracing.KeyGeneration, int64(after.Revision))),
	}
	if len(causes) > 0 {
		ctx = remote(ctx, causes[0])
		for _, c := range causes[1:] {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: trace.SpanContextFromContext(remote(context.Background(), c))}))
		}
	}
	return k.tracer.Start(ctx, "put in force", opts...)
}

// remote is a context whose parent is a traceparent out of a record.
func remote(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// maxCauses bounds the links of one span.
const maxCauses = 16

// causesOf are the traceparents of the records that after has newer than before, each once, the newest record's first.
// Nothing causes the first snapshot but the start of the agent.
func causesOf(before, after *fabric.Snapshot) []string {
	if before == nil {
		return nil
	}
	newest := fabric.Revision(0)
	var causes []string
	seen := map[string]bool{}
	note := func(r fabric.Revision, trace string) {
		if r <= before.Revision || trace == "" || seen[trace] || len(causes) == maxCauses {
			return
		}
		seen[trace] = true
		causes = append(causes, trace)
		if r > newest {
			newest = r
			causes[0], causes[len(causes)-1] = causes[len(causes)-1], causes[0]
		}
	}
	for _, o := range after.Switches {
		note(o.Metadata.Revision, o.Metadata.Trace)
	}
	for _, o := range after.Ports {
		note(o.Metadata.Revision, o.Metadata.Trace)
	}
	for _, o := range after.Profiles {
		note(o.Metadata.Revision, o.Metadata.Trace)
	}
	for _, o := range after.Policies {
		note(o.Metadata.Revision, o.Metadata.Trace)
	}
	for _, o := range after.Groups {
		note(o.Metadata.Revision, o.Metadata.Trace)
	}
	for _, o := range after.Mirrors {
		note(o.Metadata.Revision, o.Metadata.Trace)
	}
	for _, o := range after.Moves {
		note(o.Metadata.Revision, o.Metadata.Trace)
	}
	for _, l := range after.Locations {
		note(l.Revision, l.Trace)
	}
	return causes
}
