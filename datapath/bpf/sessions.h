/* Sessions of live traces (ADR 25): which frames that pass are recorded, how many, and until when; and the record of one program's
 * run over one of them. */
#ifndef WEFT_SESSIONS_H
#define WEFT_SESSIONS_H

#include "stats.h"

enum {
	MAX_SESSIONS = 16,
	SESSION_HOST = MAX_SESSIONS,	/* the entry whose budget is that of all sessions together */
	SESSION_PICKS = 8,
	TRACING_PROBES = 1,		/* bit of config.tracing: a label is armed; */
	TRACING_LIVE = 16,		/* from this bit on one for each session */
	RUN_STEPS = 12,
	RUN_ENDS = 1 << 16,		/* beside a stage and its result: the run is over, the frame's way is not */
	LOWER_EVERY_NS = 100000000,
	CLAUSE_ANY = 0x100,		/* in place of a protocol's number */
};

enum {
	SESSION_DROPS = 1 << 0,	/* only frames that are dropped here */
	SESSION_EVERY = 1 << 1,	/* the threshold stays as it is told */
};

/* Some of the frames that a session asks for. */
struct pick {
	struct clause ends;	/* local is the sender's end, remote the receiver's */
	__u64 from, to;		/* their MACs as numbers, the first byte highest; 0: any */
	__u32 slot;		/* of the sender's port, if it is here: what it sends with another MAC is meant, too */
	__u32 vni;		/* 0: any */
};

struct session {
	__u64 until;		/* CLOCK_MONOTONIC, in ns; 0: no session */
	__u64 threshold;	/* frames whose label is not above it are recorded; lowered by who finds the budget used up */
	__u64 lowered;		/* when that was, */
	__u64 interval;		/* between two records at the rate, in ns, */
	__u64 tolerance;	/* how much earlier one may come, */
	__u64 at;		/* and when the next one is due (GCRA) */
	__u32 id;		/* of the session in the fabric */
	__u32 flags;		/* SESSION_ */
	__u32 picks;		/* 0: every frame */
	__u32 zero;
	struct pick pick[SESSION_PICKS];
};

/* What a session has seen on a CPU. */
struct session_stats {
	__u64 met;		/* frames that the session asks for, before its threshold; a frame at each program that meets it */
	__u64 sent;		/* records that were sent, */
	__u64 lost;		/* that found no room in the ring, */
	__u64 denied;		/* and that the budget did not allow */
};

/* Where a part of a run was, what it was judged under, and the rule that decided; 0: none did. */
struct run_side {
	__u32 ifindex;
	__u32 generation;
	__u64 rule;
};

/* One program's run over a frame: the hop says what came of it, step what it passed until then. */
struct record {
	struct hop hop;			/* session holds a bit for each session */
	struct run_side side[2];	/* before policy.in, and from there on */
	__u32 number;			/* of this CPU's records, gap-free: what is missing found no room */
	__u16 cpu;
	__u16 steps;
	__u16 asked, drops;		/* the sessions that ask for it, and those that do only if it is dropped: for the programs */
	__u32 took;			/* from when the frame was met until now, in ns */
	__u32 zero;
	__u64 began;
	__u16 step[RUN_STEPS];		/* stage << 8 | result */
};

/* Key: number of the session. Value: the session.
 * Told by the loader, used up by the programs. Read while config.tracing has its bit. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, MAX_SESSIONS + 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct session);
} sessions_v1 SEC(".maps");

/* Key: number of the session. Value: what it has seen, per CPU.
 * Written by the programs. Read by the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, MAX_SESSIONS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct session_stats);
} session_stats_v1 SEC(".maps");

/* Runs over frames that sessions ask for: struct record. Apart from events_v1, so that no session displaces what must be told.
 * Written by every program. Read by the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 1 << 22);
} records_v1 SEC(".maps");

/* Key: 0. Value: the frame under way, filled once for all of its hops. Not pinned: its content does not outlive a frame.
 * Written and read by the program that runs on this CPU. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct record);
} scratch SEC(".maps");

#define COUNT_SESSION(number, field)                                                       \
	do {                                                                               \
		struct session_stats *counted = bpf_map_lookup_elem(&session_stats_v1, &number); \
		if (counted)                                                               \
			counted->field++;                                                  \
	} while (0)

INLINE int is_within(const struct address *a, const struct address *prefix, const struct address *mask)
{
	return !(((a->w[0] ^ prefix->w[0]) & mask->w[0]) | ((a->w[1] ^ prefix->w[1]) & mask->w[1]) |
		 ((a->w[2] ^ prefix->w[2]) & mask->w[2]) | ((a->w[3] ^ prefix->w[3]) & mask->w[3]));
}

/* Whether the frame's ends are those that the clause asks for; a frame without a label has none. */
INLINE int has_ends(const struct clause *c, const struct hop *hop)
{
	if ((c->family && c->family != hop->family) || (c->proto != CLAUSE_ANY && (!hop->family || c->proto != hop->proto)))
		return 0;
	if (c->addresses && (!is_within(&hop->source, &c->local, &c->local_mask) || !is_within(&hop->destination, &c->remote, &c->remote_mask)))
		return 0;
	if (!c->ports)
		return 1;
	return (hop->proto == PROTO_TCP || hop->proto == PROTO_UDP) && hop->sport >= c->local_first && hop->sport <= c->local_last &&
	       hop->dport >= c->remote_first && hop->dport <= c->remote_last;
}

