package datapath_test

import (
	"context"
	"testing"

	"github.com/weftnet/weft/tracing"
)

// many are so many connections of one port that its map is a larger one than others'.
const many = 100_000

// question is one of them, as far as 65,536 remote ports go with one local one.
func question(i int) []byte {
	return ip{protocol: protoUDP}.frame(2, 1, false, udp(uint16(1000+i/50_000), uint16(1000+i%50_000), data))
}

func reply(i int) []byte {
	return ip{protocol: protoUDP}.frame(1, 2, false, udp(uint16(1000+i%50_000), uint16(1000+i/50_000), data))
}

func TestAHundredThousandConnectionsMoveWithTheirPort(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	b.port.Connections = 128 * 1024
	b.judge(t, onlyAnswers())
	for i := range many {
		b.send(question(i))
	}
	carried, _, err := h.ExportFlows(context.Background(), b.port.Name, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.gate(0, 2) // closed, as on a host where the port was never before
	b.judge(t, nil)
	b.gate(1, 3)
	b.judge(t, onlyAnswers())
	if n, err := h.ImportFlows(context.Background(), b.port.Name, carried, 0); n != many || err != nil {
		t.Fatalf("%d flows taken of %d: %v", n, many, err)
	}
	offered := func() uint64 { ports, _ := h.counters(); return ports[b.port.Name].Offered }
	before := offered()
	for i := range many {
		a.send(reply(i))
	}
	eventually(t, "all answers have come", func() bool { return offered()-before >= many })
	if n := b.outDrops(tracing.ReasonPolicyDenied); n != 0 {
		t.Fatalf("%d of %d connections are gone", n, many)
	}
}

func TestAPortThatRemembersMoreForgetsNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	b.judge(t, onlyAnswers())
	for i := range 1000 {
		b.send(question(i))
		a.receive()
	}
	for _, size := range []int{64 * 1024, 2 * 1024, 0} {
		b.port.Connections = size
		b.put()
		s, err := inside{h}.Read(t.Context())
		if err != nil || s.Ports[b.device].Connections != size {
			t.Fatalf("the kernel has %d connections, want %d: %v", s.Ports[b.device].Connections, size, err)
		}
		for i := range 1000 {
			a.send(reply(i))
			if b.receive() == nil {
				t.Fatalf("connection %d is forgotten where there is room for %d", i, size)
			}
		}
	}
}
