package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weftnet/weft/fabric"
)

func TestLintFindsWhatIsNotMeant(t *testing.T) {
	for claim, c := range map[string]struct {
		rules string
		want  []string // id, rule, a word of the message, and whether it can be fixed
	}{
		"nothing": {"  - {name: a, weight: 2, direction: in, action: allow, protocol: tcp, local: {ports: [443]}}\n  - {name: b, weight: 1, direction: in, action: deny}", nil},
		"a rule inside an earlier one": {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: [10.0.0.0/8]}}\n  - {name: b, weight: 1, direction: in, action: deny, protocol: udp, remote: {prefixes: [10.1.0.0/16]}}",
			[]string{"shadowed b by a fixable"}},
		"one that would do otherwise": {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: [10.0.0.0/8]}}\n  - {name: b, weight: 1, direction: in, action: allow, protocol: udp, remote: {prefixes: [10.1.0.0/16]}}",
			[]string{"contradicted b by a"}},
		"one that would open flows": {"  - {name: a, weight: 2, direction: out, action: allow}\n  - {name: b, weight: 1, direction: out, action: allow, stateful: true}",
			[]string{"contradicted b by a"}},
		"two that together leave nothing": {"  - {name: a, weight: 3, direction: in, action: deny, remote: {prefixes: [10.0.0.0/9]}}\n  - {name: x, weight: 4, direction: in, action: deny, remote: {prefixes: [11.0.0.0/9]}}\n  - {name: b, weight: 2, direction: in, action: deny, remote: {prefixes: [10.128.0.0/9]}}\n  - {name: c, weight: 1, direction: in, action: deny, remote: {prefixes: [10.0.0.0/8]}}",
			[]string{"shadowed c by a, b fixable"}},
		"ports that together are all": {"  - {name: a, weight: 3, direction: in, action: reject, protocol: tcp, local: {ports: [0-1000]}}\n  - {name: b, weight: 2, direction: in, action: reject, protocol: tcp, local: {ports: [1001-65535]}}\n  - {name: c, weight: 1, direction: in, action: reject, protocol: tcp, remote: {ports: [5]}}",
			[]string{"shadowed c by a, b fixable"}},
		"later fragments are left": {"  - {name: a, weight: 3, direction: in, action: deny, protocol: tcp, local: {ports: [0-65535]}}\n  - {name: c, weight: 1, direction: in, action: deny, protocol: tcp}", nil},
		"groups are as they are":   {"  - {name: a, weight: 2, direction: in, action: deny, remote: {prefixes: [10.10.0.0/24, 192.0.2.0/24]}}\n  - {name: b, weight: 1, direction: in, action: deny, remote: {groups: [web]}}", []string{"shadowed b by a"}},
		"an empty list":            {"  - {name: a, weight: 2, direction: in, action: allow, remote: {prefixes: []}}", []string{"empty-list a remote.prefixes fixable"}},
		"an empty list of ports":   {"  - {name: a, weight: 2, direction: in, action: allow, protocol: tcp, local: {ports: []}}", []string{"empty-list a local.ports fixable"}},
		"two families":             {"  - {name: a, weight: 2, direction: out, action: allow, local: {prefixes: [10.0.0.0/8]}, remote: {prefixes: ['fd00::/8']}}", []string{"never-hit a families"}},
		"ICMP of another family":   {"  - {name: a, weight: 2, direction: out, action: allow, protocol: icmpv6, icmp: {type: 128}, remote: {prefixes: [10.0.0.0/8]}}", []string{"never-hit a families"}},
		"neighbour discovery":      {"  - {name: a, weight: 2, direction: in, action: deny, protocol: icmpv6, icmp: {type: 135}}", []string{"never-hit a neighbour"}},
		"a VNI of no switch":       {"  - {name: a, weight: 2, direction: in, action: deny, vni: 5}", []string{"never-hit a VNI"}},
		"a VLAN of no switch":      {"  - {name: a, weight: 2, direction: in, action: deny, vlan: 5}", []string{"never-hit a VLAN"}},
		"everybody to everything":  {"  - {name: a, weight: 2, direction: in, action: allow}", []string{"over-broad a every"}},
		"everybody to many ports":  {"  - {name: a, weight: 2, direction: in, action: allow, protocol: tcp, local: {ports: [1024-65535]}, remote: {prefixes: [0.0.0.0/0]}}", []string{"over-broad a 64512"}},
		"a second meter":           {"  - {name: a, weight: 2, direction: in, action: meter}\n  - {name: b, weight: 1, direction: in, action: meter, protocol: tcp}", []string{"contradicted b counted"}},
		"no rules":                 {"    []", []string{"empty-policy  decides"}},
	} {
		t.Run(claim, func(t *testing.T) {
			s := world(t, rules("p", c.rules)+"---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: web}\nspec: {ports: {tier: web}, cidrs: [192.0.2.0/24]}\n", "p")
			var got []string
			for _, f := range Lint(s) {
				if f.Object == "policy/p" {
					got = append(got, fmt.Sprintf("%s %s %v: %s", f.ID, f.Rule, f.Fixable, f.Message))
				}
			}
			if len(got) != len(c.want) {
				t.Fatalf("findings\n  %s\nwant %q", strings.Join(got, "\n  "), c.want)
			}
			for i, w := range c.want {
				w, fixable := strings.CutSuffix(w, " fixable")
				id, rest, _ := strings.Cut(w, " ")
				rule, word, _ := strings.Cut(rest, " ")
				if !strings.HasPrefix(got[i], fmt.Sprintf("%s %s %v: ", id, rule, fixable)) || !strings.Contains(got[i], word) {
					t.Errorf("finding %q, want %q (fixable: %v)", got[i], w, fixable)
				}
			}
		})
	}
}

