package agent

import (
	"fmt"
	"strconv"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// decided writes down what a rule with log has decided about a packet.
func (a *Agent) decided(e datapath.Event) {
	rule := a.ruleNames()[e.Decision.Rule]
	written := a.event("policy.decided", "port/"+string(e.Port), sentence(e.Port, policy.RuleRef{Policy: rule.Policy, Rule: rule.Rule}, e.Decision))
	written.Time = e.Time
	a.emit(written)
}

// sentence tells of a decision.
func sentence(port fabric.PortID, rule policy.RuleRef, d datapath.Decision) string {
	did, way := "allowed", "to"
	switch d.Reason {
	case 0:
	case tracing.ReasonPolicyDenied:
		did = "denied"
	case tracing.ReasonPolicyRejected:
		did = "rejected"
	default:
		did = "dropped as " + d.Reason.String()
	}
	if d.Direction == fabric.Out {
		way = "from"
	}
	by := "A rule that is no longer known"
	if rule.Rule != "" {
		by = "Rule " + rule.String()
	}
	return fmt.Sprintf("%s %s %s %s port %s (%d bytes).", by, did, flowText(d), way, port, d.Length)
}

// flowText tells what a packet was.
func flowText(d datapath.Decision) string {
	if !d.Source.Addr().IsValid() {
		return "a frame of EtherType " + d.EtherType.String()
	}
	name := fabric.ProtocolName(d.Protocol)
	if name == "" {
		name = "protocol " + strconv.Itoa(int(d.Protocol))
	}
	switch name {
	case "tcp", "udp", "sctp":
		return fmt.Sprintf("%s %s > %s", name, d.Source, d.Destination)
	case "icmp", "icmpv6":
		name = fmt.Sprintf("%s type %d code %d", name, d.ICMPType, d.ICMPCode)
	}
	return fmt.Sprintf("%s %s > %s", name, d.Source.Addr(), d.Destination.Addr())
}
