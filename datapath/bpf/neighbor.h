/* ARP (RFC 826) and neighbour discovery (RFC 4861), answered from what the fabric knows. */
#ifndef WEFT_NEIGHBOR_H
#define WEFT_NEIGHBOR_H

#include "deliver.h"

enum {
	ARP_REPLY = 2,
	NA_SOLICITED = 0x40,
	NA_OVERRIDE = 0x20,
	ND_HOPS = 255,		/* RFC 4861 7.1: anything less came through a router */
	UNANSWERED = 1,
	ASKED = 78,		/* bytes of a solicitation without options, */
	ADVERTISED = 86,	/* and of the advertisement with the MAC */
};

/* The pad puts the IP header on a word; a frame begins at eth. */
struct arp_frame {
	__u16 pad;
	struct ethernet eth;
	struct arp arp;
};

struct advertisement {
	__u16 pad;
	struct ethernet eth;
	struct ipv6 ip;
	__u8 type, code;
	__u16 checksum;
	__u8 flags, reserved[3];
	struct address target;
	__u8 option, option_length;
	__u8 mac[6];
};

/* The MAC of an address that is not the asker's own: what a guest asks about its own address is a claim or a probe
 * (RFC 5227, RFC 4862 5.4), which only another owner may answer. */
INLINE const struct neighbor *known(__u32 vni, const struct address *target, const struct port *port)
{
	struct neighbor_key key = {.vni = vni, .address = *target};
	const struct neighbor *n;

	if (owns(port, target))
		return 0;
	n = bpf_map_lookup_elem(&neighbors_v1, &key);
	return n && !same_mac(n->mac, port->mac) ? n : 0;
}

/* Turns an ARP request into its reply. UNANSWERED where there is nothing to say. */
INLINE int answer_arp(struct __sk_buff *skb, struct way *w, const struct port *port)
{
	struct arp_frame a;

	if (bpf_skb_load_bytes(skb, 0, &a.eth, sizeof(a.eth) + sizeof(a.arp)) || a.arp.op != bswap16(ARP_REQUEST))
		return UNANSWERED;
	struct address target = address4(a.arp.target);
	const struct neighbor *n = known(w->vni, &target, port);
	__be32 asked = a.arp.target;

	if (!n)
		return UNANSWERED;
	__builtin_memcpy(a.eth.dst, a.eth.src, 6);
	__builtin_memcpy(a.eth.src, n->mac, 6);
	a.arp.op = bswap16(ARP_REPLY);
	__builtin_memcpy(a.arp.target_mac, a.arp.sender_mac, 6);
	a.arp.target = a.arp.sender;
	__builtin_memcpy(a.arp.sender_mac, n->mac, 6);
	a.arp.sender = asked;
	return bpf_skb_store_bytes(skb, 0, &a.eth, sizeof(a.eth) + sizeof(a.arp), 0) ? UNANSWERED : 0;
}

/* Turns a neighbour solicitation into its advertisement. */
INLINE int answer_nd(struct __sk_buff *skb, struct way *w, const struct port *port)
{
	struct advertisement a;
	__be32 pseudo[2] = {bswap32(32), bswap32(PROTO_ICMPV6)};

	if (skb->gso_size || bpf_skb_load_bytes(skb, 0, &a.eth, ASKED) || a.ip.hops != ND_HOPS)
		return UNANSWERED;
	struct address from;

	__builtin_memcpy(&from, a.ip.src, 16);
	const struct neighbor *n = known(w->vni, &a.target, port);
	int probe = is_unspecified(&from);

	if (!n)
		return UNANSWERED;
	__builtin_memcpy(a.mac, n->mac, 6);
	if (skb->len != ADVERTISED && bpf_skb_change_tail(skb, ADVERTISED, 0))
		return UNANSWERED;
	if (probe) { /* to all nodes */
		a.ip.dst[0] = bswap32(0xff020000);
		a.ip.dst[1] = a.ip.dst[2] = 0;
		a.ip.dst[3] = bswap32(1);
		a.eth.dst[0] = a.eth.dst[1] = 0x33;
		a.eth.dst[2] = a.eth.dst[3] = a.eth.dst[4] = 0;
		a.eth.dst[5] = 1;
	} else {
		__builtin_memcpy(a.ip.dst, a.ip.src, 16);
		__builtin_memcpy(a.eth.dst, a.eth.src, 6);
	}
	__builtin_memcpy(a.eth.src, a.mac, 6);
	__builtin_memcpy(a.ip.src, &a.target, 16);
	a.ip.first = bswap32(6 << 28);
	a.ip.length = bswap16(32);
	a.type = ND_NA;
	a.code = 0;
	a.flags = probe ? NA_OVERRIDE : NA_SOLICITED | NA_OVERRIDE;
	a.reserved[0] = a.reserved[1] = a.reserved[2] = 0;
	a.option = ND_TARGET_LINK_ADDRESS;
	a.option_length = 1;
	a.checksum = 0;
	__u32 sum = bpf_csum_diff(0, 0, (void *)pseudo, sizeof(pseudo), 0);

	sum = bpf_csum_diff(0, 0, (void *)a.ip.src, 32, sum);
	a.checksum = checksum_of(&a.type, 32, sum);
	return bpf_skb_store_bytes(skb, 0, &a.eth, ADVERTISED, 0) ? UNANSWERED : 0;
}

/* Answers a question to the group about an address the fabric knows. A question to one station is a test whether that
 * station lives, and goes to it. */
__attribute__((noinline)) int answer_neighbor(struct __sk_buff *skb, struct way *w, const struct frame *f, const struct port *port)
{
	if (!w || !f || !port)
		return UNANSWERED;
	if (f->ethertype == ETHERTYPE_ARP)
		return answer_arp(skb, w, port);
	if (f->ip == 6 && f->proto == PROTO_ICMPV6 && f->l4 == ETH + sizeof(struct ipv6) && f->icmp_type == ND_NS && !f->fragment)
		return answer_nd(skb, w, port);
	return UNANSWERED;
}

#endif
