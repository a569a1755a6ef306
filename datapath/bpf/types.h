/* Keys and values of the core's maps, shared with the loader by way of BTF: a change here that alters a size or a meaning
 * needs a new version in the name of the map that holds it (maps.h). */
#ifndef WEFT_TYPES_H
#define WEFT_TYPES_H

#include <linux/types.h>

enum {
	MAX_PORTS = 4096,	/* slots, of which the first FIRST_SLOT are not ports; 12 bits of the mark */
	MAX_PEERS = 4096,	/* peer 0 is none */
	MAX_SWITCHES = 4096,
	MAX_STATIONS = 262144,
	MAX_SEGMENTS = 65536,	/* of all ports beside their own */
	MAX_ADDRESSES = 8,
	MAX_MACS = 65536,	/* beside the ports' own, of all ports */
	MAX_FLOOD_PORTS = 1024,	/* ports of one switch on this host */
	MAX_FLOOD_PEERS = 512,	/* peers of one switch */
	MAX_UPLINKS = 64,	/* NICs of this host that switches are on */
	MAX_HEARD = 16384,	/* stations on the wire that are remembered */
	MAX_MIRRORS = 256,	/* sessions of mirrors on this host; 0 is none */
	PORT_MIRRORS = 8,	/* of one port, in each direction */
	MIRROR_CLAUSES = 8, ALARMS = 32,
};

/* Slots that count for no port. */
enum {
	SLOT_UNDERLAY = 0,	/* VXLAN as it comes from the underlay NIC */
	SLOT_TUNNEL = 1,	/* frames that the kernel's VXLAN device has unpacked */
	SLOT_NOWHERE = 2,	/* frames at a device without a port */
	FIRST_SLOT = 3,
};

enum {
	GATE_CLOSED = 0,
	GATE_STAGED = 1,
	GATE_OPEN = 2,
	GATE_RELAY = 3,
	GATE_MASK = 0x0f,
	GATE_READY = 0x10,	/* the port's settings are loaded: generation is not 0 */
	GATE_EPOCH_SHIFT = 8,
};

enum {
	GUARD_MAC = 1 << 0,
	GUARD_IP = 1 << 1,
	GUARD_ARP = 1 << 2,
	GUARD_DHCP_SERVER = 1 << 3,
	GUARD_RA = 1 << 4,
	GUARD_L2_CONTROL = 1 << 5,
	GUARD_VXLAN = 1 << 6,
	GUARD_MACS = 1 << 7,	/* no guard: macs_v1 says what the guest may use beside the port's own MAC, or how many others */
	GUARD_TRUSTED = 1 << 9,	/* nor this: the guest's 802.1p priority counts, */
	GUARD_DSCP = 1 << 10,	/* its packets' DSCP goes to the outer header */
	GUARD_SPECIAL = 1 << 8 | GUARD_TRUSTED | GUARD_DSCP, /* all that special does */
	GUARD_TRUNK = 1 << 15,	/* nor this: the port is a trunk, for the loader */
	GUARD_SHARED = 1 << 8,	/* neither: another port of the same VM may use a MAC of this one's, or this one another's */
	GUARD_L3 = GUARD_IP | GUARD_ARP | GUARD_DHCP_SERVER | GUARD_RA | GUARD_VXLAN, /* those that read beyond Ethernet */
};

/* How a frame is handed to a device. */
enum {
	OUT_EGRESS = 1,	/* bpf_redirect: taps, and veths whose peer is in this namespace */
	OUT_PEER = 2,	/* bpf_redirect_peer: veths whose peer is in another namespace */
	OUT_HOST = 3,	/* the same as OUT_EGRESS, and what is for the gateway is for the host's own MAC from here on (host.h) */
};

/* An address; IPv4 is ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2). */
struct address {
	__u32 w[4];
};

struct port {
	__u32 ifindex;		/* its key again, first: by it a reader sees that the kernel has given this memory to another port */
	__u32 slot;
	__u64 version;		/* of these settings; no two writings on this host have the same */
	__u64 epoch;
	__u64 generation;	/* low 32 bits travel in hop records */
	__u32 vni;		/* of what the guest sends untagged */
	__u32 guards;
	__u16 mtu;		/* the switch's: largest L3 packet, in bytes; 0: it is not in force here */
	__u8 kind;		/* 1 tap, 2 veth, 3 the host's own veth */
	__u8 addresses_count;
	__u8 mac[6];
	__u16 flows;		/* that its rules remember, in 1,024; 0: MAX_FLOWS. For the loader */
	__u32 home;		/* the VNI that it receives first: in its slot's out, too */
	struct address addresses[MAX_ADDRESSES];
	__u8 device[16];
	__u8 name[64];
};

