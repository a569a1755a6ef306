/* The tables that packets are judged by (ADR 11): keys, values and maps. Tables are made by policy.Compile and never change
 * once a port names them; their numbers, and those of their parts, are given once in the life of the pins. */
#ifndef WEFT_TABLES_H
#define WEFT_TABLES_H

#include "maps.h"

/* Beside the table's number in a slot's policy word. */
#define POLICY_OUT (1ULL << 32)		/* what the guest sends is judged, */
#define POLICY_IN (1ULL << 33)		/* and what it receives; */
#define POLICY_STATEFUL (1ULL << 34)	/* rules open flows; */
#define POLICY_METERS (1ULL << 35)	/* meters count what it sends, and one bit further what it receives; */
#define POLICY_REJECTS (1ULL << 37)	/* rules reject what it receives; */
#define POLICY_HANDOVER (1ULL << 38)	/* of a port that moves: the host that it leaves judges what it sends on to the other, too (ADR 22) */
#define POLICY_TRUNK (1ULL << 39)	/* of a trunk: what is judged on one of its segments says nothing of another */
/* And what the port is limited in (limits.h). */
#define LIMIT_OUT (1ULL << 40)		/* the rate of what the guest sends, */
#define LIMIT_IN (1ULL << 41)		/* of what it receives, */
#define LIMIT_STORM (1ULL << 42)	/* what it sends to groups and to nobody known */
#define PACE_OUT (1ULL << 45)		/* what the guest sends beyond its rate waits (pace.h); */
#define CLASS_OUT (1ULL << 46)		/* what leaves the host for it has a class of its own there */
/* And what mirrors copy there (mirror.h). */
#define MIRROR_OUT (1ULL << 43)		/* of what the guest sends, */
#define MIRROR_IN (1ULL << 44)		/* of what it receives */

enum {
	MAX_TABLES = 8192,
	MAX_BLOCKS = 4,		/* vectors of deciding rules per class; the next block holds the meters */
	VECTOR_WORDS = 64,
	VECTOR_BITS = 4096,
	MAX_RULES = 524288,	/* of all tables */
	MAX_PLACES = 524288,
	MAX_SERVICES = 262144,
	MAX_VECTORS = 262144,
	MAX_HITS = 524288,	/* rules that have met a packet, of all ports */
	TALLIES_SHIFT = 12,
	TALLIES = 1 << TALLIES_SHIFT,	/* of them, those that a CPU counts in places of its own */
	NO_RULE = 0xffff,
	MAX_FLOWS = 16384,	/* of one port; the oldest give way */
	FRAGMENT_PLACES = 32,	/* first fragments that a port remembers, of each direction */
	MAX_FRAGMENTS = MAX_PORTS * 2 * FRAGMENT_PLACES,
};

/* Dimensions, as policy.Dim has them. */
enum {
	DIM_SERVICE,
	DIM_REMOTE,
	DIM_LOCAL,
	DIM_REMOTE_PORT,
	DIM_FLAGS,
	DIM_ETHER,
	DIM_REMOTE_MAC,
	DIM_LOCAL_MAC,
	DIM_SEGMENT,
	DIMS,
};

/* Kinds of packets, as policy.Kind has them. */
enum { KIND_FRAME, KIND_PACKET, KIND_TRANSPORT };

/* What a rule does, as policy.Act has it. */
enum { ACT_ALLOW = 1, ACT_DENY = 2, ACT_REJECT = 3 };

enum {
	SIDE_METERS = 1 << 0,	/* there are meters */
	SIDE_OPEN = 1 << 1,	/* it lets everything pass: for the loader */
};

struct side {
	__u16 dims;		/* a bit 1 << DIM_ for each that rules ask for */
	__u8 blocks;		/* of deciding rules */
	__u8 flags;		/* SIDE_ */
};

