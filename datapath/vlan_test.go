package datapath_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Who hears whom (RFC 5517): both promiscuous ports list 101 and 102, and not 103.
var hears = map[string]string{
	"promiscuous": "promiscuous isolated community stranger",
	"isolated":    "promiscuous",
	"community":   "promiscuous community",
	"stranger":    "stranger",
	"access":      "access",
	"untagged":    "untagged",
}

func newPrivate(t *testing.T) *estate {
	e := newEstate(t, fabric.SwitchVLAN{ID: 10}, fabric.SwitchVLAN{ID: 100}, fabric.SwitchVLAN{ID: 101, Primary: 100, Mode: fabric.Isolated},
		fabric.SwitchVLAN{ID: 102, Primary: 100, Mode: fabric.Community}, fabric.SwitchVLAN{ID: 103, Primary: 100, Mode: fabric.Community})
	for host := range e.hosts {
		for class, vlan := range map[string]string{
			"promiscuous": "promiscuous:primary=100,secondary=101/102",
			"isolated":    "isolated:primary=100,secondary=101",
			"community":   "community:primary=100,secondary=102",
			"stranger":    "community:primary=100,secondary=103",
			"access":      "10",
			"untagged":    "untagged",
		} {
			e.port(host, fmt.Sprintf("%s-%d", class, host), vlan)
		}
	}
	e.plan()
	return e
}

// class is a guest's part.
func class(name string) string { return strings.TrimRight(name, "-01") }

func isPrivate(name string) bool { return class(name) != "access" && class(name) != "untagged" }

