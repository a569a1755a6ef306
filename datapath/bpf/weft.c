//go:build ignore

/* The forwarding core: what happens to a frame at each place it is met. The steps are in the headers. */
#include "decap.h"
#include "external.h"
#include "offload.h"
#include "mirror.h"
#include "forward.h"
#include "pace.h"
#include "reject.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* The reason why the guest may not send, or 0. A staged guest may: its first good frame opens the port (open_staged). */
INLINE int may_send(struct way *w, __u64 gate, int probe)
{
	switch (gate & GATE_MASK) {
	case GATE_STAGED:
		if (probe)
			return DROP_PORT_STAGED; /* a probe is not the guest */
		break;
	case GATE_OPEN:
		break;
	case GATE_RELAY:
		return DROP_NOT_OWNER;
	default:
		return DROP_PORT_DISABLED;
	}
	if (!(gate & GATE_READY))
		return DROP_POLICY_MISSING;
	return w->mtu ? 0 : DROP_VNI_UNKNOWN; /* its switch is not in force here */
}

/* Whether the frame is a probe; probe_in has marked it. */
INLINE int is_probe(struct __sk_buff *skb)
{
	const struct config *cfg;

	if (likely(!skb->mark))
		return 0;
	cfg = host();
	if (!cfg || skb->mark != (cfg->mark | SLOT_NOWHERE))
		return 0;
	skb->mark = 0;
	return 1;
}

/* Whether the port's settings may have been another port's while they were read: when settings are replaced, the kernel
 * gives the old memory away at once, readers or not. No two writings carry the same version, so between two looks at one
 * version there was no writing; the barriers keep all other looks between them. */
INLINE int is_stale(const struct port *port, __u32 ifindex, __u64 version)
{
	const volatile struct port *now = port;

	barrier();
	return now->version != version || now->ifindex != ifindex;
}

/* The guest of a staged port runs: one word opens the port, and with it the FDB entry that names it (is_elsewhere). */
__attribute__((noinline)) int open_staged(struct __sk_buff *skb, __u32 id)
{
	struct hop opened = {.kind = EVENT_OPENED, .ifindex = skb->ifindex, .ts = bpf_ktime_get_ns()};
	struct slot *s = slot_of(id);
	__u64 gate = s ? s->gate : 0;

	if ((gate & GATE_MASK) != GATE_STAGED)
		return 0;
	if (__sync_val_compare_and_swap(&s->gate, gate, gate - GATE_STAGED + GATE_OPEN) != gate)
		return 0;
	if (bpf_ringbuf_output(&events_v1, &opened, sizeof(opened), 0))
		COUNT(id, untold);
	return 0;
}

/* A port of a VM whose ports may use each other's MACs sends with one: from here on it is there that the station is on a segment. It is
 * kept by the loader, until another of them sends with it. A MAC that is spoofed takes nobody's place. */
__attribute__((noinline)) int claim(struct __sk_buff *skb, struct way *w, struct frame *f, const struct port *port, __u32 vni)
{
	struct fdb_key key;
	const struct fdb *e;
	struct fdb here;

	if (!w || !f || !port)
		return 0;
	if (!same_mac(f->eth.src, port->mac) && is_other_mac(w->slot, mac_number(f->eth.src)) != MAC_SIBLING)
		return 0;
	key = (struct fdb_key){.vni = vni};
	__builtin_memcpy(key.mac, f->eth.src, 6);
	e = bpf_map_lookup_elem(&fdb_v1, &key);
	if (!e || !(e->flags & FDB_LOCAL) || e->slot == w->slot)
		return 0;
	here = *e;
	here.slot = w->slot;
	if (!bpf_map_update_elem(&fdb_v1, &key, &here, BPF_EXIST))
		alarm(skb, w->slot, 0);
	return 0;
}

/* What ports do that ask for something special. */
__attribute__((noinline)) int special(struct __sk_buff *skb, struct way *w, struct frame *f, const struct port *port)
{
	__u32 asked;

	if (!w || !f || !port)
		return 0;
	asked = port->guards;
	if ((asked & GUARD_SHARED) && w->traced != CAUGHT) {
		claim(skb, w, f, port, w->vni);
		if (port->home != w->vni && !w->tag) /* a private VLAN: what is for it comes by the primary */
			claim(skb, w, f, port, port->home);
	}
	outer_priority(skb, w, f, asked);
	return 0;
}