/* Whether a session asks for this CPU's frame, which has the MACs to and from and came from the port in the slot. */
__attribute__((noinline)) int is_picked(__u32 number, __u32 slot, __u64 from, __u64 to)
{
	const struct session *s = bpf_map_lookup_elem(&sessions_v1, &number);
	__u32 zero = 0;
	const struct record *r = bpf_map_lookup_elem(&scratch, &zero);

	if (!s || !r)
		return 0;
	if (!s->picks)
		return 1;
	for (int i = 0; i < SESSION_PICKS; i++) {
		const struct pick *p = &s->pick[i];

		if (i >= s->picks)
			return 0;
		if ((p->vni && p->vni != r->hop.vni) || (p->to && p->to != to))
			continue;
		if ((!p->from || p->from == from || (p->slot && p->slot == slot)) && has_ends(&p->ends, &r->hop))
			return 1;
	}
	return 0;
}

/* What is read of a frame before anything is known of it: its MACs, EtherType, and as much of an IP header as has the protocol. */
enum { FRAME_KIND = 24 };

/* Whether a session may ask for this CPU's frame, as far as its VNI, slot, MACs and kind (family << 8 | protocol) say. */
__attribute__((noinline)) int may_pick(__u32 number, __u32 slot, __u64 from, __u64 to, __u32 kind)
{
	const struct session *s = bpf_map_lookup_elem(&sessions_v1, &number);
	__u32 zero = 0, family = kind >> 8;
	const struct record *r = bpf_map_lookup_elem(&scratch, &zero);

	if (!s || !r)
		return 0;
	if (!s->picks)
		return 1;
	for (int i = 0; i < SESSION_PICKS; i++) {
		const struct pick *p = &s->pick[i];

		if (i >= s->picks)
			return 0;
		if ((p->vni && p->vni != r->hop.vni) || (p->to && p->to != to) || (p->from && p->from != from && (!p->slot || p->slot != slot)))
			continue;
		if ((p->ends.family && p->ends.family != family) || (p->ends.proto != CLAUSE_ANY && (!family || p->ends.proto != (kind & 0xff))))
			continue;
		return 1;
	}
	return 0;
}

/* Notes which sessions may ask for the frame that begins at offset off, and answers whether any does: most of a host's frames are
 * nobody's, and end here before a label is made for them. A session whose time is over ends itself. */
__attribute__((noinline)) int may_choose(struct __sk_buff *skb, __u32 off, __u32 vni, __u32 slot)
{
	struct config *cfg = (struct config *)host();
	__u32 zero = 0, asked = 0, active, ethertype, kind = 0;
	struct record *r = bpf_map_lookup_elem(&scratch, &zero);
	__be32 head[FRAME_KIND / 4];

	if (!cfg || !r)
		return 0;
	r->asked = 0;
	if (off > 256 || bpf_skb_load_bytes(skb, off, head, FRAME_KIND))
		return 0;
	__u64 to = (__u64)bswap32(head[0]) << 16 | bswap32(head[1]) >> 16;
	__u64 from = (__u64)(bswap32(head[1]) & 0xffff) << 32 | bswap32(head[2]), now = bpf_ktime_get_coarse_ns();

	ethertype = bswap32(head[3]) >> 16;
	if (ethertype == ETHERTYPE_IPV4)
		kind = 4 << 8 | (bswap32(head[5]) & 0xff);
	else if (ethertype == ETHERTYPE_IPV6)
		kind = 6 << 8 | bswap32(head[5]) >> 24;
	r->hop.vni = vni;
	active = cfg->tracing >> TRACING_LIVE;
	for (int i = 0; i < MAX_SESSIONS; i++) {
		if (!(active >> i))
			break;
		if (!(active >> i & 1))
			continue;
		__u32 number = i;
		const struct session *s = bpf_map_lookup_elem(&sessions_v1, &number);

		if (s && now >= s->until)
			__sync_fetch_and_and(&cfg->tracing, ~(1U << (TRACING_LIVE + i)));
		else if (s && (!s->picks || may_pick(i, slot, from, to, kind)))
			asked |= 1U << i;
	}
	r->asked = asked;
	return *(volatile __u16 *)&r->asked; /* a value that the verifier does not know, or it would try all there are */
}

/* The sessions that this CPU's frame, which begins at offset off, is to be recorded for, of those that may_choose has noted: a bit
 * for each. */
