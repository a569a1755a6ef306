/* VXLAN (RFC 7348): a frame leaves for another host. Plain IP frames get their outer header here; what the kernel's own
 * device does better, or bpf_skb_adjust_room refuses, goes to that device with a tunnel key. */
#ifndef WEFT_ENCAP_H
#define WEFT_ENCAP_H

#include "toobig.h"

enum {
	OVERHEAD4 = 50,
	OVERHEAD6 = 70,
	OUTER_TTL = 64,
	JUDGED_TTL = 255,	/* of what the host that a port leaves has judged for the one that it comes to: above 128 there, as in RFC 5082 */
	SOURCE_PORT_MIN = 49152,
	SOURCE_PORT_MAX = 65535,	/* as the kernel's device is told: it uses one less */
	VXLAN_FLAG_VNI = 0x08,
	MAX_PACKET = 65535,
	NET_AF_INET = 2,
	NET_AF_INET6 = 10,
};

/* The pad puts the IP header on a word; what is stored begins at eth. */
struct outer4 {
	__u16 pad;
	struct ethernet eth;
	struct ipv4 ip;
	struct udp udp;
	struct vxlan vxlan;
	struct ethernet inner;
};

struct outer6 {
	__u16 pad;
	struct ethernet eth;
	struct ipv6 ip;
	struct udp udp;
	struct vxlan vxlan;
	struct ethernet inner;
};

/* The source port carries the flow's hash for the underlay's load balancing. It is the kernel's formula (udp_flow_src_port),
 * so that both ways of encapsulation give one flow one path. */
INLINE __be16 source_port(struct __sk_buff *skb)
{
	__u32 hash = bpf_get_hash_recalc(skb);

	hash ^= hash << 16;
	return bswap16((((__u64)hash * (SOURCE_PORT_MAX - SOURCE_PORT_MIN)) >> 32) + SOURCE_PORT_MIN);
}

INLINE struct vxlan vxlan_header(__u32 vni)
{
	return (struct vxlan){.flags = bswap32(VXLAN_FLAG_VNI << 24), .vni = bswap32(vni << 8)};
}

INLINE int load_tunnel_key(struct __sk_buff *skb, const struct config *cfg, const struct peer *p, __u32 vni, __u32 tos, __u32 ttl, int fragment)
{
	struct bpf_tunnel_key key = {.tunnel_id = vni, .tunnel_tos = tos, .tunnel_ttl = ttl};
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	skb->mark = 0; /* ours is for devices of ports, and stays on this host */
	if (!fragment)
		flags |= BPF_F_DONT_FRAGMENT;
	if (cfg->ipv6) {
		flags |= BPF_F_TUNINFO_IPV6;
		__builtin_memcpy(key.remote_ipv6, &p->vtep, 16);
		__builtin_memcpy(key.local_ipv6, &cfg->vtep, 16);
	} else {
		key.remote_ipv4 = bswap32(p->vtep.w[3]);
		key.local_ipv4 = bswap32(cfg->vtep.w[3]);
	}
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags);
}

/* Through the kernel's VXLAN device. */
INLINE int to_tunnel(struct __sk_buff *skb, struct way *w, const struct config *cfg, const struct peer *p, int fragment)
{
	if (load_tunnel_key(skb, cfg, p, w->vni, w->tos, w->met & WAY_JUDGED ? JUDGED_TTL : OUTER_TTL, fragment))
		return drop(skb, w, STAGE_ENCAP, DROP_REDIRECT_FAILED);
	TRACE(skb, w, STAGE_ENCAP, RESULT_PASS, 0);
	TRACE(skb, w, STAGE_UNDERLAY_OUT, RESULT_PASS, 0);
	COUNT(w->slot, remote);
	return bpf_redirect(cfg->tunnel, 0);
}

