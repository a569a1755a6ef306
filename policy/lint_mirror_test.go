package policy_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

func TestLintFindsMirrorsThatAreNotAsMeant(t *testing.T) {
	port := func(name string, sw fabric.SwitchID) *fabric.Port {
		return &fabric.Port{Metadata: fabric.Metadata{Name: name}, Spec: fabric.PortSpec{Switch: sw, VM: name}}
	}
	for claim, c := range map[string]struct {
		edit func(*fabric.Snapshot, *fabric.Mirror)
		want []string
	}{
		"one port into another": {func(*fabric.Snapshot, *fabric.Mirror) {}, nil},
		"a sink that is gone":   {func(s *fabric.Snapshot, _ *fabric.Mirror) { delete(s.Ports, "sensor") }, []string{"mirror-sink mirror/ids"}},
		"a host that is gone":   {func(_ *fabric.Snapshot, m *fabric.Mirror) { m.Spec.Sink = fabric.MirrorSink{Host: "h9"} }, []string{"mirror-sink mirror/ids"}},
		"a file's host": {func(_ *fabric.Snapshot, m *fabric.Mirror) {
			m.Spec.Sink = fabric.MirrorSink{File: &fabric.MirrorFile{Host: "h1"}}
		}, nil},
		"a source that is gone": {func(s *fabric.Snapshot, _ *fabric.Mirror) { delete(s.Ports, "web-1") }, []string{"mirror-source mirror/ids"}},
		"into itself": {func(_ *fabric.Snapshot, m *fabric.Mirror) {
			m.Spec.Sources = append(m.Spec.Sources, fabric.MirrorSource{Port: "sensor"})
		}, []string{"mirror-loop mirror/ids"}},
		"a whole switch": {func(_ *fabric.Snapshot, m *fabric.Mirror) { m.Spec.Sources[0] = fabric.MirrorSource{Switch: "blue"} }, []string{"mirror-twice mirror/ids"}},
		"a whole switch, one way": {func(_ *fabric.Snapshot, m *fabric.Mirror) {
			m.Spec.Sources[0], m.Spec.Direction = fabric.MirrorSource{Switch: "blue"}, fabric.MirrorOut
		}, nil},
		"two switches": {func(_ *fabric.Snapshot, m *fabric.Mirror) {
			m.Spec.Sources = []fabric.MirrorSource{{Port: "web-1"}, {Port: "db-1"}}
		}, nil},
		"a sink with a rate": {func(s *fabric.Snapshot, _ *fabric.Mirror) {
			s.Ports["sensor"].Spec.Rate = &fabric.Rates{In: &fabric.Rate{Max: 1e6}}
		}, []string{"mirror-rate mirror/ids"}},
		"nine of one port": {func(s *fabric.Snapshot, m *fabric.Mirror) {
			for i := range 8 {
				other := *m
				other.Metadata.Name = "m" + strconv.Itoa(i)
				s.Mirrors[other.Metadata.Name] = &other
			}
		}, []string{"mirror-crowd port/web-1"}},
	} {
		t.Run(claim, func(t *testing.T) {
			m := &fabric.Mirror{Metadata: fabric.Metadata{Name: "ids"}, Spec: fabric.MirrorSpec{
				Sources: []fabric.MirrorSource{{Port: "web-1"}}, Direction: fabric.MirrorBoth, Sink: fabric.MirrorSink{Port: "sensor"}}}
			s := &fabric.Snapshot{
				Hosts:    map[fabric.HostID]*fabric.Host{"h1": {}},
				Switches: map[fabric.SwitchID]*fabric.Switch{"blue": {Spec: fabric.SwitchSpec{VNI: 1}}, "red": {Spec: fabric.SwitchSpec{VNI: 2}}},
				Ports:    map[fabric.PortID]*fabric.Port{"web-1": port("web-1", "blue"), "web-2": port("web-2", "blue"), "db-1": port("db-1", "red"), "sensor": port("sensor", "blue")},
				Mirrors:  map[string]*fabric.Mirror{"ids": m},
			}
			c.edit(s, m)
			var got []string
			for _, f := range policy.Lint(s) {
				if strings.HasPrefix(f.ID, "mirror") {
					got = append(got, f.ID+" "+f.Object)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}
