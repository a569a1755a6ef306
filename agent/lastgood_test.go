package agent

import (
	"errors"
	"log/slog"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

func TestTheLastGoodSnapshotComesBackAsItWas(t *testing.T) {
	g := newLastGood(t.TempDir(), slog.New(slog.DiscardHandler))
	if s, err := g.load(noon); s != nil || err != nil {
		t.Fatalf("out of nothing came %v, %v", s, err)
	}
	want := blue(10, 50)
	want.Incarnation = "first"
	want.Profiles = map[string]*fabric.Profile{"gold": {Metadata: fabric.Metadata{Name: "gold", Revision: 3}}}
	want.Groups = map[string]*fabric.Group{"web": {Metadata: fabric.Metadata{Name: "web", Revision: 4}}}
	want.Policies = map[string]*fabric.Policy{"in": {Metadata: fabric.Metadata{Name: "in", Revision: 5}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{
		{Name: "web", Weight: 1, Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Local: &fabric.End{Ports: []fabric.PortRange{{First: 443, Last: 443}}, MACs: []fabric.MAC{}}, Stateful: true, Idle: fabric.MaxIdle}}}}}
	until := noon.Add(time.Hour).UTC()
	want.Mirrors = map[string]*fabric.Mirror{"ids": {Metadata: fabric.Metadata{Name: "ids", Revision: 6}, Spec: fabric.MirrorSpec{
		Sources: []fabric.MirrorSource{{Labels: map[string]string{"tier": "web"}}}, Direction: fabric.MirrorIn, Sample: 10, Truncate: 128,
		Filter: []fabric.MirrorClause{{Protocol: "tcp", Remote: &fabric.MirrorEnd{Ports: []fabric.PortRange{{First: 443, Last: 443}}}}},
		Sink:   fabric.MirrorSink{File: &fabric.MirrorFile{Host: "h2", Max: 1e6}}, For: fabric.Duration(time.Hour), Until: &until, VNI: 9001}}}
	want.Moves = map[fabric.MoveID]*fabric.Move{"m1": {Metadata: fabric.Metadata{Name: "m1"}, Spec: fabric.MoveSpec{VM: "a", Ports: []fabric.PortID{"a"}}}}
	g.keep(blue(9, 1))
	g.keep(want)
	g.flush()
	got, err := g.load(noon)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestADamagedLastGoodSnapshotIsNotUsed(t *testing.T) {
	g := newLastGood(t.TempDir(), slog.New(slog.DiscardHandler))
	g.keep(blue(10, 5))
	g.flush()
	text, err := os.ReadFile(g.path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(g.path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := g.load(noon); s != nil || !errors.Is(err, errDamaged) {
		t.Fatalf("got %v, %v", s, err)
	}
}
