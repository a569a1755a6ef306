package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

func newMirror(name string, edit func(*fabric.MirrorSpec)) *fabric.Mirror {
	m := &fabric.Mirror{TypeMeta: head(fabric.KindMirror), Metadata: meta(name), Spec: fabric.MirrorSpec{
		Sources: []fabric.MirrorSource{{Port: "web-1"}}, Sink: fabric.MirrorSink{Port: "sensor"}}}
	if edit != nil {
		edit(&m.Spec)
	}
	return m
}

func TestAMirrorHasAVNIOfItsOwnAndItsTime(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newSwitch("blue"), newPort("web-1", "blue"), newPort("sensor", "blue"))
	hour := func(m *fabric.MirrorSpec) { m.For = fabric.Duration(time.Hour) }
	begun := time.Now()
	first := apply(t, s, newMirror("ids", hour)).Objects[0].Object.(*fabric.Mirror)
	if first.Spec.VNI < 10001 || first.Spec.Until == nil || first.Spec.Until.Before(begun.Add(time.Hour-time.Second)) || first.Spec.Until.After(begun.Add(time.Hour+time.Minute)) {
		t.Fatalf("VNI %d, until %v", first.Spec.VNI, first.Spec.Until)
	}
	again := apply(t, s, newMirror("ids", hour)).Objects[0]
	if m := again.Object.(*fabric.Mirror); again.Outcome != store.Unchanged || !m.Spec.Until.Equal(*first.Spec.Until) || m.Spec.VNI != first.Spec.VNI {
		t.Errorf("applied twice it is %s: %+v", again.Outcome, m.Spec)
	}
	day := apply(t, s, newMirror("ids", func(m *fabric.MirrorSpec) { m.For = fabric.Duration(24 * time.Hour) })).Objects[0].Object.(*fabric.Mirror)
	if !day.Spec.Until.After(first.Spec.Until.Add(22 * time.Hour)) {
		t.Errorf("with another time it ends %v", day.Spec.Until)
	}
	if forever := apply(t, s, newMirror("ids", nil)).Objects[0].Object.(*fabric.Mirror); forever.Spec.Until != nil {
		t.Errorf("without a time it ends %v", forever.Spec.Until)
	}
	other := apply(t, s, newMirror("other", nil)).Objects[0].Object.(*fabric.Mirror)
	if other.Spec.VNI == first.Spec.VNI {
		t.Error("two mirrors have one VNI")
	}
	red := newSwitch("red")
	red.Spec.VNI = first.Spec.VNI
	if _, err := s.Apply(t.Context(), []fabric.Object{red}, store.ApplyOptions{}); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "belongs to mirror ids") {
		t.Errorf("a switch with the VNI of a mirror: %v", err)
	}
	if _, err := s.Delete(t.Context(), fabric.KindMirror, "ids"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, red)
}

func TestAMirrorNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newSwitch("blue"), newPort("web-1", "blue"), newPort("sensor", "blue"))
	for claim, c := range map[string]struct {
		edit func(*fabric.MirrorSpec)
		want string
	}{
		"a port that is not there":   {func(m *fabric.MirrorSpec) { m.Sources[0].Port = "web-2" }, `spec.sources[0].port: there is no port "web-2": did you mean "web-1"?`},
		"a switch that is not there": {func(m *fabric.MirrorSpec) { m.Sources[0] = fabric.MirrorSource{Switch: "bleu"} }, `there is no switch "bleu": did you mean "blue"?`},
		"a sink that is not there":   {func(m *fabric.MirrorSpec) { m.Sink.Port = "senso" }, `spec.sink.port: there is no port "senso": did you mean "sensor"?`},
		"a host that is not there":   {func(m *fabric.MirrorSpec) { m.Sink = fabric.MirrorSink{Host: "h9"} }, `spec.sink.host: there is no host "h9"`},
		"a file on no host":          {func(m *fabric.MirrorSpec) { m.Sink = fabric.MirrorSink{File: &fabric.MirrorFile{Host: "h9"}} }, `spec.sink.file.host: there is no host "h9"`},
	} {
		t.Run(claim, func(t *testing.T) {
			_, err := s.Apply(t.Context(), []fabric.Object{newMirror("ids", c.edit)}, store.ApplyOptions{})
			if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
