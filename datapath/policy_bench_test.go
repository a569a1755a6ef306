package datapath_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// manyRules is a source of n rules, none of which but the last matches the packets of the measurement.
func manyRules(n int, stateful bool) *policy.Source {
	all := make([]fabric.Rule, 0, n)
	for i := range n - 1 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>14), byte(i >> 6), byte(i << 2)}), 30)
		all = append(all, fabric.Rule{
			Name: fmt.Sprintf("r%d", i), Direction: fabric.Out, Action: fabric.Deny, Protocol: "tcp", Weight: uint16(60000 - i),
			Remote: &fabric.End{Prefixes: []netip.Prefix{p.Masked()}, Ports: []fabric.PortRange{{First: uint16(i % 500), Last: uint16(i%500 + i%7)}}},
		})
	}
	all = append(all, fabric.Rule{Name: "all", Direction: fabric.Out, Action: fabric.Allow, Protocol: "udp", Stateful: stateful, Weight: 1})
	return &policy.Source{Policies: []*fabric.Policy{{Metadata: fabric.Metadata{Name: "many"}, Spec: fabric.PolicySpec{Rules: all}}}, Default: fabric.Deny}
}

// BenchmarkJudgement measures vp_in from one port to another on the same host, whose sender is judged by so many rules.
func BenchmarkJudgement(b *testing.B) {
	w := newWorld(b, 1, false)
	w.load()
	w.unbalanced = true
	h := w.hosts[0]
	g := w.tap(h, 1, 0)
	w.tap(h, 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 2000, data))
	run := func(name string) {
		b.Run(name, func(b *testing.B) {
			best := time.Hour
			for range 7 {
				var took time.Duration
				w.in(h.ns, func() (err error) {
					took, err = h.TestRun(g.device, frame, 200000)
					return err
				})
				best = min(best, took)
			}
			b.ReportMetric(float64(best), "ns/packet")
		})
	}
	run("none")
	for _, n := range []int{10, 1000, 10000} {
		for _, stateful := range []bool{false, true} {
			began := time.Now()
			g.judge(b, manyRules(n, stateful))
			b.Logf("%d rules in force after %v", n, time.Since(began))
			run(fmt.Sprintf("%d stateful=%v", n, stateful))
		}
	}
	g.judge(b, nil)
	run("none again")
}
