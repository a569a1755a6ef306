package tracing

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// The two ways.
const (
	There = "there"
	Back  = "back"
)

// Diagnose makes causes of what was found, the most telling first: what ended a probe, what kept it from being sent, what is
// lost between the hosts, and then what the ports have dropped of the guests' own packets meanwhile. Change finds the operation that
// wrote a record (kind/name); nil where none is known.
func (x *Examination) Diagnose(change func(object string) *Change) {
	d := diagnosis{x: x, change: change}
	d.unsent()
	d.skew()
	d.path(x.Probe, There)
	d.path(x.Reply, Back)
	d.long()
	d.losses()
	d.dropping()
	d.causes = append(d.causes, x.Notes...)
	d.disagreement()
	x.Causes = once(d.causes)
}

// diagnosis is one run of Diagnose.
type diagnosis struct {
	x      *Examination
	change func(string) *Change
	causes []Cause
}

func (d *diagnosis) add(c Cause) { d.causes = append(d.causes, c) }

// unsent: a host that an end is on could not be armed.
func (d *diagnosis) unsent() {
	if d.x.Unsent == "" {
		return
	}
	c := Cause{Fault: FaultSilent, Host: d.x.Silent, Message: "No probe was sent: " + d.x.Unsent, Next: "weft status"}
	if d.x.Silent != "" {
		c.Message = fmt.Sprintf("Host %s does not answer, so no probe was sent. What is in force there goes on.", d.x.Silent)
		c.Next = fmt.Sprintf("on %s run: systemctl status weft; then see whether the underlay reaches it", d.x.Silent)
	}
	d.add(c)
}

// skew: a host of the two ends judges by older records.
func (d *diagnosis) skew() {
	for _, r := range d.x.Reach {
		if !r.Behind() || !r.Reports && d.x.Silent != r.Host {
			continue
		}
		c := Cause{Fault: FaultBehind, Host: r.Host, Change: r.Change, Next: fmt.Sprintf("weft status; on %s run: weft doctor", r.Host)}
		c.Message = fmt.Sprintf("Host %s judges by older records: generation %d, while %d is wanted", r.Host, r.Generation, r.Wanted)
		if r.Change != nil {
			c.Message += fmt.Sprintf(" since %s was written", r.Change.Object)
		}
		c.Message += "."
		if r.Problem != "" {
			c.Message += " It says: " + r.Problem + "."
		}
		if !r.Reports {
			c.Message = fmt.Sprintf("Host %s reports no generation: it judges by the records it read last, while %d is wanted.", r.Host, r.Wanted)
		}
		d.add(c)
	}
}

// path: a probe, or the answer to it, did not arrive.
func (d *diagnosis) path(p *Path, way string) {
	if p == nil || p.Verdict == Delivered {
		return
	}
	if p.Verdict == Unknown {
		d.lost(p, way, FaultLostOnWire)
		return
	}
	end := p.end(func(h Hop) bool { return h.Ends() && h.Reason == p.Reason })
	if end == nil {
		return
	}
	c := d.dropped(end.Hop, p.Policy, p.Rule)
	c.Way = way
	d.add(c)
}

// dropped is the cause of one drop that a host has recorded.
func (d *diagnosis) dropped(h Hop, policy, rule string) Cause {
	c := Cause{Fault: Fault(h.Reason.String()), Host: h.Host, Port: h.Port, Stage: h.Stage, Reason: h.Reason, Policy: policy, Rule: rule, Next: h.Reason.Fix()}
	c.Message = fmt.Sprintf("Dropped on %s at %s", h.Host, h.Stage)
	if name := RuleName(policy, rule); name != "" {
		c.Message += " by " + name
	}
	c.Message += fmt.Sprintf(": %s.", h.Reason.Doc())
	switch {
	case policy != "":
		c.Change = d.change("policy/" + policy)
	case h.Reason == ReasonDstUnknown || h.Reason == ReasonPvlan:
		c.Change = d.change("port/" + d.x.Destination) // the sender's own port is as it was
	case c.Port != "":
		c.Change = d.change("port/" + string(c.Port))
	}
	return c
}

// lost says between which hosts, or in which, a packet was seen last.
func (d *diagnosis) lost(p *Path, way string, fault Fault) {
	c := Cause{Fault: fault, Way: way, Message: p.Sentence(), Next: "weft status"}
	if len(p.Hops) == 0 {
		c.Fault, c.Host = FaultVanished, d.x.From
		if way == Back {
			c.Host = d.x.To
		}
		d.add(c)
		return
	}
	last := p.Hops[len(p.Hops)-1]
	c.Host, c.Stage, c.Peer = last.Host, last.Stage, last.PeerHost
	if !last.Stage.leaves() {
		c.Fault = FaultVanished
		d.add(c)
		return
	}
	c.Message = fmt.Sprintf("It left %s for %s (%s) and did not come in there.", last.Host, peerName(last), last.Peer)
	for _, m := range p.Missing {
		if m.Host == last.PeerHost {
			c.Message += fmt.Sprintf(" Host %s did not say what it saw (%s).", m.Host, m.Error)
		}
	}
	c.Next = fmt.Sprintf("look at the network between the two: on %s run: ping %s; a firewall must let UDP 4789 pass", last.Host, last.Peer)
	d.add(c)
}