struct table {
	__u32 shape;		/* number of its vectors, services and exact values, */
	__u32 places;		/* and of its addresses */
	struct side sides[2];	/* out, in */
	__u32 stateful;		/* a rule opens flows */
	__u32 rejects;		/* a rule rejects what the guest receives */
	__u8 digest[16];	/* of the table's source, */
	__u8 shape_digest[16];	/* and of the parts */
	__u8 places_digest[16];
};

struct place_key {
	__u32 bits;		/* that count, of what follows */
	__u32 places;
	__u8 in, dim;
	__u8 family;		/* 4 or 6 */
	__u8 zero;
	__u32 address[4];	/* IPv4 fills the first */
};

struct service_key {
	__u32 bits;
	__u32 shape;
	__u8 in_dim;		/* direction << 4 | DIM_ */
	__u8 kind;
	__u8 proto;
	__u8 zero;
	__be16 port;
	__u16 zero2;
};

struct exact_key {
	__u32 shape;
	__u8 in, dim;
	__u16 zero;
	__u64 value;
};

struct vector_key {
	__u32 shape;
	__u16 class;
	__u8 in_dim;		/* direction << 4 | DIM_ */
	__u8 block;
};

struct vector {
	__u64 summary;
	__u64 words[VECTOR_WORDS];
};

struct rule_key {
	__u32 table;
	__u16 index;
	__u8 in;
	__u8 meter;
};

struct rule {
	__u64 id;
	__u32 idle;		/* of its flows, in s; 0: as the protocol has it */
	__u32 sample;		/* 0: is not logged */
	__u8 act;
	__u8 stateful;
	__u8 zero[6];
};

/* One packet's classes in a shape, and the rules found for them. */
struct combo_key {
	__u32 shape;
	__u32 in;
	__u16 class[DIMS];
	__u16 zero;
};

struct combo {
	__u16 rule;
	__u16 meter;
};

struct hit_key {
	__u64 rule;
	__u32 slot;
	__u32 before;		/* 1: what the port has counted on the hosts where it was before; the loader's */
};

struct hits {
	__u64 packets;		/* on a wire */
	__u64 bytes;		/* on a wire, without preamble and checksum of the frame */
	__u64 last;		/* CLOCK_MONOTONIC, in ns */
};

/* A place where one CPU counts for one rule of one port, without a look-up in a hash. */
struct tally {
	struct hits hits;	/* first: a pointer to them is one to the place, which the verifier knows to be 0 or not */
	__u64 rule;		/* 0: it is free */
	__u32 slot;
	__u32 zero;
};

/* A connection at a port: its guest's end and the other one. */
struct flow_key {
	struct address local, remote;
	__u16 lport, rport;	/* of TCP, UDP, SCTP; twice the id of ICMP echoes; else 0 */
	__u8 proto;
	__u8 segment[3];	/* a trunk's, as struct judgement has it; the highest byte first */
};

/* What one side of a TCP connection has sent. */
struct flow_side {
	__u32 end;		/* one past the highest sequence number, */
	__u32 ack;		/* and the highest one it has acknowledged */
	__u8 sent, acked, fin;	/* whether it has sent anything, an acknowledgment, a FIN that counts */
	__u8 zero;
};

enum { FLOW_OPENING = 1, FLOW_OPEN = 2, FLOW_CLOSING = 3 };

struct flow {
	__u64 seen;		/* CLOCK_MONOTONIC of its last packet, in ns */
	__u64 rule;		/* that allows it */
	__u32 table;		/* that judged it last */
	__u32 idle;		/* of the rule, in s; 0: as the protocol has it */
	__u8 state;		/* FLOW_ */
	__u8 opener;		/* direction of the opener's packets: 0 out, 1 in */
	__u8 zero[2];
	__u32 sample;		/* of the rule */
	struct flow_side sides[2];	/* the opener's, the other's */
};

/* A place for the first fragment of a packet, so that one port's leave those of others alone. */
struct fragment_key {
	__u32 slot;
	__u8 in;
	__u8 place;		/* the packet's identification modulo FRAGMENT_PLACES */
	__u16 zero;
};

