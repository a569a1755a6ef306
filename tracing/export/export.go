// Package export brings what weft knows about itself to the outside: spans to an OTLP collector and to a local file,
// metrics to Prometheus, events to an append-only log, trace ids to log lines. None of it is ever in the way: what cannot be
// exported is counted and said once, and packets and operations go on.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/fabric"
)

// Options say where spans go. The zero value keeps none and costs next to nothing.
type Options struct {
	// Host and Version are those of the agent; the command line has no host.
	Host    fabric.HostID
	Version string
	// Endpoint of a collector: grpc://HOST:4317, grpcs://HOST:4317, http://HOST:4318 or https://HOST:4318; HOST:PORT alone is
	// gRPC without TLS. None when empty.
	Endpoint string
	// Dir is where spans are kept on this host as OTLP-JSON lines in spans.jsonl, MaxBytes (16 MiB when 0) in all; none when
	// empty.
	Dir      string
	MaxBytes int64
	Logger   *slog.Logger
}

// A collector that does not answer holds up a batch for giveUp at most; spans that end meanwhile wait in the queue, which is
// room for far more than operations make in that time.
const (
	answerWithin = 3 * time.Second
	giveUp       = 10 * time.Second
	queue        = 8192
)

// Telemetry is an open way out for spans.
type Telemetry struct {
	provider *sdktrace.TracerProvider
	outs     []*quiet
	host     fabric.HostID
	version  string
}

// Open prepares the ways out. It does not wait for the collector: one that is away now is tried again with every batch.
// The error wraps fabric.ErrInvalid for an endpoint that cannot be, or says why Dir cannot be written.
func Open(ctx context.Context, o Options) (_ *Telemetry, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Telemetry{host: o.Host, version: o.Version}
	defer func() {
		if err != nil {
			_ = t.Close(ctx)
		}
	}()
	if o.Dir != "" {
		client, err := newSpanFile(filepath.Join(o.Dir, "spans.jsonl"), o.MaxBytes)
		if err != nil {
			return nil, fmt.Errorf("keep spans in %s: %w", o.Dir, err)
		}
		if err := t.addOut(ctx, "file", client, o.Logger); err != nil {
			return nil, fmt.Errorf("keep spans in %s: %w", o.Dir, err)
		}
	}
	if o.Endpoint != "" {
		client, err := collector(o.Endpoint)
		if err != nil {
			return nil, err
		}
		if err := t.addOut(ctx, o.Endpoint, client, o.Logger); err != nil {
			return nil, fmt.Errorf("send spans to %s: %w", o.Endpoint, err)
		}
	}
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(agentResource(o.Host, o.Version)), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())),
	}
	for _, out := range t.outs {
		options = append(options, sdktrace.WithBatcher(out, sdktrace.WithBatchTimeout(time.Second), sdktrace.WithMaxQueueSize(queue)))
	}
	t.provider = sdktrace.NewTracerProvider(options...)
	return t, nil
}

func (t *Telemetry) addOut(ctx context.Context, name string, client otlptrace.Client, log *slog.Logger) error {
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return err
	}
	t.outs = append(t.outs, &quiet{SpanExporter: exporter, name: name, log: log})
	return nil
}

// Provider makes tracers; hand it to otel.SetTracerProvider.
func (t *Telemetry) Provider() trace.TracerProvider { return t.provider }

// Outcomes counts spans by what became of them, since Open.
func (t *Telemetry) Outcomes() (sent, lost uint64) {
	for _, out := range t.outs {
		sent += out.sent.Load()
		lost += out.lost.Load()
	}
	return sent, lost
}

// Flush sends what is waiting, for at most as long as ctx lives.
func (t *Telemetry) Flush(ctx context.Context) error { return t.provider.ForceFlush(ctx) }

// Close sends what is waiting, for at most as long as ctx lives, and ends. Closing twice does nothing more.
func (t *Telemetry) Close(ctx context.Context) error {
	if t.provider != nil {
		return t.provider.Shutdown(ctx)
	}
	var all error
	for _, out := range t.outs {
		all = errors.Join(all, out.Shutdown(ctx))
	}
	return all
}

// collector understands an endpoint.
func collector(endpoint string) (otlptrace.Client, error) {
	full := endpoint
	if !strings.Contains(full, "://") {
		full = "grpc://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("send spans to %q: write the endpoint as grpc://HOST:4317 or http://HOST:4318: %w",
			endpoint, fabric.ErrInvalid)
	}
	switch u.Scheme {
	case "grpc":
		return otlptracegrpc.NewClient(append(grpcOptions(u.Host), otlptracegrpc.WithInsecure())...), nil
	case "grpcs":
		return otlptracegrpc.NewClient(grpcOptions(u.Host)...), nil
	case "http", "https":
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		return otlptracehttp.NewClient(otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithTimeout(answerWithin),
			otlptracehttp.WithRetry(otlptracehttp.RetryConfig(retry))), nil
	}
	return nil, fmt.Errorf("send spans to %q: %q is not grpc, grpcs, http or https: %w", endpoint, u.Scheme, fabric.ErrInvalid)
}

var retry = otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: giveUp / 20, MaxInterval: giveUp / 5, MaxElapsedTime: giveUp}

func grpcOptions(host string) []otlptracegrpc.Option {
	return []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(host), otlptracegrpc.WithTimeout(answerWithin),
		otlptracegrpc.WithRetry(retry),
	}
}

// agentResource says which agent a span is from; without a host it is the command line's. Names: OpenTelemetry semantic
// conventions 1.44, service and host.
func agentResource(host fabric.HostID, version string) *resource.Resource {
	attributes := []attribute.KeyValue{attribute.String("service.name", "weft")}
	if host != "" {
		attributes = []attribute.KeyValue{
			attribute.String("service.name", "weft-agent"),
			attribute.String("service.instance.id", string(host)),
			attribute.String("host.name", string(host)),
		}
	}
	if version != "" {
		attributes = append(attributes, attribute.String("service.version", version))
	}
	return resource.NewSchemaless(attributes...)
}

// privateDir makes a directory that only its owner may read.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	return nil
}
