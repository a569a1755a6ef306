/* VLANs (ADR 12): ports that are on more segments of their switch than one, by tags (a trunk) or by what they receive (a private
 * VLAN). A port on one segment meets none of this: its VNI is all there is. */
#ifndef WEFT_VLAN_H
#define WEFT_VLAN_H

#include "judge.h"
#include "guard.h"
#include "limits.h"

enum { VLAN_ID = 0xfff };

INLINE const struct segment *membership(__u32 slot, __u32 vni)
{
	struct segment_key key = {.slot = slot, .vni = vni};

	return bpf_map_lookup_elem(&segments_v1, &key);
}

/* A guest's frame has a tag: of VLAN 0, which carries a priority alone (IEEE 802.1Q 6.9), or of a VLAN of its trunk. It is taken
 * off, and names the segment. What tag is left then is payload, where the port carries such. The reason of a refusal, or 0. */
__attribute__((noinline)) int enter_tagged(struct __sk_buff *skb, struct way *w)
{
	const struct config *cfg = host();
	struct trunk_key key = {.vid = skb->vlan_tci & VLAN_ID};
	const struct segment *on;
	const __u32 *vni;

	if (!w || !cfg)
		return DROP_VLAN_NOT_ALLOWED;
	key.slot = w->slot;
	vni = key.vid && skb->vlan_proto == bswap16(ETHERTYPE_VLAN) ? bpf_map_lookup_elem(&trunks_v1, &key) : 0;
	if (vni) {
		w->vni = *vni;
		w->tag = key.vid;
	}
	if ((vni || !key.vid) && bpf_skb_vlan_pop(skb))
		return DROP_PULL_FAILED;
	if (!skb->vlan_present) { /* else the kernel has put the next tag in its place, or it is as it was */
		if (unlikely(cfg->tracing))
			w->traced = followed(skb, 0, w->vni, w->slot);
		return 0;
	}
	on = membership(w->slot, w->vni);
	if (!on || !(on->flags & SEGMENT_QINQ)) {
		alarm(skb, w->slot, DROP_VLAN_NOT_ALLOWED);
		return DROP_VLAN_NOT_ALLOWED;
	}
	w->qinq = 1;
	return 0;
}

/* The guards of a frame whose tag is payload: nothing looks behind it. */
INLINE int guard_qinq(const struct frame *f, const struct port *port)
{
	int reason = guard_source(f, port);

	if (reason)
		return reason;
	return (port->guards & GUARD_L2_CONTROL) && is_link_control(&f->eth, f->ethertype) ? DROP_GUARD_L2_CONTROL : 0;
}

/* The frame is not on the segment that the port in the slot receives first, or has a tag as payload. Gives it the tag that the
 * port knows its segment by; the reason if the port is not to have it, or 0. */
__attribute__((noinline)) int enter_segment(struct __sk_buff *skb, struct way *w, __u32 slot)
{
	const struct slot *s = slot_of(slot);
	const struct segment *on;

	if (!w || !s || !s->out)
		return DROP_DEVICE_GONE;
	on = membership(slot, w->vni);
	if (!on)
		return w->qinq ? DROP_VLAN_NOT_ALLOWED : DROP_DEVICE_GONE;
	if (w->qinq && !(on->flags & SEGMENT_QINQ))
		return DROP_VLAN_NOT_ALLOWED;
	if (!on->tag)
		return 0;
	if (bpf_skb_vlan_push(skb, bswap16(ETHERTYPE_VLAN), on->tag))
		return DROP_PULL_FAILED;
	w->pushed = 1;
	return 0;
}

/* Takes that tag off again: the frame goes elsewhere, too, or not there at all. */
__attribute__((noinline)) int leave_segment(struct __sk_buff *skb, struct way *w)
{
	if (w && w->pushed) {
		w->pushed = 0;
		bpf_skb_vlan_pop(skb);
	}
	return 0;
}

/* Why a guest's frame has nowhere to go: a private VLAN keeps it from a station of its switch, or there is none. */
__attribute__((noinline)) int nowhere(const struct way *w, const struct frame *f)
{
	struct fdb_key key = {};
	const struct slot *s;

	if (!w || !f || w->tag || !(s = slot_of(w->slot)))
		return DROP_DST_UNKNOWN;
	key.vni = s->out >> 40;
	__builtin_memcpy(key.mac, f->eth.dst, 6);
	return key.vni != w->vni && bpf_map_lookup_elem(&fdb_v1, &key) ? DROP_PVLAN : DROP_DST_UNKNOWN;
}

#endif
