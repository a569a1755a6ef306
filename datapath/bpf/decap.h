/* VXLAN (RFC 7348): a frame arrives from another host. Plain IP frames are unpacked here; what the kernel's own device
 * does better (aggregates) or alone (fragments, options, checksums, anything but IP) is left to it, and met again in vx_in. */
#ifndef WEFT_DECAP_H
#define WEFT_DECAP_H

#include "flood.h"

enum {
	NOT_OURS = -1,		/* the host's own traffic */
	KERNEL = -2,		/* ours, but for the kernel's device */
	UNREAD = -3,		/* the same, and not to be read here */
	FOR_SINK = -4,		/* a mirror's copy, for its sink here */
	ECN_CE = 3,
	OUTER = 98,		/* the longest outer header, with both Ethernet headers */
};

/* What the outer header says. */
struct arrival {
	struct address from;
	struct ethernet inner;
	__u32 vni;
	__u32 size;		/* of what is taken off */
	__u16 detour;		/* it comes from a relay, and is not sent on again */
	__u16 judged;		/* its sender says that it has been judged */
};

INLINE int is_peer(__u32 id, const struct address *vtep)
{
	const struct peer *p = id ? peer_of(id) : 0;

	return p && same_address(&p->vtep, vtep);
}

/* A frame from the wire: sent on by the host that carries for this one, for any station that does not run here; or, where this
 * host has an uplink itself, by the one that the frame's guest has just left. */
INLINE int is_from_wire(__u32 vni, const struct fdb *from, const struct fdb *to, const struct address *vtep)
{
	const struct wire *wire = bpf_map_lookup_elem(&wires_v1, &vni);

	if (!wire || (from && (from->flags & FDB_LOCAL) && !is_elsewhere(from)))
		return 0;
	return is_peer(wire->peer, vtep) || (!from && to && (to->flags & FDB_LOCAL) && is_peer(to->peer, vtep));
}

/* The rest of admit: a frame sent on by the station's previous host, or the reason of the refusal. */
__attribute__((noinline)) int admit_other(__u32 vni, struct arrival *a)
{
	if (!a)
		return DROP_VTEP_UNKNOWN;
	const struct fdb *from = station(vni, a->inner.src), *to = station(vni, a->inner.dst);
	struct address vtep = a->from;

	if (from && to && (to->flags & FDB_LOCAL) && is_peer(to->peer, &vtep)) {
		a->detour = 1;
		return 0;
	}
	if (is_from_wire(vni, from, to, &vtep)) {
		a->detour = 1;
		return 0;
	}
	if (!bpf_map_lookup_elem(&vteps_v1, &vtep))
		return DROP_VTEP_UNKNOWN;
	if (bpf_map_lookup_elem(&sinks_v1, &vni))
		return FOR_SINK;
	if (!bpf_map_lookup_elem(&networks_v2, &vni))
		return DROP_VNI_UNKNOWN;
	return DROP_VTEP_NOT_ALLOWED;
}

/* Whether the inner source may be heard from the outer one; the reason if not, or FOR_SINK. */
INLINE int admit(__u32 vni, struct arrival *a)
{
	const struct fdb *from = station(vni, a->inner.src);

	if (likely(from && (is_peer(from->peer, &a->from) || is_peer(from->alt, &a->from))))
		return 0;
	return admit_other(vni, a);
}

/* The outer source of a frame may not have sent it. */
INLINE int not_admitted(struct __sk_buff *skb, struct way *w, int reason)
{
	return drop(skb, w, reason == DROP_VTEP_UNKNOWN ? STAGE_UNDERLAY_IN : STAGE_DECAP, reason);
}

INLINE int vxlan_is_bad(const struct vxlan *v)
{
	return v->flags != bswap32(VXLAN_FLAG_VNI << 24) || (v->vni & bswap32(0xff));
}

