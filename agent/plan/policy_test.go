package plan_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// named is a policy of one rule.
func named(name string, revision fabric.Revision, group string) *fabric.Policy {
	p := &fabric.Policy{Metadata: fabric.Metadata{Name: name, Revision: revision}}
	p.Spec.Rules = []fabric.Rule{{Name: "r", Weight: 1, Direction: fabric.In, Action: fabric.Deny}}
	if group != "" {
		p.Spec.Rules[0].Remote = &fabric.End{Groups: []string{group}}
	}
	return p
}

// judged is the fleet whose port a is judged by its own policies, its switch's profile's and its switch's.
func judged() *fabric.Snapshot {
	s := fleet()
	s.Policies = map[string]*fabric.Policy{"own": named("own", 3, ""), "shared": named("shared", 4, "web"), "all": named("all", 40, "")}
	s.Groups = map[string]*fabric.Group{"web": {Metadata: fabric.Metadata{Name: "web", Revision: 5}, Spec: fabric.GroupSpec{Ports: map[string]string{"tier": "web"}}}}
	s.Profiles = map[string]*fabric.Profile{"p": {Metadata: fabric.Metadata{Name: "p"}, Spec: fabric.ProfileSpec{Settings: fabric.Settings{Policies: []string{"shared", "own"}}, DefaultAction: fabric.Deny}}}
	s.Ports["a"].Spec.Policies = []string{"own"}
	s.Ports["b"].Metadata.Labels = map[string]string{"tier": "web"}
	s.Switches["blue"].Spec.Profile, s.Switches["blue"].Spec.Policies = "p", []string{"all", "shared"}
	s.Switches["blue"].Spec.DefaultAction = fabric.Allow
	return s
}

// tableOf is the source of the port on tap-a.
func tableOf(t *testing.T, s *fabric.Snapshot) (datapath.Port, *policy.Source) {
	t.Helper()
	state := plan.Wanted(s, "h1", holding("h1", "a"))
	p := state.Ports["tap-a"]
	return p, state.Tables[p.Policy]
}

func TestAPortIsJudgedByItsOwnItsProfilesAndItsSwitchsPoliciesEachOnce(t *testing.T) {
	port, source := tableOf(t, judged())
	if source == nil || port.Gate != datapath.Open {
		t.Fatalf("the port has no table: %+v", port)
	}
	var names []string
	for _, p := range source.Policies {
		names = append(names, p.Metadata.Name)
	}
	if !slices.Equal(names, []string{"own", "shared", "all"}) || source.Default != fabric.Deny || source.VNI != port.VNI {
		t.Fatalf("policies %v, default %s, VNI %d", names, source.Default, source.VNI)
	}
	want := judged().Ports["b"].Spec.Addresses
	if members := source.Groups["web"]; len(members) != len(want) || members[0] != netip.PrefixFrom(want[0], 32) {
		t.Fatalf("members %v, want the addresses %v", members, want)
	}
	if port.Generation != 40 {
		t.Fatalf("generation %d, want that of the newest policy, 40", port.Generation)
	}
}

func TestAPortWithoutRulesHasNoTable(t *testing.T) {
	s := fleet()
	s.Switches["blue"].Spec.DefaultAction = fabric.Allow
	if port, source := tableOf(t, s); !port.Policy.IsZero() || source != nil {
		t.Fatalf("a table without need: %+v", port)
	}
	s.Switches["blue"].Spec.DefaultAction = fabric.Deny
	if port, source := tableOf(t, s); port.Policy.IsZero() || source == nil {
		t.Fatalf("a default that denies has no table: %+v", port)
	}
}

func TestAPortWhosePolicyIsNotKnownIsClosed(t *testing.T) {
	for _, lose := range []func(*fabric.Snapshot){
		func(s *fabric.Snapshot) { delete(s.Policies, "all") },
		func(s *fabric.Snapshot) { delete(s.Groups, "web") },
	} {
		s := judged()
		lose(s)
		if port, _ := tableOf(t, s); port.Gate != datapath.Closed {
			t.Errorf("gate %d, want closed", port.Gate)
		}
	}
}

func TestAnotherPolicyIsPutBeforeThePortAndTheOldOneTakenAfterIt(t *testing.T) {
	have := plan.Wanted(judged(), "h1", holding("h1", "a"))
	s := judged()
	s.Policies["own"].Spec.Rules[0].Action = fabric.Reject
	want := plan.Wanted(s, "h1", holding("h1", "a"))
	steps := plan.Changes(want, have)
	if len(steps) != 2 || len(steps[0].Put.Tables) != 1 || len(steps[0].Put.Ports) != 1 || len(steps[0].Delete.Tables) != 0 || len(steps[1].Delete.Tables) != 1 {
		t.Fatalf("steps %+v", steps)
	}
	if steps := plan.Changes(want, want); len(steps) != 0 {
		t.Fatalf("nothing has changed: %+v", steps)
	}
}

func TestAPortWhoseNewestRecordIsMissingIsClosed(t *testing.T) {
	s := judged()
	have := plan.Wanted(s, "h1", holding("h1", "a"))
	delete(s.Policies, "all") // by whose revision the port's settings were dated
	s.Revision = 50
	steps := plan.Changes(plan.Wanted(s, "h1", holding("h1", "a")), have)
	if len(steps) == 0 || steps[0].Put.Ports["tap-a"].Gate != datapath.Closed {
		t.Fatalf("the port stays as open as it was: %+v", steps)
	}
}
