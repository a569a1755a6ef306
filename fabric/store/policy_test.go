package store_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// newPolicy has n rules towards the VM, of which the first names the groups.
func newPolicy(name string, n int, groups ...string) *fabric.Policy {
	p := &fabric.Policy{TypeMeta: head(fabric.KindPolicy), Metadata: meta(name), Spec: fabric.PolicySpec{Rules: []fabric.Rule{}}}
	for i := range n {
		p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{Name: fmt.Sprintf("r%d", i), Weight: uint16(i + 1), Direction: fabric.In, Action: fabric.Allow})
	}
	if len(groups) > 0 {
		p.Spec.Rules[0].Remote = &fabric.End{Groups: groups}
	}
	return p
}

// metering makes all rules of a policy meters.
func metering(p *fabric.Policy) *fabric.Policy {
	for i := range p.Spec.Rules {
		p.Spec.Rules[i].Action = fabric.Meter
	}
	return p
}

func newGroup(name string) *fabric.Group {
	return &fabric.Group{TypeMeta: head(fabric.KindGroup), Metadata: meta(name), Spec: fabric.GroupSpec{Ports: map[string]string{"tier": name}}}
}

func TestPoliciesAreAppliedWithWhatTheyName(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	sw, port := newSwitch("blue"), with(newPort("web-1", "blue"), func(p *fabric.PortSpec) { p.Policies = []string{"web"} })
	sw.Spec.Policies = []string{"base"}
	// Given in the wrong order, and all at once.
	apply(t, s, port, sw, newPolicy("web", 2, "office"), newPolicy("base", 1), newGroup("office"))
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := snap.Policies["web"]; got == nil || !reflect.DeepEqual(got.Spec, newPolicy("web", 2, "office").Spec) {
		t.Errorf("the snapshot holds %+v", got)
	}
	if r := apply(t, s, newPolicy("web", 2, "office")); r.Objects[0].Outcome != store.Unchanged {
		t.Errorf("applied twice it is %s", r.Objects[0].Outcome)
	}
	for name, c := range map[string]struct {
		object fabric.Object
		want   string
	}{
		"a rule of an unknown group":      {newPolicy("x", 1, "office", "ofice"), `policy/x: rule "r0": spec.rules[0].remote.groups[1]: there is no group "ofice": did you mean "office"?`},
		"a port of an unknown policy":     {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.Policies = []string{"web", "wbe"} }), `port/x: spec.policies[1]: there is no policy "wbe": did you mean "web"?`},
		"a switch of an unknown policy":   {change(newSwitch("x"), func(s *fabric.SwitchSpec) { s.Policies = []string{"something"} }), `there is no policy "something": create it first, or see 'weft get policies'`},
		"a profile of an unknown policy":  {&fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("x"), Spec: fabric.ProfileSpec{Settings: fabric.Settings{Policies: []string{"wep"}}}}, `did you mean "web"?`},
		"a policy with two equal weights": {&fabric.Policy{TypeMeta: head(fabric.KindPolicy), Metadata: meta("x"), Spec: fabric.PolicySpec{Rules: append(newPolicy("x", 1).Spec.Rules, newPolicy("y", 1).Spec.Rules...)}}, "is the weight of rule"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Apply(t.Context(), []fabric.Object{c.object}, store.ApplyOptions{})
			if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error\n  %v\ndoes not say\n  %s", err, c.want)
			}
		})
	}
	for name, c := range map[string]struct {
		kind fabric.Kind
		name string
		want string
	}{
		"a policy that a port uses":   {fabric.KindPolicy, "web", "it is used by port web-1: take it from their policies first"},
		"a policy that a switch uses": {fabric.KindPolicy, "base", "it is used by switch blue: take it from their policies first"},
		"a group that a rule uses":    {fabric.KindGroup, "office", "it is used by policy web: change their rules first"},
	} {
		if _, err := s.Delete(t.Context(), c.kind, c.name); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	apply(t, s, newPort("web-1", "blue"))
	for _, one := range []struct {
		kind fabric.Kind
		name string
	}{{fabric.KindPolicy, "web"}, {fabric.KindGroup, "office"}} {
		if _, err := s.Delete(t.Context(), one.kind, one.name); err != nil {
			t.Error(err)
		}
	}
}

func TestAPortIsJudgedByABoundedList(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	gold := &fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("gold"), Spec: fabric.ProfileSpec{Settings: fabric.Settings{Policies: []string{"a"}}}}
	port := func(policies ...string) *fabric.Port {
		return with(newPort("web-1", "blue"), func(p *fabric.PortSpec) { p.Profile, p.Policies = "gold", policies })
	}
	apply(t, s, newPolicy("a", 10000), newPolicy("b", 6383), newPolicy("c", 1), gold, newSwitch("blue"), port("b", "a"))
	many := []fabric.Object{}
	names := []string{}
	for i := range fabric.MaxPortPolicies {
		many, names = append(many, newPolicy(fmt.Sprintf("p%d", i), 0)), append(names, fmt.Sprintf("p%d", i))
	}
	apply(t, s, many...)
	for name, c := range map[string]struct {
		object fabric.Object
		want   string
	}{
		"a port takes another policy":    {port("b", "c"), "port web-1 would be judged by 16384 rules of direction in (policies b, c, a), the most is 16383"},
		"a policy grows":                 {newPolicy("b", 6384), "port web-1 would be judged by 16384 rules"},
		"a profile takes a policy":       {&fabric.Profile{TypeMeta: gold.TypeMeta, Metadata: gold.Metadata, Spec: fabric.ProfileSpec{Settings: fabric.Settings{Policies: []string{"a", "c"}}}}, "16384 rules"},
		"a switch takes a policy":        {change(newSwitch("blue"), func(s *fabric.SwitchSpec) { s.Policies = []string{"c"} }), "16384 rules"},
		"a policy meters too often":      {metering(newPolicy("b", 4033)), "port web-1 would be metered by 4033 rules"},
		"a port has 65 with its profile": {port(names...), "port web-1 would be judged by 65 policies"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Apply(t.Context(), []fabric.Object{c.object}, store.ApplyOptions{DryRun: true})
			if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error\n  %v\ndoes not say\n  %s", err, c.want)
			}
		})
	}
	// What would exceed the bound one after the other is allowed together.
	apply(t, s, newPolicy("b", 6384), port("c"))
}
