/* Flows: connections that a stateful rule has allowed at a port (ADR 10.6 to 10.10). */
#ifndef WEFT_FLOW_H
#define WEFT_FLOW_H

#include "classify.h"

#define SECOND 1000000000ULL

enum {
	ONLY_METER = 1,
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
	IDLE_TCP_S = 8000,
	IDLE_TCP_OPENING_S = 60,
	IDLE_TCP_CLOSING_S = 10,
	IDLE_UDP_S = 180,
	IDLE_UDP_OPENING_S = 30,
	IDLE_OTHER_S = 30,
	FIN_WINDOW = 1 << 20,		/* bytes past what its side has sent, within which a FIN counts */
	LARGEST_STEP = 1 << 30,		/* of a sequence number (RFC 7323 2.3) */
};

/* Asks the rules about the packet; the reason of a drop, or 0. */
__attribute__((noinline)) int ask_rules(__u32 which, __u32 in, __u32 only_meter)
{
	struct judgement *j = judgement(which);
	const struct rule *r;

	if (!j || !open_table(j, which, in))
		return DROP_POLICY_MISSING;
	__u32 found = find_rules(j, which);

	j->rule_key = (struct rule_key){.table = j->table, .index = found, .in = in, .meter = 1};
	if ((found & 0xffff) != NO_RULE && (r = bpf_map_lookup_elem(&rules_v1, &j->rule_key)))
		j->meter = r->id;
	if (only_meter)
		return 0;
	j->rule_key.index = found >> 16;
	j->rule_key.meter = 0;
	r = bpf_map_lookup_elem(&rules_v1, &j->rule_key);
	if (!r)
		return DROP_POLICY_MISSING;
	j->rule = r->id;
	j->idle = r->idle;
	j->sample = r->sample;
	j->stateful = r->stateful;
	switch (r->act) {
	case ACT_ALLOW:
		return 0;
	case ACT_REJECT:
		return DROP_POLICY_REJECTED;
	}
	return DROP_POLICY_DENIED;
}

/* Whether packets like it have a connection (ADR 10.6, 10.8). */
INLINE int connects(const struct judgement *j)
{
	return j->ip && !j->later && !j->group && (!j->has_icmp || j->echo);
}

INLINE int is_reply(const struct judgement *j)
{
	return j->icmp_type == (j->ip == 4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY);
}

/* How long ago then was, in ns; not at all if another CPU wrote it down since now was read. */
INLINE __u64 elapsed(__u64 now, __u64 then)
{
	return (__s64)(now - then) > 0 ? now - then : 0;
}

INLINE __u64 lifetime(const struct flow *f, __u32 proto)
{
	__u32 s = f->idle;

	if (proto == PROTO_TCP) {
		s = s ? s : IDLE_TCP_S;
		if (f->state == FLOW_OPENING && s > IDLE_TCP_OPENING_S)
			s = IDLE_TCP_OPENING_S;
		if (f->state == FLOW_CLOSING && s > IDLE_TCP_CLOSING_S)
			s = IDLE_TCP_CLOSING_S;
	} else if (!s) {
		s = proto != PROTO_UDP ? IDLE_OTHER_S : f->state == FLOW_OPENING ? IDLE_UDP_OPENING_S : IDLE_UDP_S;
	}
	return s * SECOND;
}

/* low <= n <= high, of numbers that wrap. */
INLINE int is_between(__u32 n, __u32 low, __u32 high)
{
	return n - low <= high - low;
}

/* Whether the packet makes its connection closing: a RST that counts, or the second side's FIN that does (ADR 10.9). */
INLINE int closes(const struct judgement *j, struct flow_side *mine, const struct flow_side *other)
{
	__u32 low = mine->end - FIN_WINDOW, high = mine->end;

	if (other->acked) {
		low = other->ack;
		if ((__s32)(low - high) > 0)
			high = low;
	}
	if (j->flags & TCP_RST) {
		if (!mine->sent)
			return (j->flags & TCP_ACK) && other->sent && j->ack == other->end;
		return is_between(j->seq, low, high);
	}
	if ((j->flags & TCP_FIN) && mine->sent && is_between(j->seq, low, high + FIN_WINDOW))
		mine->fin = 1;
	return mine->fin && other->fin;
}

/* Remembers how far a side has sent and acknowledged. */
INLINE void note(const struct judgement *j, struct flow_side *mine)
{
	__u32 end = j->seq + j->payload + !!(j->flags & TCP_SYN) + !!(j->flags & TCP_FIN);

	if (j->flags & TCP_RST)
		return;
	if (!mine->sent || end - mine->end < LARGEST_STEP) {
		mine->sent = 1;
		mine->end = end;
	}
	if ((j->flags & TCP_ACK) && (!mine->acked || j->ack - mine->ack < LARGEST_STEP)) {
		mine->acked = 1;
		mine->ack = j->ack;
	}
}