/* Words that change on their own, each with one store, read by every frame that comes to or from the port. */
struct slot {
	__u64 gate;		/* epoch << GATE_EPOCH_SHIFT | GATE_READY | gate */
	__u64 out;		/* vni that it receives first << 40 | OUT_ << 32 | ifindex; 0: nothing is here */
	__u64 told;		/* theoretical arrival time of the next ICMP error, in ns (toobig.h), */
	__u64 storm;		/* and of the next copy of a group frame (flood.h) */
	__u64 version;		/* counts the times the port's settings are written (is_stale) */
	__u64 policy;		/* POLICY_ and LIMIT_ bits and the number of the table that judges; 0: everything passes */
	__u64 adopt;		/* until this time, in ns, TCP connections are taken on that are under way already */
	__u64 logged;		/* theoretical arrival time of the next event about a rule (judge.h) */
};

/* A limit: a bucket that empties at a rate (GCRA, ITU-T I.371). Its times are in 1/64 ns and go round, as differences do. */
struct bucket {
	__u64 rate;		/* units a second, bits or packets; 0: none is told */
	__u64 burst;		/* units at once, as told, */
	__u64 tolerance;	/* and as a time */
	__u64 at;		/* when all that has passed would have passed at the rate: what is beyond now fills the bucket */
};

enum { STORM_BROADCAST, STORM_MULTICAST, STORM_UNKNOWN, STORMS };

struct limits {
	struct bucket rate[2];			/* of what the guest sends, of what it receives: bits on a wire */
	struct bucket storm[STORMS][2];		/* of what it sends to groups and to nobody known: packets, bits */
	__u64 marked[2];			/* packets that have got ECN's CE instead of waiting: sent, received */
	__u64 macs, learned;			/* how many MACs beside its own it may use that nobody has listed, and how many it has */
	__u64 quiet[ALARMS];			/* until when, in ns, a port's drops for a reason are not told of again (alarm) */
	__u64 waited, resumed;			/* frames of its guest that were given to the queue of its rate, and that came out of it (pace.h) */
	__u64 least, weight;			/* bits a second, or part of what is left, that class gives it; for the loader */
	__u32 shaper, class;			/* ifindex of the device with that queue, class of what leaves the host for it; 0: none */
};

struct config {
	struct address vtep;
	__u32 ipv6;		/* the underlay is IPv6 */
	__u32 underlay;		/* ifindex of the underlay NIC */
	__u32 tunnel;		/* ifindex of the kernel's VXLAN device */
	__u32 mark;		/* secret; with a slot in the lower 12 bits the mark of frames that the core sends to a device, with
				 * SLOT_NOWHERE of probes, and the priority of VXLAN that came in by the underlay NIC */
	__u32 tracing;		/* TRACING_ bits: not 0 while anybody asks for frames */
	__u32 parts;		/* the number given to a table or a part of one last */
	__u64 decap_flags;	/* of bpf_skb_adjust_room, that this kernel has: clears tunnel state; 0 if it has none */
	__u64 label_key0;
	__u64 label_key1;
};

struct peer {
	struct address vtep;
	struct address nexthop;	/* towards vtep; the kernel's routes are asked where it is zero */
	__u32 ifindex;		/* device of nexthop */
	__u32 mtu;		/* of the path, in bytes of L3 packet; 0: no such peer */
	__u32 checksum;		/* sum of the constant 16-bit words of the outer IPv4 header */
	__u32 zero[5];
};

enum { MAC_ALLOWED = 1, MAC_SIBLING = 2, MAC_LEARNED = 3 };

struct mac_key {
	__u32 slot;
	__u8 mac[6];
	__u16 zero;
};

struct fdb_key {
	__u32 vni;
	__u8 mac[6];
	__u16 zero;
};

enum {
	FDB_LOCAL = 1 << 0,	/* slot is where the station is plugged in */
	FDB_RELAY = 1 << 1,	/* frames out of a tunnel may go on to peer */
	FDB_GATEWAY = 1 << 2,	/* the switch's gateway: every host is it for its own guests */
	FDB_CARRIED = 1 << 3,	/* peer has no uplink of its own: frames from the wire go on to it from here */
	FDB_SOURCE = 1 << 4,	/* the station is heard here, and receives nothing: a private VLAN's; never FDB_LOCAL */
};

