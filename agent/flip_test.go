package agent

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing/packet"
)

func TestFlipsAreTheNearestChangesThatTurnTheVerdict(t *testing.T) {
	for _, c := range []struct {
		claim  string
		port   uint16
		change func(*fabric.Snapshot)
		want   []string
	}{
		{"a rule denies it", 53, func(s *fabric.Snapshot) { s.Ports["c"].Spec.Profile = "" }, []string{
			"policy/p: add a rule above no-dns, of weight 2: out allow udp, local 10.0.0.1, remote 10.0.0.3, remote port 53, stateful → delivered",
			"policy/p: delete rule no-dns → delivered", "policy/p: let rule no-dns allow → delivered"}},
		{"a default denies it", 54, nil, []string{"profile/shut: defaultAction: allow → delivered"}},
		{"a default denies it behind a policy", 54, func(s *fabric.Snapshot) { s.Ports["c"].Spec.Policies = []string{"p"} }, []string{
			"policy/p: add a rule of weight 1: in allow udp, local 10.0.0.3, remote 10.0.0.1, local port 54, stateful → delivered",
			"profile/shut: defaultAction: allow → delivered"}},
		{"two ends deny it: no single change helps", 53, nil, nil},
		{"nothing denies it, and no rule lets it through", 54, func(s *fabric.Snapshot) { s.Ports["c"].Spec.Profile = "" }, nil},
		{"a rule alone lets it through", 54, func(s *fabric.Snapshot) {
			s.Policies["q"] = &fabric.Policy{Metadata: fabric.Metadata{Name: "q"}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{{Name: "dns", Weight: 1, Direction: fabric.In, Action: fabric.Allow, Protocol: "udp"}}}}
			s.Ports["c"].Spec.Policies = []string{"q"}
		}, []string{"policy/q: delete rule dns → dropped"}},
		{"they are in two VLANs", 54, func(s *fabric.Snapshot) { vlans(s, "10", "20"); s.Ports["c"].Spec.Profile = "" }, []string{"port/c: give it the VLAN of port a: 10 → delivered"}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			s := explained()
			if c.change != nil {
				c.change(s)
			}
			from, to := s.Ports["a"].Spec, s.Ports["c"].Spec
			frame, err := packet.Craft(packet.Probe{Protocol: "udp", SourceMAC: from.MAC, DestinationMAC: to.MAC, Source: from.Addresses[0], Destination: to.Addresses[0], DestinationPort: c.port, Nonce: packet.NewNonce()})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range flips(s, api.TraceRequest{Source: "a", Destination: "c", Protocol: "udp", Port: c.port}, frame) {
				got = append(got, fmt.Sprintf("%s: %s → %s", f.Object, f.Change, f.Verdict))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("flips %q, want %q", got, c.want)
			}
		})
	}
}
