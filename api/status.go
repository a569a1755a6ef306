package api

import (
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Status is the whole fabric on one page, as the answering host sees it.
type Status struct {
	// Healthy is true when there are no problems.
	Healthy bool `json:"healthy"`
	// Host is who answered.
	Host fabric.HostID `json:"host"`
	// Revision is the newest wanted state; a host whose generation is older is behind.
	Revision fabric.Revision `json:"revision"`
	Etcd     Etcd            `json:"etcd"`
	Tunnels  Tunnels         `json:"tunnels"`
	Hosts    []fabric.Host   `json:"hosts"`
	Switches []fabric.Switch `json:"switches"`
	Ports    []fabric.Port   `json:"ports"`
	Moves    []fabric.Move   `json:"moves"`
	Problems []Problem       `json:"problems"`
	// Pending is a change that the answering host will undo unless it is confirmed.
	Pending *Pending `json:"pending,omitempty"`
}

// Etcd is the state of the one authority.
type Etcd struct {
	Members []EtcdMember `json:"members"`
	// CanLose is how many further members may fail before writes stop; negative when writes have stopped already.
	CanLose int `json:"canLose"`
}

// EtcdMember is one member of the etcd cluster.
type EtcdMember struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Leader  bool   `json:"leader,omitempty"`
	// Reason says why the member is not healthy.
	Reason string `json:"reason,omitempty"`
}

// CanLose computes how many further members of n may fail while healthy ones answer: writes need a majority of n.
func CanLose(n, healthy int) int { return healthy - (n/2 + 1) }

// Tunnels counts directed tunnels between hosts: n hosts have n·(n−1).
type Tunnels struct {
	// Up are tunnels whose both ends are alive by gossip.
	Up    int `json:"up"`
	Total int `json:"total"`
}

// Problem is something that keeps the fabric from being healthy.
type Problem struct {
	// Object is what has the problem, as kind/name.
	Object string `json:"object"`
	// Message is a sentence for people.
	Message string `json:"message"`
	// Next is what to do or run now.
	Next string `json:"next"`
}

// Severity ranks a finding.
type Severity string

// The severities of a finding.
const (
	OK      Severity = "ok"
	Warning Severity = "warning"
	Failed  Severity = "failed"
)

// Finding is one answer of the doctor about a host.
type Finding struct {
	// Check is a dotted name: kernel.version, bpf.tcx, underlay.mtu, clock, manager.networkd.
	Check    string   `json:"check"`
	Severity Severity `json:"severity" enum:"ok,warning,failed"`
	// Message is what was found, a sentence.
	Message string `json:"message"`
	// Remedy is what to do about it; empty when the severity is ok.
	Remedy string `json:"remedy,omitempty"`
}

// Version is what the answering agent runs.
type Version struct {
	Version string        `json:"version"`
	Host    fabric.HostID `json:"host"`
	API     string        `json:"api"`
}

// InForce says how far each live host is with a revision.
type InForce struct {
	Revision fabric.Revision `json:"revision"`
	// Done is true when every live host has the revision in force.
	Done  bool        `json:"done"`
	Hosts []HostReach `json:"hosts"`
}

// HostReach is how far one host is.
type HostReach struct {
	Host       fabric.HostID   `json:"host"`
	Generation fabric.Revision `json:"generation"`
	// InForce is true when the generation is at least the revision that was asked for.
	InForce bool `json:"inForce"`
	// Alive is false for a host that reports nothing; it is not waited for.
	Alive    bool     `json:"alive"`
	Problems []string `json:"problems,omitempty"`
}

// Drops are what the hosts have dropped.
type Drops struct {
	// Items are in the order of hosts, ports and reasons.
	Items []tracing.Drop `json:"items"`
	// Silent are the hosts that did not answer: what they have dropped is missing.
	Silent []SilentHost `json:"silent,omitempty"`
}

// Remembered is how many connections the rules of a port remember.
type Remembered struct {
	Port fabric.PortID `json:"port"`
	// Connections are those of now, also such as have been idle for too long; the oldest give way where there is Room for no more.
	Connections int `json:"connections"`
	Room        int `json:"room"`
	// Full is true where the kernel has begun to forget connections that could go on, because it needs their room.
	Full bool `json:"full"`
	// StraysOut and StraysIn are the packets from and for the guest that were dropped because they belong to no connection.
	StraysOut uint64 `json:"straysOut,omitempty"`
	StraysIn  uint64 `json:"straysIn,omitempty"`
}

// Station is a MAC address of a switch: a port's, or one that a host has heard on the wire of an external switch.
type Station struct {
	Switch fabric.SwitchID `json:"switch"`
	VNI    fabric.VNI      `json:"vni"`
	MAC    fabric.MAC      `json:"mac"`
	Host   fabric.HostID   `json:"host,omitempty"`
	// Port is whose MAC it is; empty of stations on the wire, whose NIC is where Host has heard them.
	Port fabric.PortID `json:"port,omitempty"`
	NIC  string        `json:"nic,omitempty"`
	// AgoSeconds is how long ago a station on the wire was heard last, to a second or so; at most 300.
	AgoSeconds float64 `json:"agoSeconds,omitempty"`
}

// Stations are the MACs that the fabric knows.
type Stations struct {
	// Items are in the order of switches, MACs and hosts.
	Items []Station `json:"items"`
	// Silent are the hosts that did not answer: what they have heard is missing.
	Silent []SilentHost `json:"silent,omitempty"`
}

// SilentHost is a host that did not answer, and why.
type SilentHost struct {
	Host  fabric.HostID `json:"host"`
	Error string        `json:"error"`
}
