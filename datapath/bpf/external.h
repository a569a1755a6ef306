/* External switches: a NIC of this host is on the switch too. The host keeps its stack and its addresses on that NIC; what has
 * nothing to do with a guest passes here untouched. */
#ifndef WEFT_EXTERNAL_H
#define WEFT_EXTERNAL_H

#include "wire.h"

enum {
	HEARD_EVERY_NS = 1000000000,	/* a station on the wire is noted again after a second */
};

/* The uplink at a device, copied: its memory may be given to another while it is read (is_stale). */
INLINE int uplink_at(__u32 ifindex, struct uplink *u)
{
	const volatile struct uplink *now = bpf_map_lookup_elem(&uplinks_v2, &ifindex);

	if (!now)
		return -1;
	u->slot = now->slot;
	u->vni = now->vni;
	u->flags = now->flags;
	u->leader = now->leader;
	barrier();
	return now->ifindex == ifindex && u->slot < MAX_PORTS ? 0 : -1;
}

/* The segment that the frame is on: the untagged one, or that of its tag; 0: none of ours. */
INLINE __u32 segment_of(const struct __sk_buff *skb, const struct uplink *u)
{
	struct tag tag = {.ifindex = skb->ifindex};
	const __u32 *vni;

	if (likely(!skb->vlan_present) || !(skb->vlan_tci & 0xfff)) /* VLAN 0: a priority alone */
		return u->vni;
	tag.vid = skb->vlan_tci & 0xfff;
	vni = bpf_map_lookup_elem(&tags_v1, &tag);
	return vni ? *vni : 0;
}

/* What bridges never pass on (IEEE 802.1Q 8.6.3). */
INLINE int is_reserved(const __u8 *mac)
{
	return mac[0] == 0x01 && mac[1] == 0x80 && mac[2] == 0xc2 && !(mac[3] | mac[4]) && mac[5] < 0x10;
}

/* Notes a station on the wire. */
INLINE void hear(struct __sk_buff *skb, __u32 vni, const __u8 *mac)
{
	struct fdb_key key = {.vni = vni};
	struct heard now = {.at = bpf_ktime_get_coarse_ns(), .ifindex = skb->ifindex}, *before;

	__builtin_memcpy(key.mac, mac, 6);
	before = bpf_map_lookup_elem(&heard_v1, &key);
	if (likely(before && now.at - before->at < HEARD_EVERY_NS && before->ifindex == now.ifindex))
		return;
	bpf_map_update_elem(&heard_v1, &key, &now, BPF_ANY);
}

/* A frame that no guest is concerned in goes on to the host's stack, or onto the wire, if the host is on the switch. */
INLINE int pass_by(struct __sk_buff *skb, const struct uplink *u)
{
	if (likely(u->flags & UPLINK_HOST))
		return NEXT;
	COUNT_ALL(u->slot, rx, packets_of(skb), skb->len);
	count_drop(u->slot, FROM_GUEST, DROP_HOST_ACCESS_OFF);
	return DROP;
}

/* Whether this host hands a frame for the station on: the station is plugged in here, or lives on a host that has no uplink and
 * this one carries for, or has left for another host a moment ago. */
INLINE int is_served(const struct fdb *to, const struct uplink *u)
{
	if (!is_elsewhere(to))
		return to->flags & FDB_LOCAL;
	if (to->flags & FDB_LOCAL) {
		const struct slot *s = slot_of(to->slot);

		return s && (s->gate & GATE_MASK) == GATE_RELAY;
	}
	return to->flags & (FDB_RELAY | FDB_CARRIED);
}

/* The reason why a frame may not have come from here, or 0: the station in its source is plugged in and runs on this host. */
INLINE int is_own(const struct fdb *from)
{
	return from && (from->flags & FDB_SOURCE ? !from->peer : (from->flags & FDB_LOCAL) && !is_elsewhere(from));
}

/* Takes an unwelcome tag off; the segment is known from here on. */
INLINE int untag_wire(struct __sk_buff *skb)
{
	return skb->vlan_present ? bpf_skb_vlan_pop(skb) : 0;
}

/* A unicast frame from the wire or the host for a guest. */
INLINE int enter(struct __sk_buff *skb, struct way *w, const struct config *cfg, const struct fdb *to, const struct ethernet *eth)
{
	const struct fdb *from = station(w->vni, eth->src);
	struct frame *f;
	int reason;

	meet(skb, w, cfg, 0);
	if (unlikely(is_own(from)))
		return drop(skb, w, STAGE_WIRE_IN, DROP_OWN_MAC_ON_WIRE);
	if (untag_wire(skb))
		return drop(skb, w, STAGE_WIRE_IN, DROP_PULL_FAILED);
	w->qinq = skb->vlan_present;
	TRACE(skb, w, STAGE_WIRE_IN, RESULT_PASS, 0);
	if (!from)
		hear(skb, w->vni, eth->src);
	if (likely(!is_elsewhere(to))) {
		TRACE(skb, w, STAGE_FDB_LOCAL, RESULT_HIT, 0);
		COUNT(w->slot, local);
		return deliver(skb, w, cfg, 0, to->slot);
	}
	f = frame_at_hand();
	if (!f)
		return DROP;
	clear_frame(f);
	if ((reason = w->qinq ? parse_qinq(skb, f) : parse(skb, f)))
		return drop(skb, w, STAGE_WIRE_IN, reason);
	return send_after(skb, w, f, to);
}

