/* Where a frame goes, and its last step to a guest. */
#ifndef WEFT_DELIVER_H
#define WEFT_DELIVER_H

#include "judge.h"
#include "limits.h"
#include "vlan.h"

INLINE const struct fdb *station(__u32 vni, const __u8 *mac)
{
	struct fdb_key key = {.vni = vni};

	__builtin_memcpy(key.mac, mac, 6);
	return bpf_map_lookup_elem(&fdb_v1, &key);
}

INLINE const struct peer *peer_of(__u32 id)
{
	const struct peer *p = bpf_map_lookup_elem(&peers_v1, &id);

	return p && p->mtu ? p : 0;
}

INLINE int is_group(const __u8 *mac)
{
	return mac[0] & 1;
}

/* A station that is plugged in here but does not run here: staged for a move, or moved away. Its peer has it. */
INLINE int is_elsewhere(const struct fdb *e)
{
	const struct slot *s;

	if (likely(!e->peer))
		return 0;
	if (!(e->flags & FDB_LOCAL))
		return 1;
	s = slot_of(e->slot);
	__u32 gate = s ? s->gate & GATE_MASK : GATE_CLOSED;

	return gate == GATE_STAGED || gate == GATE_RELAY;
}

/* The reason why the frame may not be handed to the slot's device, or 0. */
INLINE __u32 refusal(struct __sk_buff *skb, struct way *w, __u32 slot, const struct slot *s)
{
	__u32 gate = s->gate, reason;

	if (unlikely((s->out >> 40 ^ w->vni) | w->qinq) && (reason = enter_segment(skb, w, slot)))
		return reason;
	if (!s->out)
		return DROP_DEVICE_GONE;
	if ((gate & GATE_MASK) == GATE_CLOSED)
		return DROP_PORT_DISABLED;
	if (!(gate & GATE_READY))
		return DROP_POLICY_MISSING;
	if ((gate & GATE_MASK) == GATE_RELAY)
		return DROP_NOT_OWNER;
	return 0;
}

/* Sends the frame out of the device of the slot, past its guard. vp_out counts it. */
INLINE int out_egress(struct __sk_buff *skb, const struct config *cfg, __u32 slot, __u32 ifindex)
{
	skb->mark = cfg->mark | slot;
	return bpf_redirect(ifindex, 0);
}

int answer_rejected(struct __sk_buff *skb, struct way *w, __u32 slot);
int mirror(struct __sk_buff *skb, struct way *w, __u32 slot, __u32 in);

/* The rules of the port in the slot keep a frame from its guest. */
__attribute__((noinline)) int turn_away(struct __sk_buff *skb, struct way *w, __u32 slot, __u32 reason)
{
	const struct slot *s = slot_of(slot);

	if (!w || !s)
		return DROP;
	leave_segment(skb, w);
	count_drop(slot, TO_GUEST, reason);
	TRACE_AT(s->out, w, STAGE_POLICY_IN, RESULT_DROP, reason);
	return reason == DROP_POLICY_REJECTED ? answer_rejected(skb, w, slot) : DROP;
}

/* Notes of a frame for a port that has left for another host whether its rules let it pass. */
__attribute__((noinline)) int judge_before(struct __sk_buff *skb, struct way *w, struct frame *f, __u32 slot)
{
	if (!w)
		return 0;
	describe_once(skb, w, f);
	if (!judge(w, slot, 1))
		w->met |= WAY_JUDGED;
	w->rule = 0;
	return 0;
}

/* Whether the station's port has left, and this host says of what it sends on whether its rules let it pass: the new one does not
 * know the port's flows yet. */
INLINE int is_judged_here(const struct fdb *to)
{
	const struct slot *s;

	if (!(to->flags & FDB_LOCAL))
		return 0;
	s = slot_of(to->slot);
	return s && (s->gate & GATE_MASK) == GATE_RELAY && (s->policy & POLICY_HANDOVER);
}

/* A followed frame's hops name the generation of the port that it is for from here on. */
INLINE void trace_generation(struct way *w, __u64 out)
{
	__u32 ifindex = out;
	const struct port *port;

	if (likely(!w->traced))
		return;
	port = bpf_map_lookup_elem(&ports_v1, &ifindex);
	w->generation = port ? port->generation : 0;
}

