package export

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/tracing"
)

// waysAtOnce is how many ways are sent in one message: some 1,500 spans.
const waysAtOnce = 100

// Path exports packets' paths, each as one trace: a root for the packet, a span for each visit to a host, one below it for
// each stage. The ids are the path's own, computed ones; the root links to the span in ctx, the operation that asked, and to those that wrote what decided. It
// goes out at once, beside the batches of other spans, and a message of them holds nobody up for longer than 3 s.
func (t *Telemetry) Path(ctx context.Context, paths ...*tracing.Path) {
	if len(t.outs) == 0 {
		return
	}
	for some := range slices.Chunk(paths, waysAtOnce) {
		var spans []sdktrace.ReadOnlySpan
		for _, p := range some {
			spans = append(spans, t.pathSpans(ctx, p).Snapshots()...)
		}
		t.send(ctx, spans)
	}
}

// send gives spans to all who take them.
func (t *Telemetry) send(ctx context.Context, spans []sdktrace.ReadOnlySpan) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for _, out := range t.outs {
		_ = out.ExportSpans(ctx, spans) // counts and says its failures itself
	}
}

// pathSpans builds the spans; each has the resource of the host it tells of.
func (t *Telemetry) pathSpans(ctx context.Context, p *tracing.Path) tracetest.SpanStubs {
	root := tracetest.SpanStub{
		Name: "packet", SpanContext: spanContext(p.TraceID, tracing.RootSpan(p.TraceID)), SpanKind: trace.SpanKindInternal,
		StartTime: p.Start, EndTime: p.Start, Attributes: pathAttributes(p), Status: status(p.Verdict == tracing.Dropped, p.Reason),
		Resource: agentResource(t.host, t.version), InstrumentationScope: scope,
	}
	if asked := trace.SpanContextFromContext(ctx); asked.IsValid() {
		root.Links = []sdktrace.Link{{SpanContext: asked}}
	}
	root.Links = append(root.Links, because(p.Changes)...)
	spans := tracetest.SpanStubs{root}
	for i := 0; i < len(p.Hops); {
		end := i
		for end < len(p.Hops) && p.Hops[end].VisitID == p.Hops[i].VisitID {
			end++
		}
		spans = append(spans, t.visitSpans(p, p.Hops[i:end])...)
		i = end
	}
	for _, s := range spans {
		if s.EndTime.After(spans[0].EndTime) {
			spans[0].EndTime = s.EndTime
		}
	}
	return spans
}

var scope = instrumentation.Scope{Name: "github.com/weftnet/weft/tracing"}

// visitSpans are the span of one visit and those of its stages. A visit hangs below the stage that sent the frame there,
// which makes an edge from host to host in every trace viewer.
func (t *Telemetry) visitSpans(p *tracing.Path, steps []tracing.Step) tracetest.SpanStubs {
	first := steps[0]
	when := func(s tracing.Step) time.Time {
		return p.Start.Add(time.Duration(s.AfterUs * float64(time.Microsecond)))
	}
	parent := tracing.RootSpan(p.TraceID)
	if !first.ParentID.IsZero() {
		parent = first.ParentID
	}
	host := agentResource(first.Host, t.version)
	visit := tracetest.SpanStub{
		Name: "visit", SpanContext: spanContext(p.TraceID, first.VisitID), Parent: spanContext(p.TraceID, parent),
		SpanKind: trace.SpanKindInternal, StartTime: when(first), EndTime: when(steps[len(steps)-1]), Resource: host, InstrumentationScope: scope,
		Attributes: []attribute.KeyValue{attribute.String(tracing.KeyHost, string(first.Host)), attribute.Int(tracing.KeyAttempt, first.Attempt)},
	}
	if first.Depth > 0 {
		visit.SpanKind = trace.SpanKindConsumer
	}
	spans := tracetest.SpanStubs{visit}
	for i, s := range steps {
		end := when(s)
		if i+1 < len(steps) {
			end = when(steps[i+1])
		}
		kind := trace.SpanKindInternal
		if s.Stage == tracing.StageUnderlayOut {
			kind = trace.SpanKindProducer
		}
		spans = append(spans, tracetest.SpanStub{
			Name: s.Stage.String(), SpanContext: spanContext(p.TraceID, s.SpanID), Parent: visit.SpanContext, SpanKind: kind,
			StartTime: when(s), EndTime: end, Attributes: stepAttributes(s), Status: status(s.Result == tracing.ResultDrop, s.Reason),
			Resource: host, InstrumentationScope: scope,
		})
	}
	return spans
}

