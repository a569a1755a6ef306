package fabric

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestAmountsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]Amount{"0": 0, "250000": 250_000, "64k": 64_000, "100M": 100_000_000, "2.5G": 2_500_000_000, "1.000001M": 1_000_001, "4T": 4e12} {
		got, err := ParseAmount(text)
		if err != nil || got != want {
			t.Errorf("%s is %d, want %d: %v", text, got, want, err)
		}
		if again, err := ParseAmount(got.String()); err != nil || again != got {
			t.Errorf("%d is written %s and read %d: %v", got, got, again, err)
		}
		var fromJSON Amount
		if err := json.Unmarshal([]byte(`"`+text+`"`), &fromJSON); err != nil || fromJSON != want {
			t.Errorf("%q in JSON is %d: %v", text, fromJSON, err)
		}
	}
	for _, text := range []string{"", "k", "-1", "+1", "1.5", "1.", "1.0001k", "1.k", "1e9", "10 M", "10m", "10Mi", "0x10", "99999999999999999999", "9999999999T"} {
		if a, err := ParseAmount(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is read as %d: %v", text, a, err)
		}
	}
}

func TestRatesThatCannotBeKeptAreRefused(t *testing.T) {
	for spec, want := range map[string]string{
		"{out: {max: 100M}}":                  "",
		"{out: {}, in: {max: 1G, burst: 2M}}": "",
		"{out: {max: 7k}}":                    "spec.rate.out.max",
		"{in: {max: 2T}}":                     "spec.rate.in.max",
		"{out: {burst: 1M}}":                  "spec.rate.out: a burst without a rate",
		"{out: {max: 1G, burst: 1500}}":       "never passes",
		"{out: {max: 10k, burst: 1M}}":        "take 800 s at 10k",
		"{out: {max: fast}}":                  "an amount",
		"{both: {max: 1M}}":                   "both",
	} {
		_, err := Decode("rate.yaml", []byte("apiVersion: weft/v1\nkind: Profile\nmetadata: {name: gold}\nspec: {rate: "+spec+"}\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

func TestAPortsRateWinsOverItsProfilesByDirection(t *testing.T) {
	snap := &Snapshot{
		Switches: map[SwitchID]*Switch{"blue": {}},
		Profiles: map[string]*Profile{"gold": {Spec: ProfileSpec{Settings: Settings{Rate: &Rates{Out: &Rate{Max: 10e9}, In: &Rate{Max: 1e6}}}}}},
	}
	p := &Port{Spec: PortSpec{Switch: "blue", Profile: "gold"}}
	if got := snap.Settings(p).Rate; got != [2]EffectiveRate{{10e9, 125_000_000}, {1e6, DefaultBurst}} {
		t.Errorf("the profile's rates are in force as %v", got)
	}
	p.Spec.Rate = &Rates{Out: &Rate{}}
	if got := snap.Settings(p).Rate; got != [2]EffectiveRate{{}, {1e6, DefaultBurst}} {
		t.Errorf("a port that says it has no limit out has %v", got)
	}
	p.Spec.Rate = &Rates{In: &Rate{Max: 2e6, Burst: 200_000}}
	if got := snap.Settings(p).Rate; got != [2]EffectiveRate{{10e9, 125_000_000}, {2e6, 200_000}} {
		t.Errorf("a port with a limit in has %v", got)
	}
}

// TestWhatWaitsWaitsAHundredMilliseconds compares the bursts that nobody gave.
func TestWhatWaitsWaitsAHundredMilliseconds(t *testing.T) {
	for _, c := range []struct{ max, out, in Amount }{{10e6, 128_000, 128_000}, {1e9, 12_500_000, 12_500_000}} {
		p := &Port{Spec: PortSpec{Switch: "blue", Settings: Settings{Rate: &Rates{Out: &Rate{Max: c.max}, In: &Rate{Max: c.max}}}}}
		snap := &Snapshot{Switches: map[SwitchID]*Switch{"blue": {}}}
		if got := snap.Settings(p).Rate; got != [2]EffectiveRate{{c.max, c.out}, {c.max, c.in}} {
			t.Errorf("of %s the bursts are %v, want %s out and %s in", c.max, got, c.out, c.in)
		}
	}
}

func TestAPortsStormLimitWinsOverItsProfilesByKind(t *testing.T) {
	snap := &Snapshot{
		Switches: map[SwitchID]*Switch{"blue": {}},
		Profiles: map[string]*Profile{"gold": {Spec: ProfileSpec{Settings: Settings{Storm: &Storms{Broadcast: &Storm{PPS: 10}, Unknown: &Storm{Rate: 1e6}}}}}},
	}
	p := &Port{Spec: PortSpec{Switch: "blue", Profile: "gold"}}
	p.Spec.Storm = &Storms{Broadcast: &Storm{}, Multicast: &Storm{PPS: 5}}
	if got := snap.Settings(p).Storm; got != [3]Storm{{}, {PPS: 5}, {Rate: 1e6}} {
		t.Errorf("limits %v", got)
	}
	for spec, want := range map[string]string{
		"{broadcast: {pps: 100, rate: 1M}}": "", "{unknown: {pps: 2G}}": "spec.storm.unknown.pps", "{multicast: {rate: 1}}": "spec.storm.multicast.rate",
		"{anycast: {pps: 1}}": "anycast", "{multicast: {pps: many}}": "an amount",
	} {
		_, err := Decode("storm.yaml", []byte("apiVersion: weft/v1\nkind: Profile\nmetadata: {name: gold}\nspec: {storm: "+spec+"}\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

func TestMetersThatCountTwiceAreRefused(t *testing.T) {
	for spec, want := range map[string]string{
		"[{prefix: 10.0.0.0/8}, {prefix: 10.1.0.0/16, direction: in}]":                "",
		"[{prefix: 10.0.0.0/8, direction: in}, {prefix: 10.0.0.0/8, direction: out}]": "",
		"[{prefix: 10.0.0.0/8, direction: in}, {prefix: 10.0.0.0/8}]":                 "spec.meters[1]: 10.0.0.0/8 is metered",
		"[{prefix: 10.0.0.1/8}]":                 "host bits",
		"[{direction: in}]":                      "spec.meters[0].prefix",
		"[{prefix: 10.0.0.0/8, direction: inn}]": "did you mean \"in\"",
	} {
		_, err := Decode("meters.yaml", []byte("apiVersion: weft/v1\nkind: Profile\nmetadata: {name: gold}\nspec: {meters: "+spec+"}\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

func TestAPortRequiresWhatItNamesAndWhatItUses(t *testing.T) {
	snap := &Snapshot{
		Switches: map[SwitchID]*Switch{"blue": {}},
		Profiles: map[string]*Profile{"gold": {Spec: ProfileSpec{Settings: Settings{Requires: []string{"meters"}}}}},
	}
	p := &Port{Spec: PortSpec{Switch: "blue", Profile: "gold", Settings: Settings{Requires: []string{"storm"}, Rate: &Rates{Out: &Rate{Max: 1e6}}}}}
	if got := strings.Join(snap.Lacking(p, nil), " "); got != "meters rate storm" {
		t.Errorf("it requires %q", got)
	}
	if got := snap.Lacking(p, Features()); len(got) != 0 {
		t.Errorf("a host of this release lacks %q", got)
	}
	_, err := Decode("f.yaml", []byte("apiVersion: weft/v1\nkind: Profile\nmetadata: {name: gold}\nspec: {requires: [strom]}\n"))
	if err == nil || !strings.Contains(err.Error(), `did you mean "storm"?`) {
		t.Errorf("an unknown feature: %v", err)
	}
}
