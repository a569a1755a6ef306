/* The guards of a port: what a guest may say about itself and to whom. Each returns the reason of its refusal, or 0. */
#ifndef WEFT_GUARD_H
#define WEFT_GUARD_H

#include "parse.h"

enum {
	ND_SOURCE_LINK_ADDRESS = 1,
	ND_TARGET_LINK_ADDRESS = 2,
	ND_MAX_OPTIONS = 9,	/* eight, and the end */
};

INLINE int same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

INLINE int same_address(const struct address *a, const struct address *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

INLINE struct address address4(__be32 ip)
{
	return (struct address){.w = {0, 0, bswap32(0xffff), ip}};
}

INLINE int is_link_local(const struct address *a)
{
	return (a->w[0] & bswap32(0xffc00000)) == bswap32(0xfe800000);
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
INLINE int owns(const struct port *port, const struct address *a)
{
	for (int i = 0; i < MAX_ADDRESSES; i++) {
		if (i >= port->addresses_count)
			return 0;
		if (same_address(&port->addresses[i], a))
			return 1;
	}
	return 0;
}

/* 01:80:c2:00:00:00 to 0f, which no bridge forwards (IEEE 802.1Q table 8-1), and protocols that belong to a link. */
INLINE int is_link_control(const struct ethernet *eth, __u16 ethertype)
{
	if (eth->dst[0] == 0x01 && eth->dst[1] == 0x80 && eth->dst[2] == 0xc2 && !eth->dst[3] && !eth->dst[4] && eth->dst[5] < 16)
		return 1;
	return ethertype == ETHERTYPE_PAUSE || ethertype == ETHERTYPE_SLOW || ethertype == ETHERTYPE_LLDP ||
	       ethertype == ETHERTYPE_EAPOL;
}

INLINE int guard_l2(const struct frame *f, const struct port *port)
{
	const struct ethernet *eth = &f->eth;

	if ((eth->src[0] & 1) || !(eth->src[0] | eth->src[1] | eth->src[2] | eth->src[3] | eth->src[4] | eth->src[5]))
		return DROP_SRC_GROUP;
	if ((port->guards & GUARD_MAC) && !same_mac(eth->src, port->mac))
		return DROP_GUARD_SRC_MAC;
	if (f->ethertype == ETHERTYPE_VLAN || f->ethertype == ETHERTYPE_QINQ || f->ethertype == ETHERTYPE_QINQ_OLD)
		return DROP_VLAN_NOT_ALLOWED;
	if ((port->guards & GUARD_L2_CONTROL) && is_link_control(eth, f->ethertype))
		return DROP_GUARD_L2_CONTROL;
	return 0;
}

/* ARP for IPv4 over Ethernet: the sender is the port; 0.0.0.0 is a probe (RFC 5227). */
INLINE int guard_arp(struct __sk_buff *skb, const struct port *port)
{
	struct arp arp;

	if (load(skb, ETH, &arp, sizeof(arp)) || arp.hardware != bswap16(1) ||
	    arp.protocol != bswap16(ETHERTYPE_IPV4) || arp.hardware_length != 6 || arp.protocol_length != 4)
		return DROP_L3_BAD;
	if (!(port->guards & GUARD_ARP))
		return 0;
	struct address sender = address4(arp.sender);

	if (!same_mac(arp.sender_mac, port->mac) || (arp.sender && !owns(port, &sender)))
		return DROP_GUARD_ARP;
	return 0;
}

INLINE int guard_dhcp(const struct frame *f, const struct port *port)
{
	if (!(port->guards & GUARD_DHCP_SERVER) || f->proto != PROTO_UDP || !f->l4)
		return 0;
	if (f->ip == 4 ? f->sport == PORT_DHCP_SERVER : f->sport == PORT_DHCP6_SERVER)
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

INLINE int guard_ipv4(const struct frame *f, const struct port *port)
{
	int reason = guard_dhcp(f, port);

	if (reason)
		return reason;
	if ((port->guards & GUARD_IP) && !owns(port, &f->src)) {
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
		if ((option[0] == ND_SOURCE_LINK_ADDRESS || option[0] == ND_TARGET_LINK_ADDRESS) && !same_mac(option + 2, port->mac))
			return DROP_GUARD_ND;
		at += option[1] * 8;
	}
	return DROP_L4_BAD;
}

/* Neighbour discovery speaks of the port alone. Fragmented messages could hide from this and are refused (RFC 6980). */
INLINE int guard_nd(struct __sk_buff *skb, const struct frame *f, const struct port *port)
{
	struct address target;

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
	if ((f->icmp_type == ND_NA || is_unspecified(&f->src)) && !owns(port, &target) && !is_link_local(&target))
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
	if ((port->guards & GUARD_IP) && !owns(port, &f->src) && !is_link_local(&f->src)) {
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

	if (reason)
		return reason;
	switch (f->ethertype) {
	case ETHERTYPE_IPV4:
		return guard_ipv4(f, port);
	case ETHERTYPE_IPV6:
		return guard_ipv6(skb, f, port);
	case ETHERTYPE_ARP:
		return guard_arp(skb, port);
	}
	return 0;
}

#endif
