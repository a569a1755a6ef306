package api

import (
	"net/netip"

	"github.com/weftnet/weft/fabric"
)

// TrialLabel marks the ports that a trial may use. Hosts plug no guest of their own into any other.
const TrialLabel = "weft/trial"

// TrialAct is what a host is to do with its guest of a trial.
type TrialAct string

// The acts.
const (
	TrialBegin TrialAct = "begin" // start a guest and plug it into the port
	TrialCheck TrialAct = "check" // see what the guest reaches
	TrialEnd   TrialAct = "end"   // take the guest away; to end what has not begun succeeds
)

// The TCP ports on which a guest of a trial listens. The trial's own policy refuses the second one.
const (
	TrialOpenPort   = 7
	TrialDeniedPort = 9
)

// TrialRequest asks a host to let a throw-away guest of its own try the network.
type TrialRequest struct {
	Host fabric.HostID `json:"host"`
	Act  TrialAct      `json:"act" enum:"begin,check,end"`
	// Port is the guest's; it carries TrialLabel.
	Port fabric.PortID `json:"port"`
	// Peer is the other guest's address; with check only.
	Peer netip.Addr `json:"peer,omitzero"`
}

// TrialCheckResult is one thing that was tried.
type TrialCheckResult struct {
	// Name is ping, full-size, tcp or deny.
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail is what was seen.
	Detail string `json:"detail"`
}
