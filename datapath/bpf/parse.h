/* What the core knows of a frame: every length checked against the frame, every loop bounded. */
#ifndef WEFT_PARSE_H
#define WEFT_PARSE_H

#include "trace.h"

enum {
	VLAN_TAG = 4,			/* bytes */
	MAX_ETHERNET_LENGTH = 1500,	/* an EtherType up to it is a length (IEEE 802.3) */
	MIN_ETHERTYPE = 0x600,
	NEAR = 94,			/* Ethernet, the longest IPv4 header, TCP's fixed part: read in place */
	MAX_EXTENSIONS = 6,		/* IPv6 extension headers; no honest packet has more */
};

/* A guest's frame, taken apart. */
struct frame {
	struct address src, dst;	/* where ip is not 0 */
	struct ethernet eth;
	__u32 l4;		/* offset of the transport header; 0: none, or not in this fragment */
	__u32 l3_length;	/* of the largest packet it becomes on a wire, in bytes */
	__u16 ethertype;
	__u16 sport, dport;	/* of UDP */
	__u8 proto;
	__u8 tcp_flags;
	__u8 tcp_header;	/* length in bytes */
	__u8 icmp_type;
	__u8 ecn;		/* and the DSCP of the outer header, where it is not 0 */
	__u8 df;		/* must not be fragmented: DF, or IPv6 */
	__u8 fragment;		/* is a fragment, the first one included */
	__u8 ip;		/* 4, 6 or 0 */
	__u8 options;		/* of IPv4, in bytes */

	/* From here on nothing is cleared. */
	__u32 spare[10];	/* room for an IP header that is not linear */
};

/* Key: 0. Value: the frame at hand, taken apart: the stack has no room for it (ADR 11.9). Not pinned: its content
 * does not outlive a frame. Written and read by the program that runs on this CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct frame);
} exhibit SEC(".maps");

INLINE struct frame *frame_at_hand(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&exhibit, &zero);
}

INLINE void clear_frame(struct frame *f)
{
	__builtin_memset(f, 0, __builtin_offsetof(struct frame, spare));
}

INLINE __u64 mac_number(const __u8 *m)
{
	return (__u64)m[0] << 40 | (__u64)m[1] << 32 | (__u64)m[2] << 24 | (__u64)m[3] << 16 | (__u64)m[4] << 8 | m[5];
}

INLINE int same_address(const struct address *a, const struct address *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

/* Copies n bytes at an offset, in place where they are linear, which they nearly always are. Nothing is ever pulled: in a GSO
 * list (SKB_GSO_FRAGLIST) a pull beyond the headers makes skb_segment panic. */
INLINE int load(struct __sk_buff *skb, __u32 at, void *to, const __u32 n)
{
	const __u8 *from = (void *)(long)skb->data;

	if (at > NEAR)
		return bpf_skb_load_bytes(skb, at, to, n);
	from += at;
	if (from + n > (const __u8 *)(long)skb->data_end)
		return bpf_skb_load_bytes(skb, at, to, n);
	__builtin_memcpy(to, from, n);
	return 0;
}

/* The n bytes behind the Ethernet header: in place where they are linear, else a copy; 0 if the frame is shorter. */
INLINE const void *network_header(struct __sk_buff *skb, const __u32 n)
{
	const __u8 *from = (void *)(long)skb->data;
	struct frame *f;

	if (likely(from + ETH + n <= (const __u8 *)(long)skb->data_end))
		return from + ETH;
	f = frame_at_hand();
	return !f || bpf_skb_load_bytes(skb, ETH, f->spare, n) ? 0 : f->spare;
}

