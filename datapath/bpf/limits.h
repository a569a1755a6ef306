/* The limits of a port: how much its guest may send and receive, and send to groups (GCRA). What passes is counted in bits on
 * a wire from the Ethernet header on; of an aggregate the headers of every packet count. */
#ifndef WEFT_LIMITS_H
#define WEFT_LIMITS_H

#include "docket.h"
#include "trace.h"

enum {
	FRACTION = 6,	/* times of buckets are in 1/64 ns: at 5 Gbit/s the smallest frame takes 102.4 ns */
	TAKE_TRIES = 16,
	QUIET_S = 10,	/* how long a port's drops for one reason are told of once */
	FROM_PORT = 0, TO_PORT = 1, COPY_TO_PORT = 2, /* whose frame it is that is limited; a copy shares its bytes with others */
};

enum { TAKEN, TAKEN_HIGH, OVER };

/* Takes n units, unless they are more than the bucket has room for; TAKEN_HIGH when it is more than half full then. CPUs that
 * meet here take one after the other; who does not get a turn in many tries is refused. */
INLINE int take(struct bucket *b, __u64 n)
{
	__u64 now = bpf_ktime_get_ns() << FRACTION, rate = b->rate, room = b->tolerance, cost, at, next;

	if (!rate)
		return OVER;
	cost = n * (1000000000ULL << FRACTION) / rate;
	for (int i = 0; i < TAKE_TRIES; i++) {
		at = *(volatile __u64 *)&b->at;
		next = ((__s64)(at - now) > 0 ? at : now) + cost;
		if (next - now > room)
			return OVER;
		if (__sync_val_compare_and_swap(&b->at, at, next) == at)
			return next - now > room / 2 ? TAKEN_HIGH : TAKEN;
	}
	return OVER;
}

/* Tells of a frame that a port does not let its guest send, once in a while for each reason. */
__attribute__((noinline)) int alarm(struct __sk_buff *skb, __u32 slot, __u32 reason)
{
	struct hop told = {.kind = EVENT_ALARM, .ifindex = device_of(skb, slot), .ts = bpf_ktime_get_ns(), .reason = reason};
	struct limits *l = bpf_map_lookup_elem(&limits_v3, &slot);
	__u64 *quiet, until;
	__u8 mac[6] = {};

	if (!l)
		return 0;
	quiet = &l->quiet[reason & (ALARMS - 1)];
	until = *quiet;
	if (told.ts < until || __sync_val_compare_and_swap(quiet, until, told.ts + QUIET_S * 1000000000ULL) != until)
		return 0;
	bpf_skb_load_bytes(skb, 6, mac, sizeof(mac));
	told.label = mac_number(mac);
	if (bpf_ringbuf_output(&events_v1, &told, sizeof(told), 0))
		COUNT(slot, untold);
	return 0;
}

/* A guard refuses what the guest sends. */
__attribute__((noinline)) int refuse_guarded(struct __sk_buff *skb, struct way *w, __u32 reason)
{
	if (!w)
		return DROP;
	alarm(skb, w->slot, reason);
	return drop(skb, w, STAGE_GUARD, reason);
}

enum { NOT_TOLD = 2 };

/* Whether the port's own limit for a kind of storm keeps the frame back, or NOT_TOLD where it has none. */
__attribute__((noinline)) int is_told_storm(struct __sk_buff *skb, struct way *w, struct frame *f, __u32 kind)
{
	struct limits *l;
	struct bucket *packets, *bytes;
	__u64 length = skb->len;

	if (!w || !f || kind >= STORMS || !(l = bpf_map_lookup_elem(&limits_v3, &w->slot)))
		return 1;
	packets = &l->storm[kind][0];
	bytes = &l->storm[kind][1];
	if (!packets->rate && !bytes->rate)
		return NOT_TOLD;
	if (w->packets > 1)
		length += (w->packets - 1) * (f->l4 + 8);
	return (packets->rate && take(packets, w->packets) == OVER) || (bytes->rate && take(bytes, 8 * length) == OVER);
}

/* Bits on a wire of the frame on this CPU's docket. */
INLINE __u64 wire_bits(const struct __sk_buff *skb, const struct way *w)
{
	const struct judgement *j = judgement(PACKET);
	__u64 length = skb->len;

	barrier_var(length); /* else the compiler loads it and wire by one instruction, which the verifier refuses */
	if (j && w->described && !w->unfit)
		length = j->wire;
	return 8 * length;
}

/* Limits the rate of a port, of what its guest sends or of what it receives; the reason of a drop, or 0. A sender that knows ECN
 * is told before anything has to be dropped (RFC 3168): its packets are marked from half of the burst on. */
__attribute__((noinline)) int limit(struct __sk_buff *skb, struct way *w, struct frame *f, __u32 slot, __u32 whose)
{
	struct limits *l = bpf_map_lookup_elem(&limits_v3, &slot);
	__u32 in = whose != FROM_PORT;
	int taken;

	if (!w || !l)
		return DROP_POLICY_MISSING;
	if (unlikely(w->traced == CAUGHT))
		return 0; /* a probe is not the guest's */
	if (unlikely(!l->rate[in].rate))
		return DROP_POLICY_MISSING;
	taken = take(&l->rate[in], wire_bits(skb, w));
	if (taken == OVER)
		return DROP_RATE_LIMITED;
	if (taken == TAKEN_HIGH && whose != COPY_TO_PORT && bpf_skb_ecn_set_ce(skb)) {
		__sync_fetch_and_add(&l->marked[in], w->packets);
		if (f)
			f->ecn |= 3;
	}
	return 0;
}

/* The rate of the port in the slot keeps a frame from its guest. */
__attribute__((noinline)) int limit_in(struct __sk_buff *skb, struct way *w, struct frame *f, __u32 slot, __u32 ifindex)
{
	int reason;

	if (!w)
		return DROP_POLICY_MISSING;
	reason = limit(skb, w, f, slot, TO_PORT);
	if (reason)
		count_drop(slot, TO_GUEST, reason);
	TRACE_AT(ifindex, w, STAGE_LIMIT_IN, reason ? RESULT_DROP : RESULT_PASS, reason);
	return reason;
}

#endif
