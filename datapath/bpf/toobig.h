/* Frames that are larger than what they have to pass: the guest is told by ICMP (RFC 1191, 8201), and TCP before it begins. */
#ifndef WEFT_TOOBIG_H
#define WEFT_TOOBIG_H

#include "deliver.h"

enum {
	QUOTE4 = 68,		/* the longest IPv4 header and 8 bytes (RFC 792) */
	QUOTE6 = 88,		/* the IPv6 header and enough of what follows to know the flow */
	/* Cut from the frame's front while the answer is made: a checksum that was left to the device to complete
	 * (CHECKSUM_PARTIAL) began in it, and the kernel forgets it only then (skb_postpull_rcsum). */
	CUT = 96,
	TELL_EVERY_NS = 1000000,	/* one ICMP error per port and millisecond, */
	TELL_BURST_NS = 64000000,	/* 64 at once */
	TCP_OPTION_END = 0,
	TCP_OPTION_NOP = 1,
	TCP_OPTION_MSS = 2,
	TCP_OPTIONS_MAX = 40,
};

/* The pad puts the IP header on a word; the frame begins at eth. */
struct icmp4_error {
	__u16 pad;
	struct ethernet eth;
	struct ipv4 ip;
	__u8 type, code;
	__u16 checksum;
	__be16 zero, mtu;
	__u8 quote[QUOTE4];
};

struct icmp6_error {
	__u16 pad;
	struct ethernet eth;
	struct ipv6 ip;
	__u8 type, code;
	__u16 checksum;
	__be32 mtu;
	__u8 quote[QUOTE6];
};

/* Key: 0. Value: an answer or an outer header that is being written, too large for the stack there. Not pinned: it does not outlive a frame.
 * Written and read by the program that runs on this CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct icmp6_error);
} letter SEC(".maps");

/* Room of a size for an answer or a header, all zero. */
INLINE void *blank(const __u32 size)
{
	__u32 zero = 0;
	void *room = bpf_map_lookup_elem(&letter, &zero);

	if (room)
		__builtin_memset(room, 0, size);
	return room;
}

