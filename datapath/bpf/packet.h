/* A packet as rules and flows see it. */
#ifndef WEFT_PACKET_H
#define WEFT_PACKET_H

#include "parse.h"
#include "tables.h"

enum {
	PROTO_SCTP = 132,
	SCTP_HEADER = 12,
	TCP_FLAGS = 0x3f,
};

/* The packet that is judged on this CPU, and what was found so far. */
struct judgement {
	struct address src, dst;
	__u64 src_mac, dst_mac;	/* as numbers, the first byte highest */
	__u64 rule, meter;	/* that decided, and that counts it: their names' numbers, 0 for none */
	__u32 wire;		/* bytes on a wire: the headers of every packet of an aggregate */
	__u32 packets;
	__u32 seq, ack, payload;	/* of TCP */
	__u32 id;		/* of the packet that fragments are of */
	__u32 table, shape, places;
	__u32 idle;
	__u32 quote;		/* offset of what an ICMP error quotes; 0: it is none */
	__u16 class[DIMS];
	__u16 ethertype;
	__u16 sport, dport;	/* of protocols that have them; twice the id of an ICMP echo */
	__u8 kind, ip, proto;
	__u8 flags;		/* of TCP, the lower six */
	__u8 icmp_type, icmp_code;
	__u8 has_ports, has_icmp, echo;
	__u8 fragment, later;	/* a fragment; not the first one */
	__u8 group;		/* for several stations */
	__u8 act, stateful;
};

/* Key: 0. Value: the packet under judgement. Not pinned: its content does not outlive a frame.
 * Written and read by the program that runs on this CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct judgement);
} docket SEC(".maps");

/* Key: 0. Value: a frame taken apart for its judgement, too large for the stack there. Not pinned either.
 * Written and read by the program that runs on this CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct frame);
} exhibit SEC(".maps");

INLINE struct judgement *judgement(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&docket, &zero);
}

INLINE __u64 mac_number(const __u8 *m)
{
	return (__u64)m[0] << 40 | (__u64)m[1] << 32 | (__u64)m[2] << 24 | (__u64)m[3] << 16 | (__u64)m[4] << 8 | m[5];
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

/* The id of a fragment's packet: the first fragment header's in IPv6, which parse has walked over. */
INLINE void describe_fragment(struct __sk_buff *skb, struct judgement *j)
{
	__u32 at = ETH + sizeof(struct ipv6);
	__u8 head[8], next;
	__be16 id;

	j->fragment = 1;
	if (j->ip == 4) {
		if (load(skb, ETH + 4, &id, 2) == 0)
			j->id = bswap16(id);
		return;
	}
	if (load(skb, ETH + 6, &next, 1))
		return;
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		if (load(skb, at, head, 8))
			return;
		if (next == PROTO_FRAGMENT) {
			j->id = bswap32(*(__be32 *)(head + 4));
			return;
		}
		at += next == PROTO_AH ? (head[1] + 2) * 4 : (head[1] + 1) * 8;
		next = head[0];
	}
}

/* The transport header: ports, the fields of TCP that a flow follows, ICMP's type and code. */
INLINE int describe_transport(struct __sk_buff *skb, struct judgement *j, const struct frame *f)
{
	__be32 head[4];
	__be16 ports[2];

	j->kind = KIND_TRANSPORT;
	switch (f->proto) {
	case PROTO_TCP:
		if (load(skb, f->l4, head, 12))
			return DROP_L4_BAD;
		j->has_ports = 1;
		j->sport = bswap32(head[0]) >> 16;
		j->dport = bswap32(head[0]);
		j->seq = bswap32(head[1]);
		j->ack = bswap32(head[2]);
		j->flags = f->tcp_flags & TCP_FLAGS;
		break;
	case PROTO_UDP:
		j->has_ports = 1;
		j->sport = f->sport;
		j->dport = f->dport;
		break;
	case PROTO_SCTP:
		if (f->l4 + SCTP_HEADER > skb->len || load(skb, f->l4, ports, sizeof(ports)))
			return DROP_L4_BAD;
		j->has_ports = 1;
		j->sport = bswap16(ports[0]);
		j->dport = bswap16(ports[1]);
		break;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		if ((f->proto == PROTO_ICMP) != (f->ip == 4))
			break; /* the other family's: a number without a message */
		if (load(skb, f->l4, head, 8))
			return DROP_L4_BAD;
		j->has_icmp = 1;
		j->icmp_type = bswap32(head[0]) >> 24;
		j->icmp_code = bswap32(head[0]) >> 16;
		j->echo = is_echo(j);
		if (j->echo)
			j->sport = j->dport = bswap32(head[1]) >> 16;
		j->quote = is_icmp_error(j) ? f->l4 + 8 : 0;
		break;
	}
	return 0;
}

/* The length of TCP's data: up to the end that the IP header claims, or of the aggregate. */
INLINE __u32 payload(struct __sk_buff *skb, const struct frame *f)
{
	__u32 end = skb->len, at = f->l4 + f->tcp_header;
	__be16 length;

	if (!skb->gso_size && load(skb, f->ip == 4 ? ETH + 2 : ETH + 4, &length, 2) == 0)
		end = ETH + bswap16(length) + (f->ip == 4 ? 0 : sizeof(struct ipv6));
	return end > at ? end - at : 0;
}

/* Fills this CPU's docket with the packet. */
__attribute__((noinline)) int describe(struct __sk_buff *skb, struct way *w, struct frame *f)
{
	struct judgement *j = judgement();
	__u32 headers;

	if (!w || !f || !j)
		return 0;
	__builtin_memset(j, 0, sizeof(*j));
	j->src_mac = mac_number(f->eth.src);
	j->dst_mac = mac_number(f->eth.dst);
	j->group = f->eth.dst[0] & 1;
	j->ethertype = f->ethertype;
	j->packets = w->packets;
	j->wire = skb->len;
	w->described = 1;
	if (!f->ip)
		return 0;
	j->ip = f->ip;
	j->src = f->src;
	j->dst = f->dst;
	j->proto = f->proto;
	j->kind = KIND_PACKET;
	if (f->fragment)
		describe_fragment(skb, j);
	j->later = f->fragment && !f->l4;
	if (!f->l4)
		return 0;
	headers = f->l4 + (f->proto == PROTO_TCP ? f->tcp_header : 8);
	if (w->packets > 1)
		j->wire += (w->packets - 1) * headers;
	if (f->proto == PROTO_TCP)
		j->payload = payload(skb, f);
	w->unfit = describe_transport(skb, j, f);
	return 0;
}

/* The same for a frame that was not taken apart yet. */
__attribute__((noinline)) int describe_frame(struct __sk_buff *skb, struct way *w)
{
	__u32 zero = 0;
	struct frame *f = bpf_map_lookup_elem(&exhibit, &zero);

	if (!w || !f)
		return 0;
	__builtin_memset(f, 0, sizeof(*f));
	w->unfit = parse(skb, f);
	if (w->unfit)
		w->described = 1;
	else
		describe(skb, w, f);
	return 0;
}

#endif
