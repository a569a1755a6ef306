package datapath_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

const tcxDrop = 2 // linux/bpf.h, enum tcx_action_base

// reasonOf is the reason of the core's that a verdict stands for.
func reasonOf(v policy.Verdict) tracing.Reason {
	switch {
	case v.Reason == policy.ByNoFlow:
		return tracing.ReasonCtNoFlow
	case v.Action == fabric.Deny:
		return tracing.ReasonPolicyDenied
	case v.Action == fabric.Reject:
		return tracing.ReasonPolicyRejected
	}
	return 0
}

// idOf is the number of a rule's name; 0 for none.
func (d *differ) idOf(r policy.RuleRef) policy.RuleID {
	if r == (policy.RuleRef{}) {
		return 0
	}
	id, known := d.ids[r]
	if !known {
		id = policy.ID(r.Policy, r.Rule)
		d.ids[r] = id
	}
	return id
}

// nameOf is the name of a rule of the policies in force by its number.
func (d *differ) nameOf(id uint64) string {
	for _, p := range d.snap.Policies {
		for _, r := range p.Spec.Rules {
			if policy.ID(p.Metadata.Name, r.Name) == policy.RuleID(id) {
				return p.Metadata.Name + "/" + r.Name
			}
		}
	}
	return fmt.Sprintf("%x", id)
}

// decider is the number of the rule that decided, or of the default of a direction.
func (d *differ) decider(direction fabric.Direction, v policy.Verdict) policy.RuleID {
	if id := d.idOf(v.Rule); id != 0 {
		return id
	}
	if direction == fabric.In {
		return defaultIDs[1]
	}
	return defaultIDs[0]
}

var defaultIDs = [2]policy.RuleID{policy.DefaultID(fabric.Out), policy.DefaultID(fabric.In)}

// compareJudgement fails unless the core's last judgement is what the model says: there was none where nobody is asked.
func (d *differ) compareJudgement(w *trip, want *finding) {
	got := d.docket
	if (got.Turn != 0) != (want.by != nil) {
		d.fail(w, "verdict %d, judged %v by %s; want %+v", w.ran, got.Turn != 0, d.nameOf(got.Rule), want.Verdict)
		return
	}
	if want.by == nil {
		return
	}
	reason, have := reasonOf(want.Verdict), tracing.Reason(got.Reason)
	if want.Reason == policy.ByFragment && want.Action == fabric.Deny && have == tracing.ReasonCtNoFlow {
		have = reason
	}
	rule, meter := d.decider(want.direction, want.Verdict), d.idOf(want.Meter)
	if have != reason || policy.RuleID(got.Rule) != rule || policy.RuleID(got.Meter) != meter || (got.Inward == 1) != (want.direction == fabric.In) {
		d.fail(w, "at %s %s the core: verdict %d, inward %d, %v, rule %s, meter %s; want %v, rule %s, meter %s\nkind %d, classes %v, flow key %+v",
			want.by.id, want.direction, w.ran, got.Inward, have, d.nameOf(got.Rule), d.nameOf(got.Meter), reason, d.nameOf(uint64(rule)), d.nameOf(uint64(meter)),
			got.Kind, got.Combo.Class, got.Key)
	}
}

// compareDelivery fails unless a packet that passes goes where its receiver is, unchanged.
func (d *differ) compareDelivery(w *trip, p *policy.Packet) {
	head, mark := 0, uint32(0)
	if w.dst != remoteGuest {
		mark = d.h.Mark(d.slots[w.dst])
	} else if p.HasIP() && d.runner.in.GsoSize == 0 { // the core puts the outer header on; else the kernel's device does
		head = tunnelHead
	}
	if w.mark != mark || len(w.left) != head+len(w.frame) || !d.u.damaged && !bytes.Equal(w.left[head:], w.frame) {
		d.fail(w, "to guest %d with mark %x, want %x, as\n%x", w.dst, w.mark, mark, w.left)
		return
	}
	if head == 0 {
		return
	}
	peer, network := d.x.vteps[0].As4(), [3]byte{byte(w.vni >> 16), byte(w.vni >> 8), byte(w.vni)}
	if [4]byte(w.left[30:34]) != peer || [3]byte(w.left[46:49]) != network {
		d.fail(w, "into another tunnel: %x", w.left[:tunnelHead])
	}
}

// count notes what a finding counts.
func (d *differ) count(f *finding, w *trip) {
	for _, id := range [2]policy.RuleID{d.decider(f.direction, f.Verdict), d.idOf(f.Meter)} {
		if id != 0 {
			h := f.by.hits[id]
			f.by.hits[id] = datapath.Hits{Packets: h.Packets + uint64(w.packets), Bytes: h.Bytes + uint64(w.wire)}
		}
	}
}

// settleFragment has the core remember a first fragment from when the model does: it takes the time of it anew, and another clock.
func (d *differ) settleFragment(w *trip, g *guarded, in bool, p *policy.Packet) {
	key := datapath.FragmentKey{Slot: g.slot, Place: uint8(p.FragmentID % 32)}
	if in {
		key.In = 1
	}
	var held datapath.Fragment
	if err := d.frags.Lookup(&key, &held); err != nil {
		d.fail(w, "%s does not remember a first fragment: %v", g.id, err)
		return
	}
	held.At, held.Again = d.docket.Now, d.docket.Now
	if err := d.frags.Update(&key, &held, ebpf.UpdateExist); err != nil {
		d.tb.Fatal(err)
	}
}

// compareHits compares the counters of all rules.
func (d *differ) compareHits() {
	for _, g := range d.guarded {
		all, err := g.host.RuleHits(context.Background())
		if err != nil {
			d.tb.Fatal(err)
		}
		got := all[g.id]
		for id := range got {
			if _, known := g.hits[id]; !known && got[id].Packets > 0 {
				d.fail(nil, "%s: rule %x has %+v, want none", g.id, id, got[id])
			}
		}
		for id, want := range g.hits {
			if got[id].Packets != want.Packets || got[id].Bytes != want.Bytes {
				d.fail(nil, "%s: rule %x has %+v, want %+v", g.id, id, got[id], want)
			}
		}
	}
}

// compareCounters compares what the ports have counted of drops for the rules' reasons, and of copies of group frames.
func (d *differ) compareCounters() {
	all, err := d.h.Counters(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	byRules := func(drops map[tracing.Reason]uint64) uint64 {
		return drops[tracing.ReasonPolicyDenied] + drops[tracing.ReasonPolicyRejected] + drops[tracing.ReasonCtNoFlow]
	}
	for _, g := range d.guarded {
		c := all[g.id]
		if out, in := byRules(c.DropsIn), byRules(c.DropsOut); out != g.drops[fabric.Out] || in != g.drops[fabric.In] {
			d.fail(nil, "%s: %d frames dropped out and %d in, want %d and %d", g.id, out, in, g.drops[fabric.Out], g.drops[fabric.In])
		}
		if c.Tx.Frames < g.copies || c.Tx.Frames > g.copies+d.loose {
			d.fail(nil, "%s got %d copies of group frames, want %d and at most %d more", g.id, c.Tx.Frames, g.copies, d.loose)
		}
	}
}
