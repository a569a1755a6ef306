package fabric

import (
	"errors"
	"strings"
	"testing"
)

// fleet is a host that carries 1 Gbit/s with a switch, and ports of these settings on it.
func fleet(ports map[PortID]*Rate) *Snapshot {
	s := &Snapshot{
		Hosts:     map[HostID]*Host{"h1": {Spec: HostSpec{Capacity: 1e9}}, "mute": {}},
		Switches:  map[SwitchID]*Switch{"blue": {}},
		Ports:     map[PortID]*Port{},
		Locations: map[PortID]Location{},
	}
	for name, r := range ports {
		s.Ports[name] = &Port{Spec: PortSpec{Switch: "blue", Settings: Settings{Rate: &Rates{Out: r}}}}
		s.Locations[name] = Location{Port: name, Host: "h1"}
	}
	return s
}

func TestAHostGivesAwayNoMoreThanItHas(t *testing.T) {
	s := fleet(map[PortID]*Rate{"db": {Min: 500e6}, "web": {Min: 350e6}, "plain": {Max: 1e9}})
	if err := s.Budget("h1").Err(); err != nil {
		t.Errorf("850M of 1G with 50M for the host and 100M for the rest: %v", err)
	}
	s.Ports["log"] = &Port{Spec: PortSpec{Switch: "blue", Settings: Settings{Rate: &Rates{Out: &Rate{Min: 1e6}}}}}
	err := s.Budget("h1", "log").Err()
	const arithmetic = "host h1 carries 1G, and 50M for the host itself + 100M for ports without a minimum + 500M for port db + 1M for port log + 350M for port web make 1001M, 1M too much"
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), arithmetic) {
		t.Errorf("one more port: %v", err)
	}
	s.Switches["blue"].Spec.QoS = &QoS{DefaultFlow: &Least{Min: 99e6}}
	if err := s.Budget("h1", "log").Err(); err != nil {
		t.Errorf("with less for the rest: %v", err)
	}
	if err := s.Budget("mute", "log").Err(); err == nil || !strings.Contains(err.Error(), "underlay.capacity") {
		t.Errorf("on a host of which nothing is known: %v", err)
	}
	if err := s.Budget("mute", "plain").Err(); err != nil {
		t.Errorf("a port without a minimum there: %v", err)
	}
	s.Locations["log"] = Location{Port: "log", Host: "mute", Grant: &Grant{To: "h1"}}
	s.Switches["blue"].Spec.QoS = nil
	if s.Budget("h1").Err() == nil {
		t.Error("a port on its way to the host is not reckoned with")
	}
}

func TestWeightsAlwaysFit(t *testing.T) {
	s := fleet(map[PortID]*Rate{"a": {Weight: 100}, "b": {Weight: 100}})
	if b := s.Budget("h1"); b.Err() != nil || b.Default != (Least{Weight: 1}) || len(b.Parts) != 2 {
		t.Errorf("%+v: %v", b, b.Err())
	}
}

func TestASwitchSharesInOneWay(t *testing.T) {
	s := fleet(map[PortID]*Rate{"a": {Weight: 10}, "b": {Min: 1e6}})
	if err := s.MixedMinima(); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "port b") || !strings.Contains(err.Error(), "port a") {
		t.Errorf("a weight and a minimum in bits on one switch: %v", err)
	}
	s.Ports["b"].Spec.Switch = "red"
	if err := s.MixedMinima(); err != nil {
		t.Errorf("on two: %v", err)
	}
	s.Switches["blue"].Spec.QoS = &QoS{DefaultFlow: &Least{Min: 5e6}}
	if err := s.MixedMinima(); err == nil || !strings.Contains(err.Error(), "the default flow") {
		t.Errorf("a default flow of the other kind: %v", err)
	}
}

func TestMinimaThatCannotBeAreRefused(t *testing.T) {
	for spec, want := range map[string]string{
		"{out: {min: 100M}}":            "",
		"{out: {max: 1G, min: 100M}}":   "",
		"{out: {weight: 100}}":          "",
		"{out: {min: 1M, weight: 5}}":   "spec.rate.out: both",
		"{out: {min: 100k}}":            "spec.rate.out.min",
		"{out: {max: 100M, min: 200M}}": "more than max",
		"{out: {weight: 101}}":          "spec.rate.out.weight",
		"{in: {min: 100M}}":             "spec.rate.in",
	} {
		_, err := Decode("rate.yaml", []byte("apiVersion: weft/v1\nkind: Profile\nmetadata: {name: gold}\nspec: {rate: "+spec+"}\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}
