package plan_test

import (
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
	want := datapath.Limits{Out: datapath.Limit{Rate: 10e6, Burst: 1.6e6}, In: datapath.Limit{Rate: 1e9, Burst: 25e6}}
	want.Storm[datapath.Multicast] = datapath.StormLimit{Packets: datapath.Limit{Rate: 3, Burst: 1}, Bits: datapath.Limit{Rate: 100e6, Burst: 20e6}}
	if got != want {
		t.Errorf("limits %+v, want %+v", got, want)
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
