/* The answer to a packet that a rule rejects: RST to TCP (RFC 9293 3.10.7), ICMP "administratively prohibited" to the rest
 * (RFC 1812 5.2.7.1, RFC 4443 3.1), as often as the ICMP budget of the port that rejects it allows. */
#ifndef WEFT_REJECT_H
#define WEFT_REJECT_H

#include "encap.h"

enum {
	TCP_HEADER = 20,
	ICMP_PROHIBITED = 13,	/* codes of unreachable */
	ICMPV6_PROHIBITED = 1,
	ICMPV6_UNREACHABLE = 1,	/* a type */
};

/* The pad puts the IP header on a word; the frame begins at eth. */
struct reset4 {
	__u16 pad;
	struct ethernet eth;
	struct ipv4 ip;
	struct tcp tcp;
};

struct reset6 {
	__u16 pad;
	struct ethernet eth;
	struct ipv6 ip;
	struct tcp tcp;
};

/* Whether it is an error in the widest sense, a redirect among them: none is answered by another (RFC 1122 3.2.2, RFC 4443 2.4). */
INLINE int is_icmp_complaint(const struct judgement *j)
{
	if (!j->has_icmp)
		return 0;
	return j->ip == 6 ? j->icmp_type < ICMPV6_ERRORS_END || j->icmp_type == ND_REDIRECT
			  : is_icmp_error(j) || j->icmp_type == ICMP_REDIRECT;
}

/* Group frames, later fragments, ICMP errors and RSTs are never answered (ADR 10.12). */
INLINE int may_answer(const struct judgement *j)
{
	if (!j->ip || j->group || j->later || is_icmp_complaint(j))
		return 0;
	return j->proto != PROTO_TCP || !(j->flags & TCP_RST);
}

/* What a closed port says to the segment. */
INLINE struct tcp reset_of(const struct judgement *j)
{
	struct tcp t = {.src = bswap16(j->dport), .dst = bswap16(j->sport), .offset = TCP_HEADER / 4 << 4, .flags = TCP_RST};

	if (j->flags & TCP_ACK) {
		t.seq = bswap32(j->ack);
		return t;
	}
	t.flags |= TCP_ACK;
	t.ack = bswap32(j->seq + j->payload + !!(j->flags & TCP_SYN) + (j->flags & TCP_FIN));
	return t;
}

INLINE void turn(struct ethernet *to, const struct ethernet *from)
{
	__builtin_memcpy(to->dst, from->src, 6);
	__builtin_memcpy(to->src, from->dst, 6);
	to->type = from->type;
}

__attribute__((noinline)) int make_reset4(struct __sk_buff *skb)
{
	const struct judgement *j = judgement(PACKET);
	struct reset4 *r = blank(sizeof(struct icmp6_error));
	struct ethernet eth;
	__be32 pseudo[3];

	if (!j || !r || bpf_skb_load_bytes(skb, 0, &eth, ETH) || make_room(skb, sizeof(*r) - 2))
		return -1;
	turn(&r->eth, &eth);
	r->ip = (struct ipv4){
		.version_ihl = 0x45, .length = bswap16(sizeof(r->ip) + TCP_HEADER), .fragment = bswap16(FRAGMENT_DF), .ttl = 64,
		.proto = PROTO_TCP, .src = j->dst.w[3], .dst = j->src.w[3],
	};
	r->ip.checksum = checksum_of(&r->ip, sizeof(r->ip), 0);
	r->tcp = reset_of(j);
	pseudo[0] = r->ip.src;
	pseudo[1] = r->ip.dst;
	pseudo[2] = bswap32(PROTO_TCP << 16 | TCP_HEADER);
	r->tcp.checksum = checksum_of(&r->tcp, TCP_HEADER, bpf_csum_diff(0, 0, (void *)pseudo, sizeof(pseudo), 0));
	return bpf_skb_store_bytes(skb, 0, &r->eth, sizeof(*r) - 2, 0);
}