/* What follows the outer IP header. */
INLINE int payload_of(const struct vxlan *v, const void *end, struct arrival *a)
{
	const struct ethernet *inner = (const void *)(v + 1);

	if ((const void *)(v + 1) > end || vxlan_is_bad(v))
		return DROP_VXLAN_BAD;
	if ((const void *)(inner + 1) > end)
		return DROP_L2_SHORT;
	a->vni = bswap32(v->vni) >> 8;
	a->inner = *inner;
	return 0;
}

/* Whether it is VXLAN to this host's tunnel end point: NOT_OURS, UNREAD for the first of several fragments and for options, or
 * 0. Nothing of what is the host's own is made linear. */
INLINE int is_vxlan4(struct __sk_buff *skb, const struct config *cfg)
{
	const struct ipv4 *ip = network_header(skb, sizeof(*ip));
	__be16 port;

	if (!ip || ip->proto != PROTO_UDP || ip->dst != cfg->vtep.w[3] || (ip->fragment & bswap16(FRAGMENT_OFFSET)))
		return NOT_OURS;
	if (load(skb, ETH + (ip->version_ihl & 15) * 4 + 2, &port, 2) || port != bswap16(PORT_VXLAN))
		return NOT_OURS;
	return ip->version_ihl != 0x45 || (ip->fragment & bswap16(FRAGMENT_MORE)) ? UNREAD : 0;
}

/* The same for IPv6. VXLAN behind another extension header than the fragment's is nobody's. */
INLINE int is_vxlan6(struct __sk_buff *skb, const struct config *cfg)
{
	const struct ipv6 *ip = network_header(skb, sizeof(*ip));
	__u32 at = ETH + sizeof(*ip);
	__u8 fragment[4];
	__be16 port;

	if (!ip || ip->dst[0] != cfg->vtep.w[0] || ip->dst[1] != cfg->vtep.w[1] || ip->dst[2] != cfg->vtep.w[2] ||
	    ip->dst[3] != cfg->vtep.w[3])
		return NOT_OURS;
	if (ip->next == PROTO_FRAGMENT) {
		if (load(skb, at, fragment, sizeof(fragment)) || fragment[0] != PROTO_UDP || fragment[2] || fragment[3] & 0xf8)
			return NOT_OURS;
		at += 8;
	} else if (ip->next != PROTO_UDP) {
		return NOT_OURS;
	}
	if (load(skb, at + 2, &port, 2) || port != bswap16(PORT_VXLAN))
		return NOT_OURS;
	return ip->next == PROTO_FRAGMENT ? UNREAD : 0;
}

INLINE int outer4_of(struct __sk_buff *skb, const struct config *cfg, struct arrival *a)
{
	void *end = (void *)(long)skb->data_end;
	struct ipv4 *ip = (void *)(long)skb->data + ETH;
	struct udp *udp = (void *)(ip + 1);
	__u32 sum = 0, length;

	if ((void *)(udp + 1) > end)
		return UNREAD;
	for (int i = 0; i < 10; i++)
		sum += ((__u16 *)ip)[i];
	length = bswap16(ip->length);
	if (fold(sum) != 0xffff || ETH + length != skb->len || bswap16(udp->length) != length - sizeof(*ip) || udp->checksum ||
	    (ip->tos & 3) == ECN_CE)
		return KERNEL;
	a->from = address4(ip->src);
	a->judged = ip->ttl > JUDGED_TTL / 2;
	a->size = OVERHEAD4;
	return payload_of((void *)(udp + 1), end, a);
}

INLINE int outer6_of(struct __sk_buff *skb, const struct config *cfg, struct arrival *a)
{
	void *end = (void *)(long)skb->data_end;
	struct ipv6 *ip = (void *)(long)skb->data + ETH;
	struct udp *udp = (void *)(ip + 1);
	__u32 length;

	if ((void *)(udp + 1) > end)
		return UNREAD;
	length = bswap16(ip->length);
	if (ETH + sizeof(*ip) + length != skb->len || bswap16(udp->length) != length || udp->checksum ||
	    (bswap32(ip->first) >> 20 & 3) == ECN_CE)
		return KERNEL;
	__builtin_memcpy(&a->from, ip->src, 16);
	a->judged = ip->hops > JUDGED_TTL / 2;
	a->size = OVERHEAD6;
	return payload_of((void *)(udp + 1), end, a);
}

