/* What ICMP errors quote (RFC 792, RFC 4443 2.4): the beginning of the packet that they are about. */
#ifndef WEFT_QUOTE_H
#define WEFT_QUOTE_H

#include "docket.h"

enum { QUOTED = 8 /* bytes of a transport header, at least */ };

/* Walks the extension headers of a quoted packet; the offset of its transport header, 0 if none can be read. */
INLINE __u32 quoted_transport(struct __sk_buff *skb, const struct judgement *j, __u32 at, __u8 *proto)
{
	__u8 head[8];

	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		switch (*proto) {
		case PROTO_HOPOPTS:
		case PROTO_ROUTING:
		case PROTO_DSTOPTS:
		case PROTO_AH:
			if (at + 4 > j->end || bpf_skb_load_bytes(skb, at, head, 4))
				return 0;
			at += *proto == PROTO_AH ? (head[1] + 2) * 4 : (head[1] + 1) * 8;
			break;
		case PROTO_FRAGMENT:
			if (at + 8 > j->end || bpf_skb_load_bytes(skb, at, head, 8) || head[2] || head[3] & 0xf8)
				return 0;
			at += 8;
			break;
		default:
			return at <= j->end ? at : 0;
		}
		*proto = head[0];
	}
	return 0;
}

INLINE __u32 quoted_ipv4(struct __sk_buff *skb, struct judgement *j, __u32 at)
{
	struct ipv4 ip;
	__u32 header;

	if (at + sizeof(ip) > j->end || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version_ihl >> 4 != 4)
		return 0;
	header = (ip.version_ihl & 15) * 4;
	if (header < sizeof(ip) || at + header > j->end || bswap16(ip.length) < header || (ip.fragment & bswap16(FRAGMENT_OFFSET)))
		return 0;
	j->quote.src = (struct address){.w = {0, 0, bswap32(0xffff), ip.src}};
	j->quote.dst = (struct address){.w = {0, 0, bswap32(0xffff), ip.dst}};
	j->quote.proto = ip.proto;
	return at + header;
}

INLINE __u32 quoted_ipv6(struct __sk_buff *skb, struct judgement *j, __u32 at)
{
	struct ipv6 ip;

	if (at + sizeof(ip) > j->end || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || bswap32(ip.first) >> 28 != 6)
		return 0;
	__builtin_memcpy(&j->quote.src, ip.src, 16);
	__builtin_memcpy(&j->quote.dst, ip.dst, 16);
	j->quote.proto = ip.next;
	return quoted_transport(skb, j, at + sizeof(ip), &j->quote.proto);
}

/* Reads the packet that is quoted at an offset, as far as it names a connection. */
__attribute__((noinline)) int read_quote(struct __sk_buff *skb, __u32 at)
{
	struct judgement *j = judgement(PACKET);
	__be16 head[QUOTED / 2];

	if (!j)
		return 0;
	at = j->ip == 4 ? quoted_ipv4(skb, j, at) : quoted_ipv6(skb, j, at);
	if (!at)
		return 0;
	__u8 proto = j->quote.proto;
	int ports = proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP;

	j->quote.sport = j->quote.dport = 0;
	if (!ports && proto != (j->ip == 4 ? PROTO_ICMP : PROTO_ICMPV6)) {
		j->quotes = 1;
		return 0;
	}
	if (at + QUOTED > j->end || bpf_skb_load_bytes(skb, at, head, sizeof(head)))
		return 0;
	if (ports) {
		j->quote.sport = bswap16(head[0]);
		j->quote.dport = bswap16(head[1]);
	} else {
		__u8 type = bswap16(head[0]) >> 8;

		if (j->ip == 4 ? type != ICMP_ECHO_REQUEST && type != ICMP_ECHO_REPLY
			       : type != ICMPV6_ECHO_REQUEST && type != ICMPV6_ECHO_REPLY)
			return 0;
		j->quote.sport = j->quote.dport = bswap16(head[2]);
	}
	j->quotes = 1;
	return 0;
}

#endif
