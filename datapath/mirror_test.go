package datapath_test

import (
	"context"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// mirrorVNI is the VNI of a mirror in these tests.
const mirrorVNI = fabric.VNI(9001)

// mirrors puts a mirror on hosts: copies of what the source sends and receives for the sink.
func (w *world) mirrors(m datapath.Mirror, source, sink *tapGuest) {
	w.tb.Helper()
	if sink.host != source.host {
		m.Peer = sink.host.vtep
	}
	source.port.Mirrors.Sent[0], source.port.Mirrors.Received[0] = mirrorVNI, mirrorVNI
	source.host.apply(datapath.Change{Put: datapath.State{
		Mirrors: map[fabric.VNI]datapath.Mirror{mirrorVNI: m}, Ports: map[string]datapath.Port{source.device: source.port},
	}})
	sink.host.apply(datapath.Change{Put: datapath.State{Sinks: map[fabric.VNI]datapath.Sink{mirrorVNI: {Device: sink.device}}}})
}

// mirrored are the counters of the mirror on a host.
func (h *host) mirrored() datapath.MirrorCount {
	h.tb.Helper()
	all, err := h.Mirrors(context.Background())
	if err != nil {
		h.tb.Fatal(err)
	}
	return all[mirrorVNI]
}

func TestAMirrorCopiesBothDirectionsToAnotherPort(t *testing.T) {
	for claim, hosts := range map[string]int{"on the same host": 1, "on another host": 2} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t, hosts, false)
			w.load()
			a, b, sink := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0), w.tap(w.hosts[hosts-1], 3, 0)
			w.mirrors(datapath.Mirror{}, a, sink)
			there, back := udp4(1, 2, 1000, 2000, "there"), udp4(2, 1, 2000, 1000, "back")
			a.send(there)
			b.gets(t, there)
			sink.gets(t, there)
			b.send(back)
			a.gets(t, back)
			sink.gets(t, back)
			for _, g := range []*tapGuest{a, b, sink} {
				g.silent()
			}
			if got := a.host.mirrored(); got.Seen != 2 || got.Copied != 2 || got.Lost != 0 {
				t.Errorf("the source's host counts %+v", got)
			}
			if got := sink.host.mirrored(); got.Given != 2 || got.GivenBytes != uint64(len(there)+len(back)) || got.Lost != 0 {
				t.Errorf("the sink's host counts %+v", got)
			}
		})
	}
}

// udp4 is a UDP packet from guest src to guest dst.
func udp4(src, dst int, sport, dport uint16, text string) []byte {
	payload := udp(sport, dport, []byte(text))
	return ip{protocol: protoUDP}.frame(src, dst, false, payload)
}
