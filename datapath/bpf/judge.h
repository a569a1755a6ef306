/* The judgement of a packet at a port: what the guest sends by the port's `out` rules, what it receives by its `in` rules
 * (ADR 10). Ports without rules never come here. */
#ifndef WEFT_JUDGE_H
#define WEFT_JUDGE_H

#include "classify.h"

/* Counts the packet for a rule of the port. Two CPUs may meet at a rule's first packet: who loses the race to insert finds the
 * entry there. */
__attribute__((noinline)) int count_hit(__u32 slot, __u64 rule)
{
	struct judgement *j = judgement();
	struct hit_key key = {.rule = rule, .slot = slot};
	struct hits *h = bpf_map_lookup_elem(&hits_v1, &key), first = {};

	if (!j)
		return 0;
	if (!h) {
		bpf_map_update_elem(&hits_v1, &key, &first, BPF_NOEXIST);
		h = bpf_map_lookup_elem(&hits_v1, &key);
	}
	if (!h)
		return 0;
	h->packets += j->packets;
	h->bytes += j->wire;
	h->last = bpf_ktime_get_ns();
	return 0;
}

/* ARP and neighbour discovery are the guards' and the fabric's (ADR 10.5). */
INLINE int is_exempt(const struct judgement *j)
{
	if (j->ethertype == ETHERTYPE_ARP)
		return 1;
	return j->has_icmp && j->ip == 6 && !j->fragment && j->icmp_type >= ND_RS && j->icmp_type <= ND_REDIRECT;
}

/* Asks the rules; the reason of a drop, or 0. */
__attribute__((noinline)) int ask_rules(__u32 in, const struct table *t)
{
	struct judgement *j = judgement();
	const struct rule *r;

	if (!j || !t)
		return DROP_POLICY_MISSING;
	__u32 found = find_rules(in, &t->sides[in & 1]);
	struct rule_key key = {.table = j->table, .index = found, .in = in, .meter = 1};

	if ((found & 0xffff) != NO_RULE && (r = bpf_map_lookup_elem(&rules_v1, &key)))
		j->meter = r->id;
	key.index = found >> 16;
	key.meter = 0;
	r = bpf_map_lookup_elem(&rules_v1, &key);
	if (!r)
		return DROP_POLICY_MISSING;
	j->rule = r->id;
	j->idle = r->idle;
	j->stateful = r->stateful;
	switch (r->act) {
	case ACT_ALLOW:
		return 0;
	case ACT_REJECT:
		return DROP_POLICY_REJECTED;
	}
	return DROP_POLICY_DENIED;
}

/* Judges the packet on this CPU's docket at the port in the slot, as what its guest receives (in) or sends; the reason of a
 * drop, or 0. */
__attribute__((noinline)) int judge(struct way *w, __u32 slot, __u32 in)
{
	const struct slot *s = slot_of(slot);
	struct judgement *j = judgement();
	const struct table *t;
	int reason;

	if (!w || !s || !j)
		return DROP_POLICY_MISSING;
	__u32 id = s->policy;

	w->rule = 0;
	if (!w->described || w->unfit)
		return w->unfit ? w->unfit : DROP_POLICY_MISSING;
	if (is_exempt(j))
		return 0;
	t = bpf_map_lookup_elem(&tables_v1, &id);
	if (!t)
		return DROP_POLICY_MISSING;
	j->table = id;
	j->shape = t->shape;
	j->places = t->places;
	j->rule = j->meter = 0;
	reason = ask_rules(in & 1, t);
	if (j->meter)
		count_hit(slot, j->meter);
	if (j->rule)
		count_hit(slot, j->rule);
	w->rule = j->rule;
	return reason;
}

#endif
