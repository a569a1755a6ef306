/* Labels and hops: how several hosts recognise one frame, and what each says about it. Costs one test of config.tracing
 * while nobody asks. The Go side of the label is tracing.Label; testdata/labels.json binds the two. */
#ifndef WEFT_TRACE_H
#define WEFT_TRACE_H

#include "sessions.h"

/* The bytes of a frame that a label and a hop are made of. */
struct quoted {
	__u32 l4;		/* offset of the transport header, 0 if there is none to look at */
	__s32 length;		/* of transport header and data, as the IP header claims */
	__u8 proto;
};

INLINE __u64 label_mix(__u64 h, __u64 word)
{
	h ^= word;
	h *= 0x9E3779B97F4A7C15ULL;
	return h ^ h >> 32;
}

INLINE __u64 label_end(__u64 h, __u64 key)
{
	h ^= key;
	h *= 0xBF58476D1CE4E5B9ULL;
	return h ^ h >> 29;
}

/* Loads up to 24 bytes after an 8-byte header at l4 whose owner claims length bytes; zero beyond the claim and the frame. */
INLINE void label_data(struct __sk_buff *skb, __u32 l4, __s32 length, __u64 *words)
{
	__s32 end = (__s32)(skb->len - l4);

	words[0] = words[1] = words[2] = 0;
	end = length < end ? length : end;
	if (end <= 8)
		return;
	__u32 n = (__u32)end - 8;

	n = n > 24 ? 24 : n;
	if (n > 0 && n <= 24 && bpf_skb_load_bytes(skb, l4 + 8, words, n) == 0) {
		words[0] = bswap64(words[0]);
		words[1] = bswap64(words[1]);
		words[2] = bswap64(words[2]);
	}
}

INLINE __u64 label_transport(struct __sk_buff *skb, struct hop *hop, const struct quoted *q, const struct config *cfg)
{
	__u8 head[20];
	__u64 words[3], h = label_mix(cfg->label_key0, hop->vni);
	__u32 got = skb->len - q->l4;

	if (q->proto == PROTO_TCP) {
		if (got < 20 || bpf_skb_load_bytes(skb, q->l4, head, 20))
			return 0;
		h = label_mix(h, PROTO_TCP | (__u64)head[13] << 8);
		h = label_mix(h, (__u64)bswap32(*(__u32 *)(head + 4)) << 32 | bswap32(*(__u32 *)(head + 8)));
	} else if (q->proto == PROTO_UDP || q->proto == PROTO_ICMP || q->proto == PROTO_ICMPV6) {
		if (got < 8 || bpf_skb_load_bytes(skb, q->l4, head, 8))
			return 0;
		__u32 udp_length = bswap16(*(__u16 *)(head + 4));
		int udp = q->proto == PROTO_UDP;

		label_data(skb, q->l4, udp ? (__s32)udp_length : q->length, words);
		if (udp) {
			h = label_mix(h, PROTO_UDP | (__u64)udp_length << 16);
		} else {
			int echo = q->proto == PROTO_ICMP ? head[0] == ICMP_ECHO_REQUEST || head[0] == ICMP_ECHO_REPLY
						     : head[0] == ICMPV6_ECHO_REQUEST || head[0] == ICMPV6_ECHO_REPLY;

			h = label_mix(h, q->proto | (__u64)head[0] << 8 | (__u64)head[1] << 16);
			h = label_mix(h, echo ? bswap16(*(__u16 *)(head + 6)) : 0);
		}
		h = label_mix(h, words[0]);
		h = label_mix(h, words[1]);
		if (udp)
			h = label_mix(h, words[2]);
	} else {
		return 0;
	}
	if (q->proto == PROTO_TCP || q->proto == PROTO_UDP) {
		hop->sport = bswap16(*(__u16 *)head);
		hop->dport = bswap16(*(__u16 *)(head + 2));
	}
	return label_end(h, cfg->label_key1);
}

INLINE __u64 label_arp(struct __sk_buff *skb, __u32 l3, struct hop *hop, const struct config *cfg)
{
	__u32 arp[7];
	__u64 h = label_mix(cfg->label_key0, hop->vni);

	if (bpf_skb_load_bytes(skb, l3, arp, 28) || arp[0] != bswap32(0x00010800) || (arp[1] & bswap32(0xffff0000)) != bswap32(0x06040000))
		return 0;
	__u32 spa = (bswap32(arp[3]) & 0xffff) << 16 | bswap32(arp[4]) >> 16, tpa = bswap32(arp[6]);

	hop->source.w[2] = hop->destination.w[2] = bswap32(0xffff);
	hop->source.w[3] = bswap32(spa);
	hop->destination.w[3] = bswap32(tpa);
	h = label_mix(h, ETHERTYPE_ARP | (__u64)(bswap32(arp[1]) & 0xffff) << 16);
	h = label_mix(h, (__u64)spa << 32 | tpa);
	return label_end(h, cfg->label_key1);
}

INLINE __u64 label_ipv4(struct __sk_buff *skb, __u32 l3, struct hop *hop, const struct config *cfg)
{
	__u32 ip[5];
	struct quoted q;

	if (bpf_skb_load_bytes(skb, l3, ip, 20))
		return 0;
	__u32 first = bswap32(ip[0]), header = (first >> 24 & 15) * 4;

	if (first >> 28 != 4 || header < 20 || (bswap32(ip[1]) & 0x3fff) || skb->len < l3 + header)
		return 0;
	q = (struct quoted){.l4 = l3 + header, .length = (__s32)(first & 0xffff) - (__s32)header, .proto = bswap32(ip[2]) >> 16};
	hop->source.w[2] = hop->destination.w[2] = bswap32(0xffff);
	hop->source.w[3] = ip[3];
	hop->destination.w[3] = ip[4];
	hop->proto = q.proto;
	hop->family = 4;
	return label_transport(skb, hop, &q, cfg);
}

