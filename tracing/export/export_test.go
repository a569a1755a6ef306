package export

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/weftnet/weft/tracing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// receiver is a collector: OpenTelemetry's own service definition, which decodes what arrives.
type receiver struct {
	collectorpb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*tracepb.Span // by name
	hosts map[string]string        // service.instance.id by span name; visits are named visit@HOST
}

func (r *receiver) Export(_ context.Context, q *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	r.take(q.ResourceSpans)
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (r *receiver) take(all []*tracepb.ResourceSpans) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spans == nil {
		r.spans, r.hosts = map[string]*tracepb.Span{}, map[string]string{}
	}
	for _, rs := range all {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				host := ""
				for _, a := range rs.Resource.Attributes {
					if a.Key == "service.instance.id" {
						host = a.Value.GetStringValue()
					}
				}
				if s.Name == "visit" {
					s.Name += "@" + host
				}
				r.spans[s.Name], r.hosts[s.Name] = s, host
			}
		}
	}
}

// serveGRPC starts a collector on an address, or on a free one when it is empty.
func (r *receiver) serveGRPC(tb testing.TB, address string) string {
	tb.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, r)
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(listener) })
	tb.Cleanup(func() {
		server.Stop()
		done.Wait()
	})
	return listener.Addr().String()
}

func open(tb testing.TB, o Options) *Telemetry {
	tb.Helper()
	o.Host, o.Version = "h1", "0.1.0"
	telemetry, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := telemetry.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return telemetry
}

func span(tb testing.TB, t *Telemetry, name string) trace.SpanContext {
	tb.Helper()
	_, s := t.Provider().Tracer("test").Start(tb.Context(), name)
	s.End()
	if err := t.Flush(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return s.SpanContext()
}

func TestSpansReachACollectorByGRPC(t *testing.T) {
	r := &receiver{}
	for _, scheme := range []string{"", "grpc://"} {
		telemetry := open(t, Options{Endpoint: scheme + r.serveGRPC(t, "")})
		sent := span(t, telemetry, "apply")
		id := sent.TraceID()
		if got := r.spans["apply"]; got == nil || !bytes.Equal(got.TraceId, id[:]) || r.hosts["apply"] != "h1" {
			t.Errorf("%q: the collector has %v of %q", scheme, got, r.hosts["apply"])
		}
		r.spans = nil
	}
}

func TestSpansReachACollectorByHTTP(t *testing.T) {
	r := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		var request collectorpb.ExportTraceServiceRequest
		if err != nil || q.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
			http.Error(w, "not OTLP", http.StatusBadRequest)
			return
		}
		r.take(request.ResourceSpans)
	}))
	defer server.Close()
	telemetry := open(t, Options{Endpoint: server.URL})
	span(t, telemetry, "apply")
	if r.spans["apply"] == nil {
		t.Fatal("the span did not arrive")
	}
	if sent, lost := telemetry.Outcomes(); sent != 1 || lost != 0 {
		t.Errorf("%d sent, %d lost", sent, lost)
	}
}

func TestAnAbsentCollectorIsCountedAndSaidOnce(t *testing.T) {
	var said bytes.Buffer
	var broken, asked int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked <= broken {
			http.Error(w, "no room", http.StatusInsufficientStorage)
		}
	}))
	defer server.Close()
	broken = 3
	telemetry := open(t, Options{Endpoint: server.URL, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	for range 5 {
		span(t, telemetry, "apply")
	}
	if sent, lost := telemetry.Outcomes(); sent != 2 || lost != 3 {
		t.Errorf("%d sent, %d lost", sent, lost)
	}
	if got := strings.Count(said.String(), "cannot be exported"); got != 1 {
		t.Errorf("said %d times that it fails:\n%s", got, &said)
	}
	if got := strings.Count(said.String(), "exported again"); got != 1 {
		t.Errorf("said %d times that it works again:\n%s", got, &said)
	}
}

func TestEndpointsThatCannotBe(t *testing.T) {
	for _, endpoint := range []string{"ftp://host:1", "grpc://", "http://", "://"} {
		if telemetry, err := Open(t.Context(), Options{Endpoint: endpoint}); err == nil {
			t.Errorf("%q is taken", endpoint)
			_ = telemetry.Close(t.Context())
		}
	}
}

func TestNowhereToExportIsFine(t *testing.T) {
	telemetry := open(t, Options{})
	if !span(t, telemetry, "apply").IsValid() {
		t.Error("the span has no id")
	}
	telemetry.Path(t.Context(), path())
	if err := telemetry.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// fileSpan is what OTLP-JSON calls a span, by the specification's field names.
type fileSpan struct {
	Name         string `json:"name"`
	TraceID      string `json:"traceId"`
	SpanID       string `json:"spanId"`
	ParentSpanID string `json:"parentSpanId"`
	Kind         int    `json:"kind"`
	Start        string `json:"startTimeUnixNano"`
}

func fileSpans(tb testing.TB, path string) []fileSpan {
	tb.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	var spans []fileSpan
	for line := range strings.Lines(string(raw)) {
		var data struct {
			ResourceSpans []struct {
				ScopeSpans []struct{ Spans []fileSpan }
			}
		}
		if err := json.Unmarshal([]byte(line), &data); err != nil {
			tb.Fatalf("%v in %s", err, line)
		}
		for _, rs := range data.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				spans = append(spans, ss.Spans...)
			}
		}
	}
	return spans
}

