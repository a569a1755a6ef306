package datapath_test

import (
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// trunked is a router on VLANs 10 and 20 of a switch, with rules, and a guest on each, both with one address.
type trunked struct {
	*estate
	router *tapGuest
	guests [2]*tapGuest
}

func newTrunked(t *testing.T, rules ...fabric.Rule) *trunked {
	e := newEstate(t, fabric.SwitchVLAN{ID: 10}, fabric.SwitchVLAN{ID: 20})
	x := &trunked{estate: e, router: e.port(0, "router", "trunk:native=0,allowed=10/20")}
	x.guests = [2]*tapGuest{e.port(0, "ten", "10"), e.port(1, "twenty", "20")}
	e.snap.Ports["twenty"].Spec.Addresses = e.snap.Ports["ten"].Spec.Addresses
	x.judge(rules...)
	return x
}

// judge puts other rules in force at the router's port.
func (x *trunked) judge(rules ...fabric.Rule) {
	for i := range rules {
		rules[i].Weight = uint16(1000 - i)
	}
	x.snap.Policies["test"] = &fabric.Policy{Metadata: fabric.Metadata{Name: "test"}, Spec: fabric.PolicySpec{Rules: rules}}
	x.snap.Ports["router"].Spec.Policies = []string{"test"}
	x.plan()
}

var trunkTags = [2]uint16{10, 20}

// ask is what the router sends the guest on one of the VLANs, without its tag, and answer what that guest replies.
func (x *trunked) ask(i int) []byte {
	to := x.guests[i].port.MAC
	return ether(to, x.router.port.MAC, typeIPv4, ip{protocol: protoUDP}.packet(x.router.port.Addresses[0], x.guests[0].port.Addresses[0], udp(1000, 53, data)))
}

func (x *trunked) answer(i int) []byte {
	from := x.guests[i].port.MAC
	return ether(x.router.port.MAC, from, typeIPv4, ip{protocol: protoUDP}.packet(x.guests[0].port.Addresses[0], x.router.port.Addresses[0], udp(53, 1000, data)))
}

func TestAConnectionOnOneVLANLetsNothingPassOnAnother(t *testing.T) {
	for i, claim := range []string{"asked on VLAN 10", "asked on VLAN 20"} {
		t.Run(claim, func(t *testing.T) {
			x := newTrunked(t, fabric.Rule{Name: "ask", Direction: fabric.Out, Action: fabric.Allow, Protocol: "udp", Stateful: true},
				everything(fabric.In, fabric.Deny))
			x.router.send(tagged(x.ask(i), trunkTags[i]))
			x.guests[i].gets(t, x.ask(i))
			x.guests[1-i].send(x.answer(1 - i))
			if !await(5*time.Second, func() bool { return x.router.outDrops(tracing.ReasonPolicyDenied) == 1 }) {
				t.Error("an answer of a stranger on the other VLAN, who has the same address, is not dropped")
			}
			x.guests[i].send(x.answer(i))
			x.router.gets(t, tagged(x.answer(i), trunkTags[i]))
			x.quiet()
		})
	}
}

func TestRulesNameAVLANOfATrunk(t *testing.T) {
	for claim, rule := range map[string]fabric.Rule{"by its number": {VLAN: 20}, "by its VNI": {VNI: 1020}} {
		t.Run(claim, func(t *testing.T) {
			rule.Name, rule.Direction, rule.Action = "twenty", fabric.In, fabric.Allow
			x := newTrunked(t, rule, everything(fabric.In, fabric.Deny))
			x.guests[0].send(x.answer(0))
			if !await(5*time.Second, func() bool { return x.router.outDrops(tracing.ReasonPolicyDenied) == 1 }) {
				t.Error("a frame on VLAN 10 is not dropped")
			}
			x.guests[1].send(x.answer(1))
			x.router.gets(t, tagged(x.answer(1), 20))
			rule.Direction, rule.Action = fabric.Out, fabric.Deny
			x.judge(rule)
			x.router.send(tagged(x.ask(1), 20))
			x.router.send(tagged(x.ask(0), 10))
			x.guests[0].gets(t, x.ask(0))
			if got := x.router.drops(tracing.ReasonPolicyDenied); got != 1 {
				t.Errorf("%d frames of the router were dropped, want the one on VLAN 20", got)
			}
			x.quiet()
		})
	}
}

// TestRunningConnectionsOutliveTheFirstRulesThatOpenFlows puts rules that open flows on a port whose connections nothing has
// followed so far.
func TestRunningConnectionsOutliveTheFirstRulesThatOpenFlows(t *testing.T) {
	stateful := func(name string) *policy.Source {
		return rules(fabric.Rule{Name: name, Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Stateful: true}, everything(fabric.In, fabric.Deny))
	}
	for claim, before := range map[string]func(t *testing.T, b *tapGuest){
		"where there were none":                func(*testing.T, *tapGuest) {},
		"where there were rules without flows": func(t *testing.T, b *tapGuest) { b.judge(t, rules(everything(fabric.In, fabric.Allow))) },
		"where there were limits alone": func(_ *testing.T, b *tapGuest) {
			b.limited(datapath.Limits{In: datapath.Limit{Rate: 1e9, Burst: 1e8}})
		},
	} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t, 1, false)
			w.load()
			h := w.hosts[0]
			a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
			before(t, b)
			amid := ip{protocol: protoTCP}.frame(1, 2, false, complete(address4(1), address4(2), tcp(address4(1), address4(2), ack|psh, nil, data)))
			a.send(amid)
			b.gets(t, amid)
			b.judge(t, stateful("first"))
			a.send(amid)
			b.gets(t, amid)

			// Its connection goes on under other rules; one that was not there is not taken for one.
			h.SetAdopting(h.SlotOf(b.device), false)
			b.judge(t, stateful("second"))
			if h.Adopting(h.SlotOf(b.device)) {
				t.Error("the second rules that open flows adopt connections, too")
			}
			segment := tcp(address4(1), address4(2), ack|psh, nil, data)
			segment[1]++ // another port
			a.send(ip{protocol: protoTCP}.frame(1, 2, false, complete(address4(1), address4(2), segment)))
			if !await(5*time.Second, func() bool { return b.outDrops(tracing.ReasonCtNoFlow) == 1 }) {
				t.Errorf("a packet of no connection is not dropped: %d", b.outDrops(tracing.ReasonCtNoFlow))
			}
			a.send(amid)
			b.gets(t, amid)
		})
	}
}
