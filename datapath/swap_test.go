package datapath_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// Kinds of packets, by their destination port: the first policy allows the first and denies the second, the other does the reverse;
// both allow the third and deny the fourth.
const (
	swapKinds     = 4
	swapFirstPort = 5000
)

// swapSource is one of two policies that differ in their vectors, their addresses and their rules' order.
func swapSource(which int) *policy.Source {
	var all []fabric.Rule
	for i := range 600 {
		if i%(100+which) == 50 && len(all) < 600 {
			all = append(all, fabric.Rule{Name: fmt.Sprintf("none-%d", i), Direction: fabric.Out, Action: fabric.Deny, Remote: &fabric.End{Groups: []string{"g"}, Ports: []fabric.PortRange{{First: uint16(i + 1), Last: uint16(i + 9)}}}})
			continue
		}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 90 + byte(which), byte(i >> 4), byte(i << 4)}), 28)
		all = append(all, fabric.Rule{Name: fmt.Sprintf("none-%d", i), Direction: fabric.Out, Action: fabric.Deny, Protocol: "udp", Remote: &fabric.End{Prefixes: []netip.Prefix{p}}})
	}
	for kind := range swapKinds {
		action := fabric.Deny
		if kind == which || kind == 2 {
			action = fabric.Allow
		}
		all[100*(kind+1)+37*which] = fabric.Rule{Name: swapRule(which, kind), Direction: fabric.Out, Action: action, Protocol: "udp", Remote: &fabric.End{
			Prefixes: []netip.Prefix{netip.PrefixFrom(address4(2), 32-which).Masked()}, Ports: []fabric.PortRange{{First: uint16(swapFirstPort + kind), Last: uint16(swapFirstPort + kind)}},
		}}
	}
	s := rules(all...)
	s.Default = fabric.Deny
	s.Groups = map[string][]netip.Prefix{"g": {netip.MustParsePrefix("10.99.0.0/24"), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 98, byte(which), 0}), 24)}}
	return s
}

func swapRule(which, kind int) string { return fmt.Sprintf("policy-%d-kind-%d", which, kind) }

// swapping puts the port under the two policies in turn, so many times, and removes each when the other is in force.
func (s *station) swapping(sources [2]*policy.Source, times int) <-chan error {
	done := make(chan error, 1)
	port := s.port
	go func() {
		done <- s.host.ns.Do(func() error {
			for i := range times {
				now, old := sources[(i+1)%2], sources[i%2]
				port.Policy = now.Digest()
				err := s.host.Apply(context.Background(), datapath.Change{
					Put: datapath.State{
						Ports:  map[string]datapath.Port{s.device: port},
						Tables: map[policy.Digest]*policy.Source{port.Policy: now},
					},
					Delete: datapath.State{Tables: map[policy.Digest]*policy.Source{old.Digest(): nil}},
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}()
	return done
}

func TestNoPacketIsJudgedByAMixtureOfTwoPolicies(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	sources := [2]*policy.Source{swapSource(0), swapSource(1)}
	a.judge(t, sources[0])
	const swaps = 60
	done := a.swapping(sources, swaps)
	var passed []bool // by sequence number
	for over := false; !over; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		default:
		}
		passed = a.sendKinds(b, passed, 64)
	}
	var sent [swapKinds]uint64
	mixed, turns, last := 0, 0, 0
	for i, p := range passed {
		kind := i % swapKinds
		sent[kind]++
		switch {
		case kind == 3 && p:
			t.Errorf("packet %d passed, which both policies deny", i)
		case kind == 1 && p == passed[i-1]:
			mixed++ // the swap was between the two
		case kind == 1:
			now := 0
			if p {
				now = 1
			}
			turns += now ^ last
			last = now
		}
	}
	if mixed+turns == 0 || mixed > swaps || turns > swaps {
		t.Errorf("%d swaps were seen as %d changes, %d of them between two packets", swaps, turns, mixed)
	}
	for kind, n := range sent {
		if got := a.hits(t, swapRule(0, kind)).Packets + a.hits(t, swapRule(1, kind)).Packets; got != n {
			t.Errorf("kind %d: its two rules have decided %d of %d packets", kind, got, n)
		}
	}
	t.Logf("%d packets during %d swaps", len(passed), swaps)
}

// sendKinds sends n packets of all kinds in turn and notes which of them pass: all of the third kind do.
func (g *tapGuest) sendKinds(to *tapGuest, passed []bool, n int) []bool {
	g.tb.Helper()
	first := len(passed)
	for i := first; i < first+n; i++ {
		number := binary.BigEndian.AppendUint64(nil, uint64(i))
		g.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, uint16(swapFirstPort+i%swapKinds), number)))
		passed = append(passed, false)
	}
	for wanted := first + n - swapKinds + 2; !passed[wanted]; {
		frame := to.receive()
		if frame == nil {
			g.tb.Fatalf("packet %d does not arrive, which both policies allow", wanted)
		}
		passed[binary.BigEndian.Uint64(frame[14+20+8:])] = true
	}
	for i := first + 2; i < first+n; i += swapKinds {
		if !passed[i] {
			g.tb.Fatalf("packet %d has not arrived, which both policies allow", i)
		}
	}
	return passed
}
