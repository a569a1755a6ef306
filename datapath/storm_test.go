package datapath_test

import (
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// next waits for the next event of a kind.
func (h *host) next(kind datapath.EventKind) (e datapath.Event) {
	h.tb.Helper()
	eventually(h.tb, "an event", func() bool {
		select {
		case e = <-h.Events():
			return e.Kind == kind
		default:
			return false
		}
	})
	return e
}

func TestEachKindOfStormHasItsLimit(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	frames := map[datapath.Storm][]byte{
		datapath.Broadcast: ether(broadcast, mac(1), typeRARP, arp(3, mac(1), any4, mac(1), any4)),
		datapath.Multicast: ether(multi6, mac(1), typeIPv6, ip{protocol: protoUDP}.packet(address6(1), all6, udp(1, 2, data))),
		datapath.Unknown:   ip{protocol: protoUDP}.frame(1, 99, false, udp(1, 2, data)),
	}
	const most = 5
	slow := datapath.Limit{Rate: 1, Burst: most} // a packet in a second: none comes free while the test runs in its usual time
	hourly := func(n uint64) datapath.Limit { return datapath.Limit{Rate: n, Burst: n * 100} }
	for kind, frame := range frames {
		for claim, limit := range map[string]datapath.StormLimit{
			"packets": {Packets: slow}, "bits": {Bits: hourly(8 * uint64(len(frame)) * most / 100)},
		} {
			var l datapath.Limits
			l.Storm[kind] = limit
			h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{a.device: {}}}})
			a.port.Limits = l
			w.plug(&a.station)
			before := a.drops(tracing.ReasonDstUnknown)
			for range most - 1 {
				a.send(frame)
				if kind != datapath.Unknown && b.receive() == nil {
					t.Fatalf("kind %d, %s: a frame within the limit is lost", kind, claim)
				}
			}
			if n := a.drops(tracing.ReasonDstUnknown) - before; kind == datapath.Unknown && n != most-1 {
				t.Errorf("kind %d, %s: %d of %d had no destination", kind, claim, n, most-1)
			}
			for range 20 {
				a.send(frame)
				b.pending()
			}
			if n := a.drops(tracing.ReasonStormControl); n < 10 {
				t.Errorf("kind %d, %s: %d of 20 frames beyond the limit are dropped", kind, claim, n)
			}
			e := h.next(datapath.Alarmed)
			if e.Port != a.port.Name || e.Alarm != (datapath.Alarm{Reason: tracing.ReasonStormControl, MAC: mac(1)}) {
				t.Errorf("kind %d, %s: the event is %+v", kind, claim, e)
			}
			for other, frame := range frames {
				if other != kind && other != datapath.Unknown {
					a.send(frame)
					if b.receive() == nil {
						t.Errorf("the limit of kind %d keeps a frame of kind %d back", kind, other)
					}
				}
			}
		}
	}
}

func TestAGuardsRefusalIsToldOnceInAWhile(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a := w.tap(w.hosts[0], 1, 0)
	w.tap(w.hosts[0], 2, 0)
	for range 3 {
		a.expectDrop(tracing.ReasonGuardSrcMAC, ip{protocol: protoUDP}.frame(3, 2, false, udp(1, 2, data)))
	}
	if e := w.hosts[0].next(datapath.Alarmed); e.Port != a.port.Name || e.Alarm != (datapath.Alarm{Reason: tracing.ReasonGuardSrcMAC, MAC: fabric.MAC(mac(3))}) {
		t.Errorf("the event is %+v", e)
	}
	a.expectDrop(tracing.ReasonGuardSrcIP, ether(mac(2), mac(1), typeIPv4, ip{protocol: protoUDP}.packet(address4(3), address4(2), udp(1, 2, data))))
	if e := w.hosts[0].next(datapath.Alarmed); e.Alarm.Reason != tracing.ReasonGuardSrcIP {
		t.Errorf("after three refusals for the MAC and one for the address the second event is %+v", e)
	}
}
