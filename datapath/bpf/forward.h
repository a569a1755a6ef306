/* What becomes of a frame that its guest may send. */
#ifndef WEFT_FORWARD_H
#define WEFT_FORWARD_H

#include "encap.h"
#include "flood.h"

/* The DSCP of an IP packet, with the two bits of ECN clear. */
INLINE __u32 dscp_of(struct __sk_buff *skb, const struct frame *f)
{
	__u8 first[2];

	if (!f->ip || load(skb, ETH, first, 2))
		return 0;
	return (f->ip == 4 ? first[1] : first[0] << 4 | first[1] >> 4) & 0xfc;
}

/* The outer header's DSCP. A priority that is trusted is its class selector (RFC 2474 4.2.2), where the packet's own DSCP is not to be
 * copied. */
INLINE void outer_priority(struct __sk_buff *skb, struct way *w, struct frame *f, __u32 asked)
{
	w->tos = asked & GUARD_TRUSTED ? (skb->priority & 7) << 5 : 0;
	if ((asked & GUARD_DSCP) && f->ip)
		w->tos = dscp_of(skb, f);
	f->ecn |= w->tos;
}

/* Whether a guest has sent more to stations that nobody knows than its port may. */
__attribute__((noinline)) int is_unknown_storm(struct __sk_buff *skb, struct way *w, struct frame *f)
{
	const struct slot *s = w ? slot_of(w->slot) : 0;

	if (!s || !(s->policy & LIMIT_STORM) || is_told_storm(skb, w, f, STORM_UNKNOWN) != 1)
		return 0;
	alarm(skb, w->slot, DROP_STORM_CONTROL);
	return 1;
}

/* The core has made an answer of the guest's frame. */
INLINE int answered(struct __sk_buff *skb, struct way *w)
{
	TRACE(skb, w, STAGE_FDB, RESULT_ANSWERED, 0);
	COUNT(w->slot, answered);
	return answer(skb, w, met_at(skb, w));
}

/* A unicast frame from a guest. */
INLINE int forward(struct __sk_buff *skb, struct way *w, const struct config *cfg, struct frame *f)
{
	const struct fdb *e = station(w->vni, f->eth.dst);

	if (unlikely(!e)) {
		const struct wire *wire = bpf_map_lookup_elem(&wires_v1, &w->vni);

		if (is_unknown_storm(skb, w, f))
			return drop(skb, w, STAGE_FDB, DROP_STORM_CONTROL);
		if (!wire)
			return drop(skb, w, STAGE_FDB, nowhere(w, f));
		if (wire->ifindex)
			return leave_guest(skb, w, f);
		return to_remote(skb, w, f, wire->peer);
	}
	if ((e->flags & FDB_LOCAL) && e->slot == w->slot)
		return drop(skb, w, STAGE_FDB, DROP_LOOP_SPLIT_HORIZON);
	if (unlikely(e->flags & FDB_GATEWAY) && answer_gateway(skb, w, f) != UNANSWERED)
		return answered(skb, w);
	if (unlikely(e->flags & FDB_SOURCE))
		return drop(skb, w, STAGE_FDB, DROP_PVLAN);
	TRACE(skb, w, STAGE_FDB, RESULT_HIT, 0);
	if (is_elsewhere(e))
		return send_after(skb, w, f, e);
	if (!(e->flags & FDB_LOCAL))
		return drop(skb, w, STAGE_FDB, DROP_DST_UNKNOWN);
	if (unlikely(f->l3_length > w->mtu && (f->ip != 4 || f->df)))
		return too_big(skb, w, f, w->mtu);
	clamp_mss(skb, f, w->mtu);
	COUNT(w->slot, local);
	return deliver(skb, w, cfg, f, e->slot);
}

/* A frame goes where it is for: a station, the core itself, all others on its switch. */
INLINE int onward(struct __sk_buff *skb, struct way *w, const struct config *cfg, struct frame *f, const struct port *port)
{
	if (likely(!is_group(f->eth.dst)))
		return forward(skb, w, cfg, f);
	if (answer_neighbor(skb, w, f, port) == UNANSWERED)
		return flood(skb, w, f);
	return answered(skb, w);
}

#endif
