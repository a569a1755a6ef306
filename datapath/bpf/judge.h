/* The judgement of a packet at a port: what the guest sends by the port's `out` rules, what it receives by its `in` rules
 * (ADR 10). Ports without rules never come here. */
#ifndef WEFT_JUDGE_H
#define WEFT_JUDGE_H

#include "flow.h"

enum {
	FRAGMENTS_KEPT_S = 30,
	LOG_EVERY_NS = 10000000,	/* events about rules: 100 a second and port, */
	LOG_BURST_NS = 990000000,	/* at once after a second without any */
};

/* The place of this CPU where a rule of the port may be counted. */
INLINE struct tally *tally_at(__u32 slot, __u64 rule)
{
	__u32 place = ((__u32)rule + slot * 2654435761U) >> (32 - TALLIES_SHIFT);
	__u32 at = bpf_get_smp_processor_id() << TALLIES_SHIFT | place;

	return bpf_map_lookup_elem(&tallies_v1, &at);
}

/* Makes room for the hits that the docket names, which have no place on this CPU: that place, if it is free and this CPU has not
 * begun to count them elsewhere; whether it is. Two CPUs may meet at a rule's first packet: who loses the race to insert finds
 * the entry there. */
__attribute__((noinline)) int begin_hits(void)
{
	struct judgement *j = judgement(PACKET);
	struct hits first = {};
	const struct hits *h;
	struct tally *t;

	if (!j)
		return 0;
	h = bpf_map_lookup_elem(&hits_v1, &j->hit);
	if (h && h->packets)
		return 0;
	t = tally_at(j->hit.slot, j->hit.rule);
	if (t && !t->rule) {
		t->hits = first;
		t->slot = j->hit.slot;
		barrier(); /* a reader that finds the rule finds the rest */
		t->rule = j->hit.rule;
		return 1;
	}
	if (!h)
		bpf_map_update_elem(&hits_v1, &j->hit, &first, BPF_NOEXIST);
	return 0;
}

/* Where a rule of the port is counted that is not in its place on this CPU. */
INLINE struct hits *other_hits(struct judgement *j, __u32 slot, __u64 rule)
{
	struct hits *h;
	struct tally *t;

	j->hit = (struct hit_key){.rule = rule, .slot = slot};
	h = bpf_map_lookup_elem(&hits_v1, &j->hit);
	if (likely(h && h->packets))
		return h;
	if (!begin_hits())
		return bpf_map_lookup_elem(&hits_v1, &j->hit);
	t = tally_at(slot, rule);
	return t ? &t->hits : 0;
}

/* Counts the packet for a rule of the port; whether an event is asked for, that is whether it is the first of sample. */
INLINE int count_hit(struct judgement *j, __u32 slot, __u64 rule, __u32 sample)
{
	struct tally *t = tally_at(slot, rule);
	struct hits *h;

	if (likely(t && t->rule == rule && t->slot == slot))
		h = &t->hits;
	else
		h = other_hits(j, slot, rule);
	if (unlikely(!h))
		return 0;
	__u64 before = h->packets;

	h->packets += j->packets;
	h->bytes += j->wire;
	h->last = j->now;
	return unlikely(sample) && (before + sample - 1) / sample != (before + j->packets + sample - 1) / sample;
}

/* Tells of the decision, as long as the port's budget lasts. */
__attribute__((noinline)) int log_decision(__u32 slot, __u32 reason)
{
	struct judgement *j = judgement(PACKET);
	struct slot *s = slot_of(slot);

	if (!j || !s)
		return 0;
	__u64 at = s->logged > j->now ? s->logged : j->now;

	if (at - j->now > LOG_BURST_NS) {
		COUNT(slot, unlogged);
		return 0;
	}
	s->logged = at + LOG_EVERY_NS;
	j->event = (struct logged){
		.kind = EVENT_LOGGED, .ifindex = s->out, .ts = j->now, .rule = j->rule, .len = j->wire, .reason = reason,
		.ethertype = j->ethertype, .in = j->inward,
	};
	if (j->ip) {
		j->event.source = j->src;
		j->event.destination = j->dst;
		j->event.proto = j->proto;
	}
	if (j->has_ports) {
		j->event.sport = j->sport;
		j->event.dport = j->dport;
	}
	if (j->has_icmp) {
		j->event.icmp_type = j->icmp_type;
		j->event.icmp_code = j->icmp_code;
	}
	if (bpf_ringbuf_output(&events_v1, &j->event, sizeof(j->event), 0))
		COUNT(slot, untold);
	return 0;
}

