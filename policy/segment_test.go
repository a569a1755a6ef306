package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// segmented is a world whose switch has VLANs 10, 20, 100 and 101, with the VM's port on them as it is told.
func segmented(t *testing.T, vlan, rule string) *fabric.Snapshot {
	s := world(t, rules("p", rule), "p")
	s.Switches["blue"].Spec.VLANs = []fabric.SwitchVLAN{{ID: 10, VNI: 10010}, {ID: 20, VNI: 10020}, {ID: 100, VNI: 10100}, {ID: 101, VNI: 10101, Primary: 100, Mode: fabric.Isolated}}
	for port, text := range map[fabric.PortID]string{"vm": vlan, "far": "trunk:native=0,allowed=10/20"} {
		v, err := fabric.ParseVLAN(text)
		if err != nil {
			t.Fatal(err)
		}
		s.Ports[port].Spec.VLAN = v
	}
	return s
}

func TestRulesAskForTheSegmentThatAFrameIsOn(t *testing.T) {
	const trunk = "trunk:native=0,allowed=10/20"
	for claim, c := range map[string]struct {
		vlan, asks string
		segment    fabric.VNI
		want       bool
	}{
		"a tag's VLAN":                             {trunk, "vlan: 10", 10010, true},
		"another tag's":                            {trunk, "vlan: 10", 10020, false},
		"no tag's":                                 {trunk, "vlan: 10", 0, false},
		"a tag's VNI":                              {trunk, "vni: 10020", 10020, true},
		"the switch's VNI without a tag":           {trunk, "vni: 10001", 0, true},
		"the switch's VNI with one":                {trunk, "vni: 10001", 10010, false},
		"VLAN and VNI that are one":                {trunk, "vlan: 10, vni: 10010", 10010, true},
		"VLAN and VNI that are not":                {trunk, "vlan: 10, vni: 10020", 10010, false},
		"the native VLAN":                          {"trunk:native=10,allowed=20", "vlan: 10", 0, true},
		"an access port's VLAN":                    {"10", "vlan: 10", 0, true},
		"an access port's VLAN's VNI":              {"10", "vni: 10010", 0, true},
		"another VLAN than the port's":             {"10", "vlan: 20", 0, false},
		"what an isolated port sends on":           {"isolated:primary=100,secondary=101", "vlan: 101", 0, true},
		"what it receives on, which is no segment": {"isolated:primary=100,secondary=101", "vlan: 100", 0, false},
		"a VLAN, at a port without":                {"untagged", "vlan: 10", 0, false},
	} {
		t.Run(claim, func(t *testing.T) {
			s := segmented(t, c.vlan, "  - {name: a, weight: 1, direction: in, action: deny, "+c.asks+"}")
			p := in(6, 1, 2)
			p.Segment = c.segment
			if got := Decide(s, "vm", fabric.In, p); got.Allowed() == c.want {
				t.Errorf("the rule decides: %v, want %v", !got.Allowed(), c.want)
			}
			// The table knows the rule where the port is on the segment, and looks at segments at trunks alone.
			on := s.Segments(s.Ports["vm"])
			table, err := Compile(Source{Policies: []*fabric.Policy{s.Policies["p"]}, VNI: on.Sends, VLAN: on.VLAN, Tags: on.Tags})
			if err != nil {
				t.Fatal(err)
			}
			side := &table.Sides[1]
			if asked := side.Dims&(1<<DimSegment) != 0; asked && len(on.Tags) == 0 || c.want && !asked && len(on.Tags) > 0 || c.want && len(side.Decides) != 2 {
				t.Errorf("the table asks for segments: %v, and has %d rules", asked, len(side.Decides)-1)
			}
		})
	}
}

func TestAFlowIsOfOneSegment(t *testing.T) {
	on := func(p Packet, vni fabric.VNI) Packet {
		p.Segment = vni
		return p
	}
	m := NewModel(segmented(t, "trunk:native=0,allowed=10/20", web))
	query, answer := out(17, 1000, 53), in(17, 53, 1000)
	begun := handshake()[0].packet
	play(t, m, time.Unix(1000, 0), step{0, o, on(query, 10010), "allow rule p/dns"}, step{0, i, on(answer, 10020), "deny rule p/none-in"}, step{0, i, answer, "deny rule p/none-in"},
		step{0, i, on(answer, 10010), "allow flow p/dns"}, step{0, o, on(begun, 10020), "allow rule p/web"}, step{0, i, on(tcp(i, FlagSYN|FlagACK, 500, 101, 0), 10010), "deny rule p/none-in"},
		step{0, i, on(tcp(i, FlagSYN|FlagACK, 500, 101, 0), 10020), "allow flow p/web"})
}

func TestCompareTellsSegmentsOfTrunksApart(t *testing.T) {
	const open = "  - {name: a, weight: 2, direction: in, action: deny, etherType: 0x88cc, vlan: 20}"
	before := segmented(t, "trunk:native=0,allowed=10/20", open)
	after := segmented(t, "trunk:native=0,allowed=10/20", open+"\n  - {name: b, weight: 1, direction: in, action: deny, protocol: tcp, local: {ports: [22]}, vlan: 10, remote: {prefixes: [10.10.0.0/16]}}")
	changes := Compare(before, after)
	var got []string
	for _, c := range changes.Items {
		got = append(got, fmt.Sprintf("%s → %s %s: %s → %s", strings.Join(c.From, ","), strings.Join(c.To, ","), c.Service, c.Before, c.After))
	}
	if !slices.Equal(got, []string{"10.10.0.0/16,far → vm tcp/22 on VLAN 10: allow → deny"}) {
		t.Errorf("changes %q", got)
	}
}
