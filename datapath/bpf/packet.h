/* A packet as rules and flows see it. */
#ifndef WEFT_PACKET_H
#define WEFT_PACKET_H

#include "quote.h"

enum {
	SCTP_HEADER = 12,
	TCP_FLAGS = 0x3f,
};

/* The id of a fragment's packet, and whether it is the first; of the last of IPv6's
 * fragment headers, which parse has walked over. */
INLINE int describe_fragment(struct __sk_buff *skb, struct judgement *j)
{
	__u32 at = ETH + sizeof(struct ipv6);
	__u8 head[8], next;

	if (j->ip == 4) {
		if (load(skb, ETH + 4, head, 4))
			return DROP_L3_BAD;
		j->id = head[0] << 8 | head[1];
		j->later = (head[2] & FRAGMENT_OFFSET >> 8) || head[3];
		return 0;
	}
	if (load(skb, ETH + 6, &next, 1))
		return DROP_L3_BAD;
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		switch (next) {
		case PROTO_HOPOPTS:
		case PROTO_ROUTING:
		case PROTO_DSTOPTS:
		case PROTO_FRAGMENT:
		case PROTO_AH:
			break;
		default:
			return at > j->end ? DROP_L3_BAD : 0;
		}
		if (load(skb, at, head, 8))
			return DROP_L3_BAD;
		if (next == PROTO_FRAGMENT) {
			j->id = bswap32(*(__be32 *)(head + 4));
			j->later = head[2] || head[3] & 0xf8;
			at += 8;
			if (j->later)
				return at > j->end ? DROP_L3_BAD : 0;
		} else {
			at += next == PROTO_AH ? (head[1] + 2) * 4 : (head[1] + 1) * 8;
		}
		next = head[0];
	}
	return DROP_L3_BAD;
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
		if (f->l4 + SCTP_HEADER > j->end || load(skb, f->l4, ports, sizeof(ports)))
			return DROP_L4_BAD;
		j->has_ports = 1;
		j->sport = bswap16(ports[0]);
		j->dport = bswap16(ports[1]);
		break;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		if ((f->proto == PROTO_ICMP) != (f->ip == 4)) { /* the other family's: a number without a message */
			j->kind = KIND_PACKET;
			break;
		}
		if (load(skb, f->l4, head, 8))
			return DROP_L4_BAD;
		j->has_icmp = 1;
		j->icmp_type = bswap32(head[0]) >> 24;
		j->icmp_code = bswap32(head[0]) >> 16;
		j->echo = is_echo(j);
		if (j->echo)
			j->sport = j->dport = bswap32(head[1]) >> 16;
		if (unlikely(is_icmp_error(j)))
			read_quote(skb, f->l4 + 8);
		break;
	}
	return 0;
}

/* Where the packet ends: as its IP header claims, or with the aggregate. What follows is Ethernet's padding. */
INLINE __u32 end_of(struct __sk_buff *skb, const struct frame *f)
{
	__be16 length;

	if (skb->gso_size || load(skb, f->ip == 4 ? ETH + 2 : ETH + 4, &length, 2))
		return skb->len;
	return ETH + bswap16(length) + (f->ip == 4 ? 0 : sizeof(struct ipv6));
}

/* Whether the transport header, whose ports or messages are judged, is beyond the packet: in the padding. */
INLINE int is_beyond(struct __sk_buff *skb, const struct judgement *j, const struct frame *f)
{
	__be16 length;

	switch (f->proto) {
	case PROTO_TCP:
		return f->l4 + f->tcp_header > j->end;
	case PROTO_UDP:
		if (f->fragment || skb->gso_size || load(skb, f->l4 + 4, &length, 2))
			return f->l4 + 8 > j->end;
		return f->l4 + bswap16(length) > j->end;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		if ((f->proto == PROTO_ICMP) == (f->ip == 4))
			return f->l4 + 8 > j->end;
	}
	return f->l4 > j->end;
}

/* Fills this CPU's docket with the packet. */
__attribute__((noinline)) int describe(struct __sk_buff *skb, struct way *w, const struct frame *f)
{
	struct judgement *j = judgement(PACKET);
	__u32 headers;

	if (!w || !f || !j)
		return 0;
	w->described = 1;
	if (w->unfit)
		return 0;
	__builtin_memset(j, 0, __builtin_offsetof(struct judgement, rule));
	j->src_mac = mac_number(f->eth.src);
	j->dst_mac = mac_number(f->eth.dst);
	j->group = f->eth.dst[0] & 1;
	j->ethertype = f->ethertype;
	j->packets = w->packets;
	j->wire = skb->len;
	if (!f->ip)
		return 0;
	j->ip = f->ip;
	j->src = f->src;
	j->dst = f->dst;
	j->proto = f->proto;
	j->kind = KIND_PACKET;
	j->end = end_of(skb, f);
	j->fragment = f->fragment;
	if ((f->fragment || (f->ip == 6 && !f->l4)) && (w->unfit = describe_fragment(skb, j)))
		return 0;
	if (!f->l4)
		return 0;
	if (is_beyond(skb, j, f)) {
		w->unfit = DROP_L4_BAD;
		return 0;
	}
	headers = f->l4 + (f->proto == PROTO_TCP ? f->tcp_header : 8);
	if (w->packets > 1)
		j->wire += (w->packets - 1) * headers;
	if (f->proto == PROTO_TCP && j->end > headers)
		j->payload = j->end - headers;
	w->unfit = describe_transport(skb, j, f);
	return 0;
}

