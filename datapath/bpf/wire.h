/* A guest's frame for a station that the fabric does not know leaves for the wire: by a NIC of this host, or by the host that
 * carries for it. */
#ifndef WEFT_WIRE_H
#define WEFT_WIRE_H

#include "encap.h"

/* The segment's way to the wire, copied, because its memory may be given to another while it is read; -1: it has none. */
INLINE int wire_of(__u32 vni, struct wire *to)
{
	const volatile struct wire *now = bpf_map_lookup_elem(&wires_v1, &vni);

	if (!now)
		return -1;
	to->ifindex = now->ifindex;
	to->slot = now->slot;
	to->flags = now->flags;
	to->vid = now->vid;
	to->mtu = now->mtu;
	to->peer = now->peer;
	for (int i = 0; i < 6; i++)
		to->mac[i] = now->mac[i];
	barrier();
	return now->vni == vni && to->slot < MAX_PORTS ? 0 : -1;
}

/* Whether a NIC of this host is on the segment. */
INLINE int has_uplink(__u32 vni)
{
	const struct wire *to = bpf_map_lookup_elem(&wires_v1, &vni);

	return to && to->ifindex;
}

/* The part that a station's frames belong to, by its MAC: a MAC is then heard on one port of the physical switch alone. */
INLINE __u32 part_of(const __u8 *mac)
{
	return (mac[3] + mac[4] + mac[5]) & (MAX_SHARES - 1);
}

/* The NIC of several that a frame leaves by. Where none is told, it is the one that leads. */
static __attribute__((noinline)) int choose(struct __sk_buff *skb, struct wire *to)
{
	struct share key = {.leader = to->slot};
	const struct exit *by;
	__u8 mac[6];

	if (to->flags & UPLINK_BY_FLOW)
		key.part = bpf_get_hash_recalc(skb) & (MAX_SHARES - 1);
	else if (!bpf_skb_load_bytes(skb, 6, mac, 6))
		key.part = part_of(mac);
	by = bpf_map_lookup_elem(&shares_v1, &key);
	if (!by || by->slot >= MAX_PORTS)
		return 0;
	to->ifindex = by->ifindex;
	to->slot = by->slot;
	__builtin_memcpy(to->mac, by->mac, 6);
	return 0;
}

/* Sends a frame to the wire by a NIC of this host, or to the host behind it; ext_out counts the one, ext_in lets both pass. The
 * caller has checked its length. */
__attribute__((noinline)) int leave(struct __sk_buff *skb, struct way *w)
{
	const struct config *cfg = host();
	struct wire to = {};
	__u8 mac[6];

	if (!w)
		return DROP;
	if (!cfg || wire_of(w->vni, &to) || !to.ifindex || bpf_skb_load_bytes(skb, 0, mac, 6))
		return drop(skb, w, STAGE_FDB, DROP_DST_UNKNOWN);
	if (unlikely(to.flags & UPLINK_SHARED) && !same_mac(mac, to.mac))
		choose(skb, &to);
	if (unlikely(w->traced == CAUGHT)) {
		count_drop(w->slot, FROM_GUEST, DROP_PROBE_CAUGHT);
		TRACE_AT(to.ifindex, w, STAGE_WIRE_OUT, RESULT_CAUGHT, DROP_PROBE_CAUGHT);
		return DROP;
	}
	if (to.vid && bpf_skb_vlan_push(skb, bswap16(ETHERTYPE_VLAN), to.vid | (skb->priority & 7) << 13))
		return drop(skb, w, STAGE_WIRE_OUT, DROP_PULL_FAILED);
	skb->mark = cfg->mark | to.slot;
	if (same_mac(mac, to.mac)) {
		if (!(to.flags & UPLINK_HOST))
			return drop(skb, w, STAGE_WIRE_OUT, DROP_HOST_ACCESS_OFF);
		TRACE_AT(to.ifindex, w, STAGE_WIRE_OUT, RESULT_DELIVER, 0);
		COUNT(w->slot, local);
		return bpf_redirect(to.ifindex, BPF_F_INGRESS);
	}
	TRACE_AT(to.ifindex, w, STAGE_WIRE_OUT, RESULT_PASS, 0);
	COUNT(w->slot, remote);
	COUNT(to.slot, offered);
	return bpf_redirect(to.ifindex, 0);
}

/* A unicast frame of a guest for a station that the fabric does not know. */
__attribute__((noinline)) int leave_guest(struct __sk_buff *skb, struct way *w, struct frame *f)
{
	struct wire to = {};

	if (!w || !f)
		return DROP;
	if (wire_of(w->vni, &to))
		return drop(skb, w, STAGE_FDB, DROP_DST_UNKNOWN);
	TRACE(skb, w, STAGE_FDB, RESULT_MISS, 0);
	if (unlikely(f->l3_length > to.mtu)) {
		if (f->ip != 4 || f->df)
			return too_big(skb, w, f, to.mtu);
		return drop(skb, w, STAGE_FDB, DROP_MTU_EXCEEDED); /* a bridge does not fragment */
	}
	clamp_mss(skb, f, to.mtu);
	return leave(skb, w);
}

/* A copy of a group frame for the wire, and one for the host behind the NIC. */
static __attribute__((noinline)) int copy_to_wire(struct __sk_buff *skb, struct way *w, const struct config *cfg)
{
	struct wire to = {};
	__u32 leader, slot;

	if (wire_of(w->vni, &to) || !to.ifindex || to.slot == w->slot)
		return 0;
	leader = to.ifindex;
	slot = to.slot;
	if (unlikely(to.flags & UPLINK_SHARED))
		choose(skb, &to);
	if (unlikely(w->traced == CAUGHT)) {
		TRACE_AT(to.ifindex, w, STAGE_WIRE_OUT, RESULT_CAUGHT, DROP_PROBE_CAUGHT);
		return 0;
	}
	if (to.vid && bpf_skb_vlan_push(skb, bswap16(ETHERTYPE_VLAN), to.vid))
		return 0;
	skb->mark = cfg->mark | to.slot;
	TRACE_AT(to.ifindex, w, STAGE_WIRE_OUT, RESULT_FLOOD, 0);
	COUNT(to.slot, offered);
	struct stats *stats = stats_of(to.slot);
	__u64 before = stats ? stats->tx_frames : 0;

	if (bpf_clone_redirect(skb, to.ifindex, 0) < 0 && stats && stats->tx_frames == before)
		count_drop(to.slot, TO_GUEST, DROP_REDIRECT_FAILED);
	if (to.flags & UPLINK_HOST) {
		skb->mark = cfg->mark | slot;
		bpf_clone_redirect(skb, leader, BPF_F_INGRESS);
	}
	skb->mark = 0;
	if (to.vid)
		bpf_skb_vlan_pop(skb);
	return 0;
}

#endif