// long: the short probe arrives and the long one does not.
func (d *diagnosis) long() {
	p := d.x.Full
	switch {
	case p == nil || p.Verdict == Delivered:
	case p.Verdict == Dropped:
		d.path(p, There)
	default:
		before := len(d.causes)
		d.lost(p, There, FaultBlackHole)
		if c := &d.causes[before]; c.Fault == FaultBlackHole {
			c.Message = fmt.Sprintf("Short packets arrive; one as long as the switch's MTU left %s for %s and did not come in there: a NIC or a router between them takes only shorter ones.", c.Host, c.Peer)
			c.Next = "raise the MTU on the way to what the hosts' underlay NICs have, or lower the switch's: weft set switch NAME mtu=…"
		}
	}
}

// losses: of many probes some were lost.
func (d *diagnosis) losses() {
	for _, v := range d.x.Volleys {
		if v.Lost == 0 || v.Arrived == 0 {
			continue
		}
		c := Cause{Fault: FaultPartialLoss, Way: v.Way, Host: v.From, Peer: v.To, Stage: StageUnderlayOut}
		c.Message = fmt.Sprintf("Of %d probes %d were lost between %s and %s.", v.Sent, v.Lost, v.From, v.To)
		c.Next = "look at the network between the two: errors and drops of the NICs (ip -s link), of switches and of cables"
		d.add(c)
	}
}

// dropping: the ports drop packets of their guests while one looks.
func (d *diagnosis) dropping() {
	drops := slices.Clone(d.x.Drops)
	slices.SortStableFunc(drops, func(a, b Drop) int { return cmp.Compare(b.Now, a.Now) })
	for _, drop := range drops {
		if drop.Kernel == kernelFullRing && d.said(FaultQueueFull, drop.Port) || drop.Reason == ReasonCtNoFlow && d.said(FaultConnections, drop.Port) {
			continue
		}
		if drop.Now == 0 || drop.Reason == ReasonProbeCaught || d.elsewhere(drop.Reason) {
			continue
		}
		c := Cause{Fault: Fault(drop.Name()), Host: drop.Host, Port: drop.Port, Stage: drop.stage(), Reason: drop.Reason, Kernel: drop.Kernel, Next: drop.Fix()}
		c.Message = fmt.Sprintf("Host %s drops packets now%s: %s (%d while this was asked, %d in all).", drop.Host, atPort(drop.Port), drop.Doc(), drop.Now, drop.Packets)
		if drop.Port != "" {
			c.Change = d.change("port/" + string(drop.Port))
		}
		d.add(c)
	}
}

// kernelFullRing is what the kernel calls a tap whose guest takes nothing.
const kernelFullRing KernelReason = "FULL_RING"

// said reports whether the fault at the port is among the causes or the notes.
func (d *diagnosis) said(f Fault, port fabric.PortID) bool {
	same := func(c Cause) bool { return c.Fault == f && c.Port == port }
	return slices.ContainsFunc(d.causes, same) || slices.ContainsFunc(d.x.Notes, same)
}

// elsewhere reports whether a drop is of other packets than those that are asked about: what a rule denies, it would have denied the
// probe.
func (d *diagnosis) elsewhere(r Reason) bool {
	return d.x.Probe != nil && d.x.Probe.Verdict == Delivered && (r == ReasonPolicyDenied || r == ReasonPolicyRejected || r == ReasonPvlan)
}

func atPort(p fabric.PortID) string {
	if p == "" {
		return ""
	}
	return " at port " + string(p)
}

// disagreement: the model says otherwise than the datapath did, and no host is behind.
func (d *diagnosis) disagreement() {
	x := d.x
	if x.Explain == nil || x.Probe == nil || x.Probe.Verdict == Unknown || x.Explain.Verdict == x.Probe.Verdict {
		return
	}
	d.add(Cause{
		Fault: FaultDiverges, Host: x.From, Peer: x.To, Next: "if no host is behind and no port is moving, this is a defect: report it with weft why -o json",
		Message: fmt.Sprintf("By the records it is %s, the datapath says %s: the hosts do not do what the records say.", x.Explain.Verdict, x.Probe.Verdict),
	})
}

// stage is where it was dropped, where there is only one such stage; 0 otherwise. The kernel drops once the datapath is done.
func (d Drop) stage() Stage {
	if d.Kernel != "" {
		return StagePortOut
	}
	return d.Reason.stage()
}

// stage is where the datapath drops for a reason, where there is only one such stage; 0 otherwise.
func (r Reason) stage() Stage {
	switch {
	case r >= ReasonGuardSrcMAC && r <= ReasonGuardDHCPServer, r == ReasonGuardL2Control, r == ReasonGuardVXLAN, r == ReasonGuardEvasion, r == ReasonMACLimit:
		return StageGuard
	case r == ReasonPortDisabled, r == ReasonPortUnknown, r == ReasonPortStaged, r == ReasonL2Short:
		return StagePortIn
	case r == ReasonVNIUnknown, r == ReasonVTEPUnknown, r == ReasonVTEPNotAllowed, r == ReasonVXLANBad:
		return StageDecap
	}
	return 0
}

// once leaves out what is said already: the same fault at the same place.
func once(causes []Cause) []Cause {
	out := []Cause{}
	for _, c := range causes {
		if !slices.ContainsFunc(out, func(o Cause) bool {
			return o.Fault == c.Fault && o.Host == c.Host && o.Way == c.Way || o.Fault == c.Fault && o.Host == c.Host && c.Way == ""
		}) {
			out = append(out, c)
		}
	}
	return out
}
