/* Group frames: a copy for each port of the switch here, and one for each peer that has a port on it (head-end
 * replication, RFC 7348 section 4.2 with the group made of unicasts). */
#ifndef WEFT_FLOOD_H
#define WEFT_FLOOD_H

#include "wire.h"
#include "host.h"

enum {
	STORM_EVERY_NS = 100000,			/* one copy of a port's group frames: 10,000 in a second, */
	STORM_BURST_NS = 2000 * STORM_EVERY_NS,		/* 2,000 at once, more than one frame can have */
};

INLINE int is_broadcast(const __u8 *mac)
{
	return (mac[0] & mac[1] & mac[2] & mac[3] & mac[4] & mac[5]) == 0xff;
}

/* Whether a guest has sent more to groups than its port may: than it is told, by kind, else than what it may cost this host and
 * the underlay, which are the copies (GCRA; two CPUs that meet here may both pass). */
INLINE int is_storm(struct __sk_buff *skb, struct way *w, struct frame *f, __u32 copies)
{
	struct slot *s = slot_of(w->slot);
	__u64 now = bpf_ktime_get_ns(), at, next;

	if (!s)
		return 1;
	if (unlikely(s->policy & LIMIT_STORM)) {
		int storm = is_told_storm(skb, w, f, is_broadcast(f->eth.dst) ? STORM_BROADCAST : STORM_MULTICAST);

		if (storm != NOT_TOLD)
			return storm;
	}
	at = s->storm > now ? s->storm : now;
	next = at + (__u64)copies * STORM_EVERY_NS;
	if (next - now > STORM_BURST_NS)
		return 1;
	s->storm = next;
	return 0;
}

struct copies {
	struct __sk_buff *skb;
	const struct network *network;
	const struct config *cfg;
	struct way *w;
	__u32 fragment;
	__u32 only;		/* slot of the one port that gets a copy; 0: all do */
};

/* One copy for a port that is open; a staged one would give its guest what it has had at the source already. */
static long copy_to_port(__u32 i, struct copies *c)
{
	__u32 id = c->network->ports[i & (MAX_FLOOD_PORTS - 1)];
	const struct slot *s = slot_of(id);

	if (id == c->w->slot || (c->only && id != c->only) || !s || (s->gate & GATE_MASK) != GATE_OPEN)
		return 0;
	__u32 reason = refusal(c->skb, c->w, id, s);

	COUNT(id, offered);
	if (unlikely(!reason && (s->policy & POLICY_IN)))
		reason = judge_copy(c->w, id);
	if (unlikely(!reason && (s->policy & LIMIT_IN)))
		reason = limit(c->skb, c->w, 0, id, COPY_TO_PORT);
	if (!reason && c->w->traced == CAUGHT)
		reason = DROP_PROBE_CAUGHT;
	if (unlikely(!reason && (s->policy & MIRROR_IN)))
		mirror(c->skb, c->w, id, 1);
	if (!reason) {
		c->skb->mark = c->cfg->mark | id;
		struct stats *stats = stats_of(id);
		__u64 before = stats ? stats->tx_frames : 0;

		/* What vp_out has counted is the device's: a queue that is full or a device that is down loses it there. */
		if (bpf_clone_redirect(c->skb, (__u32)s->out, 0) < 0 && stats && stats->tx_frames == before)
			reason = DROP_REDIRECT_FAILED;
	}
	if (unlikely(c->w->pushed))
		leave_segment(c->skb, c->w);
	if (reason)
		count_drop(id, TO_GUEST, reason);
	if (!c->w->traced)
		return 0;
	tell(c->w, (__u32)s->out,
	     STAGE_PORT_OUT << 8 | (!reason ? RESULT_DELIVER : reason == DROP_PROBE_CAUGHT ? RESULT_CAUGHT : RESULT_DROP), reason);
	return 0;
}

static long copy_to_peer(__u32 i, struct copies *c)
{
	const struct peer *p = peer_of(c->network->peers[i & (MAX_FLOOD_PEERS - 1)]);

	if (!p)
		return 0;
	trace_peer(c->w, &p->vtep);
	TRACE(c->skb, c->w, STAGE_UNDERLAY_OUT, RESULT_FLOOD, 0);
	if (load_tunnel_key(c->skb, c->cfg, p, c->w->vni, c->w->tos, OUTER_TTL, c->fragment) || bpf_clone_redirect(c->skb, c->cfg->tunnel, 0) < 0) {
		COUNT(SLOT_TUNNEL, offered);
		count_drop(SLOT_TUNNEL, TO_GUEST, DROP_REDIRECT_FAILED);
	}
	return 0;
}

/* Sends the frame to all others on the switch; from a tunnel, to those here alone, because its sender has served the rest. */
INLINE int flood(struct __sk_buff *skb, struct way *w, struct frame *f)
{
	struct copies c = {.skb = skb, .cfg = host(), .network = bpf_map_lookup_elem(&networks_v2, &w->vni), .w = w};

	if (!c.network || !c.cfg)
		return drop(skb, w, STAGE_FDB, DROP_VNI_UNKNOWN);
	TRACE(skb, w, STAGE_FDB, RESULT_FLOOD, 0);
	if (f && f->l3_length > w->mtu) {
		c.fragment = f->ip == 4 && !f->df;
		if (!c.fragment)
			return drop(skb, w, STAGE_FDB, DROP_MTU_EXCEEDED);
	}
	if (unlikely(c.network->services) && f && is_call(f)) {
		c.only = c.network->host;
		if (!c.only)
			return drop(skb, w, STAGE_FDB, DROP_HOST_PORT_MISSING);
	}
	if (f && is_storm(skb, w, f, c.network->ports_count + c.network->peers_count)) {
		alarm(skb, w->slot, DROP_STORM_CONTROL);
		return drop(skb, w, STAGE_FDB, DROP_STORM_CONTROL);
	}
	COUNT(w->slot, flooded);
	describe_once(skb, w, f);
	bpf_loop(c.network->ports_count, copy_to_port, &c, 0);
	if (f && !c.only)
		bpf_loop(c.network->peers_count, copy_to_peer, &c, 0);
	if (unlikely(c.network->flags & NETWORK_WIRE))
		copy_to_wire(skb, w, c.cfg);
	return DROP;
}

#endif
