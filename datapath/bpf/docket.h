/* What is known of the packet that is judged on this CPU. */
#ifndef WEFT_DOCKET_H
#define WEFT_DOCKET_H

#include "parse.h"
#include "tables.h"

enum { PROTO_SCTP = 132 };

/* What an ICMP error quotes: the ends of another packet. */
struct quote {
	struct address src, dst;
	__u16 sport, dport;
	__u8 proto;
	__u8 zero[3];
};

enum {
	PACKET = 0,	/* the packet under judgement, */
	FIRST = 1,	/* and the first one of its connection, as it would come now */
};

/* A table's parts, as far as one direction asks for them. */
struct known {
	__u32 table;		/* 0: none is known */
	__u32 shape, places;
	struct side side;
};

/* A packet that is judged on this CPU, and what was found so far. */
struct judgement {
	__u32 payload;		/* of TCP, in bytes */
	__u16 sport, dport;	/* of protocols that have them; twice the id of an ICMP echo */
	__u8 kind, ip, proto;
	__u8 flags;		/* of TCP, the lower six */
	__u8 icmp_type, icmp_code;
	__u8 has_ports, has_icmp, echo;
	__u8 fragment, later;	/* a fragment; not the first one */
	__u8 group;		/* for several stations */
	__u8 inward;		/* towards the guest: its end is the destination */
	__u8 stateful;		/* the rule opens flows */
	__u8 quotes;		/* an ICMP error that quotes quote */
	__u8 opener;		/* of the flow that was found */

	/* From here on nothing is cleared: it is written before it is read. */
	__u64 rule, meter;	/* that decided, and that counts it: their names' numbers, 0 for none */
	__u32 reason;		/* of its drop; 0: it passes. Read by the test that compares with policy.Model */
	__u32 wire;		/* bytes on a wire: the headers of every packet of an aggregate */
	__u32 packets;
	__u32 seq, ack;		/* of TCP */
	__u32 end;		/* of the packet, as its IP header claims */
	__u32 id;		/* of the packet that fragments are of */
	__u32 table, shape, places;
	__u32 idle, sample;	/* of the rule */
	__u32 asked;		/* the direction whose rules are asked: 1 in, 0 out */
	struct side side;	/* what the table says about it */
	__u16 ethertype;
	__u64 src_mac, dst_mac;	/* as numbers, the first byte highest */
	__u64 tick;		/* of the kernel's, in which now was read */
	__u64 now;		/* CLOCK_MONOTONIC_COARSE when its judgement began, in ns; every use is in seconds */
	__u64 turn;		/* judgements on this CPU so far; read by the test */
	__u32 segment;		/* VNI of the VLAN that a trunk's guest has tagged it with, or receives it tagged with; else 0 */
	__u32 zero;
	struct address src __attribute__((aligned(8))), dst; /* as two words each */
	struct flow_key key __attribute__((aligned(8)));	/* the ends, of the packet as of its connection */
	struct quote quote;
	struct flow flow;	/* that it opens */
	struct logged event;	/* that tells of it */
	struct fragment_key fragment_of;
	struct fragment first;	/* what is remembered of it for later fragments */
	struct place_key place;	/* keys of what is looked up, which the stack has no room for */
	struct service_key service;
	struct exact_key exact;
	struct combo_key combo;
	struct hit_key hit;
	struct vector_key vector;
	struct rule_key rule_key;
	struct combo combined;
	struct known known[2];	/* the tables asked last on this CPU, out and in; kept from one packet to the next */
};

/* Key: PACKET or FIRST. Value: that packet. Not pinned: its content does not outlive a frame.
 * Written and read by the program that runs on this CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 2);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct judgement);
} docket SEC(".maps");

INLINE struct judgement *judgement(__u32 which)
{
	return bpf_map_lookup_elem(&docket, &which);
}

INLINE int is_echo(const struct judgement *j)
{
	if (j->ip == 4)
		return j->icmp_type == ICMP_ECHO_REQUEST || j->icmp_type == ICMP_ECHO_REPLY;
	return j->icmp_type == ICMPV6_ECHO_REQUEST || j->icmp_type == ICMPV6_ECHO_REPLY;
}

/* Whether it is an error about another packet (RFC 792, RFC 4443 2.1). */
INLINE int is_icmp_error(const struct judgement *j)
{
	__u8 t = j->icmp_type;

	if (!j->has_icmp)
		return 0;
	return j->ip == 6 ? t >= 1 && t <= 4 : t == 3 || t == 4 || t == 11 || t == 12;
}

#endif