/* A guest has sent a frame. */
SEC("tcx/ingress") int vp_in(struct __sk_buff *skb)
{
	const struct config *cfg = host();
	__u32 ifindex = skb->ifindex;
	const struct port *port = bpf_map_lookup_elem(&ports_v1, &ifindex);
	struct way w = {.slot = SLOT_NOWHERE};
	struct frame *f = frame_at_hand();
	const struct slot *s;
	__u64 version = port ? *(const volatile __u64 *)&port->version : 0;
	int reason, verdict, probe = is_probe(skb);

	barrier();
	if (port)
		w = (struct way){.slot = port->slot, .vni = port->vni, .generation = port->generation, .mtu = port->mtu};
	meet(skb, &w, cfg, 0);
	s = slot_of(w.slot);
	if (!port || !s || !f || !cfg)
		return drop(skb, &w, STAGE_PORT_IN, DROP_PORT_UNKNOWN);
	__u64 gate = s->gate;

	skb->priority = port->guards & GUARD_TRUSTED ? skb->vlan_tci >> 13 : 0; /* a container can set one without a tag, too */
	if ((reason = may_send(&w, gate, probe)) || (unlikely(skb->vlan_present) && (reason = enter_tagged(skb, &w))))
		return drop(skb, &w, STAGE_PORT_IN, reason);
	clear_frame(f);
	if ((reason = unlikely(w.qinq) ? parse_qinq(skb, f) : parse(skb, f)) || (reason = offload_is_bad(skb, f, w.packets, w.qinq)))
		return drop(skb, &w, STAGE_PORT_IN, reason);
	TRACE(skb, &w, STAGE_PORT_IN, RESULT_PASS, 0);
	if ((reason = unlikely(w.qinq) ? guard_qinq(f, port) : guard(skb, f, port)))
		return refuse_guarded(skb, &w, reason);
	if (unlikely(is_stale(port, ifindex, version)))
		return drop(skb, &w, STAGE_GUARD, DROP_POLICY_MISSING);
	TRACE(skb, &w, STAGE_GUARD, RESULT_PASS, 0);
	if (unlikely(port->guards & GUARD_SPECIAL))
		special(skb, &w, f, port);
	if (unlikely((gate & GATE_MASK) == GATE_STAGED))
		open_staged(skb, w.slot);
	if (unlikely(s->policy & (POLICY_OUT | LIMIT_OUT | MIRROR_OUT | CLASS_OUT))) {
		describe_once(skb, &w, f);
		if (s->policy & POLICY_OUT) {
			if ((reason = judge(&w, w.slot, 0)))
				return refuse_sent(skb, &w, reason);
			TRACE(skb, &w, STAGE_POLICY_OUT, RESULT_PASS, 0);
			w.rule = 0;
		}
		if ((s->policy & LIMIT_OUT) && (reason = limit(skb, &w, f, w.slot, FROM_PORT)))
			return drop(skb, &w, STAGE_LIMIT_OUT, reason);
		if (s->policy & MIRROR_OUT)
			mirror(skb, &w, w.slot, 0);
		if ((s->policy & (PACE_OUT | CLASS_OUT)) && (verdict = pace(skb, &w)) != NEXT)
			return verdict;
	}
	return onward(skb, &w, cfg, f, port);
}