/* ARP and neighbour discovery are the guards' and the fabric's (ADR 10.5). */
INLINE int is_exempt(const struct judgement *j)
{
	if (j->ethertype == ETHERTYPE_ARP)
		return 1;
	return j->has_icmp && j->ip == 6 && !j->fragment && j->icmp_type >= ND_RS && j->icmp_type <= ND_REDIRECT;
}

/* The segment of a trunk that a frame is on, where its guest knows it by a tag (ADR 12); 0 for the one that it knows untagged. A
 * port that is no trunk has one network, though a private VLAN's has several VNIs. */
INLINE __u32 tagged_segment(const struct way *w, const struct slot *s, __u64 word)
{
	return likely(!(word & POLICY_TRUNK)) || w->vni == s->out >> 40 ? 0 : w->vni;
}

/* Reads the coarse clock, which goes on with each tick, no oftener than that: a tick's number is one load. It may be a tick late. */
INLINE void set_time(struct judgement *j)
{
	__u64 tick = bpf_jiffies64();

	if (likely(tick == j->tick))
		return;
	j->tick = tick;
	j->now = bpf_ktime_get_coarse_ns();
}

/* Says which end is the guest's, and on which of its segments it is met. */
INLINE void face(struct judgement *j, __u32 slot, __u32 in, __u32 segment)
{
	j->inward = in;
	j->segment = segment;
	set_own_ends(j);
	j->key.segment[0] = segment >> 16;
	j->key.segment[1] = segment >> 8;
	j->key.segment[2] = segment;
	j->rule = j->meter = 0;
	j->stateful = 0;
	j->sample = 0;
	set_time(j);
	j->turn++;
	if (unlikely(j->fragment))
		j->fragment_of = (struct fragment_key){.slot = slot, .in = in, .place = j->id % FRAGMENT_PLACES};
}

/* What the fragments of a packet have in common beside its addresses and identification: IPv4's protocol. IPv6's may differ
 * from one to the next, by the headers behind the fragment header (RFC 8200 4.5). */
INLINE __u8 common_proto(const struct judgement *j)
{
	return j->ip == 4 ? j->proto : 0;
}

/* Finds what became of the first fragment of the same packet, in the docket; whether it is known. */
__attribute__((noinline)) int recall_first(void)
{
	struct judgement *j = judgement(PACKET);
	const struct fragment *at_place;
	const volatile struct fragment *now;

	if (!j || !(at_place = bpf_map_lookup_elem(&fragments_v2, &j->fragment_of)))
		return 0;
	now = at_place;
	__builtin_memcpy(&j->first, at_place, sizeof(j->first));
	barrier();
	if (j->first.at != j->first.again || now->at != j->first.at || now->again != j->first.at)
		return 0; /* another one was written meanwhile */
	return elapsed(j->now, j->first.at) < FRAGMENTS_KEPT_S * SECOND && j->first.id == j->id && j->first.proto == common_proto(j) &&
	       j->first.segment == j->segment && same_address(&j->first.src, &j->src) && same_address(&j->first.dst, &j->dst);
}

/* Remembers what becomes of a first fragment. */
__attribute__((noinline)) int remember_first(__u32 reason)
{
	struct judgement *j = judgement(PACKET);

	if (!j)
		return 0;
	__u64 now = bpf_ktime_get_ns();

	j->first = (struct fragment){.at = now, .again = now, .src = j->src, .dst = j->dst, .id = j->id, .segment = j->segment,
				     .proto = common_proto(j), .rule = j->rule, .meter = j->meter, .reason = reason, .sample = j->sample};
	bpf_map_update_elem(&fragments_v2, &j->fragment_of, &j->first, BPF_ANY);
	return 0;
}