/* Reads the outer header. 0: a plain VXLAN frame to this host's tunnel end point. Fragments are put together by the kernel. */
INLINE int outer_of(struct __sk_buff *skb, const struct config *cfg, struct arrival *a)
{
	if (skb->protocol != (cfg->ipv6 ? bswap16(ETHERTYPE_IPV6) : bswap16(ETHERTYPE_IPV4)))
		return NOT_OURS;
	int other = cfg->ipv6 ? is_vxlan6(skb, cfg) : is_vxlan4(skb, cfg);

	if (other)
		return other;
	if (unlikely(skb->data_end - skb->data < OUTER && skb->data_end - skb->data < skb->len)) {
		if (skb->gso_size || bpf_skb_pull_data(skb, skb->len < OUTER ? skb->len : OUTER))
			return UNREAD; /* an aggregate is never pulled (parse.h) */
	}
	return cfg->ipv6 ? outer6_of(skb, cfg, a) : outer4_of(skb, cfg, a);
}

/* Takes the outer header off. FIXED_GSO always: the kernel would add what is taken off to the segment size otherwise. */
INLINE int unpack(struct __sk_buff *skb, const struct config *cfg, const struct arrival *a)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | cfg->decap_flags;

	if (a->inner.type == bswap16(ETHERTYPE_IPV6) && !cfg->ipv6)
		flags |= ADJ_ROOM_DECAP_L3_IPV6;
	if (a->inner.type == bswap16(ETHERTYPE_IPV4) && cfg->ipv6)
		flags |= ADJ_ROOM_DECAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, -(__s32)a->size, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC); /* what the NIC has verified included the outer UDP */
	if (bpf_skb_store_bytes(skb, 0, &a->inner, ETH, 0))
		return -1;
	return 0;
}

/* Whether this frame is unpacked here. */
INLINE int is_plain_inside(const struct __sk_buff *skb, const struct config *cfg, const struct arrival *a)
{
	if (skb->gso_size && !cfg->decap_flags)
		return 0;
	if (a->inner.type != bswap16(ETHERTYPE_IPV4) && a->inner.type != bswap16(ETHERTYPE_IPV6))
		return 0;
	return !is_group(a->inner.dst) && !skb->vlan_present;
}

/* Says that a packet has come in by the underlay NIC; vx_in believes no other. The priority goes with the packet through
 * the kernel's VXLAN device, with the first of several fragments through their reassembly, and nothing on that way looks at it;
 * it does not cross from one namespace into another (____dev_forward_skb), and the wire does not carry it. */
INLINE void seal(struct __sk_buff *skb, const struct config *cfg)
{
	skb->priority = cfg->mark;
}

/* The kernel's VXLAN device takes it from here; vx_in meets the frame again. */
INLINE int leave_to_kernel(struct __sk_buff *skb, struct way *w, const struct config *cfg)
{
	seal(skb, cfg);
	TRACE(skb, w, STAGE_UNDERLAY_IN, RESULT_PASS | RUN_ENDS, 0);
	COUNT(w->slot, passed);
	return NEXT;
}

