package export

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// path is a frame's way from h1 to h2.
func path() *tracing.Path {
	vtep1, vtep2 := netip.MustParseAddr("10.240.0.1"), netip.MustParseAddr("10.240.0.2")
	at := func(host fabric.HostID, us int, stage tracing.Stage, result tracing.Result, peer netip.Addr) tracing.Hop {
		return tracing.Hop{
			Host: host, Time: time.Unix(1000, int64(us)*1000), Stage: stage, Result: result, Peer: peer, VNI: 5001, Generation: 118,
			Source: netip.MustParseAddr("10.10.0.11"), SourcePort: 49152, Destination: netip.MustParseAddr("10.10.0.12"), DestinationPort: 443, Protocol: 6,
		}
	}
	end := at("h2", 43, tracing.StagePortOut, tracing.ResultCaught, netip.Addr{})
	end.Reason, end.Port = tracing.ReasonProbeCaught, "b"
	return tracing.Assemble(7, 0x1234, []tracing.Hop{
		at("h1", 0, tracing.StagePortIn, tracing.ResultPass, netip.Addr{}),
		at("h1", 4, tracing.StageUnderlayOut, tracing.ResultPass, vtep2),
		at("h2", 40, tracing.StageUnderlayIn, tracing.ResultPass, vtep1),
		end,
	}, map[netip.Addr]fabric.HostID{vtep1: "h1", vtep2: "h2"})
}

func TestAPathIsOneTraceAtTheCollector(t *testing.T) {
	r := &receiver{}
	telemetry := open(t, Options{Endpoint: r.serveGRPC(t, "")})
	ctx, asked := telemetry.Provider().Tracer("test").Start(t.Context(), "trace")
	defer asked.End()
	p := path()
	telemetry.Path(ctx, p)
	if len(r.spans) != 7 {
		t.Fatalf("%d spans arrived: %v", len(r.spans), r.spans)
	}
	root, out, in, end := r.spans["packet"], r.spans["underlay.out"], r.spans["underlay.in"], r.spans["port.out"]
	for name, s := range r.spans {
		if string(s.TraceId) != string(p.TraceID[:]) {
			t.Errorf("%s is of trace %x", name, s.TraceId)
		}
	}
	if len(root.ParentSpanId) != 0 || len(root.Links) != 1 {
		t.Errorf("root %v", root)
	}
	if asked := asked.SpanContext().SpanID(); string(root.Links[0].SpanId) != string(asked[:]) {
		t.Error("the root does not link to what asked for it")
	}
	visit := r.spans["visit@h2"]
	if string(visit.ParentSpanId) != string(out.SpanId) || string(in.ParentSpanId) != string(visit.SpanId) {
		t.Error("the visit to h2 does not hang below the hop that sent the frame there")
	}
	if out.Kind != tracepb.Span_SPAN_KIND_PRODUCER || visit.Kind != tracepb.Span_SPAN_KIND_CONSUMER {
		t.Errorf("kinds %v and %v", out.Kind, visit.Kind)
	}
	if r.hosts["underlay.out"] != "h1" || r.hosts["port.out"] != "h2" {
		t.Errorf("hosts %v", r.hosts)
	}
	if end.Status.Code != tracepb.Status_STATUS_CODE_UNSET || root.EndTimeUnixNano-root.StartTimeUnixNano != 43000 {
		t.Errorf("status %v, %d ns", end.Status, root.EndTimeUnixNano-root.StartTimeUnixNano)
	}
	want := map[string]bool{tracing.KeyReason: true, tracing.KeyPort: true, tracing.KeyVNI: true, tracing.KeyGeneration: true,
		tracing.KeySourceAddress: true, tracing.KeyNetworkTransport: true}
	for _, a := range end.Attributes {
		delete(want, a.Key)
	}
	if len(want) != 0 {
		t.Errorf("port.out lacks %v", want)
	}
}

func TestACollectorThatNeverAnswersDoesNotHoldUpATrace(t *testing.T) {
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer server.Close()
	defer close(done)
	dir := t.TempDir()
	telemetry := open(t, Options{Endpoint: server.URL, Dir: dir})
	telemetry.Path(t.Context(), path())
	if n := len(fileSpans(t, filepath.Join(dir, "spans.jsonl"))); n != 7 {
		t.Errorf("%d spans are in the file", n)
	}
	if sent, lost := telemetry.Outcomes(); sent != 7 || lost != 7 {
		t.Errorf("%d sent, %d lost", sent, lost)
	}
}

func TestOnlyDropsNobodyAskedForAreErrors(t *testing.T) {
	for reason, want := range map[tracing.Reason]codes.Code{
		tracing.ReasonGuardSrcIP: codes.Unset, tracing.ReasonProbeCaught: codes.Unset,
		tracing.ReasonVNIUnknown: codes.Error, tracing.ReasonUnexplained: codes.Error,
	} {
		if got := status(true, reason); got.Code != want {
			t.Errorf("%s: %v, want %v", reason, got.Code, want)
		}
	}
	if status(false, 0).Code != codes.Unset {
		t.Error("no drop is an error")
	}
}

func TestTheSamePathHasTheSameSpansEverywhere(t *testing.T) {
	ids := func(host fabric.HostID) (ids []trace.SpanID) {
		for _, s := range (&Telemetry{host: host}).pathSpans(t.Context(), path()) {
			ids = append(ids, s.SpanContext.SpanID())
		}
		return ids
	}
	a, b := ids("h1"), ids("h2")
	if len(a) != 7 || len(b) != 7 {
		t.Fatalf("%d and %d spans", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("span %d is %s and %s", i, a[i], b[i])
		}
	}
}

func BenchmarkPath(b *testing.B) {
	p, t := path(), &Telemetry{host: "h1"}
	b.ReportAllocs()
	for b.Loop() {
		t.pathSpans(b.Context(), p).Snapshots()
	}
}

func TestManyPathsAreAllSent(t *testing.T) {
	r := &receiver{}
	telemetry := open(t, Options{Endpoint: r.serveGRPC(t, "")})
	many := make([]*tracing.Path, 2*waysAtOnce+50)
	for i := range many {
		many[i] = path()
	}
	telemetry.Path(t.Context(), many...)
	if sent, lost := telemetry.Outcomes(); sent != uint64(7*len(many)) || lost != 0 {
		t.Errorf("%d spans were sent and %d lost, of %d ways with 7 each", sent, lost, len(many))
	}
}