/* What became of a packet's first fragment. A reader may find the memory in use for another one: written first and last,
 * read again when all else was, is when it came. */
struct fragment {
	__u64 at;		/* CLOCK_MONOTONIC, in ns */
	struct address src, dst;
	__u32 id;
	__u32 segment;		/* of a trunk */
	__u64 rule, meter;
	__u32 reason;
	__u32 sample;
	__u8 proto;		/* IPv4's */
	__u8 zero[7];
	__u64 again;		/* the same as at */
};

/* Key: number of a table. Value: what it consists of.
 * Written by the loader, last when a table is made, first when it goes. Read for each packet of a port with rules. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_TABLES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct table);
} tables_v2 SEC(".maps");

/* Key: addresses of one class. Value: the class.
 * Written by the loader. Read for packets of tables with rules about addresses. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_UINT(max_entries, MAX_PLACES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct place_key);
	MAP_TYPE(value, __u32);
} places_v1 SEC(".maps");

/* Key: kind, protocol and local port, or the remote port. Value: the class.
 * Written by the loader. Read for packets that no flow allows. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LPM_TRIE);
	MAP_UINT(max_entries, MAX_SERVICES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct service_key);
	MAP_TYPE(value, __u32);
} services_v1 SEC(".maps");

/* Key: a value that rules ask for: TCP flags, EtherType, MAC, segment. Value: the class.
 * Written by the loader. Read for packets of tables with rules about them. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_SERVICES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct exact_key);
	MAP_TYPE(value, __u32);
} exacts_v1 SEC(".maps");

/* Key: a class and a block of rules. Value: those of them that its packets may match.
 * Written by the loader. Read when a combination of classes is met first. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_VECTORS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct vector_key);
	MAP_TYPE(value, struct vector);
} vectors_v1 SEC(".maps");

/* Key: a rule's place in a table. Value: what it does.
 * Written by the loader. Read for each packet that rules decide. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_RULES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct rule_key);
	MAP_TYPE(value, struct rule);
} rules_v1 SEC(".maps");

/* Key: a combination of classes. Value: the rules found for it. The oldest give way; a shape's number never comes again.
 * Written and read by judge. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 65536);
	MAP_TYPE(key, struct combo_key);
	MAP_TYPE(value, struct combo);
} combos_v2 SEC(".maps");

/* Key: a port's slot and a rule. Value: the packets it has decided or metered there, per CPU, beside those in tallies_v1.
 * Written by judge, made at the first. Read by the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_HASH);
	MAP_UINT(max_entries, MAX_HITS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct hit_key);
	MAP_TYPE(value, struct hits);
} hits_v1 SEC(".maps");

/* Key: a CPU's number * TALLIES + a place that slot and rule give. Value: what that CPU has counted for the first of them that came
 * there; what finds its place taken is counted in hits_v1.
 * Written by judge. Read by the loader, who frees places of what counts no more. As many as the machine has CPUs: coreSpec. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, TALLIES);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct tally);
} tallies_v1 SEC(".maps");

/* The flows of one port. Key: a connection. Value: how far it is. */
struct flows {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, MAX_FLOWS);
	MAP_UINT(key_size, sizeof(struct flow_key));
	MAP_UINT(value_size, sizeof(struct flow));
};

/* Key: slot. Value: the flows of its port, so that a flood of one guest's evicts none of another's.
 * Put there by the loader before a port needs them, and left with the slot. Written and read by judge. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	MAP_UINT(max_entries, MAX_PORTS);
	MAP_UINT(key_size, 4);
	MAP_UINT(value_size, 4);
	MAP_OF(struct flows);
} flows_v2 SEC(".maps");

/* Key: a place of a port. Value: the verdict on the first fragment that came there last.
 * Written and read by judge. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_FRAGMENTS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct fragment_key);
	MAP_TYPE(value, struct fragment);
} fragments_v2 SEC(".maps");

#endif