INLINE __u64 label_ipv6(struct __sk_buff *skb, __u32 l3, struct hop *hop, const struct config *cfg)
{
	__u32 ip[2];
	struct quoted q;

	/* The addresses go to where they are kept, one behind the other there too, and not by way of the stack (ADR 11.9). */
	if (bpf_skb_load_bytes(skb, l3, ip, 8) || bswap32(ip[0]) >> 28 != 6 || bpf_skb_load_bytes(skb, l3 + 8, &hop->source, 32))
		return 0;
	q = (struct quoted){.l4 = l3 + 40, .length = bswap32(ip[1]) >> 16, .proto = bswap32(ip[1]) >> 8};
	hop->proto = q.proto;
	hop->family = 6;
	return label_transport(skb, hop, &q, cfg);
}

/* Fills this CPU's hop with the frame on the VNI that begins at offset off, and returns its label; 0 if it has none. */
__attribute__((noinline)) __u64 label_of(struct __sk_buff *skb, __u32 off, __u32 vni)
{
	const struct config *cfg = host();
	__u32 zero = 0;
	struct record *at_hand = bpf_map_lookup_elem(&scratch, &zero);
	struct hop *hop = at_hand ? &at_hand->hop : 0;
	__u16 ethertype;

	if (!cfg || !hop || off > 256 || skb->vlan_present || bpf_skb_load_bytes(skb, off + 12, &ethertype, 2))
		return 0;
	__builtin_memset(hop, 0, sizeof(*hop));
	hop->kind = EVENT_HOP;
	hop->vni = vni;
	hop->len = skb->len - off;
	switch (bswap16(ethertype)) {
	case ETHERTYPE_ARP:
		hop->label = label_arp(skb, off + 14, hop, cfg);
		break;
	case ETHERTYPE_IPV4:
		hop->label = label_ipv4(skb, off + 14, hop, cfg);
		break;
	case ETHERTYPE_IPV6:
		hop->label = label_ipv6(skb, off + 14, hop, cfg);
		break;
	}
	return hop->label;
}

enum { FOLLOWED = 1, CAUGHT = 2, RECORDED = 3 };

/* The hop of the frame under way. */
INLINE struct hop *hop_at_hand(void)
{
	__u32 zero = 0;
	struct record *r = bpf_map_lookup_elem(&scratch, &zero);

	return r ? &r->hop : 0;
}

/* Answers whether the frame at offset off, which came from the slot, is followed as a probe or recorded for sessions; if so, this
 * CPU's hop describes it from here on. */
__attribute__((noinline)) int followed(struct __sk_buff *skb, __u32 off, __u32 vni, __u32 slot)
{
	const struct config *cfg = host();
	struct hop *hop = hop_at_hand();
	struct probe *probe;
	__u64 label;
	__u32 asked; /* who asks, read once: a session that is armed meanwhile has not been asked about this frame */

	if (!hop || !cfg)
		return 0;
	asked = *(const volatile __u32 *)&cfg->tracing;
	if (asked >> TRACING_LIVE && !may_choose(skb, off, vni, slot) && !(asked & TRACING_PROBES))
		return 0;
	label = label_of(skb, off, vni);
	if (!label)
		return 0;
	probe = asked & TRACING_PROBES ? bpf_map_lookup_elem(&probe_labels_v1, &label) : 0;
	if (!probe || bpf_ktime_get_ns() > probe->expires)
		return asked >> TRACING_LIVE && choose_sessions(skb, off, slot) ? RECORDED : 0;
	hop->session = probe->session;
	return probe->caught ? CAUGHT : FOLLOWED;
}

/* Sends this CPU's hop, as what happened at a stage; of a frame that sessions ask for one record tells of all stages. */
__attribute__((noinline)) int tell(struct way *w, __u32 ifindex, __u32 what, __u32 reason)
{
	struct hop *hop = hop_at_hand();

	if (!w || !hop)
		return 0;
	if (w->traced == RECORDED)
		return add_step(w, ifindex, what, reason);
	hop->ts = bpf_ktime_get_ns();
	hop->ifindex = ifindex;
	hop->generation = w->generation;
	hop->stage = what >> 8;
	hop->result = what;
	hop->reason = reason;
	hop->rule = w->rule;
	if (bpf_ringbuf_output(&events_v1, hop, sizeof(*hop), 0))
		COUNT(w->slot, untold);
	return 0;
}

/* A stage of a followed frame has ended, at the device the frame is met at or at another one. */
#define TRACE(skb, w, stage, result, reason) TRACE_AT(met_at(skb, w), w, stage, result, reason)
#define TRACE_AT(ifindex, w, stage, result, reason)                                   \
	do {                                                                          \
		if (unlikely((w)->traced))                                            \
			tell(w, ifindex, (stage) << 8 | (result), reason);            \
	} while (0)

/* The tunnel end point that the rest of a followed frame's hops name. */
INLINE void trace_peer(const struct way *w, const struct address *peer)
{
	struct hop *hop;

	if (likely(!w->traced))
		return;
	hop = hop_at_hand();
	if (hop)
		hop->peer = *peer;
}

/* The frame ends here, at the side it came from. One verdict, one name, one place. */
INLINE int drop(struct __sk_buff *skb, struct way *w, __u32 stage, __u32 reason)
{
	count_drop(w->slot, FROM_GUEST, reason);
	TRACE(skb, w, stage, RESULT_DROP, reason);
	return DROP;
}

#endif