func TestLintKnowsWhatIsUsed(t *testing.T) {
	s := world(t, rules("p", "  - {name: a, weight: 1, direction: in, action: deny, remote: {groups: [empty]}}")+rules("q", "  - {name: a, weight: 1, direction: in, action: deny, remote: {groups: [gone]}}")+
		"---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: empty}\nspec: {ports: {tier: none}}\n---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: spare}\nspec: {}\n", "p")
	var got []string
	for _, f := range Lint(s) {
		got = append(got, f.ID+" "+f.Object)
	}
	want := []string{"never-hit policy/p", "unused policy/q", "unknown policy/q", "empty-group group/empty", "unused group/spare"}
	if !slices.Equal(got, want) {
		t.Errorf("findings %q, want %q", got, want)
	}
}

// TestFindingsAreTrue draws policies, and checks that a rule of which lint says that it never decides never does, and that what
// Fix leaves decides alike.
func TestFindingsAreTrue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawWorld(rt, t)
		findings := Lint(s)
		dead := map[RuleRef]bool{}
		for _, f := range findings {
			if f.ID != "over-broad" && f.Rule != "" {
				dead[RuleRef{strings.TrimPrefix(f.Object, "policy/"), f.Rule}] = true
			}
		}
		fixed := *s
		fixed.Policies = map[string]*fabric.Policy{}
		for name, p := range s.Policies {
			fixed.Policies[name] = p
		}
		for _, p := range Fix(s, findings) {
			fixed.Policies[p.Metadata.Name] = p
		}
		for range 30 {
			d, p := rapid.SampledFrom([]fabric.Direction{fabric.In, fabric.Out}).Draw(rt, "direction"), drawPacket(rt)
			a, b := Decide(s, "vm", d, p), Decide(&fixed, "vm", d, p)
			if dead[a.Rule] || dead[a.Meter] {
				rt.Fatalf("%s decides %+v\n%+v", text(a), p, findings)
			}
			if a != b {
				rt.Fatalf("%s became %s by the fix for %+v", text(a), text(b), p)
			}
		}
	})
}

// TestTenThousandOverlappingRulesAreLinted is a bad case: rules that all overlap and none of which is covered. Lint's budgets of steps
// end it; without them it would not return.
func TestTenThousandOverlappingRulesAreLinted(t *testing.T) {
	s := world(t, "", "p")
	p := newPolicy("p")
	for n := range fabric.MaxPolicyRules {
		r := fabric.Rule{Name: fmt.Sprintf("r%d", n), Weight: uint16(n + 1), Direction: fabric.In, Action: fabric.Deny, Protocol: "tcp"}
		first := uint16(n * 6)
		r.Local = &fabric.End{Ports: []fabric.PortRange{{First: 0, Last: 65535 - first}}}
		r.Remote = &fabric.End{Ports: []fabric.PortRange{{First: first, Last: 65535}}}
		p.Spec.Rules = append(p.Spec.Rules, r)
	}
	s.Policies["p"] = p
	begin := time.Now()
	for _, f := range Lint(s) {
		if f.ID == "shadowed" {
			t.Errorf("a rule that is not covered is called so: %+v", f)
		}
	}
	t.Logf("%v", time.Since(begin))
}
