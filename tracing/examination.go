package tracing

import (
	"github.com/weftnet/weft/fabric"
)

// Examination is what was found out about the way of one kind of packet from a port: by the records and the model, by probes
// through the real datapath, by what the ports have dropped and by how far the hosts are with the settings. Diagnose makes causes
// of it.
type Examination struct {
	Source      fabric.PortID `json:"source"`
	Destination string        `json:"destination"`
	// From and To are the hosts of the two ends; To is empty where the destination is no port's.
	From fabric.HostID `json:"from"`
	To   fabric.HostID `json:"to,omitempty"`

	// Explain is the way by the records and the model; nil where they have no say, as of ARP.
	Explain *Path `json:"explain,omitempty"`
	// Probe is the way of one probe, Reply that of the answer to it, Full that of one as long as the switch's MTU lets pass.
	// Reply and Full are nil unless the probe was delivered.
	Probe *Path `json:"probe,omitempty"`
	Reply *Path `json:"reply,omitempty"`
	Full  *Path `json:"full,omitempty"`
	// Unsent says why no probe was sent; Silent is the host that did not let it.
	Unsent string        `json:"unsent,omitempty"`
	Silent fabric.HostID `json:"silent,omitempty"`
	// Volleys are many probes at once, one volley a way: how many of them arrived.
	Volleys []Volley `json:"volleys,omitempty"`

	// Drops are those of the two ports and their hosts, the most recent first.
	Drops []Drop `json:"drops,omitempty"`
	// Reach is how far the hosts of the two ends are with what the records say of them.
	Reach []Reach `json:"reach,omitempty"`
	// Notes are other facts about the two ends that keep packets away: states of ports, problems of hosts.
	Notes []Cause `json:"notes,omitempty"`

	// Causes are the answer, the most telling first; empty when nothing is wrong between the two.
	Causes []Cause `json:"causes"`
}

// Flip is a change that turns the model's verdict over.
type Flip struct {
	// Object is what to change, as kind/name; Change says how, in words.
	Object string `json:"object"`
	Change string `json:"change"`
	// Verdict is what the model says after it.
	Verdict Verdict `json:"verdict"`
}

// Reach is how far one host is.
type Reach struct {
	Host       fabric.HostID   `json:"host"`
	Generation fabric.Revision `json:"generation"`
	// Wanted is the revision of the newest record that says something of the two ports.
	Wanted fabric.Revision `json:"wanted"`
	// Change wrote that record.
	Change *Change `json:"change,omitempty"`
	// Reports is false for a host that says nothing of itself any more.
	Reports bool `json:"reports"`
	// Problem is why the newest generation is not in force there, by the host's own word; empty where it says nothing of it.
	Problem string `json:"problem,omitempty"`
}

// Behind reports whether the host judges by older records.
func (r Reach) Behind() bool { return r.Generation < r.Wanted }

// Change is the operation that wrote a record.
type Change struct {
	// Object is the record, as kind/name.
	Object   string          `json:"object"`
	Revision fabric.Revision `json:"revision"`
	// Trace is the traceparent of the operation; empty where it had none.
	Trace string `json:"trace,omitempty"`
}

// Fault names what is wrong. A fault that the datapath has a reason for has that reason's name; the others are here.
type Fault string

// The faults that no single drop shows.
const (
	FaultLostOnWire  Fault = "lost_on_wire"    // left one host and did not come in at the other
	FaultBlackHole   Fault = "pmtu_blackhole"  // short packets arrive, long ones are lost between the hosts
	FaultPartialLoss Fault = "underlay_loss"   // some packets are lost between the hosts
	FaultSilent      Fault = "host_silent"     // the agent of a host does not answer
	FaultBehind      Fault = "generation_skew" // a host judges by older records
	FaultDiverges    Fault = "diverges"        // the model and the datapath disagree
	FaultQueueFull   Fault = "guest_queue_full"
	FaultPort        Fault = "port_not_active"
	FaultOwners      Fault = "duplicate_owner"  // two hosts have one port open
	FaultConnections Fault = "connections_full" // a port's rules forget connections that go on
	FaultVanished    Fault = "vanished"         // gone inside a host, without a drop
)

// Cause is one thing that is wrong, with all that is known about it.
type Cause struct {
	Fault Fault `json:"fault"`
	// Host and Stage are where packets end, Peer the other host where it is between two.
	Host  fabric.HostID `json:"host,omitempty"`
	Peer  fabric.HostID `json:"peer,omitempty"`
	Port  fabric.PortID `json:"port,omitempty"`
	Stage Stage         `json:"stage,omitempty"`
	// Way is "there", "back" or empty where it is none of the two.
	Way    string `json:"way,omitempty"`
	Reason Reason `json:"reason,omitempty"`
	// Kernel is the kernel's own reason, where the kernel dropped.
	Kernel KernelReason `json:"kernel,omitempty"`
	Policy string       `json:"policy,omitempty"`
	Rule   string       `json:"rule,omitempty"`
	// Change is what made it so, where a record did.
	Change *Change `json:"change,omitempty"`
	// Message is a sentence, Next what to do.
	Message string `json:"message"`
	Next    string `json:"next,omitempty"`
}
