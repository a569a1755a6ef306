package datapath_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func TestFlowsGoOnWhereTheyAreCarried(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	b.judge(t, onlyAnswers())
	question, answer := ip{protocol: protoUDP}.frame(2, 1, false, udp(80, 1000, data)), ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 80, data))
	b.send(question)
	a.receive()
	carried, _, err := h.ExportFlows(context.Background(), b.port.Name, 0)
	if err != nil {
		t.Fatal(err)
	}
	again := func() { // as on a host where the port was never before
		t.Helper()
		h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{b.device: {}}}})
		w.plug(&b.station)
		a.send(answer)
		b.silent()
	}
	again()
	for _, want := range []int{1, 0} {
		n, err := h.ImportFlows(context.Background(), b.port.Name, carried, time.Second)
		if err != nil || n != want {
			t.Fatalf("%d flows taken, want %d: %v", n, want, err)
		}
		a.send(answer)
		if b.receive() == nil {
			t.Fatal("an answer to what was asked elsewhere does not pass")
		}
	}
	for claim, refused := range map[string]func(){
		"it was idle for too long": func() {
			if n, err := h.ImportFlows(context.Background(), b.port.Name, carried, time.Minute); n != 1 || err != nil {
				t.Fatalf("%d flows taken: %v", n, err)
			}
		},
		"the rules here do not allow it": func() {
			b.judge(t, rules(fabric.Rule{Name: "tcp", Direction: fabric.Out, Action: fabric.Allow, Stateful: true, Protocol: "tcp"}, fabric.Rule{Name: "none", Direction: fabric.In, Action: fabric.Deny}))
			if n, err := h.ImportFlows(context.Background(), b.port.Name, carried, 0); n != 1 || err != nil {
				t.Fatalf("%d flows taken: %v", n, err)
			}
		},
	} {
		again()
		refused()
		before := b.outDrops(tracing.ReasonPolicyDenied)
		a.send(answer)
		b.silent()
		if got := b.outDrops(tracing.ReasonPolicyDenied) - before; got != 1 {
			t.Errorf("%s: %d drops, want 1", claim, got)
		}
	}
}

func TestFlowsOfAnotherFormAreRefusedWhole(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	b.judge(t, onlyAnswers())
	for _, port := range []uint16{80, 81} {
		b.send(ip{protocol: protoUDP}.frame(2, 1, false, udp(port, 1000, data)))
		a.receive()
	}
	carried, _, err := h.ExportFlows(context.Background(), b.port.Name, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{b.device: {}}}})
	w.plug(&b.station)
	damage := func(at int, with byte) []byte {
		c := bytes.Clone(carried)
		c[at] = with
		return c
	}
	last := (len(carried) - len("weft flows 2\n")) / 2
	for claim, bad := range map[string][]byte{
		"another form": damage(11, '3'), "half a flow": carried[:len(carried)-1], "only the beginning": carried[:5],
		"a state that there is not": damage(len(carried)-last+40, 9), "an opener that there is not": damage(len(carried)-last+41, 2),
	} {
		if n, err := h.ImportFlows(context.Background(), b.port.Name, bad, 0); n != 0 || !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("%s: %d taken, %v", claim, n, err)
		}
	}
	if n, err := h.ImportFlows(context.Background(), b.port.Name, carried, 0); n != 2 || err != nil {
		t.Errorf("%d taken of what was not damaged: %v", n, err)
	}
	if _, _, err := h.ExportFlows(context.Background(), "nobody", 0); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("a port that is not here: %v", err)
	}
}
