/* One frame under way, what it is counted as, and its end. */
#ifndef WEFT_STATS_H
#define WEFT_STATS_H

#include "maps.h"
#include "stages.h"

/* A frame under way, from the program that met it to its end. */
enum {
	WAY_LEAVING = 1 << 0,	/* it is met where the host sends, from where the kernel hands nothing to the other end of a veth */
	WAY_JUDGED = 1 << 1,	/* the rules about what its guest receives let it pass, on the host that the guest leaves */
	WAY_WAITED = 1 << 2,	/* it has waited for its guest's rate, and is met where that queue ends */
};

struct way {
	__u32 slot;		/* where it came from: a port's slot, SLOT_UNDERLAY or SLOT_TUNNEL */
	__u32 vni;
	__u32 generation;
	__u32 mtu;		/* of the switch */
	__u32 packets;		/* on a wire */
	__u32 unfit;		/* the reason why it cannot be judged, or 0 */
	__u8 traced;		/* FOLLOWED, CAUGHT or 0 */
	__u8 described;		/* this CPU's docket holds it (packet.h) */
	__u8 met;		/* WAY_ */
	__u8 qinq;		/* it has a tag that is payload (vlan.h), */
	__u8 pushed;		/* and that of the port it is for */
	__u8 tos;		/* of the outer header, beside ECN: the DSCP in the upper six bits */
	__u16 tag;		/* that the guest sent it with, of a trunk; 0: none */
	__u64 rule;		/* that decided last, for its hop; 0: none */
};

INLINE const struct config *host(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config_v1, &zero);
}

INLINE struct stats *stats_of(__u32 slot)
{
	return bpf_map_lookup_elem(&stats_v1, &slot);
}

INLINE struct slot *slot_of(__u32 slot)
{
	return bpf_map_lookup_elem(&slots_v1, &slot);
}

/* The device of the port in the slot; where there is none, the one that the frame is met at. */
INLINE __u32 device_of(const struct __sk_buff *skb, __u32 slot)
{
	const struct slot *s = slot_of(slot);
	__u32 ifindex = s ? s->out : 0;

	return ifindex ? ifindex : skb->ifindex;
}

/* The device by which the frame came from its guest, or into the host. */
INLINE __u32 met_at(const struct __sk_buff *skb, const struct way *w)
{
	return unlikely(w->met & WAY_WAITED) ? device_of(skb, w->slot) : skb->ifindex;
}

/* Counts one more of a field of a slot's stats; this CPU's copy, and no program is interrupted by another on its CPU. */
#define COUNT(slot, field)                                  \
	do {                                                \
		struct stats *counted = stats_of(slot);     \
		if (likely(counted))                        \
			counted->field++;                   \
	} while (0)

/* The same for frames, packets and bytes at once: COUNT_ALL(w->slot, rx, packets, bytes). */
#define COUNT_ALL(slot, side, packets, bytes)               \
	do {                                                \
		struct stats *counted = stats_of(slot);     \
		if (likely(counted)) {                      \
			counted->side##_frames++;           \
			counted->side##_packets += packets; \
			counted->side##_bytes += bytes;     \
		}                                           \
	} while (0)

/* Counts a drop. Two CPUs may meet at the first drop of its kind: who loses the race to insert finds the entry there. */
__attribute__((noinline)) int count_drop(__u32 slot, __u32 direction, __u32 reason)
{
	struct drop_key key = {.slot = slot, .direction = direction, .reason = reason};
	__u64 *count = bpf_map_lookup_elem(&drops_v1, &key), one = 1;

	if (!count) {
		if (bpf_map_update_elem(&drops_v1, &key, &one, BPF_NOEXIST) == 0)
			return 0;
		count = bpf_map_lookup_elem(&drops_v1, &key);
	}
	if (count)
		(*count)++;
	return 0;
}

#endif
