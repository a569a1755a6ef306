package datapath_test

import (
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// groups are addresses of several stations: of all, and of members of groups in IPv4 and IPv6.
var groups = []fabric.MAC{broadcast, {1, 0, 0x5e, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 1}}

// judgeGroup compares what the core did with a frame for several stations with what the model says of its sender's port and of
// each port that is to get a copy. The frame itself ends where it is copied.
func (d *differ) judgeGroup(w *trip, p policy.Packet) {
	if w.ran != tcxDrop {
		d.fail(w, "verdict %d for a group frame", w.ran)
		return
	}
	if w.sender != nil {
		v, judged := d.ask(w, w.sender, fabric.Out, p)
		if v.Reason == policy.ByNeighbor {
			return // the fabric answers or copies it
		}
		if judged && !v.Allowed() {
			d.compareJudgement(w, w.sender, fabric.Out, v)
			return
		}
	}
	copies := 0
	var want policy.Verdict
	var by *guarded
	for _, g := range d.ports {
		if g == nil || g == w.sender {
			continue
		}
		v, judged := d.ask(w, g, fabric.In, p)
		if v.Reason == policy.ByNeighbor {
			return
		}
		if judged {
			copies, want, by = copies+1, v, g
		}
	}
	if copies == 1 { // of more copies the docket tells of the last one alone; counters tell of all
		d.compareJudgement(w, by, fabric.In, want)
	}
}

// ask has the model judge a packet at a port, and counts what it says; false where the core does not judge it, and need not.
func (d *differ) ask(w *trip, g *guarded, at fabric.Direction, p policy.Packet) (policy.Verdict, bool) {
	v := d.model.Judge(g.id, at, p, d.clock)
	d.seen[v.Reason]++
	d.story.add(told{packet: p, port: g.id, direction: at, want: v})
	if v.Reason == policy.ByNeighbor {
		return v, false // the guards and the fabric answer or drop it
	}
	if !d.h.Judges(g.slot, at == fabric.In) {
		if v.Rule != (policy.RuleRef{}) || v.Action != fabric.Allow || v.Meter != (policy.RuleRef{}) {
			d.fail(w, "%s does not judge %s; want %+v", g.id, at, v)
		}
		return v, false
	}
	if p.Fragment && !p.Later {
		d.settleFragment(w, g, at == fabric.In, p)
	}
	d.count(g, at, v, w)
	if !v.Allowed() {
		g.drops[at]++
	}
	return v, true
}