__attribute__((noinline)) int choose_sessions(struct __sk_buff *skb, __u32 off, __u32 slot)
{
	__u32 zero = 0, chosen = 0, asked;
	struct record *r = bpf_map_lookup_elem(&scratch, &zero);
	__be32 macs[3];

	if (!r || off > 256 || bpf_skb_load_bytes(skb, off, macs, 12))
		return 0;
	__u64 to = (__u64)bswap32(macs[0]) << 16 | bswap32(macs[1]) >> 16;
	__u64 from = (__u64)(bswap32(macs[1]) & 0xffff) << 32 | bswap32(macs[2]);

	asked = r->asked;
	r->drops = 0;
	for (int i = 0; i < MAX_SESSIONS; i++) {
		if (!(asked >> i))
			break;
		if (!(asked >> i & 1))
			continue;
		__u32 number = i;
		const struct session *s = bpf_map_lookup_elem(&sessions_v1, &number);

		if (!s || (s->picks && !is_picked(i, slot, from, to)))
			continue;
		COUNT_SESSION(number, met);
		if (r->hop.label > s->threshold)
			continue;
		chosen |= 1U << i;
		if (s->flags & SESSION_DROPS)
			r->drops |= 1U << i;
	}
	r->asked = chosen;
	if (*(volatile __u16 *)&r->asked) /* a value that the verifier does not know, or it would try all there are */
		r->began = bpf_ktime_get_ns();
	r->steps = 0;
	r->side[0].rule = r->side[1].rule = 0;
	return chosen;
}

/* Takes one record out of a budget; 0 when it is used up. CPUs that meet here may both be given the last one. */
INLINE int may_record(struct session *s, __u64 now)
{
	__u64 at = s->at > now ? s->at : now;

	if (at - now > s->tolerance)
		return 0;
	s->at = at + s->interval;
	return 1;
}

INLINE void count_denied(__u32 number)
{
	struct session_stats *stats = bpf_map_lookup_elem(&session_stats_v1, &number);

	if (stats)
		stats->denied++;
}

INLINE struct session *session(__u32 number)
{
	return bpf_map_lookup_elem(&sessions_v1, &number);
}

/* The sessions of a mask that may have one record more. What the budget denies is counted, and makes the session ask for fewer
 * labels: of those that it still asks for, it misses none from then on. */
__attribute__((noinline)) int afford(__u32 mask, __u64 now)
{
	for (int i = 0; i < MAX_SESSIONS; i++) {
		struct session *s = session(i), *all;

		if (!s || !(mask >> i & 1))
			continue;
		if (may_record(s, now)) {
			all = session(SESSION_HOST);
			if (all && may_record(all, now))
				continue;
		}
		mask &= ~(1U << i);
		count_denied(i);
		if (!(s->flags & SESSION_EVERY) && now - s->lowered > LOWER_EVERY_NS) {
			s->lowered = now;
			s->threshold >>= 1;
		}
	}
	return mask;
}

/* Counts what became of the record of those sessions. */
__attribute__((noinline)) int count_record(__u32 mask, __u32 lost)
{
	for (int i = 0; i < MAX_SESSIONS; i++) {
		__u32 number = i;
		struct session_stats *stats = bpf_map_lookup_elem(&session_stats_v1, &number);

		if (!stats || !(mask >> i & 1))
			continue;
		if (lost)
			stats->lost++;
		else
			stats->sent++;
	}
	return 0;
}

/* Adds a step to the run of this CPU's program, and sends the record when the frame has come to an end of its way here. */
INLINE int add_step(struct way *w, __u32 ifindex, __u32 what, __u32 reason)
{
	__u32 zero = 0, stage = what >> 8 & 0xff, result = what & 0xff, n;
	struct record *r = bpf_map_lookup_elem(&scratch, &zero);
	struct run_side *side;

	if (!w || !r)
		return 0;
	side = &r->side[stage >= STAGE_POLICY_IN && stage != STAGE_WIRE_IN];
	side->ifindex = ifindex;
	side->generation = w->generation;
	if (w->rule)
		side->rule = w->rule;
	n = r->steps;
	if (n < RUN_STEPS) {
		r->step[n] = what;
		r->steps = n + 1;
	}
	if (!(what & RUN_ENDS) && result < RESULT_FLOOD && stage != STAGE_UNDERLAY_OUT && stage != STAGE_WIRE_OUT)
		return 0;
	r->hop.ts = bpf_ktime_get_ns();
	r->took = r->hop.ts - r->began;
	r->hop.session = afford(result == RESULT_DROP ? r->asked : r->asked & ~r->drops, r->hop.ts);
	if (r->hop.session) {
		r->hop.ifindex = ifindex;
		r->hop.stage = what >> 8;
		r->hop.result = what;
		r->hop.reason = reason;
		r->cpu = bpf_get_smp_processor_id();
		r->number++;
		count_record(r->hop.session, bpf_ringbuf_output(&records_v1, r, sizeof(*r), 0) != 0);
	}
	r->steps = 0;
	return 0;
}

#endif
