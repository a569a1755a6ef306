/* Mirrors (ADR 16): copies of what has passed at a port, for another port or for a device on which somebody listens. A copy leaves by the
 * device weftmir0, which is never up: the program there makes it what the mirror asks for and sends it on, to the sink on this host or, by
 * VXLAN under the mirror's own VNI, to the host of the sink. A copy is given to its sink as it is; nothing judges it, nothing copies it. */
#ifndef WEFT_MIRROR_H
#define WEFT_MIRROR_H

#include "encap.h"

enum {
	TRUNCATED_LEAST = 128,	/* bytes that are left of a packet whose checksum is still to be computed */
};

INLINE struct mirror_stats *mirror_stats_of(__u32 vni)
{
	return bpf_map_lookup_elem(&mirror_stats_v1, &vni);
}

/* Counts one more of a field of a mirror's stats. */
#define COUNT_COPY(vni, field)                                            \
	do {                                                              \
		struct mirror_stats *counted = mirror_stats_of(vni);      \
		if (counted)                                              \
			counted->field++;                                 \
	} while (0)

/* Whether a packet is one that the clause asks for. A fragment but the first shows no ports. */
INLINE int meets(const struct clause *c, const struct judgement *j, __u32 in)
{
	const struct address *local = in ? &j->dst : &j->src, *remote = in ? &j->src : &j->dst;
	__u16 local_port = in ? j->dport : j->sport, remote_port = in ? j->sport : j->dport;

	if (c->family && c->family != j->ip)
		return 0;
	if (c->proto != CLAUSE_ANY && (!j->ip || c->proto != j->proto))
		return 0;
	if (c->addresses && (!j->ip || !is_within(local, &c->local, &c->local_mask) || !is_within(remote, &c->remote, &c->remote_mask)))
		return 0;
	if (!c->ports)
		return 1;
	return j->has_ports && local_port >= c->local_first && local_port <= c->local_last && remote_port >= c->remote_first &&
	       remote_port <= c->remote_last;
}

/* Whether a mirror asks for the packet on this CPU's docket. */
__attribute__((noinline)) int is_asked_for(__u32 id, __u32 in)
{
	const struct mirror *m = bpf_map_lookup_elem(&mirrors_v1, &id);
	const struct judgement *j = judgement(PACKET);

	if (!m || !j)
		return 0;
	for (int i = 0; i < MIRROR_CLAUSES; i++) {
		if (i >= m->clauses)
			return 0;
		if (meets(&m->clause[i], j, in))
			return 1;
	}
	return 0;
}

/* One copy for a mirror, unless its time is over, it asks for other packets, or it is another one's turn. */
__attribute__((noinline)) int copy_to_mirror(struct __sk_buff *skb, struct way *w, __u32 id, __u32 in)
{
	const struct mirror *m = bpf_map_lookup_elem(&mirrors_v1, &id);
	const struct config *cfg = host();
	struct mirror_stats *stats;
	__u64 before;

	if (!w || !m || !cfg || bpf_ktime_get_ns() >= m->until)
		return 0;
	stats = mirror_stats_of(m->vni);
	if (!stats || (m->clauses && (w->unfit || !is_asked_for(id, in))))
		return 0;
	before = stats->seen;
	stats->seen += w->packets;
	if (m->sample > 1 && (before + m->sample - 1) / m->sample == (stats->seen + m->sample - 1) / m->sample)
		return 0;
	skb->mark = cfg->mark | id;
	if (bpf_clone_redirect(skb, m->device, 0) < 0)
		stats->lost++;
	return 0;
}

/* Copies what the guest in the slot has sent, or is about to receive, for the mirrors of its port. A probe is not the guest's. */
__attribute__((noinline)) int mirror(struct __sk_buff *skb, struct way *w, __u32 slot, __u32 in)
{
	const struct mirrored *by = bpf_map_lookup_elem(&mirrored_v1, &slot);
	__u64 sessions;
	int tagged;

	if (!w || !by || w->traced == CAUGHT)
		return 0;
	sessions = in ? by->in : by->out;
	tagged = !in && w->tag && !bpf_skb_vlan_push(skb, bswap16(ETHERTYPE_VLAN), w->tag);
	for (int i = 0; i < PORT_MIRRORS; i++) {
		if (!sessions)
			break;
		copy_to_mirror(skb, w, sessions & 0xff, in);
		sessions >>= 8;
	}
	skb->mark = 0;
	if (tagged)
		bpf_skb_vlan_pop(skb);
	return 0;
}

