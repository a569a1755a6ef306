/* The host on an internal switch (ADR 14): the gateway, and the services of its guests. */
#ifndef WEFT_HOST_H
#define WEFT_HOST_H

#include "neighbor.h"

/* Whether a group frame of a guest asks who will configure it: DHCP, or a router solicitation. */
INLINE int is_call(const struct frame *f)
{
	if (f->fragment)
		return 0;
	if (f->ip == 4)
		return f->proto == PROTO_UDP && f->dport == PORT_DHCP_SERVER;
	if (f->ip != 6)
		return 0;
	return (f->proto == PROTO_UDP && f->dport == PORT_DHCP6_SERVER) || (f->proto == PROTO_ICMPV6 && f->icmp_type == ND_RS);
}

/* Whether a guest asks the gateway itself whether it lives. The core answers: the host's stack would name its own MAC, and a guest
 * that moves would still send to the host that it has left. 0: the frame is the answer. */
__attribute__((noinline)) int answer_gateway(struct __sk_buff *skb, struct way *w, const struct frame *f)
{
	__u32 ifindex = w ? met_at(skb, w) : 0;

	return answer_neighbor(skb, w, f, bpf_map_lookup_elem(&ports_v1, &ifindex));
}

#endif