/* The packet's ends, of IPv4 as ::ffff:a.b.c.d, in two stores each. */
INLINE void put_address4(__u64 *to, __be32 a)
{
	to[0] = 0;
	to[1] = (__u64)a << 32 | bswap32(0xffff);
}

INLINE void put_address6(__u64 *to, const __u32 *a)
{
	to[0] = (__u64)a[1] << 32 | a[0];
	to[1] = (__u64)a[3] << 32 | a[2];
}

/* The transport header of a plain packet, at an offset from the frame's beginning; whether it is whole, and within the packet. */
INLINE int describe_plain_transport(struct judgement *j, const __u8 *frame, const __u8 *end, __u32 l4, __u32 stop)
{
	const struct udp *udp = (const void *)(frame + l4);
	const struct tcp *tcp = (const void *)udp;
	__u32 length;

	if (j->proto == PROTO_UDP) {
		if ((const __u8 *)(udp + 1) > end)
			return 0;
		length = bswap16(udp->length);
		if (length < sizeof(*udp) || l4 + length > stop)
			return 0;
	} else {
		if ((const __u8 *)(tcp + 1) > end)
			return 0;
		length = (tcp->offset >> 4) * 4;
		if (length < sizeof(*tcp) || l4 + length > stop)
			return 0;
		j->payload = stop - l4 - length;
		j->seq = bswap32(tcp->seq);
		j->ack = bswap32(tcp->ack);
		j->flags = tcp->flags & TCP_FLAGS;
	}
	j->sport = bswap16(udp->src);
	j->dport = bswap16(udp->dst);
	j->has_ports = 1;
	j->kind = KIND_TRANSPORT;
	return 1;
}

/* Fills the docket at once with what most packets are: one of UDP or TCP, neither an aggregate nor a fragment, whose header of IP has
 * no options and no extensions, and whose headers lie in place; whether it is one. Of any other it says nothing: that is taken apart. */
__attribute__((noinline)) int describe_plain(struct __sk_buff *skb, struct way *w)
{
	struct judgement *j = judgement(PACKET);
	const __u8 *frame = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ethernet *eth = (const void *)frame;
	const struct ipv4 *ip4 = (const void *)(eth + 1);
	const struct ipv6 *ip6 = (const void *)(eth + 1);
	__u32 l4, stop;

	if (!w || !j || w->qinq || w->packets != 1 || skb->gso_size || (const __u8 *)(ip4 + 1) > end)
		return 0;
	__builtin_memset(j, 0, __builtin_offsetof(struct judgement, rule));
	if (eth->type == bswap16(ETHERTYPE_IPV4)) {
		l4 = ETH + sizeof(*ip4);
		stop = ETH + bswap16(ip4->length);
		j->ip = 4;
		j->proto = ip4->proto;
		if (ip4->version_ihl != 0x45 || (ip4->fragment & bswap16(FRAGMENT_MORE | FRAGMENT_OFFSET)))
			return 0;
		put_address4((__u64 *)&j->src, ip4->src);
		put_address4((__u64 *)&j->dst, ip4->dst);
	} else {
		if (eth->type != bswap16(ETHERTYPE_IPV6) || (const __u8 *)(ip6 + 1) > end)
			return 0;
		l4 = ETH + sizeof(*ip6);
		stop = l4 + bswap16(ip6->length);
		j->ip = 6;
		j->proto = ip6->next;
		if (bswap32(ip6->first) >> 28 != 6)
			return 0;
		put_address6((__u64 *)&j->src, ip6->src);
		put_address6((__u64 *)&j->dst, ip6->dst);
	}
	if ((j->proto != PROTO_UDP && j->proto != PROTO_TCP) || stop > skb->len)
		return 0;
	j->ethertype = bswap16(eth->type);
	j->end = stop;
	j->packets = 1;
	j->wire = skb->len;
	j->group = eth->dst[0] & 1;
	j->src_mac = mac_number(eth->src);
	j->dst_mac = mac_number(eth->dst);
	w->described = describe_plain_transport(j, frame, end, l4, stop);
	return w->described;
}

/* Takes the frame apart, where that was not done on its way. */
__attribute__((noinline)) int take_apart(struct __sk_buff *skb, struct way *w)
{
	struct frame *f = frame_at_hand();

	if (!w || !f)
		return 0;
	clear_frame(f);
	w->unfit = unlikely(w->qinq) ? parse_qinq(skb, f) : parse(skb, f);
	return 0;
}

/* Fills the docket for the first port that judges the frame; f, where it has been taken apart. */
INLINE void describe_once(struct __sk_buff *skb, struct way *w, const struct frame *f)
{
	if (w->described || describe_plain(skb, w))
		return;
	if (!f) {
		take_apart(skb, w);
		f = frame_at_hand();
	}
	describe(skb, w, f);
}

#endif
