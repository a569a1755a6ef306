package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/tracing/export"
)

// spans is the way out for this command's own spans.
type spans struct{ out *export.Telemetry }

// close sends what is left, briefly: a collector that is away must not hold up a command.
func (s *spans) close() {
	if s.out == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.out.Close(ctx)
}

// traced runs a command under the root span of its operation: the change, from here to in force on every host, is one trace.
func (a *app) traced(cmd *cobra.Command, run func(context.Context) error) error {
	o := export.Options{Version: version}
	if strings.HasPrefix(a.traces, "/") || strings.HasPrefix(a.traces, ".") {
		o.Dir = a.traces
	} else {
		o.Endpoint = a.traces
	}
	out, err := export.Open(cmd.Context(), o)
	if err != nil {
		return err
	}
	a.spans.out = out
	otel.SetTracerProvider(out.Provider())
	ctx, span := out.Provider().Tracer("github.com/weftnet/weft/cmd/weft").Start(cmd.Context(), cmd.CommandPath(), trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	if err = run(ctx); err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}