// TestThePrivateVLANMatrix sends from every class of port to every other one, on one host and across hosts.
func TestThePrivateVLANMatrix(t *testing.T) {
	e := newPrivate(t)
	names := make([]string, 0, len(e.guests))
	for name := range e.guests {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, from := range names {
		sender := e.guests[from]
		heard := strings.Fields(hears[class(from)])
		group := ether(broadcast, sender.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(sender.port.Addresses[0], all4, udp(1, uint16(i+1), data)))
		sender.send(group)
		for _, to := range names {
			if to != from && slices.Contains(heard, class(to)) {
				e.guests[to].gets(t, group)
			}
		}
		for _, to := range names {
			if to != from {
				e.pair(t, from, to, slices.Contains(heard, class(to)))
			}
		}
	}
	e.quiet()
}

// pair sends one station's frame and one question to another.
func (e *estate) pair(t *testing.T, from, to string, reached bool) {
	t.Helper()
	a, b := e.guests[from], e.guests[to]
	frame := ether(b.port.MAC, a.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(a.port.Addresses[0], b.port.Addresses[0], udp(7, 7, data)))
	before := [2]uint64{a.drops(tracing.ReasonPvlan), a.drops(tracing.ReasonDstUnknown)}
	a.send(frame)
	if reached {
		b.gets(t, frame)
	}
	want := before
	switch {
	case reached:
	case isPrivate(from) && isPrivate(to):
		want[0]++
	default:
		want[1]++
	}
	if got := [2]uint64{a.drops(tracing.ReasonPvlan), a.drops(tracing.ReasonDstUnknown)}; got != want {
		t.Errorf("%s to %s: dropped as pvlan and dst_unknown %v times, want %v", from, to, got, want)
	}
	// A question to all about an address is answered by the core where the answer would reach; else nobody who is no answer hears it.
	if !reached {
		return
	}
	a.send(ether(broadcast, a.port.MAC, typeARP, arp(1, a.port.MAC, a.port.Addresses[0], fabric.MAC{}, b.port.Addresses[0])))
	a.gets(t, ether(a.port.MAC, b.port.MAC, typeARP, arp(2, b.port.MAC, b.port.Addresses[0], a.port.MAC, a.port.Addresses[0])))
}

func TestATrunkCarriesTheVLANsItAllows(t *testing.T) {
	e := newEstate(t, fabric.SwitchVLAN{ID: 10}, fabric.SwitchVLAN{ID: 20}, fabric.SwitchVLAN{ID: 25}, fabric.SwitchVLAN{ID: 30})
	trunk := e.port(0, "trunk", "trunk:native=10,allowed=20-30,pruned=25")
	every := e.port(1, "every", "trunk:native=0,allowed=all")
	access := map[int][2]*tapGuest{}
	for _, vlan := range []int{10, 20, 25, 30} {
		access[vlan] = [2]*tapGuest{e.port(0, fmt.Sprintf("a%d", vlan), fmt.Sprint(vlan)), e.port(1, fmt.Sprintf("b%d", vlan), fmt.Sprint(vlan))}
	}
	e.plan()
	for _, c := range []struct {
		vlan int
		tags []uint16
	}{{10, nil}, {20, []uint16{20}}, {30, []uint16{30}}, {30, []uint16{30 | 5<<13}}, {10, []uint16{5 << 13}}} {
		t.Run(fmt.Sprint(c.vlan, c.tags), func(t *testing.T) { e.carried(t, trunk, every, access[c.vlan], c.vlan, c.tags) })
	}
	for claim, tags := range map[string][]uint16{
		"a pruned VLAN": {25}, "a VLAN that is not allowed": {40}, "the native VLAN with its tag": {10}, "a tag behind a tag": {20, 30},
		"a tag behind a priority": {5 << 13, 20}, "the reserved tag": {4095},
	} {
		t.Run(claim, func(t *testing.T) {
			trunk.tb = t
			trunk.expectDrop(tracing.ReasonVLANNotAllowed, tagged(ether(broadcast, trunk.port.MAC, typeRARP, arp(3, trunk.port.MAC, any4, trunk.port.MAC, any4)), tags...))
		})
	}
	if told := e.hosts[0].next(datapath.Alarmed); told.Port != "trunk" || told.Alarm.Reason != tracing.ReasonVLANNotAllowed {
		t.Errorf("the event of a tag that is not allowed is %+v", told)
	}
	// What is on a pruned VLAN does not reach the trunk either.
	frame := ether(broadcast, access[25][0].port.MAC, typeRARP, arp(3, access[25][0].port.MAC, any4, access[25][0].port.MAC, any4))
	access[25][0].send(frame)
	access[25][1].gets(t, frame)
	every.gets(t, tagged(frame, 25))
	e.quiet()
}

// carried sends a frame of each kind from the trunk to those of one VLAN, and back.
func (e *estate) carried(t *testing.T, trunk, every *tapGuest, members [2]*tapGuest, vlan int, tags []uint16) {
	e.tb, trunk.tb, every.tb = t, t, t
	back := tags
	if len(tags) > 0 {
		back = []uint16{tags[0] & 0xfff} // the priority is not kept
	}
	if vlan == 10 {
		back = nil
	}
	group := ether(broadcast, trunk.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(trunk.port.Addresses[0], all4, udp(1, 2, data)))
	trunk.send(tagged(group, tags...))
	every.gets(t, tagged(group, uint16(vlan)))
	for _, m := range members {
		m.tb = t
		m.gets(t, group)
		there := ether(m.port.MAC, trunk.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(trunk.port.Addresses[0], m.port.Addresses[0], udp(1, 2, data)))
		trunk.send(tagged(there, tags...))
		m.gets(t, there)
		here := ether(trunk.port.MAC, m.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(m.port.Addresses[0], trunk.port.Addresses[0], udp(2, 1, data)))
		m.send(here)
		trunk.gets(t, tagged(here, back...))
		// The core's own answers come on the VLAN of the question.
		trunk.send(tagged(ether(broadcast, trunk.port.MAC, typeARP, arp(1, trunk.port.MAC, trunk.port.Addresses[0], fabric.MAC{}, m.port.Addresses[0])), tags...))
		trunk.gets(t, tagged(ether(trunk.port.MAC, m.port.MAC, typeARP, arp(2, m.port.MAC, m.port.Addresses[0], trunk.port.MAC, trunk.port.Addresses[0])), back...))
		trunk.send(tagged(ether(m.port.MAC, trunk.port.MAC, typeIPv4, ip{protocol: protoUDP, df: true}.packet(trunk.port.Addresses[0], m.port.Addresses[0], udp(1, 2, make([]byte, 1473)))), tags...))
		if got := trunk.receive(); len(got) < 60 || !bytes.Equal(got[:12+4*len(back)+2], tagged(ether(trunk.port.MAC, m.port.MAC, typeIPv4, nil), back...)) {
			t.Errorf("the ICMP error is % x", got[:min(len(got), 60)])
		}
	}
	e.quiet()
}

func TestTagsArePayloadBetweenPortsThatSaySo(t *testing.T) {
	e := newEstate(t, fabric.SwitchVLAN{ID: 40}, fabric.SwitchVLAN{ID: 50})
	a, near, far := e.port(0, "a", "40+qinq"), e.port(0, "near", "40+qinq"), e.port(1, "far", "40+qinq")
	trunk, plain := e.port(1, "trunk", "trunk:native=0,allowed=40/50+qinq"), e.port(1, "plain", "40")
	e.plan()
	for claim, frame := range map[string][]byte{
		"a broadcast":      tagged(ether(broadcast, a.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(address4(99), all4, udp(1, 2, data))), 7),
		"two tags":         tagged(ether(broadcast, a.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(address4(99), all4, udp(1, 2, data))), 7, 8),
		"a broadcast of 1": tagged(ether(broadcast, a.port.MAC, typeARP, arp(1, a.port.MAC, address4(98), fabric.MAC{}, address4(2))), 1),
	} {
		t.Run(claim, func(t *testing.T) {
			e.tb = t
			lost, _ := e.hosts[1].counters()
			a.send(frame)
			near.gets(t, frame)
			far.gets(t, frame)
			trunk.gets(t, tagged(frame, 40))
			eventually(t, "the port without qinq drops it", func() bool {
				ports, _ := e.hosts[1].counters()
				return ports["plain"].DropsOut[tracing.ReasonVLANNotAllowed] == lost["plain"].DropsOut[tracing.ReasonVLANNotAllowed]+1
			})
		})
	}
	e.tb = t
	for _, to := range []*tapGuest{near, far} {
		frame := tagged(ether(to.port.MAC, a.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(address4(99), address4(98), udp(1, 2, data))), 7)
		a.send(frame)
		to.gets(t, frame)
	}
	// Behind the trunk's own tag, there and back.
	frame := ether(a.port.MAC, trunk.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(address4(99), address4(98), udp(1, 2, data)))
	trunk.send(tagged(frame, 40, 7))
	a.gets(t, tagged(frame, 7))
	frame = ether(trunk.port.MAC, a.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(address4(99), address4(98), udp(1, 2, data)))
	a.send(tagged(frame, 7))
	trunk.gets(t, tagged(frame, 40, 7))
	// Not from a MAC that is not the port's, not behind a tag that the trunk does not carry, and not from a port without qinq.
	a.expectDrop(tracing.ReasonGuardSrcMAC, tagged(ether(far.port.MAC, mac(77), typeIPv4, data), 7))
	trunk.expectDrop(tracing.ReasonVLANNotAllowed, tagged(frame, 60, 7))
	plain.expectDrop(tracing.ReasonVLANNotAllowed, tagged(ether(a.port.MAC, plain.port.MAC, typeIPv4, data), 7))
	// Untagged frames are as anywhere.
	frame = ether(plain.port.MAC, a.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(a.port.Addresses[0], plain.port.Addresses[0], udp(1, 2, data)))
	a.send(frame)
	plain.gets(t, frame)
	e.quiet()
}

// The answer to what a promiscuous port rejects comes on the primary VLAN: its sender hears nothing of the secondary.
func TestARejectedPacketOfAPrivateVLANIsAnswered(t *testing.T) {
	e := newEstate(t, fabric.SwitchVLAN{ID: 100}, fabric.SwitchVLAN{ID: 101, Primary: 100, Mode: fabric.Isolated}, fabric.SwitchVLAN{ID: 20})
	trunk := e.port(0, "trunk", "trunk:native=0,allowed=20")
	private := e.port(0, "private", "isolated:primary=100,secondary=101")
	e.snap.Policies["p"] = &fabric.Policy{Metadata: fabric.Metadata{Name: "p"}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{
		{Name: "no", Weight: 1, Direction: fabric.In, Action: fabric.Reject, Protocol: "tcp"}}}}
	var targets []*tapGuest
	for host := range e.hosts {
		for _, vlan := range []string{"promiscuous:primary=100,secondary=101", "20"} {
			g := e.port(host, fmt.Sprintf("t%d-%d", host, len(targets)), vlan)
			e.snap.Ports[g.port.Name].Spec.Policies = []string{"p"}
			targets = append(targets, g)
		}
	}
	e.plan()
	for i, to := range targets {
		from, tags := private, []uint16(nil)
		if i%2 == 1 {
			from, tags = trunk, []uint16{20}
		}
		segment := tcp(from.port.Addresses[0], to.port.Addresses[0], 0x02, nil, nil)
		from.send(tagged(ether(to.port.MAC, from.port.MAC, typeIPv4, ip{protocol: 6}.packet(from.port.Addresses[0], to.port.Addresses[0], segment)), tags...))
		got := from.receive()
		head := len(tagged(ether(from.port.MAC, to.port.MAC, typeIPv4, nil), tags...))
		if len(got) < head+40 || !bytes.Equal(got[:head], tagged(ether(from.port.MAC, to.port.MAC, typeIPv4, nil), tags...)) || got[head+33]&0x04 == 0 {
			t.Errorf("%s rejects: the answer is % x", to.port.Name, got[:min(len(got), 60)])
		}
	}
	e.quiet()
}
