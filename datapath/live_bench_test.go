package datapath_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/tracing"
)

// BenchmarkLive measures vp_in from one port to another on the same host: untraced, while a session asks for another protocol's, guest's
// or address's frames, while one samples, and while one asks for every frame and gets its records up to the budget. lost is the part of the records that found no room.
func BenchmarkLive(b *testing.B) {
	icmpOnly := uint8(protoICMP)
	for _, c := range []struct {
		name  string
		picks []tracing.Pick
		oneIn uint32
	}{{"off", nil, 0}, {"another", []tracing.Pick{{Protocol: &icmpOnly}}, 1}, {"guest", []tracing.Pick{{FromMAC: mac(9)}}, 1},
		{"address", []tracing.Pick{{Destination: netip.PrefixFrom(address4(9), 32)}}, 1}, {"sampled", nil, tracing.MaxOneIn}, {"every", nil, 1}} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, 1, false)
			w.load()
			w.unbalanced = true
			h := w.hosts[0]
			from, _ := w.tap(h, 1, 0), w.tap(h, 2, 0)
			if c.oneIn > 0 {
				w.watch(tracing.LiveSession{ID: 1, Picks: c.picks, OneIn: c.oneIn, Every: true, MaxRate: tracing.MaxRecords, TTL: time.Hour})
			}
			frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data))
			fastest := time.Duration(1 << 62)
			for b.Loop() {
				took := time.Duration(0)
				if err := h.ns.Do(func() (err error) { took, err = h.TestRun(from.device, frame, 200_000); return err }); err != nil {
					b.Fatal(err)
				}
				fastest = min(fastest, took)
				if c.oneIn > 0 {
					got, err := h.Watched(context.Background(), 1)
					if err != nil {
						b.Fatal(err)
					}
					if n := got.Count.Sent + got.Count.Lost; n > 0 {
						b.ReportMetric(float64(got.Count.Lost)/float64(n), "lost")
						b.ReportMetric(float64(n), "records")
					}
				}
			}
			b.ReportMetric(float64(fastest), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}
