/* The guards of a port: what a guest may say about itself and to whom. Each returns the reason of its refusal, or 0. */
#ifndef WEFT_GUARD_H
#define WEFT_GUARD_H

#include "parse.h"

enum {
	IPV4_OPTIONS_MAX = 40,
	IPV4_OPTION_END = 0,
	IPV4_OPTION_NOP = 1,
	IPV4_OPTION_LSRR = 131,
	IPV4_OPTION_SSRR = 137,
	ND_SOURCE_LINK_ADDRESS = 1,
	ND_TARGET_LINK_ADDRESS = 2,
	ND_MAX_OPTIONS = 9,	/* eight, and the end */
};

INLINE int same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

INLINE struct address address4(__be32 ip)
{
	return (struct address){.w = {0, 0, bswap32(0xffff), ip}};
}

/* The link-local address made from the port's MAC (RFC 4291 appendix A). */
INLINE int is_own_link_local(const struct address *a, const struct port *port)
{
	const __u8 *m = port->mac;

	return a->w[0] == bswap32(0xfe800000) && a->w[1] == 0 &&
	       bswap32(a->w[2]) == ((__u32)(m[0] ^ 2) << 24 | m[1] << 16 | m[2] << 8 | 0xff) &&
	       bswap32(a->w[3]) == (0xfeU << 24 | m[3] << 16 | m[4] << 8 | m[5]);
}

INLINE int is_ipv4(const struct address *a)
{
	return (a->w[0] | a->w[1]) == 0 && a->w[2] == bswap32(0xffff);
}

INLINE int is_unspecified(const struct address *a)
{
	return (a->w[0] | a->w[1] | a->w[2] | a->w[3]) == 0;
}

/* Whether the address is one of the port's. */
INLINE int is_listed(const struct port *port, const struct address *a)
{
	for (int i = 0; i < MAX_ADDRESSES; i++) {
		if (i >= port->addresses_count)
			return 0;
		if (same_address(&port->addresses[i], a))
			return 1;
	}
	return 0;
}

/* The same, or the link-local address that every station has: the one made from the MAC. A guest that draws another at
 * random (RFC 7217) needs it listed, because a guest may take any address there, its neighbour's or the router's too. */
INLINE int owns(const struct port *port, const struct address *a)
{
	return is_listed(port, a) || is_own_link_local(a, port);
}

/* 01:80:c2:00:00:00 to 0f, which no bridge forwards (IEEE 802.1Q table 8-1), and protocols that belong to a link. */
INLINE int is_link_control(const struct ethernet *eth, __u16 ethertype)
{
	const __u8 *to = eth->dst;

	if (to[0] == 0x01 && to[1] == 0x80 && to[2] == 0xc2 && !to[3] && !to[4] && to[5] < 16)
		return 1;
	if (to[0] == 0x01 && !to[1] && to[2] == 0x0c && to[3] == 0xcc && to[4] == 0xcc && (to[5] == 0xcc || to[5] == 0xcd))
		return 1; /* Cisco's: CDP, VTP, PVST+ */
	return ethertype == ETHERTYPE_PAUSE || ethertype == ETHERTYPE_SLOW || ethertype == ETHERTYPE_LLDP ||
	       ethertype == ETHERTYPE_EAPOL;
}

/* Why the guest in the slot may use the MAC, which is not its port's own: MAC_, or 0. */
__attribute__((noinline)) int is_other_mac(__u32 slot, __u64 mac)
{
	struct mac_key key = {.slot = slot, .mac = {mac >> 40, mac >> 32, mac >> 24, mac >> 16, mac >> 8, mac}};
	__u32 *why = bpf_map_lookup_elem(&macs_v1, &key);

	return why ? *why : 0;
}

/* A MAC that nobody has listed, of a guest that may use some. */
__attribute__((noinline)) int learn_mac(__u32 slot, __u64 mac)
{
	struct mac_key key = {.slot = slot, .mac = {mac >> 40, mac >> 32, mac >> 24, mac >> 16, mac >> 8, mac}};
	struct limits *l = bpf_map_lookup_elem(&limits_v3, &slot);
	__u32 why = MAC_LEARNED;

	if (l && !l->macs)
		return 0; /* as many as it likes */
	if (!l || __sync_fetch_and_add(&l->learned, 1) >= l->macs || bpf_map_update_elem(&macs_v1, &key, &why, BPF_NOEXIST)) {
		if (l)
			__sync_fetch_and_add(&l->learned, -1);
		return is_other_mac(slot, mac) ? 0 : DROP_MAC_LIMIT;
	}
	return 0;
}

/* A source that is not the port's own MAC. */
__attribute__((noinline)) int guard_other_mac(const struct frame *f, const struct port *port)
{
	if (!f || !port || !(port->guards & GUARD_MACS))
		return DROP_GUARD_SRC_MAC;
	__u64 mac = mac_number(f->eth.src);

	if (is_other_mac(port->slot, mac))
		return 0;
	return port->guards & GUARD_MAC ? DROP_GUARD_SRC_MAC : learn_mac(port->slot, mac);
}