struct fdb {
	__u64 epoch;
	__u32 slot;		/* FDB_LOCAL: the port; else 0, or the port that a relay is counted for */
	__u16 peer;		/* 0: none */
	__u16 alt;
	__u32 flags;
	__u32 zero;
};

/* A tag of a trunk's guest. */
struct trunk_key {
	__u32 slot;
	__u16 vid;		/* 1 to 4094 */
	__u16 zero;
};

struct segment_key {
	__u32 slot;
	__u32 vni;
};

enum { SEGMENT_QINQ = 1 << 0 };	/* frames whose tag is payload pass */

/* How a port is on a segment beside the one of its slot's out, or on that one where there is more to say. */
struct segment {
	__u16 tag;		/* the guest knows it by; 0: untagged */
	__u16 flags;
};

struct neighbor_key {
	__u32 vni;
	struct address address;
};

struct neighbor {
	__u8 mac[6];
	__u16 zero;
};

enum {
	NETWORK_WIRE = 1 << 0,	/* a NIC of this host is an uplink of the switch: wires_v1 names it */
};

struct network {		/* a switch, as far as it is in force here */
	__u16 mtu;
	__u16 flags;		/* NETWORK_ */
	__u16 host;		/* slot of the host's own port; 0: none */
	__u16 services;		/* calls for services are for the host's own port alone (host.h) */
	__u16 ports_count;
	__u16 peers_count;
	__u16 ports[MAX_FLOOD_PORTS];	/* slots */
	__u16 peers[MAX_FLOOD_PEERS];
};

enum {
	UPLINK_HOST = 1 << 0,		/* the host's own stack is on the switch */
	UPLINK_CARRIES = 1 << 1,	/* this host carries for those without an uplink */
	UPLINK_WAS_PROMISC = 1 << 2,	/* the NIC took every frame before it was an uplink: for the loader */
	UPLINK_SPARE = 1 << 3,		/* another NIC takes the group frames that the wire has for guests */
	UPLINK_BY_PORT = 1 << 4,	/* several NICs share the guests, by MAC */
	UPLINK_BY_FLOW = 1 << 5,	/* several NICs share the flows: they are one link to the wire */
	UPLINK_DOWN = 1 << 6,		/* no frame gets anywhere by it: for the loader */
	UPLINK_SHARED = UPLINK_BY_PORT | UPLINK_BY_FLOW,
	MAX_SHARES = 16,		/* parts that guests or flows are shared in */
};

/* A NIC of this host that a switch is on. */
struct uplink {
	__u32 ifindex;		/* its key again, as in struct port */
	__u32 slot;		/* that its frames are counted for */
	__u32 vni;		/* of the untagged wire; 0: none of ours */
	__u16 flags;		/* UPLINK_ */
	__u16 leader;		/* slot of the NIC that takes the group frames: its own, save for one of several */
	__u8 device[16];
};

/* A part of the guests or flows that several NICs share. */
struct share {
	__u32 leader;		/* slot */
	__u32 part;		/* below MAX_SHARES */
};

/* The NIC that serves it. */
struct exit {
	__u32 ifindex;
	__u32 slot;
	__u8 mac[6];
	__u16 zero;
};

/* The way of a segment to the wire: a NIC here, or the host that carries. */
struct wire {
	__u32 vni;		/* its key again */
	__u32 ifindex;		/* of the NIC; 0: peer carries */
	__u32 slot;		/* of the uplink */
	__u32 flags;		/* UPLINK_ */
	__u16 vid;		/* 0: untagged */
	__u16 mtu;		/* of the NIC, in bytes of L3 packet */
	__u16 peer;
	__u8 mac[6];		/* of the NIC */
};

/* A VLAN on the wire. */
struct tag {
	__u32 ifindex;
	__u32 vid;
};

/* A station on the wire that was heard, for showing it. */
struct heard {
	__u64 at;		/* CLOCK_MONOTONIC, in ns, to a second or so */
	__u32 ifindex;
	__u32 zero;
};

/* What a slot has seen; frames are what the kernel hands over at once, packets what they become on a wire (a GSO frame of
 * 44 segments is one frame and 44 packets), bytes are of frames. Conservation, in frames:
 * rx = local + remote + flooded + answered + passed + relayed + drops in; offered = tx + drops out. */
