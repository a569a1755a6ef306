package fabric

import (
	"errors"
	"strings"
	"testing"
)

func TestGuardsAreOnUnlessTheNearestLayerSaysOff(t *testing.T) {
	on, off := true, false
	s := &Snapshot{
		Switches: map[SwitchID]*Switch{"blue": {Spec: SwitchSpec{Profile: "gold"}}},
		Profiles: map[string]*Profile{
			"gold": {Spec: ProfileSpec{Settings: Settings{Guards: Guards{RA: &off, ARP: &off}}}},
			"open": {Spec: ProfileSpec{Settings: Settings{Guards: Guards{MAC: &off}}}},
		},
	}
	all := EnforcedGuards{MAC: true, IP: true, ARP: true, DHCPServer: true, RA: true, L2Control: true, VXLAN: true}
	for name, c := range map[string]struct {
		port PortSpec
		want func(*EnforcedGuards)
	}{
		"the switch's profile counts":          {PortSpec{Switch: "blue"}, func(g *EnforcedGuards) { g.RA, g.ARP = false, false }},
		"the port's profile counts instead":    {PortSpec{Switch: "blue", Profile: "open"}, func(g *EnforcedGuards) { g.MAC = false }},
		"the port overrides its profile":       {PortSpec{Switch: "blue", Settings: Settings{Guards: Guards{RA: &on, IP: &off}}}, func(g *EnforcedGuards) { g.ARP, g.IP = false, false }},
		"a missing profile opens nothing":      {PortSpec{Switch: "blue", Profile: "gone"}, func(*EnforcedGuards) {}},
		"a missing switch opens nothing":       {PortSpec{Switch: "red"}, func(*EnforcedGuards) {}},
		"a missing profile keeps what it says": {PortSpec{Profile: "gone", Settings: Settings{Guards: Guards{VXLAN: &off}}}, func(g *EnforcedGuards) { g.VXLAN = false }},
	} {
		want := all
		c.want(&want)
		if got := s.Settings(&Port{Spec: c.port}).Guards; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestMACsAreReadInEveryCommonForm(t *testing.T) {
	want := MAC{0x52, 0x54, 0, 0x12, 0x34, 0xab}
	for _, s := range []string{"52:54:00:12:34:ab", "52-54-00-12-34-AB", "5254.0012.34ab", "5254001234ab"} {
		if m, err := ParseMAC(s); err != nil || m != want {
			t.Errorf("%s became %s (%v)", s, m, err)
		}
	}
	for _, s := range []string{"", "52:54:00:12:34", "52:54:00:12:34:zz", "52:54:00:12:34:+5", strings.Repeat("a", 300)} {
		if m, err := ParseMAC(s); !errors.Is(err, ErrInvalid) || len(err.Error()) > 200 {
			t.Errorf("%q became %s (%v)", s, m, err)
		}
	}
}

func TestKindsAreReadAsPeopleTypeThem(t *testing.T) {
	for word, want := range map[string]Kind{"port": KindPort, "Ports": KindPort, "switches": KindSwitch, "SWITCH": KindSwitch} {
		if k, err := ParseKind(word); err != nil || k != want {
			t.Errorf("%s became %s (%v)", word, k, err)
		}
	}
	_, err := ParseKind("prot")
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `did you mean "Port"?`) {
		t.Errorf("error %v does not name the nearest kind", err)
	}
}

func TestEveryKindIsMadeWithItsHead(t *testing.T) {
	for _, k := range Kinds() {
		o, err := New(k)
		if err != nil || o.Type().Kind != k || o.Type().APIVersion != APIVersion {
			t.Errorf("%s: %+v (%v)", k, o, err)
		}
		if err := o.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("an empty %s is valid (%v)", k, err)
		}
	}
}

func TestLongErrorsAreCut(t *testing.T) {
	var f Findings
	for range 50 {
		f.add("spec", "is wrong")
	}
	if text := f.Error(); strings.Count(text, "\n") != 20 || !strings.HasSuffix(text, "and 30 more") {
		t.Errorf("error %q", text)
	}
	if Findings(nil).Err() != nil {
		t.Error("no findings are an error")
	}
}