/* Whether the guest may call itself by the MAC. */
INLINE int is_own_mac(const struct port *port, const __u8 *mac)
{
	return same_mac(mac, port->mac) || ((port->guards & GUARD_MACS) && is_other_mac(port->slot, mac_number(mac)));
}

INLINE int guard_source(const struct frame *f, const struct port *port)
{
	const struct ethernet *eth = &f->eth;

	if ((eth->src[0] & 1) || !(eth->src[0] | eth->src[1] | eth->src[2] | eth->src[3] | eth->src[4] | eth->src[5]))
		return DROP_SRC_GROUP;
	if ((port->guards & (GUARD_MAC | GUARD_MACS)) && unlikely(!same_mac(eth->src, port->mac))) {
		int reason = guard_other_mac(f, port);

		if (reason)
			return reason;
	}
	return 0;
}

INLINE int guard_l2(const struct frame *f, const struct port *port)
{
	const struct ethernet *eth = &f->eth;
	int reason = guard_source(f, port);

	if (reason)
		return reason;
	if (f->ethertype == ETHERTYPE_VLAN || f->ethertype == ETHERTYPE_QINQ || f->ethertype == ETHERTYPE_QINQ_OLD)
		return DROP_VLAN_NOT_ALLOWED;
	if ((port->guards & GUARD_L2_CONTROL) && is_link_control(eth, f->ethertype))
		return DROP_GUARD_L2_CONTROL;
	return 0;
}

/* IP or ARP where no guard looks: behind SNAP (RFC 1042, IEEE 802.1H) or MPLS (RFC 3032). */
INLINE int guard_evasion(struct __sk_buff *skb, const struct frame *f, const struct port *port)
{
	__u8 llc[8];

	if (!(port->guards & GUARD_L3))
		return 0;
	if (f->ethertype == ETHERTYPE_MPLS || f->ethertype == ETHERTYPE_MPLS_GROUP)
		return DROP_GUARD_EVASION;
	if (likely(f->ethertype >= MIN_ETHERTYPE) || load(skb, ETH, llc, sizeof(llc)))
		return 0;
	if ((llc[0] & 0xfe) != 0xaa || (llc[1] & 0xfe) != 0xaa || (llc[2] & 0xef) != 3 || llc[3] || llc[4] || (llc[5] && llc[5] != 0xf8))
		return 0;
	switch (llc[6] << 8 | llc[7]) {
	case ETHERTYPE_IPV4:
	case ETHERTYPE_IPV6:
	case ETHERTYPE_ARP:
	case ETHERTYPE_VLAN:
	case ETHERTYPE_QINQ:
		return DROP_GUARD_EVASION;
	}
	return 0;
}

/* ARP for IPv4 over Ethernet: the sender is the port; 0.0.0.0 is a probe for an address that is to be the port's
 * (RFC 5227), or is a question to all, which the core answers for the address's owner; asked of the owner it would be a claim. */
__attribute__((noinline)) int guard_arp(struct __sk_buff *skb, const struct frame *f, const struct port *port)
{
	struct arp arp;

	if (!f || !port || load(skb, ETH, &arp, sizeof(arp)) || arp.hardware != bswap16(1) ||
	    arp.protocol != bswap16(ETHERTYPE_IPV4) || arp.hardware_length != 6 || arp.protocol_length != 4)
		return DROP_L3_BAD;
	if (!(port->guards & GUARD_ARP))
		return 0;
	struct address claimed = address4(arp.sender ? arp.sender : arp.target);
	int question = !arp.sender && (f->eth.dst[0] & 1) && arp.op == bswap16(ARP_REQUEST);

	if (!is_own_mac(port, arp.sender_mac) || (!question && !is_listed(port, &claimed)))
		return DROP_GUARD_ARP;
	return 0;
}

INLINE int guard_dhcp(const struct frame *f, const struct port *port)
{
	if (!(port->guards & GUARD_DHCP_SERVER) || f->proto != PROTO_UDP || !f->l4)
		return 0;
	if (f->ip == 4 && (f->sport == PORT_DHCP_SERVER || f->dport == PORT_DHCP_CLIENT))
		return DROP_GUARD_DHCP_SERVER;
	if (f->ip == 6 && (f->sport == PORT_DHCP6_SERVER || f->dport == PORT_DHCP6_CLIENT))
		return DROP_GUARD_DHCP_SERVER;
	return 0;
}

INLINE int guard_vxlan(const struct frame *f, const struct port *port)
{
	const struct config *cfg;
	struct address dst;

	if (likely(f->proto != PROTO_UDP || f->dport != PORT_VXLAN || !f->l4) || !(port->guards & GUARD_VXLAN))
		return 0;
	cfg = host();
	dst = f->dst;
	if ((cfg && same_address(&cfg->vtep, &dst)) || bpf_map_lookup_elem(&vteps_v1, &dst))
		return DROP_GUARD_VXLAN;
	return 0;
}