/* The sink of a mirror on this host, copied, because its memory may be given to another while it is read; -1: there is none. */
INLINE int sink_of(__u32 vni, struct sink *to)
{
	const volatile struct sink *now = bpf_map_lookup_elem(&sinks_v1, &vni);

	if (!now)
		return -1;
	to->slot = now->slot;
	to->ifindex = now->ifindex;
	barrier();
	return now->vni == vni && to->slot < MAX_PORTS ? 0 : -1;
}

/* The reason why a copy may not be given to the port in the slot, or 0. */
INLINE __u32 refusal_of_copy(const struct slot *s)
{
	if (!s || !s->out)
		return DROP_DEVICE_GONE;
	switch (s->gate & (GATE_MASK | GATE_READY)) {
	case GATE_OPEN | GATE_READY:
	case GATE_STAGED | GATE_READY:
		return 0;
	case GATE_RELAY | GATE_READY:
	case GATE_RELAY:
		return DROP_NOT_OWNER;
	case GATE_OPEN:
	case GATE_STAGED:
		return DROP_POLICY_MISSING;
	}
	return DROP_PORT_DISABLED;
}

/* Gives a copy to its sink: a port's device, where vp_out counts it, or one on which somebody listens. */
__attribute__((noinline)) int into_sink(struct __sk_buff *skb, __u32 vni)
{
	struct mirror_stats *stats = mirror_stats_of(vni);
	const struct config *cfg = host();
	struct sink to = {};
	const struct slot *s;
	__u32 reason;

	if (!stats || !cfg || sink_of(vni, &to)) {
		COUNT_COPY(vni, lost);
		return DROP;
	}
	if (!to.slot) {
		stats->given++;
		stats->given_bytes += skb->len;
		skb->mark = 0;
		return bpf_redirect(to.ifindex, BPF_F_INGRESS);
	}
	s = slot_of(to.slot);
	reason = refusal_of_copy(s);
	COUNT(to.slot, offered);
	if (reason || !s) {
		stats->lost++;
		count_drop(to.slot, TO_GUEST, reason);
		return DROP;
	}
	stats->given++;
	stats->given_bytes += skb->len;
	return out_egress(skb, cfg, to.slot, s->out);
}

/* Another host's copy for the sink of its mirror here. */
INLINE int end_mirror(struct __sk_buff *skb, struct way *w)
{
	COUNT(w->slot, local);
	return into_sink(skb, w->vni);
}

/* Cuts a copy to what the mirror asks for. What has its checksum still to be computed keeps its headers; that cannot be cut is sent
 * whole. */
INLINE void truncate(struct __sk_buff *skb, __u32 size)
{
	if (!size || skb->len <= size || !bpf_skb_change_tail(skb, size, 0))
		return;
	if (size < TRUNCATED_LEAST && skb->len > TRUNCATED_LEAST)
		bpf_skb_change_tail(skb, TRUNCATED_LEAST, 0);
}

/* A copy, on its way to its mirror's sink. */
INLINE int send_copy(struct __sk_buff *skb, const struct config *cfg, const struct mirror *m)
{
	__u32 vni = m->vni, id = m->peer;
	const struct peer *p;

	COUNT_COPY(vni, copied);
	truncate(skb, m->truncate);
	if (!id)
		return into_sink(skb, vni);
	p = peer_of(id);
	if (!p || load_tunnel_key(skb, cfg, p, vni, 0, OUTER_TTL, 1)) {
		COUNT_COPY(vni, lost);
		return DROP;
	}
	return bpf_redirect(cfg->tunnel, 0);
}

#endif