/* A group frame from the wire or the host: a copy for each guest here, and for each host that this one carries for. The frame
 * itself goes on. */
INLINE int spread(struct __sk_buff *skb, struct way *w, const struct uplink *u, const struct config *cfg, const struct ethernet *eth)
{
	struct copies c = {.skb = skb, .cfg = cfg, .network = bpf_map_lookup_elem(&networks_v2, &w->vni), .w = w};
	__u32 mark = skb->mark, tci = skb->vlan_tci, tagged = skb->vlan_present;
	__be16 protocol = skb->vlan_proto;
	const struct fdb *from = station(w->vni, eth->src);

	if (!c.network || is_reserved(eth->dst))
		return pass_by(skb, u);
	meet(skb, w, cfg, 0);
	if (unlikely(is_own(from)))
		return drop(skb, w, STAGE_WIRE_IN, u->flags & UPLINK_BY_PORT ? DROP_UPLINK_SPARE : DROP_OWN_MAC_ON_WIRE);
	if (tagged && bpf_skb_vlan_pop(skb))
		return drop(skb, w, STAGE_WIRE_IN, DROP_PULL_FAILED);
	w->qinq = skb->vlan_present;
	TRACE(skb, w, STAGE_WIRE_IN, RESULT_FLOOD, 0);
	if (!from)
		hear(skb, w->vni, eth->src);
	COUNT(w->slot, flooded);
	describe_once(skb, w, 0);
	bpf_loop(c.network->ports_count, copy_to_port, &c, 0);
	if (u->flags & UPLINK_CARRIES)
		bpf_loop(c.network->peers_count, copy_to_peer, &c, 0);
	if (tagged && bpf_skb_vlan_push(skb, protocol, tci))
		return DROP;
	skb->mark = mark;
	return u->flags & UPLINK_HOST ? NEXT : DROP;
}

/* Whether a guest's frames come in by this NIC of several: the wire floods what it has not learned, to all of them. */
static __attribute__((noinline)) int is_taken(__u32 flags, __u32 leader, __u32 slot, const __u8 *mac)
{
	struct share key = {.leader = leader, .part = part_of(mac)};
	const struct exit *by;

	if (!(flags & UPLINK_BY_PORT))
		return !(flags & UPLINK_SPARE);
	by = bpf_map_lookup_elem(&shares_v1, &key);
	return by ? by->slot == slot : !(flags & UPLINK_SPARE);
}

/* A frame for a guest at a NIC that does not serve it: the one that does gets it, too. */
static __attribute__((noinline)) int leave_to_other(struct __sk_buff *skb, struct way *w, const struct config *cfg)
{
	meet(skb, w, cfg, 0);
	return drop(skb, w, STAGE_WIRE_IN, DROP_UPLINK_SPARE);
}

/* What is neither the core's own nor for the host alone: for a guest, or passed by. */
INLINE int at_wire(struct __sk_buff *skb, const struct uplink *u, int leaving)
{
	struct way w = {.slot = u->slot, .vni = segment_of(skb, u), .met = leaving ? WAY_LEAVING : 0};
	const struct config *cfg = host();
	struct ethernet eth;
	const struct fdb *to;

	if (!w.vni || !cfg || bpf_skb_load_bytes(skb, 0, &eth, ETH))
		return pass_by(skb, u);
	if (is_group(eth.dst) && likely(!(u->flags & UPLINK_SPARE)))
		return spread(skb, &w, u, cfg, &eth);
	to = station(w.vni, eth.dst);
	if (likely(!to || !is_served(to, u)))
		return pass_by(skb, u);
	if (unlikely(u->flags & (UPLINK_SPARE | UPLINK_BY_PORT)) && !leaving && !is_taken(u->flags, u->leader, u->slot, eth.dst))
		return leave_to_other(skb, &w, cfg);
	w.mtu = MAX_PACKET;
	return enter(skb, &w, cfg, to, &eth);
}

/* Whether the core itself has sent the frame to this device. */
INLINE int is_ours(struct __sk_buff *skb, const struct uplink *u)
{
	const struct config *cfg;

	if (likely(!skb->mark))
		return 0;
	cfg = host();
	if (!cfg || skb->mark != (cfg->mark | u->slot))
		return 0;
	skb->mark = 0;
	return 1;
}

#endif
