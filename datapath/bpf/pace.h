/* What a guest sends beyond its rate waits (ADR 17): a device of the kernel has no queue where frames come in, so they take a way through
 * weftsh0 and weftsh1, a pair of this host with a queue for each such port on the one, and come out at the other. The bucket (limits.h) has
 * bounded what can wait before. Where the pair is not there, what the bucket lets pass goes on at once. */
#ifndef WEFT_PACE_H
#define WEFT_PACE_H

#include "vlan.h"

enum { SHAPER_MAJOR = 0x57f7 };	/* of the handles of the classes; the minor number is the slot */

/* The class at the way out of the host of what the port in the slot sends; 0: none. */
INLINE __u32 class_of(__u32 slot)
{
	const struct limits *l = bpf_map_lookup_elem(&limits_v3, &slot);

	return l ? l->class : 0;
}

/* Has a frame wait, or says NEXT: it goes on at once, in its class. The tag that it was sent with, and its priority, go with it. */
__attribute__((noinline)) int pace(struct __sk_buff *skb, struct way *w)
{
	const struct config *cfg = host();
	struct limits *l;
	__u16 tag;

	if (!w || !cfg || !(l = bpf_map_lookup_elem(&limits_v3, &w->slot)))
		return NEXT;
	if (!l->shaper || unlikely(w->traced == CAUGHT)) { /* a probe is not the guest's */
		skb->priority = l->class;
		return NEXT;
	}
	tag = w->tag | (skb->priority & 7) << 13;
	if (unlikely(tag) && bpf_skb_vlan_push(skb, bswap16(ETHERTYPE_VLAN), tag))
		return drop(skb, w, STAGE_LIMIT_OUT, DROP_PULL_FAILED);
	TRACE(skb, w, STAGE_LIMIT_OUT, RESULT_PASS | RUN_ENDS, 0);
	skb->mark = cfg->mark | w->slot;
	skb->priority = SHAPER_MAJOR << 16 | w->slot;
	__sync_fetch_and_add(&l->waited, 1);
	return bpf_redirect(l->shaper, 0);
}

/* A frame has left its queue: the port that has sent it, if it is still here. Only the core knows the mark. */
INLINE const struct port *resume(struct __sk_buff *skb, const struct config *cfg, struct way *w)
{
	__u32 slot = skb->mark & (MAX_PORTS - 1), ifindex;
	struct limits *l = bpf_map_lookup_elem(&limits_v3, &slot);
	const struct port *port;

	w->packets = packets_of(skb);
	if (!cfg || !l || (skb->mark & ~(MAX_PORTS - 1)) != cfg->mark) {
		COUNT_ALL(w->slot, rx, w->packets, skb->len);
		return 0;
	}
	skb->mark = 0;
	w->slot = slot;
	w->met = WAY_WAITED;
	__sync_fetch_and_add(&l->resumed, 1);
	ifindex = device_of(skb, slot);
	port = bpf_map_lookup_elem(&ports_v1, &ifindex);
	return port && port->slot == slot ? port : 0;
}

/* The reason why what a guest has sent goes on no more, or 0. That its port has left for another host meanwhile is none: it could send
 * when it did. */
INLINE int may_go_on(const struct way *w)
{
	const struct slot *s = slot_of(w->slot);
	__u64 gate = s ? s->gate : 0;

	if ((gate & GATE_MASK) != GATE_OPEN && (gate & GATE_MASK) != GATE_RELAY)
		return DROP_PORT_DISABLED;
	if (!(gate & GATE_READY))
		return DROP_POLICY_MISSING;
	return w->mtu ? 0 : DROP_VNI_UNKNOWN;
}

#endif
