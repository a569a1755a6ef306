package agent

import (
	"fmt"
	"slices"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/packet"
)

// Explain says by the records of a snapshot and the reference model what would become of the first packet of such a connection, and which
// single change would turn that over.
func (p *prober) Explain(snap *fabric.Snapshot, r api.TraceRequest) (*tracing.Path, error) {
	o, err := p.plan(snap, r, packet.Probe{Nonce: packet.NewNonce()})
	if err != nil {
		return nil, fmt.Errorf("explain the way from port %s to %s: %w", r.Source, r.Destination, err)
	}
	path, err := explain(snap, r, o.Frame)
	if err != nil {
		return nil, err
	}
	path.Flips = flips(snap, r, o.Frame)
	return path, nil
}

// explain says by the records and the reference model alone what would become of a probe, as the first packet of its connection:
// no host is asked and nothing is sent. Guards are taken to let it pass, because a probe speaks with its port's own addresses.
func explain(snap *fabric.Snapshot, r api.TraceRequest, frame []byte) (*tracing.Path, error) {
	if packet.Protocol(r.Protocol) == packet.ARP {
		return nil, fmt.Errorf("no rule judges ARP: trace it without --explain: %w", fabric.ErrInvalid)
	}
	p, err := policy.Parse(frame)
	if err != nil {
		return nil, err
	}
	e := &explanation{snap: snap, packet: p, vni: snap.Segments(snap.Ports[r.Source]).Sends, path: tracing.Path{Mode: tracing.ModeExplain, Verdict: tracing.Dropped, Generation: snap.Revision, Frame: frame}}
	source := snap.Locations[r.Source].Host
	e.hop(source, r.Source, tracing.StagePortIn, tracing.ResultPass, 0)
	e.hop(source, r.Source, tracing.StageGuard, tracing.ResultPass, 0)
	if !e.judge(source, r.Source, fabric.Out, tracing.StagePolicyOut) {
		return &e.path, nil
	}
	if e.packet.DestinationMAC == fabric.StrangerMAC() {
		return &e.path, e.wire(source, r.Source)
	}
	target, host, missed := e.station(r.Source)
	switch {
	case host == "":
		e.drop(source, r.Source, tracing.StageFDB, missed, policy.RuleRef{})
		return &e.path, nil
	case e.snap.Hosts[host] == nil || e.snap.Hosts[source] == nil:
		return nil, fmt.Errorf("host %s or %s is not registered: %w", source, host, fabric.ErrConflict)
	}
	e.hop(source, r.Source, tracing.StageFDB, tracing.ResultHit, 0)
	if host != source {
		e.tunnel(source, host)
	}
	if e.judge(host, target, fabric.In, tracing.StagePolicyIn) {
		e.hop(host, target, tracing.StagePortOut, tracing.ResultDeliver, 0)
		e.path.Verdict = tracing.Delivered
	}
	return &e.path, nil
}

// explanation is a path that is thought out.
type explanation struct {
	snap   *fabric.Snapshot
	packet policy.Packet
	vni    fabric.VNI // of the segment that it travels on: a probe has no tag
	path   tracing.Path
	depth  int
}

// hop adds a stage.
func (e *explanation) hop(host fabric.HostID, port fabric.PortID, stage tracing.Stage, result tracing.Result, reason tracing.Reason) *tracing.Step {
	p := e.packet
	s := tracing.Step{Depth: e.depth, Hop: tracing.Hop{
		Host: host, Port: port, Stage: stage, Result: result, Reason: reason, Generation: e.snap.Revision,
		Source: p.Source, SourcePort: p.SourcePort, Destination: p.Destination, DestinationPort: p.DestinationPort, Protocol: p.Protocol,
	}}
	if known := e.snap.Ports[port]; known != nil {
		s.VNI = e.snap.Segments(known).Sends
	}
	e.path.Hops = append(e.path.Hops, s)
	return &e.path.Hops[len(e.path.Hops)-1]
}

// drop ends the path.
func (e *explanation) drop(host fabric.HostID, port fabric.PortID, stage tracing.Stage, reason tracing.Reason, by policy.RuleRef) {
	h := e.hop(host, port, stage, tracing.ResultDrop, reason)
	h.Policy, h.Rule = by.Policy, by.Rule
	e.path.Reason, e.path.Policy, e.path.Rule = reason, by.Policy, by.Rule
}

