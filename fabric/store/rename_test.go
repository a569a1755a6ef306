package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

func TestARenamedSwitchKeepsEverything(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	l := location.New(s)
	vlan := onVLAN(t, "b", "10")
	mirror := &fabric.Mirror{TypeMeta: head(fabric.KindMirror), Metadata: meta("m")}
	mirror.Spec.Sources, mirror.Spec.Sink.Host = []fabric.MirrorSource{{Switch: "blue"}}, "h1"
	apply(t, s, newHost("h1", "192.0.2.1"), newHost("h2", "192.0.2.2"), newSwitch("blue", "10.10.0.0/24"), newSwitch("red", "10.11.0.0/24"), newPort("a", "blue"), vlan, newPort("c", "red"), mirror)
	if _, err := l.Claim(t.Context(), "a", "h1"); err != nil {
		t.Fatal(err)
	}
	states := follow(t, s)
	before := await(t, states, "the claim", func(s *fabric.Snapshot) bool { return s.Locations["a"].Host == "h1" })
	rename := func(from, to fabric.SwitchID) error {
		_, err := s.RenameSwitch(t.Context(), from, to, "")
		return err
	}
	for _, c := range []struct {
		from, to fabric.SwitchID
		kind     error
		says     string
	}{
		{"blue", "red", fabric.ErrConflict, "there is a switch red already"}, {"bleu", "green", fabric.ErrNotFound, "weft get switches"},
		{"blue", "no name", fabric.ErrInvalid, "no name"},
	} {
		if err := rename(c.from, c.to); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
	if err := rename("blue", "azure"); err != nil {
		t.Fatal(err)
	}
	after := await(t, states, "the new name", func(s *fabric.Snapshot) bool { return s.Switches["azure"] != nil })
	if after.Switches["blue"] != nil || after.Switches["azure"].Spec.VNI != before.Switches["blue"].Spec.VNI || after.Switches["azure"].VNIOf(10) != before.Switches["blue"].VNIOf(10) {
		t.Errorf("the switch is %+v, was %+v", after.Switches["azure"].Spec, before.Switches["blue"].Spec)
	}
	for _, name := range []fabric.PortID{"a", "b"} {
		p, was := after.Ports[name], before.Ports[name]
		if p == nil || p.Spec.Switch != "azure" || p.Spec.MAC != was.Spec.MAC || !slices.Equal(p.Spec.Addresses, was.Spec.Addresses) {
			t.Errorf("port %s is %+v, was %+v", name, p, was)
		}
	}
	if loc := after.Locations["a"]; loc.Host != "h1" || loc.Epoch != before.Locations["a"].Epoch || loc.Switch != "azure" {
		t.Errorf("its holder is %+v", loc)
	}
	if after.Mirrors["m"].Spec.Sources[0].Switch != "azure" {
		t.Errorf("the mirror copies from %+v", after.Mirrors["m"].Spec.Sources)
	}
	// The old name and its values are free only as far as they are.
	apply(t, s, newSwitch("blue"))
	conflict(t, s, newSwitch("other", "10.10.0.0/25"), "overlaps 10.10.0.0/24 of switch azure")
	conflict(t, s, change(newSwitch("other"), func(s *fabric.SwitchSpec) { s.VNI = after.Switches["azure"].VNIOf(10) }), "belongs to azure")
	conflict(t, s, with(newPort("d", "azure"), func(p *fabric.PortSpec) { p.Addresses = before.Ports["a"].Spec.Addresses }), "belongs to a")
}

func TestWhatCannotBeRenamedNow(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	l := location.New(s)
	apply(t, s, newHost("h1", "192.0.2.1"), newHost("h2", "192.0.2.2"), hosted("green", "10.20.0.0/24"), hostPort("h1", "green"), newPort("a", "green"), newSwitch("blue"), newPort("b", "blue"))
	for _, p := range []fabric.PortID{"a", "b", "host-h1-green"} {
		if _, err := l.Claim(t.Context(), p, "h1"); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(sw fabric.SwitchID, says string) {
		t.Helper()
		if _, err := s.RenameSwitch(t.Context(), sw, "new", ""); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", sw, err, says)
		}
	}
	refused("green", "has port a on h1 plugged in")
	if _, err := l.Grant(t.Context(), &fabric.Move{Metadata: meta("m"), Spec: fabric.MoveSpec{VM: "b", To: "h2"}}); err != nil {
		t.Fatal(err)
	}
	refused("blue", "port b is moving")
	if err := l.Release(t.Context(), "a", "h1", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RenameSwitch(t.Context(), "green", "new", ""); err != nil {
		t.Fatal(err)
	}
	snap, err := s.Snapshot(t.Context())
	if err != nil || snap.Ports["host-h1-green"] != nil || snap.Ports["a"].Spec.Switch != "new" {
		t.Errorf("hosts make their ports anew: %v %v", snap.Ports, err)
	}
	if _, err := s.Apply(t.Context(), []fabric.Object{hostPort("h1", "new")}, store.ApplyOptions{}); err != nil {
		t.Error(err)
	}
}