/* Takes a packet of the flow into account; from is 0 for the opener's, 1 for the other side's. */
INLINE void advance(struct flow *f, const struct judgement *j, __u32 from)
{
	struct flow_side *mine = from ? &f->sides[1] : &f->sides[0], *other = from ? &f->sides[0] : &f->sides[1];

	if (f->seen != j->now) /* its line is not another CPU's for each packet */
		f->seen = j->now;
	if (j->key.proto != PROTO_TCP) {
		if (from && f->state != FLOW_OPEN)
			f->state = FLOW_OPEN;
		return;
	}
	int closing = closes(j, mine, other);

	if (f->state == FLOW_OPENING && (j->flags & TCP_SYN))
		*mine = (struct flow_side){};
	note(j, mine);
	if (closing)
		f->state = FLOW_CLOSING;
	else if (f->state == FLOW_OPENING && !from && f->sides[1].sent && (j->flags & (TCP_ACK | TCP_SYN)) == TCP_ACK)
		f->state = FLOW_OPEN;
}

/* Fills the docket's FIRST with the packet that would open the connection of the docket's key. */
__attribute__((noinline)) int imagine_first(void)
{
	struct judgement *j = judgement(PACKET), *o = judgement(FIRST);

	if (!j || !o)
		return 0;
	__u8 proto = j->key.proto;

	__builtin_memcpy(o, j, __builtin_offsetof(struct judgement, quote));
	o->flags = TCP_SYN;
	o->has_ports = proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP;
	o->has_icmp = proto == (o->ip == 4 ? PROTO_ICMP : PROTO_ICMPV6);
	o->kind = (proto == PROTO_ICMP || proto == PROTO_ICMPV6) && !o->has_icmp ? KIND_PACKET : KIND_TRANSPORT;
	o->icmp_type = o->ip == 4 ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST;
	o->icmp_code = 0;
	return 0;
}

/* Asks the rules about that packet, which the guest would receive (in) or send; whether they allow it, and open a flow. */
INLINE int would_open(__u32 in)
{
	const struct judgement *o = judgement(FIRST);

	imagine_first();
	return o && !ask_rules(FIRST, in & 1, 0) && o->stateful;
}

/* What a look for a flow finds. */
enum {
	NOT_FOLLOWED = 0,
	IS_FOLLOWED = 1,	/* a flow allows the packet */
	WAS_FOLLOWED = 2,	/* a flow that another table has judged */
};

/* How a flow is looked for. */
enum {
	RELATED = 1,	/* by what the packet quotes: nothing of the flow changes */
	RENEWED = 2,	/* it was judged again for this packet, and was not idle before */
};

/* Writes down what the rules say about the first packet of a flow that was found; whether the flow goes on. */
__attribute__((noinline)) int renew(__u32 slot, __u32 how, __u32 goes)
{
	struct judgement *j = judgement(PACKET), *o = judgement(FIRST);
	struct flow *f;
	void *flows;

	if (!j || !o)
		return 0;
	if (how & RELATED) { /* an error says nothing of its flow's MACs, so it neither renews nor ends it */
		if (goes) {
			j->rule = o->rule;
			j->sample = o->sample;
		}
		return goes;
	}
	if (!(flows = bpf_map_lookup_elem(&flows_v2, &slot)) || !(f = bpf_map_lookup_elem(flows, &j->key)))
		return 0;
	if (!goes) {
		bpf_map_delete_elem(flows, &j->key);
		return 0;
	}
	f->rule = o->rule;
	f->idle = o->idle;
	f->sample = o->sample;
	f->table = j->table;
	return 1;
}

/* Judges a flow that was found again, as if its first packet came now (ADR 10.7); whether it goes on. */
INLINE int goes_on(const struct judgement *j, __u32 slot, __u32 how)
{
	return renew(slot, how, would_open(j->opener));
}