// judge asks the model at a port; false when the packet ends there.
func (e *explanation) judge(host fabric.HostID, port fabric.PortID, d fabric.Direction, stage tracing.Stage) bool {
	p := e.packet
	if seg := e.snap.Segments(e.snap.Ports[port]); len(seg.Tags) > 0 && seg.Sends != e.vni {
		p.Segment = e.vni
	}
	v := policy.Decide(e.snap, port, d, p)
	by := v.Rule
	if v.Reason == policy.ByDefault {
		by.Rule = defaultName(d)
	}
	switch {
	case v.Reason == policy.ByUnknown:
		e.drop(host, port, stage, tracing.ReasonPolicyMissing, by)
	case v.Action == fabric.Reject:
		e.drop(host, port, stage, tracing.ReasonPolicyRejected, by)
	case !v.Allowed():
		e.drop(host, port, stage, tracing.ReasonPolicyDenied, by)
	default:
		h := e.hop(host, port, stage, tracing.ResultPass, 0)
		h.Policy, h.Rule = by.Policy, by.Rule
		return true
	}
	return false
}

// station is the port that the packet is for, and its host; no host, and the reason, where none of the source's switch has it, or
// the one that does receives nothing of the source's segment.
func (e *explanation) station(source fabric.PortID) (fabric.PortID, fabric.HostID, tracing.Reason) {
	from := e.snap.Ports[source]
	if gateway, host := e.gateway(source); gateway != "" {
		return gateway, host, 0
	}
	for name, port := range e.snap.Ports {
		if port.Spec.Switch != from.Spec.Switch || port.Spec.MAC != e.packet.DestinationMAC {
			continue
		}
		seg, mine, its := e.snap.Segments(port), e.snap.VLAN(from), e.snap.VLAN(port)
		if slices.Contains(seg.Heard(), e.snap.Segments(from).Sends) {
			return name, e.snap.Locations[name].Host, tracing.ReasonDstUnknown
		}
		if mine != nil && its != nil && mine.PVLAN != nil && its.PVLAN != nil && mine.PVLAN.Primary == its.PVLAN.Primary {
			return "", "", tracing.ReasonPvlan
		}
	}
	return "", "", tracing.ReasonDstUnknown
}

// wire takes the packet out of the fabric, by the source's host or the first by name that has an uplink of the switch: hosts elect that
// one among those whose NICs have a link, which records do not say.
func (e *explanation) wire(source fabric.HostID, port fabric.PortID) error {
	hosts := e.snap.UplinkHosts(e.snap.Switches[e.snap.Ports[port].Spec.Switch])
	switch {
	case len(hosts) == 0:
		e.drop(source, port, tracing.StageFDB, tracing.ReasonDstUnknown, policy.RuleRef{})
		return nil
	case e.snap.Hosts[source] == nil:
		return fmt.Errorf("host %s is not registered: %w", source, fabric.ErrConflict)
	}
	e.hop(source, port, tracing.StageFDB, tracing.ResultMiss, 0)
	host := source
	if !slices.Contains(hosts, source) {
		host = hosts[0]
		e.tunnel(source, host)
	}
	e.hop(host, "", tracing.StageWireOut, tracing.ResultDeliver, 0)
	e.path.Verdict = tracing.Delivered
	return nil
}

// gateway is the port of the source's own host, and that host, where the packet is for the switch's gateway: every host is the gateway of
// its guests (ADR 14). Empty of other packets.
func (e *explanation) gateway(source fabric.PortID) (fabric.PortID, fabric.HostID) {
	from := e.snap.Ports[source]
	sw := e.snap.Switches[from.Spec.Switch]
	if sw == nil || len(sw.Gateways()) == 0 || e.packet.DestinationMAC != fabric.GatewayMAC(sw.Spec.VNI) || e.snap.Segments(from).Sends != sw.Spec.VNI {
		return "", ""
	}
	host := e.snap.Locations[source].Host
	port := fabric.HostPort(host, from.Spec.Switch)
	if e.snap.Ports[port] == nil {
		return "", ""
	}
	return port, host
}

// tunnel takes the packet from one host to another.
func (e *explanation) tunnel(from, to fabric.HostID) {
	for _, stage := range []tracing.Stage{tracing.StageEncap, tracing.StageUnderlayOut} {
		h := e.hop(from, "", stage, tracing.ResultPass, 0)
		h.Peer, h.PeerHost = e.snap.Hosts[to].Spec.VTEP, to
	}
	e.depth++
	for _, stage := range []tracing.Stage{tracing.StageUnderlayIn, tracing.StageDecap, tracing.StageFDBLocal} {
		h := e.hop(to, "", stage, tracing.ResultPass, 0)
		h.Peer, h.PeerHost = e.snap.Hosts[from].Spec.VTEP, from
		if stage == tracing.StageFDBLocal {
			h.Result = tracing.ResultHit
		}
	}
}