INLINE __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE int encap4(struct __sk_buff *skb, struct way *w, const struct config *cfg, const struct peer *p,
		  const struct frame *f)
{
	struct outer4 *h = blank(sizeof(*h));
	__u32 length = skb->len + OVERHEAD4 - ETH;
	__be16 port = source_port(skb);

	if (!h)
		return -1;
	h->inner = f->eth;
	if (bpf_skb_adjust_room(skb, OVERHEAD4, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
					BPF_F_ADJ_ROOM_ENCAP_L2(ETH) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return -1;
	h->eth.type = bswap16(ETHERTYPE_IPV4);
	h->ip = (struct ipv4){
		.version_ihl = 0x45, .tos = f->ecn, .length = bswap16(length), .fragment = bswap16(FRAGMENT_DF), .ttl = OUTER_TTL,
		.proto = PROTO_UDP, .src = cfg->vtep.w[3], .dst = p->vtep.w[3],
	};
	h->ip.checksum = ~fold(p->checksum + h->ip.length + bswap16(f->ecn));
	h->udp = (struct udp){.src = port, .dst = bswap16(PORT_VXLAN), .length = bswap16(length - sizeof(h->ip))};
	h->vxlan = vxlan_header(w->vni);
	return bpf_skb_store_bytes(skb, 0, &h->eth, OVERHEAD4 + ETH, 0) ? DROP_ADJUST_ROOM_FAILED : 0;
}

INLINE int encap6(struct __sk_buff *skb, struct way *w, const struct config *cfg, const struct peer *p,
		  const struct frame *f)
{
	struct outer6 *h = blank(sizeof(*h));
	__u32 length = skb->len + OVERHEAD6 - ETH - sizeof(h->ip);
	__u32 label = bpf_get_hash_recalc(skb) & 0xfffff; /* RFC 6438 */
	__be16 port = source_port(skb);

	if (!h)
		return -1;
	h->inner = f->eth;
	if (bpf_skb_adjust_room(skb, OVERHEAD6, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
					BPF_F_ADJ_ROOM_ENCAP_L2(ETH) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return -1;
	h->eth.type = bswap16(ETHERTYPE_IPV6);
	h->ip.first = bswap32(6 << 28 | (__u32)f->ecn << 20 | label);
	h->ip.length = bswap16(length);
	h->ip.next = PROTO_UDP;
	h->ip.hops = OUTER_TTL;
	__builtin_memcpy(h->ip.src, &cfg->vtep, 16);
	__builtin_memcpy(h->ip.dst, &p->vtep, 16);
	h->udp = (struct udp){.src = port, .dst = bswap16(PORT_VXLAN), .length = bswap16(length)};
	h->vxlan = vxlan_header(w->vni);
	return bpf_skb_store_bytes(skb, 0, &h->eth, OVERHEAD6 + ETH, 0) ? DROP_ADJUST_ROOM_FAILED : 0;
}

/* The kernel resolves the next hop's MAC, so that this goes on when the agent is gone. Without a next hop from the agent
 * the kernel's routes are asked for each packet. */
INLINE int to_underlay(struct __sk_buff *skb, struct way *w, const struct config *cfg, const struct peer *p)
{
	struct bpf_redir_neigh hop = {.nh_family = cfg->ipv6 ? NET_AF_INET6 : NET_AF_INET};

	if (cfg->ipv6)
		__builtin_memcpy(hop.ipv6_nh, &p->nexthop, 16);
	else
		hop.ipv4_nh = p->nexthop.w[3];
	skb->mark = 0;
	TRACE(skb, w, STAGE_ENCAP, RESULT_PASS, 0);
	TRACE(skb, w, STAGE_UNDERLAY_OUT, RESULT_PASS, 0);
	COUNT(w->slot, remote);
	return bpf_redirect_neigh(p->ifindex, &hop, sizeof(hop), 0);
}

/* Whether this frame's outer header is put on here. */
INLINE int is_plain(const struct __sk_buff *skb, const struct config *cfg, const struct frame *f)
{
	return f->ip && !skb->gso_size && skb->len + OVERHEAD6 <= MAX_PACKET;
}

/* Above all verdicts: with the size added that the frame's largest packet exceeds. */
enum { BEYOND = 1 << 16 };

/* Sends the frame to a peer: the verdict, or BEYOND where the frame is too big, which its caller answers. A function of its own, and
 * the answer not in it: vp_in has no stack for its keys beside judge's, and none for the answer's behind them (ADR 11.9). */
__attribute__((noinline)) int to_peer(struct __sk_buff *skb, struct way *w, const struct frame *f, __u32 id)
{
	const struct config *cfg = host();
	const struct peer *p = peer_of(id);

	if (!w || !f)
		return DROP;
	if (!cfg || !p)
		return drop(skb, w, STAGE_ENCAP, DROP_UNDERLAY_DOWN);
	__u32 room = p->mtu - (cfg->ipv6 ? OVERHEAD6 : OVERHEAD4);

	trace_peer(w, &p->vtep);
	room = room < w->mtu ? room : w->mtu;
	if (unlikely(f->l3_length > room)) {
		if (f->ip != 4 || f->df)
			return BEYOND + room;
		return to_tunnel(skb, w, cfg, p, 1);
	}
	clamp_mss(skb, f, room);
	if (!is_plain(skb, cfg, f) || !p->ifindex || unlikely(w->met & WAY_JUDGED))
		return to_tunnel(skb, w, cfg, p, 0);
	int failed = cfg->ipv6 ? encap6(skb, w, cfg, p, f) : encap4(skb, w, cfg, p, f);

	if (failed < 0)
		return to_tunnel(skb, w, cfg, p, 0);
	if (failed)
		return drop(skb, w, STAGE_ENCAP, failed);
	return to_underlay(skb, w, cfg, p);
}

/* The same, and tells the sender where it is too large. */
INLINE int to_remote(struct __sk_buff *skb, struct way *w, const struct frame *f, __u32 id)
{
	__u32 sent = to_peer(skb, w, f, id);

	return likely(sent < BEYOND) ? sent : too_big(skb, w, f, sent - BEYOND);
}

/* The same, to a station that lives elsewhere, or has just left for there. */
INLINE int send_after(struct __sk_buff *skb, struct way *w, struct frame *f, const struct fdb *to)
{
	if (unlikely(is_judged_here(to)))
		judge_before(skb, w, f, to->slot);
	return to_remote(skb, w, f, to->peer);
}

#endif
