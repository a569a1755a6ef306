package datapath_test

import (
	"time"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// clocks may differ by so much in test runs: a frame that two ports judge is judged at two times.
const clocks = 10 * time.Millisecond

// compareFlows looks for each flow of the model in the core, and compares them.
func (d *differ) compareFlows() {
	var held datapath.Flow
	for _, g := range d.guarded {
		if g.flows == nil {
			continue
		}
		for _, f := range d.model.Flows(g.id, d.clock) {
			key := keyOf(&f)
			if err := g.flows.Lookup(&key, &held); err != nil {
				d.fail(nil, "%s has no flow %+v: %v", g.id, f, err)
				return
			}
			d.compareFlow(g, &f, &held)
			d.compared++
		}
	}
}

// compareAllFlows looks besides for flows that the core alone has, which must have been idle.
func (d *differ) compareAllFlows() {
	d.compareFlows()
	for _, g := range d.guarded {
		if g.flows == nil {
			continue
		}
		known := map[datapath.FlowKey]bool{}
		for _, f := range d.model.Flows(g.id, d.clock) {
			known[keyOf(&f)] = true
		}
		d.heldFlows.read(d.tb, g.flows)
		for i, key := range d.heldFlows.keys {
			f := &d.heldFlows.values[i]
			if idle := time.Duration(d.now() - f.Seen); !known[key] && idle < lifetimeOf(key.Proto, f)-clocks {
				d.fail(nil, "%s has a flow %+v %+v, idle for %v, that the model has not", g.id, key, *f, idle)
			}
		}
	}
}

// lifetimeOf is how long a flow may be idle (ADR 10, 9).
func lifetimeOf(protocol uint8, f *datapath.Flow) time.Duration {
	seconds := map[uint8]uint32{6: 8000, 17: 180}[protocol]
	switch {
	case f.Idle != 0:
		seconds = f.Idle
	case seconds == 0, protocol == 17 && f.State == 1:
		seconds = 30
	}
	if limit := map[uint8]uint32{1: 60, 3: 10}[f.State]; protocol == 6 && limit != 0 {
		seconds = min(seconds, limit)
	}
	return time.Duration(seconds) * time.Second
}

// now is the clock that the core judges by.
func (d *differ) now() uint64 { return uint64(d.clock.Add(-d.skew).UnixNano()) }

var states = map[policy.FlowState]uint8{policy.FlowOpening: 1, policy.FlowOpen: 2, policy.FlowClosing: 3}

// compareFlow fails unless the core's flow is the model's.
func (d *differ) compareFlow(g *guarded, want *policy.Flow, got *datapath.Flow) {
	opener := uint8(0)
	if want.Direction == fabric.In {
		opener = 1
	}
	late := want.Last.Add(-d.skew).Sub(time.Unix(0, int64(got.Seen))).Abs()
	idle := uint32((want.Idle + time.Second - 1) / time.Second)
	same := got.State == states[want.State] && got.Opener == opener && policy.RuleID(got.Rule) == d.idOf(want.Rule) && got.Idle == idle && late <= d.apart
	for i := range want.Sides {
		w, h := want.Sides[i], got.Sides[i]
		same = same && w == policy.FlowSide{Sent: h.Sent != 0, Acked: h.Acked != 0, FIN: h.Fin != 0, End: h.End, Ack: h.Ack}
	}
	if !same {
		d.fail(nil, "%s has the flow %+v of rule %s, want %+v; %v apart", g.id, *got, d.nameOf(got.Rule), *want, late)
	}
}

// ageFlows ages those flows that the model has: all others have been idle or are to be found by compareAllFlows.
func (g *guarded) ageFlows(d *differ, by time.Duration) {
	var held datapath.Flow
	for _, f := range d.model.Flows(g.id, d.clock) {
		key := keyOf(&f)
		if g.flows.Lookup(&key, &held) != nil {
			continue
		}
		held.Seen -= uint64(by)
		if err := g.flows.Update(&key, &held, ebpf.UpdateExist); err != nil {
			d.tb.Fatal(err)
		}
	}
}

// keyOf is the core's key of a flow.
func keyOf(f *policy.Flow) datapath.FlowKey {
	k := datapath.FlowKey{Local: datapath.CoreAddress(f.Source), Remote: datapath.CoreAddress(f.Destination), Lport: f.SourcePort, Rport: f.DestinationPort, Proto: f.Protocol,
		Segment: [3]uint8{uint8(f.Segment >> 16), uint8(f.Segment >> 8), uint8(f.Segment)}}
	if f.Direction == fabric.In {
		k.Local, k.Remote, k.Lport, k.Rport = k.Remote, k.Local, k.Rport, k.Lport
	}
	if f.Echo != 0 {
		k.Lport, k.Rport = f.Echo, f.Echo
	}
	return k
}

// openFlows opens the map of the port's flows, if it has one.
func (g *guarded) openFlows(d *differ) {
	if g.flows != nil {
		g.flows.Close()
		g.flows = nil
	}
	var id ebpf.MapID
	if d.flows.Lookup(g.slot, &id) != nil {
		return
	}
	flows, err := ebpf.NewMapFromID(id)
	if err != nil {
		d.tb.Fatal(err)
	}
	g.flows = flows
}