struct stats {
	__u64 rx_frames, rx_packets, rx_bytes;	/* from the guest, or from the underlay */
	__u64 local, remote, flooded, answered;	/* what became of them */
	__u64 passed;				/* underlay only: left to the kernel's VXLAN device */
	__u64 relayed;				/* tunnel only: sent on to the station's new host */
	__u64 offered;				/* frames for the guest, */
	__u64 tx_frames, tx_packets, tx_bytes;	/* and those given to its device, which may still lose them */
	__u64 sent_on;				/* frames for the port that were relayed; counted in the tunnel's relayed too */
	__u64 untold;				/* hop records and events that found no room, */
	__u64 unlogged;				/* and events about rules beyond the port's budget */
};

/* The sessions of mirrors that copy at a port: a byte for each, the rest is 0. */
struct mirrored {
	__u64 out;		/* of what the guest sends, */
	__u64 in;		/* of what it receives */
};

/* A part of a mirror's filter; a packet that meets one of them is asked for. */
struct clause {
	struct address local, local_mask;	/* of the guest's end; a mask of zeros: any */
	struct address remote, remote_mask;
	__u16 local_first, local_last;
	__u16 remote_first, remote_last;
	__u16 proto;		/* CLAUSE_ANY: any */
	__u8 family;		/* 4 or 6; 0: any */
	__u8 addresses;		/* 1: these are asked for, */
	__u8 ports;		/* and these */
	__u8 zero[3];
};

/* A session of a mirror: what is copied here, and where to. It is never changed once a port names it. */
struct mirror {
	__u64 until;		/* CLOCK_MONOTONIC, in ns; 0: no session */
	__u64 deadline;		/* the same as it was told, in ns since 1970, 0: none; for the loader */
	__u32 vni;		/* of the mirror */
	__u32 device;		/* ifindex of weftmir0 */
	__u32 peer;		/* the host of the sink; 0: this one */
	__u32 sample;		/* one of so many packets; 0: each */
	__u32 truncate;		/* to so many bytes; 0: not at all */
	__u32 clauses;		/* 0: all packets */
	struct clause clause[MIRROR_CLAUSES];
};

/* Where the copies of a mirror end on this host. */
struct sink {
	__u32 vni;		/* its key again */
	__u32 slot;		/* of a port; 0: a device on which somebody listens */
	__u32 ifindex;		/* of the device, the port's or that one */
	__u32 zero;
	__u8 device[16];
};

struct mirror_stats {
	__u64 seen;		/* packets on a wire that were asked for, before sampling */
	__u64 copied;		/* frames that were copied here, */
	__u64 given, given_bytes;	/* and given to the sink here, */
	__u64 lost;		/* and lost on the way */
};

enum { FROM_GUEST = 0, TO_GUEST = 1 };

struct drop_key {
	__u16 slot;
	__u16 direction;
	__u16 reason;
	__u16 zero;
};

struct probe {
	__u64 expires;		/* CLOCK_MONOTONIC, in ns */
	__u16 session;
	__u16 caught;		/* taken out before the guest */
	__u32 zero;
};

enum { EVENT_HOP = 1, EVENT_OPENED = 2, EVENT_LOGGED = 3, EVENT_ALARM = 4, EVENT_RUN = 5 };

struct hop {
	__u32 kind;		/* EVENT_ */
	__u32 ifindex;
	__u64 ts;		/* CLOCK_MONOTONIC, in ns */
	__u64 label;		/* of an alarm: the source MAC as a number, the first byte highest */
	__u64 rule;		/* that decided, by its name's number; 0: none did */
	struct address peer, source, destination;
	__u32 vni;
	__u32 generation;
	__u32 len;
	__u16 session;
	__u16 reason;
	__u16 sport, dport;
	__u8 stage;
	__u8 result;
	__u8 proto;
	__u8 family;		/* of the packet, 4 or 6; 0: it is none of IP */
};

/* A packet that a rule with `log` has decided. */
struct logged {
	__u32 kind;		/* EVENT_LOGGED */
	__u32 ifindex;		/* of the port's device */
	__u64 ts;		/* CLOCK_MONOTONIC, in ns */
	__u64 rule;
	struct address source, destination;
	__u32 len;		/* bytes on a wire */
	__u16 reason;		/* 0: it passes */
	__u16 ethertype;
	__u16 sport, dport;	/* of protocols that have them */
	__u8 proto;		/* with addresses only */
	__u8 in;		/* the guest receives it */
	__u8 icmp_type, icmp_code;
};

#endif