/* Reads what the kernel's VXLAN device has found; the reason of a refusal, or 0. */
INLINE int tunnel_of(struct __sk_buff *skb, const struct config *cfg, struct arrival *a, struct way *w)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), cfg->ipv6 ? BPF_F_TUNINFO_IPV6 : 0))
		return DROP_VTEP_UNKNOWN;
	a->vni = key.tunnel_id;
	a->judged = key.tunnel_ttl > JUDGED_TTL / 2;
	if (cfg->ipv6)
		__builtin_memcpy(&a->from, key.remote_ipv6, 16);
	else
		a->from = address4(bswap32(key.remote_ipv4));
	struct address to = address4(bswap32(key.local_ipv4));

	if (cfg->ipv6)
		__builtin_memcpy(&to, key.local_ipv6, 16);
	if (!same_address(&to, &cfg->vtep))
		return DROP_VTEP_NOT_ALLOWED;
	if (skb->priority != cfg->mark)
		return DROP_NOT_UNDERLAY;
	skb->priority = 0;
	if (bpf_skb_load_bytes(skb, 0, &a->inner, ETH))
		return DROP_L2_SHORT;
	__u16 type = bswap16(a->inner.type);

	if (skb->vlan_present) /* only ports that carry tags as payload are given it */
		w->qinq = 1;
	else if (type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ || type == ETHERTYPE_QINQ_OLD)
		return DROP_VLAN_NOT_ALLOWED;
	return 0;
}

/* A frame out of a tunnel is for a guest that is plugged in here, and has not left. What the host sends on that it leaves has been
 * judged if that host says so, until this one knows the port's flows. */
INLINE int is_here(const struct fdb *to, struct way *w, const struct arrival *a)
{
	const struct slot *s;
	__u32 gate;

	if (!(to->flags & FDB_LOCAL))
		return 0;
	s = likely(!to->peer) ? 0 : slot_of(to->slot);
	if (likely(!s))
		return 1;
	gate = s->gate & GATE_MASK;
	if (a->judged && (s->policy & POLICY_HANDOVER) && is_peer(to->peer, &a->from))
		w->met |= WAY_JUDGED;
	return gate != GATE_RELAY;
}

/* Why a frame out of a tunnel ends here. */
INLINE __u32 not_here(const struct fdb *to)
{
	return to->flags & FDB_SOURCE ? DROP_PVLAN : DROP_LOOP_SPLIT_HORIZON;
}

/* Whether the answer to a frame that may be rejected could not be made of it: a frame that another namespace of this machine has
 * put into a tunnel, which no NIC brings, is in one for the kernel until its own device takes it out (bpf_skb_change_tail). */
INLINE int is_unanswerable(struct __sk_buff *skb, const struct fdb *to)
{
	const struct slot *s = slot_of(to->slot);

	if (likely(!s || !(s->policy & POLICY_REJECTS)))
		return 0;
	return encapsulation(bpf_cast_to_kern_ctx(skb));
}

/* It may be sent on to the guest's new host. One that was sent on to here already is not: two hosts that take each other for
 * the new one would have it for ever. */
INLINE int is_relayed(const struct fdb *to, const struct arrival *a)
{
	return to->peer && !a->detour && (to->flags & (FDB_RELAY | FDB_LOCAL));
}

/* Sends a frame on, once: the new host admits it because its source lives with us, or because we are named as the
 * station's relay there, and it is named as nobody's. */
INLINE int relay(struct __sk_buff *skb, struct way *w, const struct config *cfg, const struct fdb *to)
{
	const struct peer *p = peer_of(to->peer);
	__u32 port = to->slot;
	if (unlikely(is_judged_here(to)))
		judge_before(skb, w, 0, port);
	if (!p || load_tunnel_key(skb, cfg, p, w->vni, 0, w->met & WAY_JUDGED ? JUDGED_TTL : OUTER_TTL, 0))
		return drop(skb, w, STAGE_RELAY, p ? DROP_REDIRECT_FAILED : DROP_UNDERLAY_DOWN);
	trace_peer(w, &p->vtep);
	TRACE(skb, w, STAGE_RELAY, RESULT_RELAY, 0);
	COUNT(w->slot, relayed);
	if (port)
		COUNT(port, sent_on);
	return bpf_redirect(cfg->tunnel, 0);
}

#endif