/* What a guest has sent has waited long enough for its rate, and goes on. */
SEC("tcx/ingress") int sh_in(struct __sk_buff *skb)
{
	const struct config *cfg = host();
	struct way w = {.slot = SLOT_NOWHERE};
	struct frame *f = frame_at_hand();
	const struct port *port = resume(skb, cfg, &w);
	__u32 ifindex = met_at(skb, &w);
	__u64 version = port ? *(const volatile __u64 *)&port->version : 0;
	int reason;

	barrier();
	if (!port || !f || !cfg)
		return drop(skb, &w, STAGE_LIMIT_OUT, w.slot == SLOT_NOWHERE ? DROP_UNMARKED : DROP_PORT_UNKNOWN);
	w.vni = port->vni;
	w.generation = port->generation;
	w.mtu = port->mtu;
	if (unlikely(cfg->tracing))
		w.traced = followed(skb, 0, w.vni, w.slot);
	skb->priority = port->guards & GUARD_TRUSTED ? skb->vlan_tci >> 13 : 0;
	if ((reason = may_go_on(&w)) || (unlikely(skb->vlan_present) && (reason = enter_tagged(skb, &w))))
		return drop(skb, &w, STAGE_LIMIT_OUT, reason);
	clear_frame(f);
	if ((reason = unlikely(w.qinq) ? parse_qinq(skb, f) : parse(skb, f)))
		return drop(skb, &w, STAGE_LIMIT_OUT, reason);
	if (unlikely(port->guards & (GUARD_TRUSTED | GUARD_DSCP)))
		outer_priority(skb, &w, f, port->guards);
	if (unlikely(is_stale(port, ifindex, version)))
		return drop(skb, &w, STAGE_LIMIT_OUT, DROP_POLICY_MISSING);
	skb->priority = class_of(w.slot);
	return onward(skb, &w, cfg, f, port);
}

/* A frame is about to enter a guest's device: only the core may send one. */
SEC("tcx/egress") int vp_out(struct __sk_buff *skb)
{
	const struct config *cfg = host();
	__u32 mark = skb->mark, id = mark & (MAX_PORTS - 1);
	const struct slot *s = slot_of(id);

	if (!cfg || !s || (mark & ~(MAX_PORTS - 1)) != cfg->mark || (__u32)s->out != skb->ifindex)
		return refuse_egress(skb, DROP_UNMARKED);
	skb->mark = 0;
	COUNT_ALL(id, tx, packets_of(skb), skb->len);
	return PASS;
}

/* The NIC has received a frame. What is not VXLAN to this host's tunnel end point goes on, untouched. */
SEC("tcx/ingress") int ul_in(struct __sk_buff *skb)
{
	const struct config *cfg = host();
	struct way w = {.slot = SLOT_UNDERLAY};
	struct arrival a = {};
	const struct fdb *to;
	int reason;

	if (!cfg || skb->pkt_type != PACKET_HOST)
		return NEXT;
	reason = outer_of(skb, cfg, &a);
	if (reason == UNREAD)
		seal(skb, cfg);
	if (reason == NOT_OURS || reason == UNREAD)
		return NEXT;
	w.vni = a.vni;
	meet(skb, &w, cfg, a.size);
	trace_peer(&w, &a.from);
	if (reason > 0)
		return drop(skb, &w, STAGE_UNDERLAY_IN, reason);
	if (reason == KERNEL || !is_plain_inside(skb, cfg, &a))
		return leave_to_kernel(skb, &w, cfg);
	if ((reason = admit(w.vni, &a)))
		return reason == FOR_SINK ? leave_to_kernel(skb, &w, cfg) : not_admitted(skb, &w, reason);
	to = station(w.vni, a.inner.dst);
	if (unlikely(!to))
		return has_uplink(w.vni) ? leave_to_kernel(skb, &w, cfg) : drop(skb, &w, STAGE_FDB_LOCAL, DROP_DST_UNKNOWN);
	if (!is_here(to, &w, &a))
		return is_relayed(to, &a) ? leave_to_kernel(skb, &w, cfg) : drop(skb, &w, STAGE_FDB_LOCAL, not_here(to));
	if (unlikely(is_unanswerable(skb, to)))
		return leave_to_kernel(skb, &w, cfg);
	if (unpack(skb, cfg, &a))
		return drop(skb, &w, STAGE_DECAP, DROP_ADJUST_ROOM_FAILED);
	TRACE(skb, &w, STAGE_UNDERLAY_IN, RESULT_PASS, 0);
	TRACE(skb, &w, STAGE_DECAP, RESULT_PASS, 0);
	TRACE(skb, &w, STAGE_FDB_LOCAL, RESULT_HIT, 0);
	COUNT(w.slot, local);
	return deliver(skb, &w, cfg, 0, to->slot);
}

/* The kernel's VXLAN device has unpacked a frame: an aggregate, a group frame, one that is no IP, one to be sent on.
 * Nothing gets from here into the host. */