func TestSpansAreKeptInAFileAsTheSpecificationSays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "telemetry")
	telemetry := open(t, Options{Dir: dir})
	ctx, parent := telemetry.Provider().Tracer("test").Start(t.Context(), "parent")
	_, child := telemetry.Provider().Tracer("test").Start(ctx, "child")
	child.End()
	parent.End()
	if err := telemetry.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := fileSpans(t, filepath.Join(dir, "spans.jsonl"))
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	got, want := spans[0], child.SpanContext()
	if got.TraceID != want.TraceID().String() || got.SpanID != want.SpanID().String() ||
		got.ParentSpanID != parent.SpanContext().SpanID().String() || got.Kind != int(tracepb.Span_SPAN_KIND_INTERNAL) || got.Start == "" {
		t.Errorf("child is %+v", got)
	}
	for _, path := range []string{dir, filepath.Join(dir, "spans.jsonl")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestTheSpanFileIsBounded(t *testing.T) {
	dir := t.TempDir()
	telemetry := open(t, Options{Dir: dir, MaxBytes: 4000})
	for range 40 {
		span(t, telemetry, "apply")
	}
	var total int64
	kept := 0
	for _, name := range []string{"spans.jsonl", "spans.jsonl.1"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
		kept += len(fileSpans(t, filepath.Join(dir, name)))
	}
	if total > 4000 || kept < 3 {
		t.Errorf("%d bytes, %d spans", total, kept)
	}
	if _, lost := telemetry.Outcomes(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
}

func TestASpanFileThatCannotBeWrittenIsAnErrorAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if telemetry, err := Open(t.Context(), Options{Dir: filepath.Join(file, "below")}); err == nil {
		_ = telemetry.Close(t.Context())
		t.Fatal("a directory below a file was taken")
	}
}

func TestTraceparentTravelsInARecord(t *testing.T) {
	telemetry := open(t, Options{})
	ctx, asked := telemetry.Provider().Tracer("test").Start(t.Context(), "apply")
	defer asked.End()
	record := Traceparent(ctx)
	if len(record) != 55 || !strings.Contains(record, asked.SpanContext().TraceID().String()) {
		t.Fatalf("traceparent %q", record)
	}
	there := trace.SpanContextFromContext(WithTraceparent(t.Context(), record))
	if !there.IsRemote() || there.TraceID() != asked.SpanContext().TraceID() || there.SpanID() != asked.SpanContext().SpanID() {
		t.Errorf("it became %v", there)
	}
	for _, bad := range []string{"", "nonsense", "00-0-0-0", strings.Repeat("0", 55)} {
		if s := trace.SpanContextFromContext(WithTraceparent(t.Context(), bad)); s.IsValid() {
			t.Errorf("%q became %v", bad, s)
		}
	}
	if got := Traceparent(t.Context()); got != "" {
		t.Errorf("no span has traceparent %q", got)
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, text string) {
		s := trace.SpanContextFromContext(WithTraceparent(t.Context(), text))
		if s.IsValid() && len(text) < 55 {
			t.Fatalf("%q became %v", text, s)
		}
	})
}

func TestLogLinesNameTheirTrace(t *testing.T) {
	telemetry := open(t, Options{})
	ctx, s := telemetry.Provider().Tracer("test").Start(t.Context(), "apply")
	defer s.End()
	var out bytes.Buffer
	log := slog.New(LogHandler(slog.NewJSONHandler(&out, nil))).With("a", 1)
	log.InfoContext(ctx, "A switch was created.")
	log.InfoContext(t.Context(), "Nothing asked for this.")
	var first, second map[string]any
	d := json.NewDecoder(&out)
	if err := d.Decode(&first); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(&second); err != nil {
		t.Fatal(err)
	}
	if first[tracing.KeyTraceID] != s.SpanContext().TraceID().String() || first[tracing.KeySpanID] != s.SpanContext().SpanID().String() || first["a"] != 1.0 {
		t.Errorf("%v", first)
	}
	if _, has := second[tracing.KeyTraceID]; has {
		t.Errorf("%v", second)
	}
}

func TestHexIDs(t *testing.T) {
	if err := hexIDs(map[string]any{"traceId": "!"}); err == nil {
		t.Error("what is not base64 was taken")
	}
	node := map[string]any{"a": []any{map[string]any{"spanId": "AQI="}}, "traceId": 7}
	if err := hexIDs(node); err != nil {
		t.Fatal(err)
	}
	if got := node["a"].([]any)[0].(map[string]any)["spanId"]; got != hex.EncodeToString([]byte{1, 2}) {
		t.Errorf("%v", got)
	}
}
