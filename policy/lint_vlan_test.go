package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

func TestLintFindsPrivateVLANsThatDoNotFitTogether(t *testing.T) {
	private := []fabric.SwitchVLAN{{ID: 10, VNI: 10010}, {ID: 100, VNI: 10100}, {ID: 101, VNI: 10101, Primary: 100, Mode: fabric.Isolated}, {ID: 102, VNI: 10102, Primary: 100, Mode: fabric.Community}}
	ordinary := []fabric.SwitchVLAN{{ID: 100, VNI: 10100}, {ID: 101, VNI: 10101}}
	for claim, c := range map[string]struct {
		vlans []fabric.SwitchVLAN
		ports []string
		want  []string // id and object
	}{
		"a complete one":                 {private, []string{"promiscuous:primary=100,secondary=101/102", "isolated:primary=100,secondary=101", "community:primary=100,secondary=102", "10", "trunk:native=0,allowed=all"}, nil},
		"a port on a secondary":          {private, []string{"promiscuous:primary=100,secondary=101", "isolated:primary=100,secondary=101", "101"}, []string{"pvlan-contradiction switch/sw"}},
		"a trunk of the primary":         {private, []string{"promiscuous:primary=100,secondary=101", "trunk:native=0,allowed=90-100"}, []string{"pvlan-contradiction switch/sw"}},
		"isolated and community":         {private, []string{"promiscuous:primary=100,secondary=101", "isolated:primary=100,secondary=101", "community:primary=100,secondary=101"}, []string{"pvlan-contradiction switch/sw", "pvlan-listed switch/sw"}},
		"a list of before":               {ordinary, []string{"promiscuous:primary=100,secondary=101", "isolated:primary=100,secondary=101"}, []string{"pvlan-listed switch/sw"}},
		"an isolated port without hope":  {private, []string{"promiscuous:primary=100,secondary=102", "isolated:primary=100,secondary=101", "community:primary=100,secondary=102"}, []string{"pvlan-unheard switch/sw"}},
		"a VLAN that is not in the list": {ordinary, []string{"30"}, []string{"vlan-missing port/p0"}},
		"teams":                          {private, []string{"promiscuous:primary=100,secondary=101 sibling", "isolated:primary=100,secondary=101 sibling"}, []string{"pvlan-sibling port/p0"}},
	} {
		t.Run(claim, func(t *testing.T) {
			s := &fabric.Snapshot{Ports: map[fabric.PortID]*fabric.Port{}, Switches: map[fabric.SwitchID]*fabric.Switch{"sw": {Metadata: fabric.Metadata{Name: "sw"}, Spec: fabric.SwitchSpec{VNI: 10000, VLANs: c.vlans}}}}
			for i, text := range c.ports {
				text, sibling := strings.CutSuffix(text, " sibling")
				v, err := fabric.ParseVLAN(text)
				if err != nil {
					t.Fatal(err)
				}
				s.Ports[fabric.PortID(fmt.Sprintf("p%d", i))] = &fabric.Port{Metadata: fabric.Metadata{Name: fmt.Sprintf("p%d", i)}, Spec: fabric.PortSpec{Switch: "sw", Settings: fabric.Settings{VLAN: v, MACs: &fabric.MACs{Sibling: &sibling}}}}
			}
			var got []string
			for _, f := range Lint(s) {
				got = append(got, f.ID+" "+f.Object)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("findings %q, want %q: %+v", got, c.want, Lint(s))
			}
		})
	}
}