/* Whether the packet begins another connection of the flow's ends (ADR 10.9). */
INLINE int reopens(const struct judgement *j, const struct flow *f, __u32 from)
{
	if (j->echo)
		return from && !is_reply(j);
	if (j->proto != PROTO_TCP || (j->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN)
		return 0;
	return f->state == FLOW_CLOSING || (f->state == FLOW_OPEN && from);
}

/* Whether a flow of the port, found by the docket's key, allows the packet. */
INLINE int follow_by(struct judgement *j, struct flow *f, __u32 in, __u32 how)
{
	if (!(how & RENEWED) && elapsed(j->now, f->seen) >= lifetime(f, j->key.proto))
		return NOT_FOLLOWED;
	if (!(how & RELATED) && reopens(j, f, in != f->opener))
		return NOT_FOLLOWED;
	if (unlikely(f->table != j->table)) {
		j->opener = f->opener;
		return WAS_FOLLOWED;
	}
	if (!(how & RELATED))
		advance(f, j, in != f->opener);
	j->rule = f->rule;
	j->sample = f->sample;
	return IS_FOLLOWED;
}

/* The flow of the port that the docket's key names. */
INLINE struct flow *flow_of(__u32 slot, const struct judgement *j)
{
	void *flows = bpf_map_lookup_elem(&flows_v2, &slot);

	return flows ? bpf_map_lookup_elem(flows, &j->key) : 0;
}

/* Whether a flow of the port allows the packet, in a case that is not the usual one. */
__attribute__((noinline)) int follow(__u32 slot, __u32 in, __u32 how)
{
	struct judgement *j = judgement(PACKET);
	struct flow *f = j ? flow_of(slot, j) : 0;

	return j && f ? follow_by(j, f, in, how) : NOT_FOLLOWED;
}

/* Copies an address of the docket: they are aligned there to two words. */
INLINE void copy_address(struct address *to, const struct address *from)
{
	__u64 *words = (__u64 *)to;
	const __u64 *old = (const __u64 *)from;

	words[0] = old[0];
	words[1] = old[1];
}

INLINE void set_ends(struct judgement *j, const struct address *local, const struct address *remote, __u16 lport, __u16 rport, __u8 proto)
{
	copy_address(&j->key.local, local);
	copy_address(&j->key.remote, remote);
	j->key.lport = lport;
	j->key.rport = rport;
	j->key.proto = proto;
}

/* The ends are the packet's. */
INLINE void set_own_ends(struct judgement *j)
{
	if (j->inward)
		set_ends(j, &j->dst, &j->src, j->dport, j->sport, j->proto);
	else
		set_ends(j, &j->src, &j->dst, j->sport, j->dport, j->proto);
}

/* The ends are those of the packet that it quotes, which went the other way. */
__attribute__((noinline)) int set_quoted_ends(void)
{
	struct judgement *j = judgement(PACKET);

	if (!j)
		return 0;
	if (j->inward)
		set_ends(j, &j->quote.src, &j->quote.dst, j->quote.sport, j->quote.dport, j->quote.proto);
	else
		set_ends(j, &j->quote.dst, &j->quote.src, j->quote.dport, j->quote.sport, j->quote.proto);
	return 0;
}

/* Opens a flow with the packet, which is the opener's or the other side's. Where the map has no room, the packet passes and
 * its connection is judged packet by packet. */
__attribute__((noinline)) int open_flow(__u32 slot, __u32 opener, __u32 state, __u32 from)
{
	struct judgement *j = judgement(PACKET);
	void *flows = bpf_map_lookup_elem(&flows_v2, &slot);

	if (!j || !flows)
		return 0;
	__builtin_memset(&j->flow, 0, sizeof(j->flow));
	j->flow.state = state;
	j->flow.opener = opener;
	j->flow.rule = j->rule;
	j->flow.idle = j->idle;
	j->flow.sample = j->sample;
	j->flow.table = j->table;
	advance(&j->flow, j, from & 1);
	bpf_map_update_elem(flows, &j->key, &j->flow, BPF_ANY);
	return 0;
}

/* Takes a connection on that the other side has opened, by the rule that allows the docket's FIRST. */
__attribute__((noinline)) int adopt_reversed(__u32 slot, __u32 in)
{
	struct judgement *j = judgement(PACKET), *o = judgement(FIRST);

	if (!j || !o)
		return 0;
	j->rule = o->rule;
	j->idle = o->idle;
	j->sample = o->sample;
	return open_flow(slot, !in, FLOW_OPEN, 1);
}

/* A TCP packet that opens no connection and belongs to none; reason is what the rules say. Where connections are adopted, one
 * that a stateful rule would have allowed goes on. */
INLINE int judge_midstream(const struct judgement *j, __u32 slot, __u32 in, int reason)
{
	const struct slot *s = slot_of(slot);
	int would = !reason && j->stateful;

	if (s && s->adopt > j->now && !(j->flags & (TCP_SYN | TCP_RST))) {
		if (would) {
			open_flow(slot, in, FLOW_OPEN, 0);
			return 0;
		}
		if ((j->flags & TCP_ACK) && would_open(!in)) {
			adopt_reversed(slot, in);
			return 0;
		}
	}
	return would ? DROP_CT_NO_FLOW : reason;
}

#endif
