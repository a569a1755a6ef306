package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// wide is a world of ports that share a policy of rules for distinct prefixes, the last of which denies.
func wide(tb testing.TB, ports, rules int) *fabric.Snapshot {
	tb.Helper()
	s := world(tb, "", "p")
	p := newPolicy("p")
	for n := range rules {
		p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{Name: fmt.Sprintf("r%d", n), Weight: uint16(n + 2), Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Stateful: true,
			Local:  &fabric.End{Ports: []fabric.PortRange{{First: uint16(n % 50), Last: uint16(n % 50)}}},
			Remote: &fabric.End{Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(n >> 8), byte(n), 0}), 24)}}})
	}
	p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{Name: "rest", Weight: 1, Direction: fabric.In, Action: fabric.Deny})
	s.Policies["p"] = p
	for n := range ports {
		name := fmt.Sprintf("port-%d", n)
		s.Ports[fabric.PortID(name)] = &fabric.Port{Metadata: fabric.Metadata{Name: name}, Spec: fabric.PortSpec{Switch: "blue", Settings: fabric.Settings{Policies: []string{"p"}},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 20, byte(n >> 8), byte(n)})}}}
	}
	return s
}

func BenchmarkJudge(b *testing.B) {
	for _, rules := range []int{0, 100, 2000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			m, now := NewModel(wide(b, 1, rules)), time.Unix(1, 0)
			p := in(protocolUDP, 1, 2)
			for b.Loop() {
				m.Judge("vm", fabric.In, p, now)
			}
		})
	}
}

func BenchmarkCompare(b *testing.B) {
	for _, size := range []struct{ ports, rules int }{{1000, 100}, {1000, 1000}, {200, 10000}} {
		b.Run(fmt.Sprintf("ports=%d/rules=%d", size.ports, size.rules), func(b *testing.B) {
			before, after := wide(b, size.ports, size.rules), wide(b, size.ports, size.rules)
			after.Policies["p"].Spec.Rules[size.rules/2].Action = fabric.Deny
			after.Policies["p"].Spec.Rules[size.rules/2].Stateful = false
			for b.Loop() {
				if c := Compare(before, after); len(c.Items) == 0 && c.Left == "" {
					b.Fatal("nothing changed")
				} else {
					b.ReportMetric(float64(len(c.Items)), "changes")
				}
			}
		})
	}
}
