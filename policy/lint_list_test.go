package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestLintFindsRulesThatOtherPoliciesLeaveNothingTo(t *testing.T) {
	const own = "  - {name: web, weight: 2, direction: in, action: allow, protocol: tcp, local: {ports: [443]}}\n  - {name: rest, weight: 1, direction: in, action: deny}"
	for claim, c := range map[string]struct {
		second string
		want   string
	}{
		"in the same way":  {"  - {name: late, weight: 1, direction: in, action: deny, protocol: udp}", "note overruled late decided before it, in the same way, by p/rest"},
		"otherwise":        {"  - {name: late, weight: 1, direction: in, action: allow, protocol: udp, local: {ports: [53]}}", "warning overruled late decided otherwise at every port that it judges, by p/rest"},
		"by two of them":   {"  - {name: late, weight: 1, direction: in, action: allow, protocol: tcp, remote: {prefixes: [10.0.0.0/8]}}", "warning overruled late p/rest"},
		"another way":      {"  - {name: late, weight: 1, direction: out, action: deny}", ""},
		"its own policy's": {"  - {name: first, weight: 2, direction: out, action: deny}\n  - {name: late, weight: 1, direction: out, action: deny, protocol: udp}", "note shadowed late by first"},
	} {
		t.Run(claim, func(t *testing.T) {
			s := world(t, rules("p", own)+rules("q", c.second), "p", "q")
			var got []string
			for _, f := range Lint(s) {
				if f.Object == "policy/q" {
					got = append(got, fmt.Sprintf("%s %s %s %s", f.Severity, f.ID, f.Rule, f.Message))
				}
			}
			words := strings.SplitN(c.want, " ", 4)
			switch {
			case c.want == "" && len(got) > 0, c.want != "" && len(got) != 1:
				t.Fatalf("findings %q, want %q", got, c.want)
			case c.want != "" && (!strings.HasPrefix(got[0], strings.Join(words[:3], " ")) || !strings.Contains(got[0], words[3])):
				t.Errorf("finding %q, want %q", got[0], c.want)
			}
		})
	}
}

func TestARuleThatDecidesAtOnePortIsNotOverruled(t *testing.T) {
	s := world(t, rules("p", "  - {name: rest, weight: 1, direction: in, action: deny}")+rules("q", "  - {name: late, weight: 1, direction: in, action: deny, protocol: udp}"), "p", "q")
	if got := Lint(s); len(got) != 1 || got[0].ID != "overruled" {
		t.Fatalf("%+v, want q/late overruled", got)
	}
	s.Ports["far"].Spec.Policies = []string{"q"}
	if got := Lint(s); len(got) != 0 {
		t.Fatalf("%+v, want nothing: it decides at the second port", got)
	}
	s.Ports["far"].Spec.Policies = []string{"q", "p"}
	if got := Lint(s); len(got) != 0 {
		t.Fatalf("%+v, want nothing: p/rest is partly overruled", got)
	}
}