/* How many packets a GSO frame becomes on a wire. The kernel has counted them, save for a frame fresh from a tap. */
__attribute__((noinline)) int gso_packets(struct __sk_buff *skb)
{
	__u32 size = skb->gso_size, headers = ETH;
	__u8 first, word;
	__be16 type;

	if (skb->gso_segs || !size)
		return skb->gso_segs ? skb->gso_segs : 1;
	if (bpf_skb_load_bytes(skb, 12, &type, 2) || bpf_skb_load_bytes(skb, ETH, &first, 1))
		return 1;
	headers += type == bswap16(ETHERTYPE_IPV4) ? (first & 15) * 4 : 40;
	if (bpf_skb_load_bytes(skb, type == bswap16(ETHERTYPE_IPV4) ? ETH + 9 : ETH + 6, &first, 1))
		return 1;
	if (first == PROTO_TCP && bpf_skb_load_bytes(skb, headers + 12, &word, 1) == 0)
		headers += (word >> 4) * 4;
	else
		headers += 8;
	return skb->len <= headers ? 1 : (skb->len - headers + size - 1) / size;
}

INLINE __u32 packets_of(struct __sk_buff *skb)
{
	return likely(!skb->gso_size) ? 1 : gso_packets(skb);
}

/* The frame has been met: it is counted, and followed if somebody asks for it. */
INLINE void meet(struct __sk_buff *skb, struct way *w, const struct config *cfg, __u32 offset)
{
	w->packets = packets_of(skb);
	COUNT_ALL(w->slot, rx, w->packets, skb->len);
	if (unlikely(cfg && cfg->tracing))
		w->traced = followed(skb, offset, w->vni, w->slot);
}

INLINE int parse_tcp(struct __sk_buff *skb, struct frame *f)
{
	__u8 head[2];

	if (load(skb, f->l4 + 12, head, sizeof(head)))
		return DROP_L4_BAD;
	f->tcp_header = (head[0] >> 4) * 4;
	f->tcp_flags = head[1];
	if (f->tcp_header < 20 || f->l4 + f->tcp_header > skb->len)
		return DROP_L4_BAD;
	return 0;
}

INLINE int parse_udp(struct __sk_buff *skb, struct frame *f)
{
	__be16 head[3];

	if (load(skb, f->l4, head, sizeof(head)))
		return DROP_L4_BAD;
	f->sport = bswap16(head[0]);
	f->dport = bswap16(head[1]);
	if (!f->fragment && !skb->gso_size && (bswap16(head[2]) < 8 || f->l4 + bswap16(head[2]) > skb->len))
		return DROP_L4_BAD;
	return 0;
}

/* Looks at the transport header, which a fragment but the first has none of. */
INLINE int parse_l4(struct __sk_buff *skb, struct frame *f)
{
	__u32 headers = f->l4;
	int bad = 0;

	switch (f->proto) {
	case PROTO_TCP:
		bad = parse_tcp(skb, f);
		headers += f->tcp_header;
		break;
	case PROTO_UDP:
		bad = parse_udp(skb, f);
		headers += 8;
		break;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		if ((f->proto == PROTO_ICMP) != (f->ip == 4))
			break; /* the other family's: a number that means nothing here */
		if (skb->len < f->l4 + 8 || load(skb, f->l4, &f->icmp_type, 1))
			bad = DROP_L4_BAD;
		break;
	}
	if (skb->gso_size)
		f->l3_length = headers - ETH + skb->gso_size;
	return bad;
}

INLINE int parse_ipv4(struct __sk_buff *skb, struct frame *f)
{
	const struct ipv4 *ip = network_header(skb, sizeof(*ip));

	if (!ip)
		return DROP_L3_BAD;
	__u32 header = (ip->version_ihl & 15) * 4, length = bswap16(ip->length), fragment = bswap16(ip->fragment);

	if (ip->version_ihl >> 4 != 4 || header < sizeof(*ip) || ETH + header > skb->len)
		return DROP_L3_BAD;
	/* A GSO frame's length is rewritten for each segment, and is 0 beyond 64 KiB. */
	if ((length < header || ETH + length > skb->len) && !(skb->gso_size && length == 0))
		return DROP_L3_BAD;
	f->ip = 4;
	f->options = header - sizeof(*ip);
	f->proto = ip->proto;
	f->ecn = ip->tos & 3;
	f->src = (struct address){.w = {0, 0, bswap32(0xffff), ip->src}};
	f->dst = (struct address){.w = {0, 0, bswap32(0xffff), ip->dst}};
	f->df = !!(fragment & FRAGMENT_DF);
	f->fragment = !!(fragment & (FRAGMENT_MORE | FRAGMENT_OFFSET));
	f->l3_length = skb->len - ETH;
	if (fragment & FRAGMENT_OFFSET)
		return 0;
	f->l4 = ETH + header;
	return parse_l4(skb, f);
}

