package datapath_test

import (
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// trip is how a packet goes: from a guest's device or out of a tunnel, past the rules of both ends.
type trip struct {
	frame    []byte     // as the sender sends it
	src, dst int        // guests
	group    bool       // it is for all guests but src
	vni      fabric.VNI // of the segment that it goes by
	ran      uint32
	left     []byte // what the program made of it
	mark     uint32
	packets  int // that the frame becomes on a wire,
	wire     int // and their bytes
}

// finding is what the model says of a packet at one port.
type finding struct {
	by        *guarded // nil: the core judges nothing there
	direction fabric.Direction
	policy.Verdict
}

// passes reports whether the packet goes on.
func (f *finding) passes() bool { return f.Reason != policy.ByUnknown && (f.by == nil || f.Allowed()) }

// groups are addresses of several stations: of all, and of members of groups in IPv4 and IPv6.
var groups = []fabric.MAC{broadcast, {1, 0, 0x5e, 0, 0, 1}, {0x33, 0x33, 0, 0, 0, 1}}

// step plays one packet.
func (d *differ) step(t *talk) {
	from := d.u.IntN(2)
	w := trip{src: t.ends[from].number, dst: t.ends[1-from].number, group: d.u.IntN(64) == 0}
	to := mac(w.dst)
	if w.group {
		to = pick(d.u, groups)
	}
	w.vni = d.wayOf(t, &w)
	frame := d.u.appendFrame(d.buffer[:tunnelHead], t, from, to, t.ends[from].mac)
	w.frame = frame[tunnelHead:]
	if d.u.IntN(80) == 0 {
		d.u.shorten(w.frame)
	}
	d.load(&w, w.src != remoteGuest && !w.group && d.u.IntN(16) == 0)
	d.send(&w, frame)
	if w.src == remoteGuest && w.ran == tcxNext {
		return // the kernel's device unpacks it
	}
	p, bad := policy.Parse(w.frame)
	switch {
	case bad != nil:
		d.expectRefused(&w, bad)
	case w.group:
		d.judgeCopies(&w, &p)
	default:
		d.judge(&w, &p)
	}
	if bad == nil && p.Quote != nil && d.packets-d.changed < soon {
		d.compareFlows() // before the next packet of the flow that is quoted hides what this one has done to it
	}
}

// soon is how many packets after a change of policy errors are likely to be the first ones about their flows.
const soon = 1000

// send runs the program that meets the frame first.
func (d *differ) send(w *trip, frame []byte) {
	d.packets++
	if d.packets%8 == 0 {
		d.witness.Poison()
	}
	d.docket.Turn = 0
	if w.src == remoteGuest {
		frame[46], frame[47], frame[48] = byte(w.vni>>16), byte(w.vni>>8), byte(w.vni)
		d.wrap(frame)
		w.ran, w.left = d.run(d.tb, d.ul, d.devices[0], frame)
	} else if tag := d.tagOf(w); tag != 0 {
		d.runner.in.Control[0] = tag
		w.ran, w.left = d.run(d.tb, d.tagging, d.devices[w.src], w.frame)
		d.runner.in.Control[0] = 0
	} else {
		w.ran, w.left = d.run(d.tb, d.in, d.devices[w.src], w.frame)
	}
	w.mark = d.out.Mark
	if d.docket.Turn != 0 {
		d.clock = time.Unix(0, int64(d.docket.Now)).Add(d.skew)
	}
}

// ask asks the model about the packet at a port, and notes what that counts.
func (d *differ) ask(w *trip, g *guarded, at fabric.Direction, p *policy.Packet) finding {
	p.Segment = d.segmentAt(g, w.vni)
	found := finding{direction: at, Verdict: d.model.Judge(g.id, at, *p, d.clock)}
	d.seen[found.Reason]++
	d.story.add(told{packet: *p, port: g.id, direction: at, want: found.Verdict})
	if found.Reason == policy.ByNeighbor || found.Reason == policy.ByUnknown {
		return found
	}
	if !g.host.Judges(g.slot, at == fabric.In) {
		if found.Rule != (policy.RuleRef{}) || found.Action != fabric.Allow || found.Meter != (policy.RuleRef{}) {
			d.fail(w, "%s does not judge %s; want %+v", g.id, at, found.Verdict)
		}
		return found
	}
	found.by = g
	d.count(&found, w)
	if !found.Allowed() {
		g.drops[at]++
	}
	if p.Fragment && !p.Later && d.frags != nil {
		d.settleFragment(w, g, at == fabric.In, p)
	}
	return found
}

// judge compares what the core did with a packet for one guest with what the model says of both ports.
func (d *differ) judge(w *trip, p *policy.Packet) {
	var last finding // of those that the core has judged
	closed := false
	for i, n := range [2]int{w.src, w.dst} {
		if d.ports[n] == nil || closed || !last.passes() {
			continue
		}
		found := d.ask(w, d.ports[n], [2]fabric.Direction{fabric.Out, fabric.In}[i], p)
		if found.Reason == policy.ByNeighbor {
			d.compareJudgement(w, &finding{})
			return // the guards and the fabric answer or drop it
		}
		closed = found.Reason == policy.ByUnknown
		if found.by != nil {
			last = found
		}
	}
	d.compareJudgement(w, &last)
	switch {
	case closed || last.by != nil && last.Action == fabric.Deny:
		if w.ran != tcxDrop {
			d.fail(w, "verdict %d for a packet that is denied", w.ran)
		}
	case last.by != nil && last.Action == fabric.Reject:
		d.compareAnswer(w, *p)
	case w.ran != tcxRedirect:
		d.fail(w, "verdict %d for a packet that passes", w.ran)
	default:
		d.compareDelivery(w, p)
	}
}

// judgeCopies compares what the core did with a group frame with what the model says of its sender's port and of each port that
// is to get a copy (ADR 10, 8). The frame itself ends where it is copied.
func (d *differ) judgeCopies(w *trip, p *policy.Packet) {
	var last finding
	if w.ran != tcxDrop && !isNeighbor(p) {
		d.fail(w, "verdict %d for a group frame", w.ran)
		return
	}
	if isNeighbor(p) {
		d.loose++ // the fabric answers or copies it
	}
	if g := d.ports[w.src]; g != nil {
		last = d.ask(w, g, fabric.Out, p)
	}
	passes := last.passes()
	for _, n := range d.members[w.vni-vni] {
		g := d.ports[n]
		if !passes || n == w.src || g == nil || isNeighbor(p) {
			continue
		}
		found := d.ask(w, g, fabric.In, p)
		if found.by != nil {
			last = found
		}
		if found.passes() {
			g.copies++
		}
	}
	if last.by == nil {
		last = finding{}
	}
	d.compareJudgement(w, &last)
}

// isNeighbor reports whether no rule judges the packet (ADR 10, 5).
func isNeighbor(p *policy.Packet) bool {
	return p.EtherType == typeARP || p.HasICMP() && p.Source.Is6() && !p.Fragment && p.ICMPType >= 133 && p.ICMPType <= 137
}

// expectRefused fails unless the core drops a frame that is no packet, before any rule is asked about it.
func (d *differ) expectRefused(w *trip, bad error) {
	if w.group {
		d.loose++
	}
	judged := false
	for i, n := range [2]int{w.src, w.dst} {
		judged = judged || d.ports[n] != nil && d.h.Judges(d.ports[n].slot, i == 1)
	}
	if !judged || w.group {
		return // some is seen by a judgement alone, such as a transport header in Ethernet's padding
	}
	if w.ran != tcxDrop || d.docket.Turn != 0 {
		d.fail(w, "a frame that is no packet (%v): verdict %d, judged %v", bad, w.ran, d.docket.Turn != 0)
	}
}