SEC("tcx/ingress") int vx_in(struct __sk_buff *skb)
{
	const struct config *cfg = host();
	struct way w = {.slot = SLOT_TUNNEL};
	struct arrival a = {};
	const struct fdb *to;
	int reason;

	if (!cfg)
		return DROP;
	reason = tunnel_of(skb, cfg, &a, &w);
	w.vni = a.vni;
	meet(skb, &w, cfg, 0);
	trace_peer(&w, &a.from);
	if (reason)
		return drop(skb, &w, STAGE_UNDERLAY_IN, reason);
	if ((reason = admit(w.vni, &a)))
		return reason == FOR_SINK ? end_mirror(skb, &w) : not_admitted(skb, &w, reason);
	TRACE(skb, &w, STAGE_DECAP, RESULT_PASS, 0);
	if (is_group(a.inner.dst))
		return flood(skb, &w, 0);
	to = station(w.vni, a.inner.dst);
	if (unlikely(!to))
		return has_uplink(w.vni) ? leave(skb, &w) : drop(skb, &w, STAGE_FDB_LOCAL, DROP_DST_UNKNOWN);
	if (is_here(to, &w, &a)) {
		TRACE(skb, &w, STAGE_FDB_LOCAL, RESULT_HIT, 0);
		COUNT(w.slot, local);
		return deliver(skb, &w, cfg, 0, to->slot);
	}
	if (!is_relayed(to, &a))
		return drop(skb, &w, STAGE_FDB_LOCAL, not_here(to));
	return relay(skb, &w, cfg, to);
}

/* A NIC that a switch is on has received a frame. What is for the host alone goes on, untouched, after one look at the NIC. */
SEC("tcx/ingress") int ext_in(struct __sk_buff *skb)
{
	struct uplink u = {};

	if (uplink_at(skb->ifindex, &u) || is_ours(skb, &u))
		return NEXT;
	if (likely(skb->pkt_type == PACKET_HOST))
		return pass_by(skb, &u);
	return at_wire(skb, &u, 0);
}

/* A frame is about to leave by a NIC that a switch is on: the core's own, or one of the host, which may be for a guest. */
SEC("tcx/egress") int ext_out(struct __sk_buff *skb)
{
	struct uplink u = {};

	if (uplink_at(skb->ifindex, &u))
		return NEXT;
	if (is_ours(skb, &u)) {
		COUNT_ALL(u.slot, tx, packets_of(skb), skb->len);
		return NEXT;
	}
	if (unlikely(!(u.flags & UPLINK_HOST)))
		return pass_by(skb, &u); /* nothing of it reaches a guest, either */
	return at_wire(skb, &u, 1);
}

/* A copy leaves by weftmir0: only the core sends one. */
SEC("tcx/egress") int mirror_out(struct __sk_buff *skb)
{
	const struct config *cfg = host();
	__u32 id = skb->mark & (MAX_PORTS - 1);
	const struct mirror *m = bpf_map_lookup_elem(&mirrors_v1, &id);

	if (!cfg || !m || (skb->mark & ~(MAX_PORTS - 1)) != cfg->mark)
		return refuse_egress(skb, DROP_UNMARKED);
	return send_copy(skb, cfg, m);
}

/* A copy is on a device on which somebody listens, and was seen there: it never reaches the host's stack. */
SEC("tcx/ingress") int sink_in(struct __sk_buff *skb)
{
	return DROP;
}

/* The last program at a port's device and at the VXLAN device: it is met only when the core is missing there. */
SEC("tcx/ingress") int sentinel_in(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct port *port = bpf_map_lookup_elem(&ports_v1, &ifindex);
	struct way w = {.slot = slot_here(skb), .vni = port ? port->vni : 0};

	meet(skb, &w, host(), 0);
	return drop(skb, &w, STAGE_PORT_IN, DROP_SENTINEL);
}

/* The same, towards the guest. */
SEC("tcx/egress") int sentinel_out(struct __sk_buff *skb)
{
	return refuse_egress(skb, DROP_SENTINEL);
}

/* A probe enters a port as if its guest had sent it, save that it opens none: the mark of the socket that sent it names the
 * device. */
SEC("tcx/ingress") int probe_in(struct __sk_buff *skb)
{
	const struct config *cfg = host();
	__u32 ifindex = skb->mark;

	if (!cfg || !bpf_map_lookup_elem(&ports_v1, &ifindex))
		return DROP;
	skb->mark = cfg->mark | SLOT_NOWHERE;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}
