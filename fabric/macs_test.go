package fabric

import (
	"strings"
	"testing"
)

func TestMACsThatContradictAreRefused(t *testing.T) {
	for spec, want := range map[string]string{
		"{macs: {spoofing: true, limit: 10}}":                                       "",
		"{macs: {spoofing: true}, guards: {mac: false}}":                            "",
		"{macs: {spoofing: true}, guards: {mac: true}}":                             "the opposite of each other",
		"{macs: {spoofing: false}, guards: {mac: false}}":                           "the opposite of each other",
		"{macs: {allowed: [\"02:00:00:00:00:01\"], sibling: true}}":                 "",
		"{macs: {allowed: [\"03:00:00:00:00:01\"]}}":                                "spec.macs.allowed[0]",
		"{macs: {allowed: [\"00:00:00:00:00:00\"]}}":                                "spec.macs.allowed[0]",
		"{macs: {allowed: [\"02:00:00:00:00:01\", \"02:00:00:00:00:01\"]}}":         "given twice",
		"{mac: \"02:00:00:00:00:01\", macs: {allowed: [\"02:00:00:00:00:01\"]}}":    "own MAC already",
		"{macs: {limit: 5000}}":                                                     "spec.macs.limit",
		"{macs: {allowed: [" + strings.Repeat("\"02:00:00:00:00:01\", ", 9) + "]}}": "the most is 8",
		"{macs: {spoof: true}}":                                                     "spoof",
	} {
		_, err := Decode("macs.yaml", []byte("apiVersion: weft/v1\nkind: Port\nmetadata: {name: web}\nspec: {switch: blue, "+spec[1:]+"\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	if _, err := Decode("macs.yaml", []byte("apiVersion: weft/v1\nkind: Profile\nmetadata: {name: p}\nspec: {macs: {allowed: [\"02:00:00:00:00:01\"]}}\n")); err == nil || !strings.Contains(err.Error(), "one port") {
		t.Errorf("a profile that lists MACs: %v", err)
	}
}

func TestSpoofingIsGuardMACByAnotherName(t *testing.T) {
	yes, no := true, false
	snap := &Snapshot{
		Switches: map[SwitchID]*Switch{"blue": {}},
		Profiles: map[string]*Profile{"gold": {Spec: ProfileSpec{Settings: Settings{MACs: &MACs{Spoofing: &yes, Sibling: &yes, Limit: 7}}}}},
	}
	p := &Port{Spec: PortSpec{Switch: "blue", Profile: "gold"}}
	if e := snap.Settings(p); e.Guards.MAC || !e.Guards.IP || e.MACs != (EffectiveMACs{Sibling: true, Limit: 7}) {
		t.Errorf("by its profile the port has %+v and %+v", e.Guards, e.MACs)
	}
	p.Spec.MACs = &MACs{Sibling: &no}
	p.Spec.Guards.MAC = &yes
	if e := snap.Settings(p); !e.Guards.MAC || e.MACs != (EffectiveMACs{Limit: 7}) {
		t.Errorf("by its own fields the port has %+v and %+v", e.Guards, e.MACs)
	}
}