/* Walks the extension headers. A chain that is too long, or hides the transport header of a first fragment, is refused
 * (RFC 7112), because no guard could look behind it. */
INLINE int parse_extensions(struct __sk_buff *skb, struct frame *f, __u32 at)
{
	__u8 head[4];

	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		switch (f->proto) {
		case PROTO_HOPOPTS:
		case PROTO_ROUTING:
		case PROTO_DSTOPTS:
		case PROTO_FRAGMENT:
		case PROTO_AH:
			break;
		default:
			f->l4 = f->proto == PROTO_NONE ? 0 : at;
			return 0;
		}
		if (load(skb, at, head, 4))
			return DROP_L3_BAD;
		if (f->proto == PROTO_FRAGMENT) {
			f->fragment = 1;
			f->proto = head[0];
			if (bswap16(*(__be16 *)(head + 2)) & 0xfff8)
				return 0;
			at += 8;
			continue;
		}
		at += f->proto == PROTO_AH ? (head[1] + 2) * 4 : (head[1] + 1) * 8;
		f->proto = head[0];
	}
	return DROP_L3_BAD;
}

INLINE int parse_ipv6(struct __sk_buff *skb, struct frame *f)
{
	const struct ipv6 *ip = network_header(skb, sizeof(*ip));

	if (!ip)
		return DROP_L3_BAD;
	__u32 first = bswap32(ip->first), length = bswap16(ip->length);

	if (first >> 28 != 6 || (ETH + sizeof(*ip) + length > skb->len && !skb->gso_size))
		return DROP_L3_BAD;
	if (length == 0 && ip->next != PROTO_NONE && !skb->gso_size)
		return DROP_L3_BAD;
	f->ip = 6;
	f->proto = ip->next;
	__builtin_memcpy(&f->src, ip->src, sizeof(f->src));
	__builtin_memcpy(&f->dst, ip->dst, sizeof(f->dst));
	f->ecn = first >> 20 & 3;
	f->df = 1;
	f->l3_length = skb->len - ETH;
	int bad = parse_extensions(skb, f, ETH + sizeof(*ip));

	if (bad || !f->l4)
		return bad;
	return parse_l4(skb, f);
}

/* Reads the frame; returns the reason it is refused for, or 0. */
INLINE int parse(struct __sk_buff *skb, struct frame *f)
{
	if (load(skb, 0, &f->eth, ETH))
		return DROP_L2_SHORT;
	f->ethertype = bswap16(f->eth.type);
	f->l3_length = skb->len - ETH;
	switch (f->ethertype) {
	case ETHERTYPE_IPV4:
		return parse_ipv4(skb, f);
	case ETHERTYPE_IPV6:
		return parse_ipv6(skb, f);
	}
	if (f->ethertype < MIN_ETHERTYPE && (f->ethertype > MAX_ETHERNET_LENGTH || ETH + f->ethertype > skb->len))
		return DROP_L2_SHORT;
	return 0;
}

/* The same for a frame whose tag is payload: the tag is all that is read of it. An aggregate's packets are taken to have TCP's
 * shortest headers. */
INLINE int parse_qinq(struct __sk_buff *skb, struct frame *f)
{
	if (load(skb, 0, &f->eth, ETH))
		return DROP_L2_SHORT;
	f->ethertype = bswap16(skb->vlan_proto);
	f->l3_length = (skb->gso_size ? skb->gso_size + 40 : skb->len - ETH) + VLAN_TAG;
	return 0;
}

#endif
