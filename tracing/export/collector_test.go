package export

import (
	"context"
	"maps"
	"net"
	"slices"
	"testing"

	"github.com/jaegertracing/jaeger-idl/model/v1"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/jaeger"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/weftnet/weft/tracing"
)

// realCollector is the OpenTelemetry Collector's own OTLP receiver: what it makes of the bytes is what every pipeline behind it gets.
type realCollector struct {
	endpoints []string // one that speaks gRPC, one that speaks HTTP
	spans     consumertest.TracesSink
	logs      consumertest.LogsSink
}

// loopback is an address that nobody listens at.
func loopback(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// collect starts a collector that ends with the test.
func collect(t *testing.T) *realCollector {
	t.Helper()
	grpc, http := loopback(t), loopback(t)
	c := &realCollector{endpoints: []string{"grpc://" + grpc, "http://" + http}}
	factory := otlpreceiver.NewFactory()
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{
		"grpc": map[string]any{"endpoint": grpc}, "http": map[string]any{"endpoint": http},
	}}).Unmarshal(cfg); err != nil {
		t.Fatal(err)
	}
	settings := receivertest.NewNopSettings(factory.Type())
	spans, err := factory.CreateTraces(t.Context(), settings, cfg, &c.spans)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := factory.CreateLogs(t.Context(), settings, cfg, &c.logs)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []component.Component{spans, logs} {
		if err := part.Start(t.Context(), componenttest.NewNopHost()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := part.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	return c
}

// received are the spans, by name and the host.name of their resource.
func (c *realCollector) received() map[string]ptrace.Span {
	spans := map[string]ptrace.Span{}
	for _, batch := range c.spans.AllTraces() {
		for _, r := range batch.ResourceSpans().All() {
			for _, scope := range r.ScopeSpans().All() {
				for _, s := range scope.Spans().All() {
					spans[s.Name()+"@"+value(r.Resource().Attributes(), "host.name")] = s
				}
			}
		}
	}
	return spans
}

// value is an attribute as text; empty when it is not there.
func value(attributes pcommon.Map, key string) string {
	v, ok := attributes.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

func TestACollectorUnderstandsAPacketsWay(t *testing.T) {
	for i, name := range []string{"grpc", "http"} {
		t.Run(name, func(t *testing.T) {
			c := collect(t)
			telemetry := open(t, Options{Endpoint: c.endpoints[i]})
			ctx, asked := telemetry.Provider().Tracer("test").Start(t.Context(), "asked")
			p := path()
			telemetry.Path(ctx, p)
			asked.End()
			if err := telemetry.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			spans := c.received()
			if len(spans) != 8 {
				t.Fatalf("%d spans arrived: %v", len(spans), slices.Sorted(maps.Keys(spans)))
			}
			ids := map[pcommon.SpanID]bool{}
			for _, s := range spans {
				ids[s.SpanID()] = true
			}
			for name, s := range spans {
				switch {
				case name != "asked@h1" && s.TraceID() != pcommon.TraceID(p.TraceID):
					t.Errorf("%s is of trace %s, not %s", name, s.TraceID(), p.TraceID)
				case !s.ParentSpanID().IsEmpty() && !ids[s.ParentSpanID()]:
					t.Errorf("%s has a parent that did not arrive", name)
				case s.EndTimestamp() < s.StartTimestamp():
					t.Errorf("%s ends before it begins", name)
				}
			}
			root, out, in, visit, end := spans["packet@h1"], spans["underlay.out@h1"], spans["underlay.in@h2"], spans["visit@h2"], spans["port.out@h2"]
			if !root.ParentSpanID().IsEmpty() || root.Links().Len() != 1 || root.Links().At(0).SpanID() != spans["asked@h1"].SpanID() {
				t.Error("the packet's span is no root with a link to what asked for it")
			}
			if out.Kind() != ptrace.SpanKindProducer || visit.Kind() != ptrace.SpanKindConsumer || visit.ParentSpanID() != out.SpanID() || in.ParentSpanID() != visit.SpanID() {
				t.Errorf("the way between the hosts is not one: %v, %v", out.Kind(), visit.Kind())
			}
			if value(end.Attributes(), tracing.KeyReason) != tracing.ReasonProbeCaught.String() || value(end.Attributes(), tracing.KeyGeneration) != "118" {
				t.Errorf("attributes %v", end.Attributes().AsRaw())
			}
		})
	}
}

// What Jaeger stores and shows is its own model: a process per host, references between spans. This is the translation that it uses.
func TestAPacketsWayIsOneTraceInJaeger(t *testing.T) {
	c := collect(t)
	telemetry := open(t, Options{Endpoint: c.endpoints[0]})
	p := path()
	telemetry.Path(t.Context(), p)
	spans, hosts, roots := map[model.SpanID]bool{}, map[string]int{}, 0
	var all []*model.Span
	for _, batch := range c.spans.AllTraces() {
		for _, b := range jaeger.ProtoFromTraces(batch) {
			for _, tag := range b.Process.Tags {
				if tag.Key == "host.name" {
					hosts[b.Process.ServiceName+"@"+tag.VStr] += len(b.Spans)
				}
			}
			all = append(all, b.Spans...)
		}
	}
	for _, s := range all {
		spans[s.SpanID] = true
	}
	for _, s := range all {
		if s.TraceID.String() != p.TraceID.String() {
			t.Errorf("%s is of trace %s, not %s", s.OperationName, s.TraceID, p.TraceID)
		}
		switch parent := s.ParentSpanID(); {
		case parent == 0:
			roots++
		case !spans[parent]:
			t.Errorf("%s hangs below a span that is not there", s.OperationName)
		}
	}
	if roots != 1 || len(all) != 7 || len(hosts) != 2 || hosts["weft-agent@h1"] != 4 || hosts["weft-agent@h2"] != 3 {
		t.Errorf("%d spans, %d roots, by host %v", len(all), roots, hosts)
	}
}

func TestACollectorUnderstandsEvents(t *testing.T) {
	for i, name := range []string{"grpc", "http"} {
		t.Run(name, func(t *testing.T) {
			c, dir := collect(t), t.TempDir()
			log, stop := sends(t, dir, c.endpoints[i], Options{Host: "h1", Version: "0.1.0"})
			tell(t, log, 1, 3)
			noted(t, dir, "3\n")
			stop()
			var records []plog.LogRecord
			for _, batch := range c.logs.AllLogs() {
				for _, r := range batch.ResourceLogs().All() {
					if value(r.Resource().Attributes(), "host.name") != "h1" || value(r.Resource().Attributes(), "service.name") == "" {
						t.Errorf("resource %v", r.Resource().Attributes().AsRaw())
					}
					for _, scope := range r.ScopeLogs().All() {
						for _, l := range scope.LogRecords().All() {
							records = append(records, l)
						}
					}
				}
			}
			if len(records) != 3 {
				t.Fatalf("%d records arrived", len(records))
			}
			for n, l := range records {
				if l.EventName() != "weft.port.active" || l.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || l.Timestamp().AsTime().Unix() != int64(n+1) {
					t.Errorf("record %d: %q of trace %s at %v", n, l.EventName(), l.TraceID(), l.Timestamp().AsTime())
				}
			}
		})
	}
}
