package plan_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

func TestRatesAreLimitsInBits(t *testing.T) {
	s := fleet()
	s.Profiles = map[string]*fabric.Profile{"p": {Spec: fabric.ProfileSpec{Settings: fabric.Settings{Rate: &fabric.Rates{In: &fabric.Rate{Max: 1e9}}}}}}
	s.Switches["blue"].Spec.Profile = "p"
	s.Ports["a"].Spec.Storm = &fabric.Storms{Multicast: &fabric.Storm{PPS: 3, Rate: 100e6}}
	s.Ports["a"].Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Max: 10e6, Burst: 200e3}}
	got := plan.Wanted(s, "h1", holding("h1", "a")).Ports["tap-a"].Limits
	want := datapath.Limits{Out: datapath.Limit{Rate: 10e6, Burst: 1.6e6}, In: datapath.Limit{Rate: 1e9, Burst: 100e6}}
	want.Storm[datapath.Multicast] = datapath.StormLimit{Packets: datapath.Limit{Rate: 3, Burst: 1}, Bits: datapath.Limit{Rate: 100e6, Burst: 20e6}}
	if got != want {
		t.Errorf("limits %+v, want %+v", got, want)
	}
}

func TestTheWayOutIsSharedWhereAPortHasAMinimum(t *testing.T) {
	s := fleet()
	s.Hosts["h1"].Spec.Capacity = 10e9
	if got := plan.Wanted(s, "h1", holding("h1", "a")).Local.Exit; got != (datapath.Exit{}) {
		t.Errorf("no port has a minimum, and the way out is shared: %+v", got)
	}
	s.Ports["a"].Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Min: 2e9}}
	got := plan.Wanted(s, "h1", holding("h1", "a"))
	if want := (datapath.Exit{Capacity: 10e9, Host: 500e6, Default: datapath.Least{Rate: 1e9}}); got.Local.Exit != want || got.Ports["tap-a"].Limits.Least.Rate != 2e9 {
		t.Errorf("it is shared as %+v, want %+v; the port has %+v", got.Local.Exit, want, got.Ports["tap-a"].Limits)
	}
	s.Ports["a"].Spec.Rate.Out = &fabric.Rate{Weight: 7}
	s.Switches["blue"].Spec.QoS = &fabric.QoS{DefaultFlow: &fabric.Least{Weight: 3}}
	if got := plan.Wanted(s, "h1", holding("h1", "a")); got.Local.Exit.Default.Weight != 3 || got.Ports["tap-a"].Limits.Least.Weight != 7 {
		t.Errorf("by weight it is shared as %+v", got.Local.Exit)
	}
	if steps := plan.Changes(got, got); len(steps) != 0 {
		t.Errorf("nothing has changed, and left to do is %+v", steps)
	}
}

func TestAPortsPriorityIsItsOwnOrItsProfiles(t *testing.T) {
	s := fleet()
	s.Profiles = map[string]*fabric.Profile{"p": {Spec: fabric.ProfileSpec{Settings: fabric.Settings{Priority: &fabric.Priority{Trusted: true}}}}}
	s.Switches["blue"].Spec.Profile = "p"
	if got := plan.Wanted(s, "h1", holding("h1", "a")).Ports["tap-a"].Priority; got != (datapath.Priority{Trusted: true}) {
		t.Errorf("by its profile: %+v", got)
	}
	s.Ports["a"].Spec.Priority = &fabric.Priority{DSCP: true}
	if got := plan.Wanted(s, "h1", holding("h1", "a")).Ports["tap-a"].Priority; got != (datapath.Priority{DSCP: true}) {
		t.Errorf("by its own: %+v", got)
	}
}

func TestMetersAreAskedBeforePoliciesAndDecideNothing(t *testing.T) {
	s := judged()
	meters := []fabric.PrefixMeter{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("10.1.0.0/16"), Direction: fabric.In}}
	s.Ports["a"].Spec.Meters = meters
	port, source := tableOf(t, s)
	if source == nil || len(source.Policies) != 4 || source.Policies[0].Metadata.Name != fabric.MeterPolicy || port.Gate != datapath.Open {
		t.Fatalf("the port is judged by %+v", source)
	}
	var names []string
	for _, r := range source.Policies[0].Spec.Rules {
		names = append(names, r.Name)
	}
	if want := []string{"in 10.1.0.0/16", "in 10.0.0.0/8", "out 10.0.0.0/8"}; !slices.Equal(names, want) {
		t.Errorf("meters %q, want %q", names, want)
	}
	s.Profiles["p"].Spec.Meters, s.Ports["a"].Spec.Meters = meters[:1], []fabric.PrefixMeter{}
	if _, source := tableOf(t, s); len(source.Policies) != 3 {
		t.Errorf("a port that says it has no meters has its profile's")
	}
}