// status: a drop that somebody asked for is no error.
func status(dropped bool, r tracing.Reason) sdktrace.Status {
	if dropped && !r.Class().Intended() {
		return sdktrace.Status{Code: codes.Error, Description: r.Doc()}
	}
	return sdktrace.Status{}
}

func spanContext(t tracing.TraceID, s tracing.SpanID) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID(t), SpanID: trace.SpanID(s), TraceFlags: trace.FlagsSampled})
}

func pathAttributes(p *tracing.Path) []attribute.KeyValue {
	a := attributes{}
	a.text(tracing.KeyMode, string(p.Mode))
	a.text(tracing.KeyVerdict, string(p.Verdict))
	a.text(tracing.KeyLabel, hex.EncodeToString(binary.BigEndian.AppendUint64(nil, p.Label)))
	a.number(tracing.KeySession, int64(p.Session))
	a.number(tracing.KeyGeneration, int64(p.Generation))
	a.reason(p.Reason)
	var missing []string
	for _, m := range p.Missing {
		missing = append(missing, string(m.Host))
	}
	if missing != nil {
		a = append(a, attribute.StringSlice(tracing.KeyMissing, missing))
	}
	return a
}

func stepAttributes(s tracing.Step) []attribute.KeyValue {
	a := attributes{}
	a.text(tracing.KeyStage, s.Stage.String())
	a.text(tracing.KeyResult, s.Result.String())
	a.reason(s.Reason)
	a.text(tracing.KeyPort, string(s.Port))
	a.text(tracing.KeyDevice, s.Device)
	a.number(tracing.KeyVNI, int64(s.VNI))
	a.address(tracing.KeyPeer, s.Peer)
	a.text(tracing.KeyPeerHost, string(s.PeerHost))
	a.number(tracing.KeyGeneration, int64(s.Generation))
	a.number(tracing.KeyLength, int64(s.Length))
	a.address(tracing.KeySourceAddress, s.Source)
	a.number(tracing.KeySourcePort, int64(s.SourcePort))
	a.address(tracing.KeyDestinationAddress, s.Destination)
	a.number(tracing.KeyDestinationPort, int64(s.DestinationPort))
	a.text(tracing.KeyNetworkTransport, transports[s.Protocol])
	if s.Source.IsValid() {
		network := "ipv6"
		if s.Source.Unmap().Is4() {
			network = "ipv4"
		}
		a.text(tracing.KeyNetworkType, network)
	}
	return a
}

// transports names IP protocols as OpenTelemetry's network.transport does.
var transports = map[uint8]string{6: "tcp", 17: "udp"}

// attributes leaves out what is not known.
type attributes []attribute.KeyValue

func (a *attributes) text(key, value string) {
	if value != "" {
		*a = append(*a, attribute.String(key, value))
	}
}

func (a *attributes) number(key string, value int64) {
	if value != 0 {
		*a = append(*a, attribute.Int64(key, value))
	}
}

func (a *attributes) address(key string, value netip.Addr) {
	if value.IsValid() {
		a.text(key, value.Unmap().String())
	}
}

func (a *attributes) reason(r tracing.Reason) {
	if r == 0 {
		return
	}
	a.text(tracing.KeyReason, r.String())
	a.text(tracing.KeyClass, r.Class().String())
	if !r.Class().Intended() {
		a.text(tracing.KeyErrorType, r.String())
	}
}