/* What is for the gateway is for this host: its stack takes frames for the MAC of its own end of the pair, which is the port's. */
__attribute__((noinline)) int readdress(struct __sk_buff *skb, __u32 ifindex)
{
	const struct port *port = bpf_map_lookup_elem(&ports_v1, &ifindex);

	return port ? bpf_skb_store_bytes(skb, 0, port->mac, 6, 0) : -1;
}

/* A frame that could not be given to the device of the slot. */
__attribute__((noinline)) int lose(__u32 slot)
{
	count_drop(slot, TO_GUEST, DROP_REDIRECT_FAILED);
	return DROP;
}

/* Hands the frame to the guest in the slot; f, where it has been taken apart. */
INLINE int deliver(struct __sk_buff *skb, struct way *w, const struct config *cfg, struct frame *f, __u32 slot)
{
	const struct slot *s = slot_of(slot);
	struct stats *stats = stats_of(slot);

	if (!s || !stats)
		return DROP;
	__u64 out = s->out;
	__u32 reason = refusal(skb, w, slot, s);

	stats->offered++;
	trace_generation(w, out);
	if (unlikely(!reason && (s->policy & (POLICY_IN | LIMIT_IN | MIRROR_IN)))) {
		describe_once(skb, w, f);
		if ((s->policy & POLICY_IN) && likely(!(w->met & WAY_JUDGED))) {
			if ((reason = judge(w, slot, 1)))
				return turn_away(skb, w, slot, reason);
			TRACE_AT(out, w, STAGE_POLICY_IN, RESULT_PASS, 0);
			w->rule = 0;
		}
		if ((s->policy & LIMIT_IN) && limit_in(skb, w, f, slot, out))
			return DROP;
		if (s->policy & MIRROR_IN)
			mirror(skb, w, slot, 1);
	}
	if (unlikely(!reason && w->traced == CAUGHT))
		reason = DROP_PROBE_CAUGHT;
	if (unlikely(reason)) {
		count_drop(slot, TO_GUEST, reason);
		TRACE_AT(out, w, STAGE_PORT_OUT, reason == DROP_PROBE_CAUGHT ? RESULT_CAUGHT : RESULT_DROP, reason);
		return DROP;
	}
	TRACE_AT(out, w, STAGE_PORT_OUT, RESULT_DELIVER, 0);
	if ((out >> 32 & 0xff) != OUT_PEER || unlikely(w->met & WAY_LEAVING)) {
		if (unlikely((out >> 32 & 0xff) == OUT_HOST) && readdress(skb, out))
			return lose(slot);
		return out_egress(skb, cfg, slot, out);
	}
	stats->tx_frames++;
	stats->tx_packets += w->packets;
	stats->tx_bytes += skb->len;
	skb->mark = 0;
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST); /* before Linux 6.15 the peer would see PACKET_OTHERHOST and drop */
	return bpf_redirect_peer(out, 0);
}

/* The slot of the device the frame is met at. */
INLINE __u32 slot_here(const struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct port *port = bpf_map_lookup_elem(&ports_v1, &ifindex);
	const struct config *cfg = host();

	if (port)
		return port->slot;
	return cfg && cfg->tunnel == ifindex ? SLOT_TUNNEL : SLOT_NOWHERE;
}

/* A frame may not enter a guest's device. One that the core has let pass was counted as offered already. */
INLINE int refuse_egress(const struct __sk_buff *skb, __u32 reason)
{
	const struct config *cfg = host();
	__u32 slot = slot_here(skb);

	if (!cfg || (skb->mark & ~(MAX_PORTS - 1)) != cfg->mark)
		COUNT(slot, offered);
	count_drop(slot, TO_GUEST, reason);
	return DROP;
}

/* Answers a guest: the frame, rewritten, goes back out of the device it came from. A probe has no guest behind it. */
INLINE int answer(struct __sk_buff *skb, struct way *w, __u32 ifindex)
{
	const struct config *cfg = host();

	if (!cfg || unlikely(w->traced == CAUGHT))
		return DROP;
	if (unlikely(w->tag) && bpf_skb_vlan_push(skb, bswap16(ETHERTYPE_VLAN), w->tag))
		return DROP;
	COUNT(w->slot, offered);
	return out_egress(skb, cfg, w->slot, ifindex);
}

#endif
