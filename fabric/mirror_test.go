package fabric_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

func TestWhatAMirrorCannotBeIsNamed(t *testing.T) {
	for claim, c := range map[string]struct {
		edit func(*fabric.MirrorSpec)
		want string
	}{
		"no source":              {func(m *fabric.MirrorSpec) { m.Sources = nil }, "spec.sources: 0 sources"},
		"a source of two kinds":  {func(m *fabric.MirrorSpec) { m.Sources[0].Switch = "blue" }, "spec.sources[0]: give one of port, switch, vm and labels"},
		"its own source":         {func(m *fabric.MirrorSpec) { m.Sink.Port = "web-1" }, "a port cannot be mirrored into itself"},
		"no sink":                {func(m *fabric.MirrorSpec) { m.Sink = fabric.MirrorSink{} }, "spec.sink: give one of port, host and file"},
		"two sinks":              {func(m *fabric.MirrorSpec) { m.Sink.Host = "h1" }, "spec.sink: give one of port, host and file"},
		"a file of one byte":     {func(m *fabric.MirrorSpec) { m.Sink = fabric.MirrorSink{File: &fabric.MirrorFile{Host: "h1", Max: 1}} }, "spec.sink.file.max: 1 bytes cannot be"},
		"a direction":            {func(m *fabric.MirrorSpec) { m.Direction = "inn" }, `did you mean "in"?`},
		"a clause about nothing": {func(m *fabric.MirrorSpec) { m.Filter = []fabric.MirrorClause{{}} }, "spec.filter[0]: asks for nothing"},
		"ports of anything": {func(m *fabric.MirrorSpec) {
			m.Filter = []fabric.MirrorClause{{Local: &fabric.MirrorEnd{Ports: []fabric.PortRange{{First: 1, Last: 2}}}}}
		}, "spec.filter[0].local.ports: only tcp, udp and sctp have ports"},
		"too many combinations": {func(m *fabric.MirrorSpec) {
			ports := []fabric.PortRange{{First: 1, Last: 1}, {First: 3, Last: 3}, {First: 5, Last: 5}}
			m.Filter = []fabric.MirrorClause{{Protocol: "tcp", Local: &fabric.MirrorEnd{Ports: ports}, Remote: &fabric.MirrorEnd{Ports: ports}}}
		}, "comes to 9 combinations of prefixes and ports, the most is 8"},
		"a prefix with host bits": {func(m *fabric.MirrorSpec) {
			m.Filter = []fabric.MirrorClause{{Remote: &fabric.MirrorEnd{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}}}
		}, "spec.filter[0].remote.prefixes[0]: 10.0.0.1/8 has host bits set"},
		"a sample":     {func(m *fabric.MirrorSpec) { m.Sample = 2_000_000 }, "spec.sample: one of 2000000 packets is too few"},
		"a truncation": {func(m *fabric.MirrorSpec) { m.Truncate = 20 }, "spec.truncate: 20 bytes cannot be"},
		"a time":       {func(m *fabric.MirrorSpec) { m.For = fabric.Duration(time.Millisecond) }, "spec.for: 1ms cannot be: a mirror's time is 1s to 720h"},
	} {
		t.Run(claim, func(t *testing.T) {
			m := &fabric.Mirror{
				TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindMirror}, Metadata: fabric.Metadata{Name: "ids"},
				Spec: fabric.MirrorSpec{Sources: []fabric.MirrorSource{{Port: "web-1"}}, Sink: fabric.MirrorSink{Port: "sensor"}},
			}
			m.Default()
			if err := m.Validate(); err != nil {
				t.Fatal(err)
			}
			c.edit(&m.Spec)
			if err := m.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestASourceSelectsPorts(t *testing.T) {
	port := &fabric.Port{Metadata: fabric.Metadata{Name: "web-1", Labels: map[string]string{"tier": "web"}}, Spec: fabric.PortSpec{Switch: "blue", VM: "vm-1"}}
	own := &fabric.Port{Metadata: fabric.Metadata{Name: "host-h1"}, Spec: fabric.PortSpec{Switch: "blue", Role: fabric.RoleHost}}
	for claim, c := range map[string]struct {
		source    fabric.MirrorSource
		port, own bool
	}{
		"its name":          {fabric.MirrorSource{Port: "web-1"}, true, false},
		"another name":      {fabric.MirrorSource{Port: "web-2"}, false, false},
		"its switch":        {fabric.MirrorSource{Switch: "blue"}, true, false},
		"its VM":            {fabric.MirrorSource{VM: "vm-1"}, true, false},
		"its labels":        {fabric.MirrorSource{Labels: map[string]string{"tier": "web"}}, true, false},
		"more labels":       {fabric.MirrorSource{Labels: map[string]string{"tier": "web", "zone": "a"}}, false, false},
		"the host's, named": {fabric.MirrorSource{Port: "host-h1"}, false, true},
	} {
		m := &fabric.Mirror{Spec: fabric.MirrorSpec{Sources: []fabric.MirrorSource{c.source}}}
		if got := m.Copies(port); got != c.port {
			t.Errorf("%s: the guest's port is copied: %v", claim, got)
		}
		if got := m.Copies(own); got != c.own {
			t.Errorf("%s: the host's port is copied: %v", claim, got)
		}
	}
	if m := (&fabric.Mirror{Spec: fabric.MirrorSpec{Sources: []fabric.MirrorSource{{Switch: "blue"}}, Sink: fabric.MirrorSink{Port: "web-1"}}}); m.Copies(port) {
		t.Error("the sink itself is copied")
	}
}