__attribute__((noinline)) int make_reset6(struct __sk_buff *skb)
{
	const struct judgement *j = judgement(PACKET);
	__be32 pseudo[2] = {bswap32(TCP_HEADER), bswap32(PROTO_TCP)};
	struct reset6 *r = blank(sizeof(struct icmp6_error));
	struct ethernet eth;

	if (!j || !r || bpf_skb_load_bytes(skb, 0, &eth, ETH) || make_room(skb, sizeof(*r) - 2))
		return -1;
	turn(&r->eth, &eth);
	r->ip = (struct ipv6){.first = bswap32(6 << 28), .length = bswap16(TCP_HEADER), .next = PROTO_TCP, .hops = 64};
	__builtin_memcpy(r->ip.src, &j->dst, 16);
	__builtin_memcpy(r->ip.dst, &j->src, 16);
	r->tcp = reset_of(j);
	__u32 sum = bpf_csum_diff(0, 0, (void *)pseudo, sizeof(pseudo), 0);

	sum = bpf_csum_diff(0, 0, (void *)r->ip.src, 32, sum);
	r->tcp.checksum = checksum_of(&r->tcp, TCP_HEADER, sum);
	return bpf_skb_store_bytes(skb, 0, &r->eth, sizeof(*r) - 2, 0);
}

/* The VNI of what the guest in the slot sends untagged. */
INLINE __u32 sends_on(__u32 slot, __u32 otherwise)
{
	const struct slot *s = slot_of(slot);
	__u32 ifindex = s ? s->out : 0;
	const struct port *port = bpf_map_lookup_elem(&ports_v1, &ifindex);

	return port ? port->vni : otherwise;
}

/* Sends the answer to the host of the packet's source, on the segment that the port in the slot sends on: a station of a private
 * VLAN need not receive what it sends on. */
INLINE int answer_peer(struct __sk_buff *skb, struct way *w, __u32 slot)
{
	const struct config *cfg = host();
	const struct fdb *e;
	const struct peer *p;
	__u8 to[6];

	if (!cfg || bpf_skb_load_bytes(skb, 0, to, 6) || !(e = station(w->vni, to)) || !(p = peer_of(e->peer)))
		return DROP;
	if (load_tunnel_key(skb, cfg, p, e->flags & FDB_SOURCE ? sends_on(slot, w->vni) : w->vni, 0, OUTER_TTL, 0))
		return DROP;
	return bpf_redirect(cfg->tunnel, 0);
}

/* Answers the packet on the docket, which the port in the slot rejects; the packet itself is counted as dropped already. */
__attribute__((noinline)) int answer_rejected(struct __sk_buff *skb, struct way *w, __u32 slot)
{
	const struct judgement *j = judgement(PACKET);
	int failed;

	if (!w || !j || w->traced == CAUGHT || !may_answer(j) || !may_tell(slot))
		return DROP;
	if (j->proto == PROTO_TCP && j->has_ports)
		failed = j->ip == 4 ? make_reset4(skb) : make_reset6(skb);
	else if (j->ip == 4)
		failed = make_icmp4(skb, ICMP_UNREACHABLE << 24 | ICMP_PROHIBITED << 16);
	else
		failed = make_icmp6(skb, ICMPV6_UNREACHABLE << 24 | ICMPV6_PROHIBITED << 16);
	if (failed)
		return DROP;
	return w->slot >= FIRST_SLOT ? answer(skb, w, met_at(skb, w)) : answer_peer(skb, w, slot);
}

/* The port's rules keep a frame from leaving its guest. */
__attribute__((noinline)) int refuse_sent(struct __sk_buff *skb, struct way *w, __u32 reason)
{
	if (!w)
		return DROP;
	drop(skb, w, STAGE_POLICY_OUT, reason);
	return reason == DROP_POLICY_REJECTED ? answer_rejected(skb, w, w->slot) : DROP;
}

#endif
