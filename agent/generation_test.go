package agent

import (
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

func TestAPortSaysThatItsNewRulesAreNotInForce(t *testing.T) {
	b := newBench(t)
	b.plug(t, "a", "tap-a")
	b.accept(t.Context(), blue(10, 3))
	if s := b.status(); len(s.Problems) != 0 || s.Ports[0].Reason != "" {
		t.Fatalf("without a failure: %+v", s)
	}
	b.plane.refuse["tap-a"] = true
	snap := blue(11, 3)
	port := *snap.Ports["a"]
	port.Spec.Policies = []string{"web"}
	snap.Ports["a"] = &port
	snap.Policies = map[string]*fabric.Policy{"web": {Metadata: fabric.Metadata{Name: "web"}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{{Name: "none", Weight: 1, Direction: fabric.In, Action: fabric.Deny}}}}}
	b.accept(t.Context(), snap)
	s := b.status()
	if s.Generation != 10 || len(s.Problems) != 1 || !strings.HasPrefix(s.Problems[0], "generation 11 failed: ") || !strings.HasSuffix(s.Problems[0], "stays as in generation 10") {
		t.Errorf("the host says %d, %q", s.Generation, s.Problems)
	}
	if p := s.Ports[0]; p.State != fabric.PortActive || !strings.Contains(p.Reason, "rules it had before") {
		t.Errorf("the port says %+v", p)
	}
	b.check(t.Context())
	if n := b.told("generation.failed"); n != 1 {
		t.Errorf("generation 11 failed in %d events, want 1", n)
	}
	snap.Revision = 12
	b.accept(t.Context(), snap)
	if n := b.told("generation.failed"); n != 2 {
		t.Errorf("generations 11 and 12 failed in %d events, want 2", n)
	}
}
