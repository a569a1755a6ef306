package plan_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// mirrored is the fleet with a mirror of port a into a sink.
func mirrored(sink fabric.MirrorSink) (*fabric.Snapshot, *fabric.Mirror) {
	s := fleet()
	m := &fabric.Mirror{Metadata: fabric.Metadata{Name: "ids"}, Spec: fabric.MirrorSpec{
		Sources: []fabric.MirrorSource{{Port: "a"}}, Direction: fabric.MirrorBoth, Sink: sink, VNI: 9001}}
	s.Mirrors = map[string]*fabric.Mirror{"ids": m}
	return s, m
}

func TestAMirrorCopiesWhereItsPortIsAndEndsWhereItsSinkIs(t *testing.T) {
	s, _ := mirrored(fabric.MirrorSink{Port: "b"})
	at, sink := plan.Wanted(s, "h1", holding("h1", "a")), plan.Wanted(s, "h2", holding("h2", "b"))
	if got := at.Mirrors[9001]; got != (datapath.Mirror{Peer: vtep["h2"]}) || len(at.Sinks) != 0 {
		t.Errorf("at the port: %+v, sinks %v", got, at.Sinks)
	}
	if p := at.Ports["tap-a"].Mirrors; p.Sent[0] != 9001 || p.Received[0] != 9001 || p.Sent[1] != 0 {
		t.Errorf("the port is copied by %+v", p)
	}
	if got := sink.Sinks[9001]; got != (datapath.Sink{Device: "tap-b"}) || len(sink.Mirrors) != 0 {
		t.Errorf("at the sink: %+v, mirrors %v", got, sink.Mirrors)
	}
	if got := plan.Wanted(s, "h3", plan.Local{VTEP: vtep["h3"]}); len(got.Mirrors)+len(got.Sinks) != 0 {
		t.Errorf("elsewhere: %v, %v", got.Mirrors, got.Sinks)
	}
}

func TestASinkThatMovesIsFollowed(t *testing.T) {
	s, _ := mirrored(fabric.MirrorSink{Port: "b"})
	s.Locations["b"] = fabric.Location{Port: "b", Switch: "blue", Host: "h3", Epoch: 2}
	if got := plan.Wanted(s, "h1", holding("h1", "a")).Mirrors[9001].Peer; got != vtep["h3"] {
		t.Errorf("its copies go to %s", got)
	}
	s.Locations["b"] = fabric.Location{Port: "b", Switch: "blue", Host: "h1", Epoch: 3}
	l := holding("h1", "a")
	l.Attachments["b"] = plan.Attachment{Device: "tap-b", Kind: datapath.Tap}
	got := plan.Wanted(s, "h1", l)
	if got.Mirrors[9001].Peer.IsValid() || got.Sinks[9001].Device != "tap-b" {
		t.Errorf("on one host: %+v, %+v", got.Mirrors[9001], got.Sinks[9001])
	}
}

func TestASourceThatMovesIsCopiedFromItsFirstFrameOn(t *testing.T) {
	s, _ := mirrored(fabric.MirrorSink{Host: "h3"})
	s.Locations["a"] = fabric.Location{Port: "a", Switch: "blue", Host: "h1", Epoch: 1, Grant: &fabric.Grant{To: "h2", Epoch: 2, Move: "m1"}}
	l := holding("h2", "a")
	l.Staged = map[fabric.PortID]fabric.MoveID{"a": "m1"}
	got := plan.Wanted(s, "h2", l)
	if got.Ports["tap-a"].Gate != datapath.Staged || got.Ports["tap-a"].Mirrors.Sent[0] != 9001 || got.Mirrors[9001].Peer != vtep["h3"] {
		t.Errorf("staged: %+v, %+v", got.Ports["tap-a"], got.Mirrors[9001])
	}
}

func TestAMirrorThatCanCopyNothingIsNotThere(t *testing.T) {
	until := time.Unix(1000, 0)
	for claim, edit := range map[string]func(*fabric.Snapshot, *fabric.Mirror, *plan.Local){
		"its sink is gone":     func(s *fabric.Snapshot, _ *fabric.Mirror, _ *plan.Local) { delete(s.Ports, "b") },
		"its sink has no host": func(s *fabric.Snapshot, _ *fabric.Mirror, _ *plan.Local) { delete(s.Locations, "b") },
		"its host is gone":     func(s *fabric.Snapshot, _ *fabric.Mirror, _ *plan.Local) { delete(s.Hosts, "h2") },
		"its time is over": func(_ *fabric.Snapshot, m *fabric.Mirror, l *plan.Local) {
			m.Spec.Until, l.Ended = &until, map[string]bool{"ids": true}
		},
		"it selects other ports": func(_ *fabric.Snapshot, m *fabric.Mirror, _ *plan.Local) { m.Spec.Sources[0].Port = "b2" },
	} {
		s, m := mirrored(fabric.MirrorSink{Port: "b"})
		l := holding("h1", "a")
		edit(s, m, &l)
		got := plan.Wanted(s, "h1", l)
		if len(got.Mirrors) != 0 || got.Ports["tap-a"].Mirrors != (datapath.Mirrors{}) {
			t.Errorf("%s: %v, %+v", claim, got.Mirrors, got.Ports["tap-a"].Mirrors)
		}
	}
}

func TestAFilterIsTakenApart(t *testing.T) {
	s, m := mirrored(fabric.MirrorSink{Host: "h1"})
	until := time.Unix(1000, 5)
	m.Spec.Until, m.Spec.Sample, m.Spec.Truncate, m.Spec.Direction = &until, 10, 128, fabric.MirrorIn
	four, six, any6 := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("::/0")
	m.Spec.Filter = []fabric.MirrorClause{
		{Protocol: "tcp", Local: &fabric.MirrorEnd{Ports: []fabric.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}}}, Remote: &fabric.MirrorEnd{Prefixes: []netip.Prefix{four}}},
		{Family: "ipv6", Remote: &fabric.MirrorEnd{Prefixes: []netip.Prefix{four, six, any6}}},
	}
	got := plan.Wanted(s, "h1", holding("h1", "a"))
	want := datapath.Mirror{Sample: 10, Truncate: 128, Deadline: until.UnixNano(), Clauses: 4, Filter: [8]datapath.Clause{
		{Family: 4, HasProtocol: true, Protocol: 6, Remote: four, LocalPorts: fabric.PortRange{First: 80, Last: 80}},
		{Family: 4, HasProtocol: true, Protocol: 6, Remote: four, LocalPorts: fabric.PortRange{First: 443, Last: 443}},
		{Family: 6, Remote: six}, {Family: 6},
	}}
	if got.Mirrors[9001] != want {
		t.Errorf("got  %+v\nwant %+v", got.Mirrors[9001], want)
	}
	if got.Sinks[9001] != (datapath.Sink{Device: "wm-ids", Listen: true}) {
		t.Errorf("its sink is %+v", got.Sinks[9001])
	}
	if p := got.Ports["tap-a"].Mirrors; p.Sent[0] != 0 || p.Received[0] != 9001 {
		t.Errorf("the port is copied by %+v", p)
	}
}
