// Package datapath loads the forwarding core into the kernel and keeps its maps as told.
package datapath

import (
	"net/netip"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// State is everything the forwarding core of one host holds, and nothing else: plan.Wanted computes it from a snapshot,
// Datapath.Read returns it from the kernel, and plan.Steps is the difference. All members are comparable values in maps,
// so that two states are compared entry by entry.
type State struct {
	// Local is this host's tunnel end point.
	Local Local
	// Peers are the other hosts' tunnel end points by address; VXLAN from anybody else is dropped.
	Peers map[netip.Addr]Peer
	// Switches are the switches in force here, by VNI.
	Switches map[fabric.VNI]Switch
	// Ports are the ports with a device here, by device name.
	Ports map[string]Port
	// Segments are those that ports are on beside their own: the VLANs of a trunk, what a port of a private VLAN receives.
	Segments map[SegmentKey]Segment
	// FDB says where each MAC of a switch is.
	FDB map[FDBKey]FDB
	// Neighbors answers ARP and ND.
	Neighbors map[NeighborKey]fabric.MAC
	// Flood says, per switch, which peers have a port on it: head-end replication for broadcast and multicast.
	// The local members are the Ports of the switch.
	Flood map[FloodKey]struct{}
	// Uplinks are the NICs of this host that external switches are on, by device name.
	Uplinks map[string]Uplink
	// Wires are the ways of segments to the wire.
	Wires map[fabric.VNI]Wire
	// Mirrors are what is copied here, by the mirrors' VNIs, Sinks where the copies of mirrors end that have their sink here.
	Mirrors map[fabric.VNI]Mirror
	Sinks   map[fabric.VNI]Sink
	// Tables are what ports are judged by, by the digest of their source. What is read from the kernel has nil sources: that a
	// table is there says that it is complete.
	Tables map[policy.Digest]*policy.Source
}

// Local is this host's tunnel end point, and how its ports share the way out.
type Local struct {
	VTEP netip.Addr
	Exit Exit
}

// Peer is another host's tunnel end point.
type Peer struct {
	// MTU is the path MTU of the underlay towards the peer, in bytes of L3 packet.
	MTU int
}

// Switch is a switch in force on this host.
type Switch struct {
	// MTU is the largest L3 packet a guest may send, in bytes, 576 to 65535.
	MTU int
	// Services is true where guests' DHCP and router solicitations go to this host's own port alone.
	Services bool
}

// Uplink is a NIC of this host that external switches are on. The host keeps its stack and its addresses there.
type Uplink struct {
	// HostAccess leaves the host's own stack on the NIC; without it, what it sends and receives there is dropped.
	HostAccess bool
	// Leader is the one of several NICs of a switch that takes the group frames for all of them, and has the segments' ways; empty: this
	// one. Share is how guests' frames are shared among them, the same at each.
	Leader string
	Share  Share
	// Down keeps guests' frames off a NIC that leads to nowhere.
	Down bool
}

// Share is how several NICs of a switch serve its guests.
type Share uint8

// Ways to share (ADR 18).
const (
	// Standby leaves all to the leader.
	Standby Share = iota
	// ByPort gives each MAC one NIC, in both directions.
	ByPort
	// ByFlow gives each flow one NIC on its way out, and takes frames from all: they are one link aggregation.
	ByFlow
)

// Wire is the way of a segment to the wire: a Device of this host, or a Carrier that has one.
type Wire struct {
	// Device is an uplink of this host; VLAN its frames' tag there, 0: untagged, 1 to 4094.
	Device string
	VLAN   uint16
	// Carries is true where this host carries for those without an uplink: group frames from the wire go on to the peers in Flood,
	// and unicast frames to stations that are Carried.
	Carries bool
	// Carrier is the tunnel end point of the host that carries for this one.
	Carrier netip.Addr
}

// PortKind says how frames are handed to the guest.
type PortKind uint8

// Device kinds of a port.
const (
	Tap  PortKind = 1 // delivered with bpf_redirect
	Veth PortKind = 2 // delivered with bpf_redirect_peer into the other namespace
	// HostEnd is a veth whose other end is the host's own device on an internal switch (ADR 14): frames for the gateway's MAC
	// (fabric.GatewayMAC) are given to it under the port's own.
	HostEnd PortKind = 3
)

// Gate is what a port lets through.
type Gate uint8

// The gates of a port; anything else is closed.
const (
	Closed Gate = 0 // nothing passes: drop reason port_disabled
	// Staged is the destination of a move: frames for the guest are queued in its device, and the guest's first frame opens
	// the port in the kernel, without the agent; Read then returns Open.
	Staged Gate = 1
	Open   Gate = 2
	// Relay is the source of a move: the guest is gone; frames from it are dropped (not_owner).
	Relay Gate = 3
)

// GuardSet is a bit set of enforced guards.
type GuardSet uint16

// The guards, see fabric.Guards.
const (
	GuardMAC GuardSet = 1 << iota
	GuardIP
	GuardARP
	GuardDHCPServer
	GuardRA
	GuardL2Control
	GuardVXLAN
)

// MaxPortAddresses is how many addresses the guard of one port holds.
const MaxPortAddresses = 8

// Port is a port with a device on this host.
type Port struct {
	Name fabric.PortID
	// VNI is the segment of what the guest sends untagged.
	VNI fabric.VNI
	// Receives is the segment whose frames the guest receives first of all; 0: VNI.
	Receives fabric.VNI
	// Trunk says that the guest tells segments apart by tags (Segment.Tag): rules, connections and fragments are of one of them.
	Trunk bool
	Kind  PortKind
	Gate  Gate
	MAC   fabric.MAC
	// Addresses the guest may use as source, the first N are valid; the rest are zero.
	Addresses [MaxPortAddresses]netip.Addr
	Guards    GuardSet
	Epoch     fabric.Epoch
	// Generation is the revision whose settings are loaded; a port with generation 0 drops everything (policy_missing).
	Generation fabric.Revision
	// Policy names the table that the port's packets are judged by; zero: there are no rules, everything passes.
	Policy policy.Digest
	// Connections is how many flows its rules remember, a multiple of 1,024; 0 is 16,384.
	Connections int
	// Handover lets the host that the port leaves judge what it receives for the one that it comes to: while it is Relay, what is sent on
	// says whether the rules here let it pass; while it is Staged or Open, what says so and comes from that host passes. It needs a Policy.
	Handover bool
	// Priority is what becomes of its packets' priority.
	Priority Priority
	// MACs are what it may use beside MAC.
	MACs MACs
	// Limits are what the guest may send and receive at most.
	Limits Limits
	// Mirrors copy what it sends and receives.
	Mirrors Mirrors
}

// FDBKey is a station of a switch.
type FDBKey struct {
	VNI fabric.VNI
	MAC fabric.MAC
}

// FDB says where a station is.
type FDB struct {
	// Device is the local port's device; empty when the station is remote.
	Device string
	// Peer is the tunnel end point of a remote station; for a local one that is moving or has just moved, the peer that may
	// relay frames to it without being the home of their source.
	Peer netip.Addr
	// Alt is a second tunnel end point from which the station may be heard while it moves; zero otherwise.
	Alt netip.Addr
	// Relay lets a frame that came out of a tunnel be sent on to Peer: set at the source of a move, for a limited time.
	Relay bool
	// Carried lets frames from the wire go on to Peer, which has no uplink of its own.
	Carried bool
	// Source says that the station is heard on the segment and receives nothing there (a private VLAN); it has no Device then.
	Source bool
	// Epoch of the location this entry was computed from; an entry is never replaced by one of an older epoch.
	Epoch fabric.Epoch
}

// NeighborKey is an address on a switch.
type NeighborKey struct {
	VNI  fabric.VNI
	Addr netip.Addr
}

// FloodKey is a peer that has a port on a switch.
type FloodKey struct {
	VNI  fabric.VNI
	Peer netip.Addr
}

// Change is the difference between two states: what to put and what to delete. Apply carries it out in the order that
// keeps every packet's way closed or complete: puts before deletes, peers, switches, tables and mirrors before ports, ports before their segments, these before FDB.
type Change struct {
	Put, Delete State
}
