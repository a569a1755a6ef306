package export

import (
	"bytes"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/weftnet/weft/tracing"
)

func TestAWayIsAFileThatACollectorReads(t *testing.T) {
	there, back := path(), path()
	there.Changes = []tracing.Change{
		{Object: "policy/web", Revision: 7, Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{Object: "location/b", Revision: 3}, // written without a trace
	}
	var out bytes.Buffer
	if err := WritePaths(t.Context(), &out, "0.1.0", there, nil, back); err != nil {
		t.Fatal(err)
	}
	all := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(all) != 2 {
		t.Fatalf("two ways are %d lines:\n%s", len(all), &out)
	}
	read, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces([]byte(all[0]))
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]bool{}
	var root ptrace.Span
	for _, r := range read.ResourceSpans().All() {
		if host, ok := r.Resource().Attributes().Get("host.name"); ok {
			hosts[host.Str()] = true
		}
		for _, s := range r.ScopeSpans().All() {
			for _, span := range s.Spans().All() {
				if span.TraceID() != [16]byte(there.TraceID) {
					t.Errorf("%s is of trace %s", span.Name(), span.TraceID())
				}
				if span.ParentSpanID().IsEmpty() {
					root = span
				}
			}
		}
	}
	if read.SpanCount() != 7 || !hosts["h1"] || !hosts["h2"] {
		t.Errorf("%d spans of hosts %v", read.SpanCount(), hosts)
	}
	if root.Name() != "packet" || root.Links().Len() != 1 || root.Links().At(0).TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Fatalf("root %s has %d links", root.Name(), root.Links().Len())
	}
	if object, _ := root.Links().At(0).Attributes().Get(tracing.KeyObject); object.Str() != "policy/web" {
		t.Errorf("the link does not say what was changed: %v", root.Links().At(0).Attributes().AsRaw())
	}
}
