package datapath_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/weftnet/weft/datapath"
)

// BenchmarkRate reports how far a rate is from what iperf3 gets through it, in percent of the rate, in TCP's payload with its
// headers: by TCP alone, and with ECN.
func BenchmarkRate(b *testing.B) {
	for _, c := range []struct {
		rate    float64
		ecn, by string
	}{
		{10e6, "0", "out"}, {10e6, "1", "out"}, {1e9, "0", "out"}, {1e9, "1", "out"}, {5e9, "0", "out"}, {5e9, "1", "out"},
		{10e6, "0", "in"}, {10e6, "1", "in"}, {1e9, "0", "in"}, {1e9, "1", "in"}, {5e9, "0", "in"}, {5e9, "1", "in"},
	} {
		rate, ecn := c.rate, c.ecn
		b.Run(fmt.Sprintf("%s-%.0fM-ecn=%s", c.by, rate/1e6, ecn), func(b *testing.B) {
			w := newWorld(b, 1, false)
			w.load()
			h := w.hosts[0]
			from, to := w.veth(h, 1), w.veth(h, 2)
			for _, s := range []*station{from, to} {
				s.run(b, "sysctl", "-qw", "net.ipv4.tcp_ecn="+ecn)
			}
			limited := to
			if limit := (datapath.Limit{Rate: uint64(rate), Burst: max(1_024_000, uint64(rate/10))}); c.by == "in" {
				to.port.Limits.In = limit
			} else {
				limited, from.port.Limits.Out = from, datapath.Limit{Rate: uint64(rate), Burst: max(8_000_000, uint64(rate/10))}
			}
			h.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{limited.device: limited.port}}})
			to.run(b, "iperf3", "-s", "-1", "-D")
			eventually(b, "iperf3 listens", func() bool { return to.listens(b, "5201") })
			var report struct {
				End struct {
					Received struct {
						Rate float64 `json:"bits_per_second"`
					} `json:"sum_received"`
				}
			}
			if err := json.Unmarshal([]byte(from.run(b, "iperf3", "-c", address4(2).String(), "-t", "4", "-O", "1", "-J")), &report); err != nil {
				b.Fatal(err)
			}
			const wire, payload = 1514, 1448 // of a full segment
			got := report.End.Received.Rate * wire / payload
			b.ReportMetric(math.Abs(got-rate)/rate*100, "%off")
			b.ReportMetric(got/1e6, "Mbit/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// listens reports whether a TCP port is open in the guest.
func (s *station) listens(tb testing.TB, port string) bool {
	return len(s.run(tb, "ss", "-Hltn", "sport = :"+port)) > 0
}
