package datapath_test

import (
	"encoding/binary"
	"errors"
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

// towards is manyRules of a direction, whose last rule is for every protocol.
func towards(n int, d fabric.Direction) *policy.Source {
	s := manyRules(n, true)
	for i := range s.Policies[0].Spec.Rules {
		s.Policies[0].Spec.Rules[i].Direction = d
	}
	s.Policies[0].Spec.Rules[n-1].Protocol = ""
	return s
}

// BenchmarkConnection measures the same for the first packet of a connection, and the next one of each, each packet once.
func BenchmarkConnection(b *testing.B) {
	const connections = 20000
	w := newWorld(b, 1, false)
	w.load()
	w.unbalanced = true
	h := w.hosts[0]
	from, to := w.tap(h, 1, 0), w.tap(h, 2, 0)
	frames := make([][]byte, connections)
	for i := range frames {
		frames[i] = ip{protocol: protoUDP}.frame(1, 2, false, udp(uint16(10000+i), 2000, data))
	}
	again := make([][]byte, connections)
	for i := range again {
		again[i] = frames[connections-1]
	}
	for _, judged := range []bool{false, true} {
		if judged {
			from.judge(b, towards(1000, fabric.Out))
			to.judge(b, towards(1000, fabric.In))
		}
		b.Run(fmt.Sprintf("judged=%v", judged), func(b *testing.B) {
			first, next := time.Hour, time.Hour
			for range 10 * b.N {
				w.in(h.ns, func() error {
					one, err := h.TestFrames(from.device, frames)
					two, err2 := h.TestFrames(from.device, again)
					first, next = min(first, one), min(next, two)
					return errors.Join(err, err2)
				})
			}
			b.ReportMetric(float64(first), "ns/packet")
			b.ReportMetric(float64(next), "next-ns/packet")
		})
	}
}

// BenchmarkFlow measures vp_in from one port to another on the same host for a packet of a connection, which both ports judge.
func BenchmarkFlow(b *testing.B) {
	w := newWorld(b, 1, false)
	w.load()
	w.unbalanced = true
	h := w.hosts[0]
	from, to := w.tap(h, 1, 0), w.tap(h, 2, 0)
	type packet struct {
		name            string
		open, answer, f []byte
	}
	segment := func(from, to int, sport, dport uint16, flags uint8) []byte {
		s := tcp(address4(from), address4(to), flags, nil, nil)
		binary.BigEndian.PutUint16(s, sport)
		binary.BigEndian.PutUint16(s[2:], dport)
		return ip{protocol: protoTCP}.frame(from, to, false, s)
	}
	packets := []packet{
		{"UDP", ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 2000, data)), ip{protocol: protoUDP}.frame(2, 1, false, udp(2000, 1000, data)),
			ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 2000, data))},
		{"UDP over IPv6", ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 2000, data)), ip{protocol: protoUDP}.frame(2, 1, true, udp(2000, 1000, data)),
			ip{protocol: protoUDP}.frame(1, 2, true, udp(1000, 2000, data))},
		{"TCP", segment(1, 2, 1000, 80, 0x02), segment(2, 1, 80, 1000, 0x12), segment(1, 2, 1000, 80, 0x10)},
	}
	for _, judged := range []bool{false, true} {
		if judged {
			from.judge(b, towards(1000, fabric.Out))
			to.judge(b, towards(1000, fabric.In))
		}
		for _, p := range packets {
			b.Run(fmt.Sprintf("%s judged=%v", p.name, judged), func(b *testing.B) {
				best := time.Hour
				w.in(h.ns, func() error {
					_, err := h.TestRun(from.device, p.open, 1)
					_, err2 := h.TestRun(to.device, p.answer, 1)
					return errors.Join(err, err2)
				})
				for range 15 * b.N {
					var took time.Duration
					w.in(h.ns, func() (err error) {
						took, err = h.TestRun(from.device, p.f, 100000)
						return err
					})
					best = min(best, took)
				}
				b.ReportMetric(float64(best), "ns/packet")
			})
		}
	}
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