/* Whether the IPv4 options, size bytes of them, have a source route in them, strict or loose (RFC 791). */
__attribute__((noinline)) int has_source_route(struct __sk_buff *skb, __u32 size)
{
	__u8 options[IPV4_OPTIONS_MAX + 2] = {};
	__u32 at = 0;

	if (size < 1 || size > IPV4_OPTIONS_MAX || bpf_skb_load_bytes(skb, ETH + sizeof(struct ipv4), options, size))
		return 0;
	for (int i = 0; i < IPV4_OPTIONS_MAX; i++) {
		if (at >= size || at >= IPV4_OPTIONS_MAX || options[at] == IPV4_OPTION_END)
			return 0;
		if (options[at] == IPV4_OPTION_LSRR || options[at] == IPV4_OPTION_SSRR)
			return 1;
		if (options[at] == IPV4_OPTION_NOP)
			at++;
		else if (options[at + 1] < 2)
			return 0;
		else
			at += options[at + 1];
	}
	return 0;
}

INLINE int guard_ipv4(struct __sk_buff *skb, const struct frame *f, const struct port *port)
{
	int reason = guard_dhcp(f, port);

	if (reason)
		return reason;
	if ((port->guards & GUARD_IP) && unlikely(f->options) && has_source_route(skb, f->options))
		return DROP_GUARD_EVASION;
	if ((port->guards & GUARD_IP) && !is_listed(port, &f->src)) {
		int client = f->proto == PROTO_UDP && f->l4 && f->sport == PORT_DHCP_CLIENT && f->dport == PORT_DHCP_SERVER;

		if (f->src.w[3] || !client)
			return DROP_GUARD_SRC_IP;
	}
	return guard_vxlan(f, port);
}

/* The link-layer address options of a neighbour discovery message name the port's MAC, and options add up (RFC 4861 4.6). */
INLINE int guard_nd_options(struct __sk_buff *skb, __u32 at, const struct port *port)
{
	__u8 option[8];

	for (int i = 0; i < ND_MAX_OPTIONS; i++) {
		if (at == skb->len)
			return 0;
		if (bpf_skb_load_bytes(skb, at, option, 8) || option[1] == 0)
			return DROP_L4_BAD;
		if ((option[0] == ND_SOURCE_LINK_ADDRESS || option[0] == ND_TARGET_LINK_ADDRESS) && !is_own_mac(port, option + 2))
			return DROP_GUARD_ND;
		at += option[1] * 8;
	}
	return DROP_L4_BAD;
}

/* Neighbour discovery speaks of the port alone. Fragmented messages could hide from this and are refused (RFC 6980). */
__attribute__((noinline)) int guard_nd(struct __sk_buff *skb, const struct frame *f, const struct port *port)
{
	struct address target;

	if (!f || !port)
		return DROP_L4_BAD;
	if (f->icmp_type == ND_RA || f->icmp_type == ND_REDIRECT)
		return port->guards & GUARD_RA ? DROP_GUARD_RA : 0;
	if (!(port->guards & GUARD_ARP) || f->icmp_type < ND_RS || f->icmp_type > ND_NA)
		return 0;
	if (f->fragment)
		return DROP_GUARD_ND;
	if (f->icmp_type == ND_RS)
		return guard_nd_options(skb, f->l4 + 8, port);
	if (bpf_skb_load_bytes(skb, f->l4 + 8, &target, 16))
		return DROP_L4_BAD;
	/* A solicitation from :: is a claim too: duplicate address detection. */
	if ((f->icmp_type == ND_NA || is_unspecified(&f->src)) && !owns(port, &target))
		return DROP_GUARD_ND;
	return guard_nd_options(skb, f->l4 + 24, port);
}

INLINE int guard_ipv6(struct __sk_buff *skb, const struct frame *f, const struct port *port)
{
	int icmp = f->proto == PROTO_ICMPV6 && f->l4, reason = guard_dhcp(f, port);

	if (reason)
		return reason;
	if (is_ipv4(&f->src)) /* ::ffff:a.b.c.d never stands in an IPv6 header (RFC 4291), and would look like an owned address */
		return DROP_GUARD_SRC_IP;
	if ((port->guards & GUARD_IP) && !owns(port, &f->src)) {
		/* Without an address yet: duplicate address detection, router solicitation, MLD (RFC 4861, 3590). */
		int beginner = icmp && (f->icmp_type == ND_NS || f->icmp_type == ND_RS || f->icmp_type == MLD_REPORT ||
					f->icmp_type == MLD_DONE || f->icmp_type == MLD2_REPORT);

		if (!is_unspecified(&f->src) || !beginner)
			return DROP_GUARD_SRC_IP;
	}
	return icmp ? guard_nd(skb, f, port) : guard_vxlan(f, port);
}

/* All guards of a frame that has been parsed; the first refusal counts. */
INLINE int guard(struct __sk_buff *skb, const struct frame *f, const struct port *port)
{
	int reason = guard_l2(f, port);

	if (reason || (reason = guard_evasion(skb, f, port)))
		return reason;
	switch (f->ethertype) {
	case ETHERTYPE_IPV4:
		return guard_ipv4(skb, f, port);
	case ETHERTYPE_IPV6:
		return guard_ipv6(skb, f, port);
	case ETHERTYPE_ARP:
		return guard_arp(skb, f, port);
	}
	return 0;
}

#endif
