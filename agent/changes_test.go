package agent

import (
	"slices"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func TestAWayNamesTheOperationsThatDecidedIt(t *testing.T) {
	const by = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	snap := &fabric.Snapshot{
		Policies:  map[string]*fabric.Policy{"web": {Metadata: fabric.Metadata{Revision: 7, Trace: by}}, "other": {Metadata: fabric.Metadata{Trace: by}}},
		Ports:     map[fabric.PortID]*fabric.Port{"a": {Metadata: fabric.Metadata{Trace: by}}, "b": {Metadata: fabric.Metadata{Revision: 5, Trace: by}}},
		Locations: map[fabric.PortID]fabric.Location{"a": {}, "b": {Revision: 9, Trace: by}},
	}
	hop := func(port fabric.PortID, result tracing.Result, reason tracing.Reason) tracing.Step {
		return tracing.Step{Hop: tracing.Hop{Port: port, Result: result, Reason: reason}}
	}
	denied := hop("b", tracing.ResultDrop, tracing.ReasonPolicyDenied)
	denied.Policy = "web"
	passed := hop("a", tracing.ResultPass, 0)
	for _, c := range []struct {
		name string
		path tracing.Path
		want []string
	}{
		{"by a rule", tracing.Path{Hops: []tracing.Step{passed, denied}}, []string{"policy/web", "location/b", "port/b"}},
		{"delivered", tracing.Path{Hops: []tracing.Step{passed, hop("b", tracing.ResultCaught, tracing.ReasonProbeCaught)}}, []string{"location/b"}},
		{"lost", tracing.Path{Hops: []tracing.Step{passed}}, nil},
	} {
		var got []string
		for _, change := range changesOf(snap, &c.path) {
			got = append(got, change.Object)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