INLINE __u16 checksum_of(const void *data, __u32 size, __u32 seed)
{
	__u32 sum = bpf_csum_diff(0, 0, data, size, seed);

	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* A rate in one word (GCRA); two CPUs that meet here may both pass. */
INLINE int may_tell(__u32 slot)
{
	struct slot *s = slot_of(slot);
	__u64 now = bpf_ktime_get_ns(), at;

	if (!s)
		return 0;
	at = s->told > now ? s->told : now;
	if (at - now > TELL_BURST_NS)
		return 0;
	s->told = at + TELL_EVERY_NS;
	return 1;
}

/* Makes the frame size bytes long, none of which is the frame's own any more. */
INLINE int make_room(struct __sk_buff *skb, __u32 size)
{
	if (bpf_skb_change_tail(skb, size + CUT, 0))
		return -1;
	return bpf_skb_adjust_room(skb, -CUT, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* Makes an ICMP error of the frame: what is type << 24 | code << 16, with the MTU where it is told. Its source is the original
 * destination: no router has an address on this network. A short packet is quoted whole, and padded. */
__attribute__((noinline)) int make_icmp4(struct __sk_buff *skb, __u32 what)
{
	__u32 quote = skb->len - ETH > QUOTE4 ? QUOTE4 : skb->len - ETH;
	struct icmp4_error *e = blank(sizeof(struct icmp6_error));
	struct ipv4 *quoted;
	struct ethernet eth;

	if (!e || quote < sizeof(*quoted) || quote > QUOTE4)
		return -1;
	quoted = (void *)e->quote;
	if (bpf_skb_load_bytes(skb, 0, &eth, ETH) || bpf_skb_load_bytes(skb, ETH, e->quote, quote))
		return -1;
	if (make_room(skb, sizeof(*e) - 2))
		return -1;
	__builtin_memcpy(e->eth.dst, eth.src, 6);
	__builtin_memcpy(e->eth.src, eth.dst, 6);
	e->eth.type = eth.type;
	e->ip = (struct ipv4){
		.version_ihl = 0x45, .length = bswap16(sizeof(e->ip) + 8 + quote), .ttl = 64, .proto = PROTO_ICMP,
		.src = quoted->dst, .dst = quoted->src,
	};
	e->ip.checksum = checksum_of(&e->ip, sizeof(e->ip), 0);
	e->type = what >> 24;
	e->code = what >> 16;
	e->mtu = bswap16(what);
	e->checksum = checksum_of(&e->type, 8 + QUOTE4, 0);
	return bpf_skb_store_bytes(skb, 0, &e->eth, sizeof(*e) - 2, 0);
}

__attribute__((noinline)) int make_icmp6(struct __sk_buff *skb, __u32 what)
{
	__u32 quote = skb->len - ETH > QUOTE6 ? QUOTE6 : skb->len - ETH;
	struct icmp6_error *e = blank(sizeof(struct icmp6_error));
	struct ipv6 *quoted;
	struct ethernet eth;
	__be32 pseudo[2] = {bswap32(8 + quote), bswap32(PROTO_ICMPV6)};

	if (!e || quote < sizeof(*quoted) || quote > QUOTE6)
		return -1;
	quoted = (void *)e->quote;
	if (bpf_skb_load_bytes(skb, 0, &eth, ETH) || bpf_skb_load_bytes(skb, ETH, e->quote, quote))
		return -1;
	if (make_room(skb, sizeof(*e) - 2))
		return -1;
	__builtin_memcpy(e->eth.dst, eth.src, 6);
	__builtin_memcpy(e->eth.src, eth.dst, 6);
	e->eth.type = eth.type;
	e->ip = (struct ipv6){.first = bswap32(6 << 28), .length = pseudo[0] >> 16, .next = PROTO_ICMPV6, .hops = 255};
	__builtin_memcpy(e->ip.src, quoted->dst, 16);
	__builtin_memcpy(e->ip.dst, quoted->src, 16);
	e->type = what >> 24;
	e->code = what >> 16;
	e->mtu = bswap32(what & 0xffff);
	__u32 sum = bpf_csum_diff(0, 0, (void *)pseudo, sizeof(pseudo), 0);

	sum = bpf_csum_diff(0, 0, (void *)e->ip.src, 32, sum);
	e->checksum = checksum_of(&e->type, 8 + QUOTE6, sum);
	return bpf_skb_store_bytes(skb, 0, &e->eth, sizeof(*e) - 2, 0);
}

/* Drops the frame, and tells its sender of the MTU where the protocol allows it: not about a later fragment, an ICMP error,
 * or from or to more than one (RFC 1122 3.2.2, RFC 4443 2.4). */
__attribute__((noinline)) int too_big(struct __sk_buff *skb, struct way *w, const struct frame *f, __u32 mtu)
{
	int failed = -1;

	if (!w || !f)
		return DROP;
	count_drop(w->slot, FROM_GUEST, DROP_MTU_EXCEEDED);
	TRACE(skb, w, STAGE_ENCAP, RESULT_DROP, DROP_MTU_EXCEEDED);
	int error = f->proto == PROTO_ICMP ? f->icmp_type != ICMP_ECHO_REQUEST && f->icmp_type != ICMP_ECHO_REPLY
					     : f->proto == PROTO_ICMPV6 && f->icmp_type < ICMPV6_ERRORS_END;

	if (!f->ip || !f->l4 || error || !may_tell(w->slot))
		return DROP;
	if (f->ip == 4)
		failed = make_icmp4(skb, ICMP_UNREACHABLE << 24 | ICMP_FRAGMENTATION_NEEDED << 16 | mtu);
	else
		failed = make_icmp6(skb, ICMPV6_PACKET_TOO_BIG << 24 | mtu);
	return failed ? DROP : answer(skb, w, met_at(skb, w));
}

/* Lowers the MSS option of a SYN at l4 with a header of header bytes to mss. */
__attribute__((noinline)) int lower_mss(struct __sk_buff *skb, __u32 l4, __u32 header, __u32 mss)
{
	__u8 options[TCP_OPTIONS_MAX + 4] = {};
	__u32 size = header - 20, at = 0;

	if (size < 4 || size > TCP_OPTIONS_MAX || bpf_skb_load_bytes(skb, l4 + 20, options, size))
		return 0;
	for (int i = 0; i < TCP_OPTIONS_MAX; i++) {
		if (at + 4 > size || at > TCP_OPTIONS_MAX - 4 || options[at] == TCP_OPTION_END)
			return 0;
		if (options[at] == TCP_OPTION_NOP) {
			at++;
			continue;
		}
		if (options[at] != TCP_OPTION_MSS) {
			if (options[at + 1] < 2)
				return 0;
			at += options[at + 1];
			continue;
		}
		__be16 old = options[at + 2] | options[at + 3] << 8, new = bswap16(mss);

		if (options[at + 1] != 4 || bswap16(old) <= mss)
			return 0;
		/* An odd offset swaps the bytes of the sum. */
		__be16 from = at & 1 ? bswap16(old) : old, to = at & 1 ? bswap16(new) : new;

		bpf_l4_csum_replace(skb, l4 + 16, from, to, 2);
		return bpf_skb_store_bytes(skb, l4 + 20 + at + 2, &new, 2, 0);
	}
	return 0;
}

/* Keeps a new TCP connection from learning about the MTU by loss; each end's host does it for its own guest's SYN. */
INLINE void clamp_mss(struct __sk_buff *skb, const struct frame *f, __u32 mtu)
{
	if (likely(f->proto != PROTO_TCP || !(f->tcp_flags & TCP_SYN) || !f->l4))
		return;
	lower_mss(skb, f->l4, f->tcp_header, mtu - 20 - (f->ip == 4 ? sizeof(struct ipv4) : sizeof(struct ipv6)));
}

#endif