/* Whether a flow allows the packet: its own, or, where it is an ICMP error to the source of what it quotes, that one's. */
INLINE int is_followed(__u32 slot, __u32 in, struct judgement *j)
{
	int found = NOT_FOLLOWED;

	if (connects(j)) {
		struct flow *f = flow_of(slot, j);

		found = f ? follow_by(j, f, in, 0) : NOT_FOLLOWED;
		if (unlikely(found == WAS_FOLLOWED))
			found = goes_on(j, slot, 0) ? follow(slot, in, RENEWED) : NOT_FOLLOWED;
	} else if (unlikely(j->quotes) && !j->group && same_address(&j->quote.src, &j->dst)) {
		set_quoted_ends();
		found = follow(slot, in, RELATED);
		if (found == WAS_FOLLOWED)
			found = goes_on(j, slot, RELATED) ? IS_FOLLOWED : NOT_FOLLOWED;
		set_own_ends(j);
	}
	return found == IS_FOLLOWED;
}

/* A packet that shows its transport header, or never had one: by its flow, else by the rules; the reason of a drop, or 0. */
INLINE int judge_whole(__u32 slot, __u32 in, __u64 word, struct judgement *j, int probe)
{
	int reason;

	if ((word & POLICY_STATEFUL) && is_followed(slot, in, j)) {
		if (word & POLICY_METERS << in)
			ask_rules(PACKET, in, ONLY_METER);
		return 0;
	}
	reason = ask_rules(PACKET, in, 0);
	if (!(word & POLICY_STATEFUL) || !connects(j) || (j->echo && is_reply(j)))
		return reason;
	if (j->proto == PROTO_TCP && (j->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN)
		return judge_midstream(j, slot, in, reason);
	if (!reason && j->stateful && !probe)
		open_flow(slot, in, FLOW_OPENING, 0);
	return reason;
}

/* Judges by flows, where the packet can have one, by the first fragment of the same packet, by rules; the reason of a drop, or 0. */
INLINE int judge_by(struct way *w, __u32 slot, __u32 in, int flows)
{
	struct judgement *j = judgement(PACKET);
	const struct slot *s = slot_of(slot);
	int reason;

	if (!w || !j || !s || !w->described)
		return DROP_POLICY_MISSING;
	if (w->unfit)
		return w->unfit;
	w->rule = 0;
	if (is_exempt(j))
		return 0;
	__u64 word = s->policy;

	in &= 1;
	if (!(word & (POLICY_OUT << in)))
		return 0; /* its rules were taken away since the caller looked */
	j->table = word;
	face(j, slot, in, tagged_segment(w, s, word));
	if (unlikely(j->later) && recall_first()) {
		j->rule = j->first.rule;
		j->meter = j->first.meter;
		j->sample = j->first.sample;
		reason = j->first.reason;
	} else if (flows && !j->later) {
		reason = judge_whole(slot, in, word, j, w->traced == CAUGHT);
	} else {
		reason = ask_rules(PACKET, in, 0);
	}
	if (unlikely(j->fragment && !j->later))
		remember_first(reason);
	if (j->meter)
		count_hit(j, slot, j->meter, 0);
	if (j->rule && unlikely(count_hit(j, slot, j->rule, j->sample)))
		log_decision(slot, reason);
	w->rule = j->rule;
	j->reason = reason;
	return reason;
}

/* Judges the packet on this CPU's docket at the port in the slot, as what its guest receives (in) or sends; the reason of a
 * drop, or 0. */
__attribute__((noinline)) int judge(struct way *w, __u32 slot, __u32 in)
{
	return judge_by(w, slot, in, 1);
}

/* The same for a copy of a group frame, which belongs to no flow and opens none (ADR 10.8). */
__attribute__((noinline)) int judge_copy(struct way *w, __u32 slot)
{
	return judge_by(w, slot, 1, 0);
}

#endif
