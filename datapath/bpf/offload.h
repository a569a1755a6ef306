/* What a guest's NIC asks to be done to its frame after the guards have read it: a checksum to be completed, packets to be
 * cut. It may change nothing that a guard has judged. */
#ifndef WEFT_OFFLOAD_H
#define WEFT_OFFLOAD_H

#include "parse.h"

enum {
	/* Of one frame. 64 KiB at the smallest MSS that IPv4 hosts must take (RFC 879) are 123, UDP has 128 at most (Linux
	 * UDP_MAX_SEGMENTS); a segment size of 1 would be 65,000 packets for one write of the guest. */
	MAX_PACKETS = 1024,
	TCP_CHECKSUM = 16,	/* offset in the header */
	UDP_CHECKSUM = 6,
};

/* Whether a checksum over what lies from start on may be written at offset after it: in its place in the transport header,
 * or beyond all that a guard reads, as of the frame in a tunnel that the guest has put up. */
INLINE int is_honest_checksum(const struct frame *f, __u32 start, __u32 offset)
{
	if (!f->l4)
		return 0;
	switch (f->proto) {
	case PROTO_TCP:
		return start == f->l4 && offset == TCP_CHECKSUM;
	case PROTO_UDP:
		return start == f->l4 ? offset == UDP_CHECKSUM : start > f->l4 + 8;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		return 0;
	}
	return start >= f->l4; /* SCTP, GRE: no guard reads their headers */
}

/* The reason why the frame is refused for what is to be done to it, or 0. */
INLINE int offload_is_bad(struct __sk_buff *ctx, const struct frame *f, __u32 packets, int qinq)
{
	const struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);

	if (ctx->gso_size && (!(f->ip || qinq) || packets > MAX_PACKETS))
		return DROP_OFFLOAD_BAD;
	if (ip_summed(skb) != CHECKSUM_PARTIAL)
		return 0;
	if (qinq) /* no guard has read more than its Ethernet header */
		return (__u16)(skb->csum_start - skb->mac_header) < ETH ? DROP_OFFLOAD_BAD : 0;
	/* Both are counted from the start of the buffer, as the place of the Ethernet header is. */
	if (!is_honest_checksum(f, (__u16)(skb->csum_start - skb->mac_header), skb->csum_offset))
		return DROP_OFFLOAD_BAD;
	return 0;
}

#endif
