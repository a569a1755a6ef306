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
	return policy.DefaultID(direction)
}

// compareJudgement fails unless the core's last judgement is what the model says.
func (d *differ) compareJudgement(w *trip, by *guarded, direction fabric.Direction, want policy.Verdict) {
	got := d.docket
	if got.Turn == 0 {
		d.fail(w, "the core has not judged; want %+v", want)
		return
	}
	reason, have := reasonOf(want), tracing.Reason(got.Reason)
	if want.Reason == policy.ByFragment && want.Action == fabric.Deny && have == tracing.ReasonCtNoFlow {
		have = reason
	}
	rule, meter := d.decider(direction, want), d.idOf(want.Meter)
	if have != reason || policy.RuleID(got.Rule) != rule || policy.RuleID(got.Meter) != meter || (got.Inward == 1) != (direction == fabric.In) {
		d.fail(w, "at %s %s the core: verdict %d, %v, rule %s, meter %s; want %v, rule %s, meter %s\nkind %d, classes %v, flow key %+v",
			by.id, direction, w.ran, have, d.nameOf(got.Rule), d.nameOf(got.Meter), reason, d.nameOf(uint64(rule)), d.nameOf(uint64(meter)),
			got.Kind, got.Combo.Class, got.Key)
	}
}

// compareFate fails unless a packet went on as it was, or was dropped.
func (d *differ) compareFate(w *trip, want policy.Verdict) {
	switch {
	case want.Action == fabric.Allow && w.ran != tcxRedirect:
		d.fail(w, "verdict %d for a packet that passes", w.ran)
	case want.Action == fabric.Deny && w.ran != tcxDrop:
		d.fail(w, "verdict %d for a packet that is denied", w.ran)
	case want.Action == fabric.Allow && !d.u.damaged && !bytes.HasSuffix(w.left, w.frame):
		d.fail(w, "a packet that passes was changed to\n%x", w.left)
	}
}

// count notes what a verdict counts.
func (d *differ) count(g *guarded, direction fabric.Direction, v policy.Verdict, w *trip) {
	for _, id := range [2]policy.RuleID{d.decider(direction, v), d.idOf(v.Meter)} {
		if id != 0 {
			h := g.hits[id]
			g.hits[id] = datapath.Hits{Packets: h.Packets + uint64(w.packets), Bytes: h.Bytes + uint64(w.wire)}
		}
	}
}

// settleFragment has the core remember a first fragment from when the model does: it takes the time of it anew, and another clock.
func (d *differ) settleFragment(w *trip, g *guarded, in bool, p policy.Packet) {
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
	all, err := d.h.RuleHits(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	for _, g := range d.ports {
		if g == nil {
			continue
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
