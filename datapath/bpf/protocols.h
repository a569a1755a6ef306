/* Numbers and headers of the protocols the core reads or writes. */
#ifndef WEFT_PROTOCOLS_H
#define WEFT_PROTOCOLS_H

#include <linux/types.h>

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_ARP = 0x0806,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_IPV6 = 0x86DD,
	ETHERTYPE_MPLS = 0x8847,
	ETHERTYPE_MPLS_GROUP = 0x8848,
	ETHERTYPE_PAUSE = 0x8808,
	ETHERTYPE_SLOW = 0x8809,	/* LACP, OAM */
	ETHERTYPE_EAPOL = 0x888E,
	ETHERTYPE_QINQ = 0x88A8,
	ETHERTYPE_LLDP = 0x88CC,
	ETHERTYPE_QINQ_OLD = 0x9100,
};

enum {
	PROTO_HOPOPTS = 0,
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_AH = 51,
	PROTO_ICMPV6 = 58,
	PROTO_NONE = 59,
	PROTO_DSTOPTS = 60,
};

enum {
	PORT_DHCP_SERVER = 67,
	PORT_DHCP_CLIENT = 68,
	PORT_DHCP6_CLIENT = 546,
	PORT_DHCP6_SERVER = 547,
	PORT_VXLAN = 4789,
};

/* ICMP and ICMPv6 types (RFC 792, 4443, 4861, 2710, 3810). */
enum {
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_FRAGMENTATION_NEEDED = 4,	/* a code */
	ICMP_REDIRECT = 5,
	ICMP_ECHO_REQUEST = 8,
	ICMPV6_PACKET_TOO_BIG = 2,
	ICMPV6_ERRORS_END = 128,
	ICMPV6_ECHO_REQUEST = 128,
	ICMPV6_ECHO_REPLY = 129,
	MLD_REPORT = 131,
	MLD_DONE = 132,
	ND_RS = 133,
	ND_RA = 134,
	ND_NS = 135,
	ND_NA = 136,
	ND_REDIRECT = 137,
	MLD2_REPORT = 143,
};

enum {
	ARP_REQUEST = 1,
	FRAGMENT_DF = 0x4000,
	FRAGMENT_MORE = 0x2000,
	FRAGMENT_OFFSET = 0x1fff,
	ETH = 14,			/* length of an Ethernet header */
};

struct ethernet {
	__u8 dst[6], src[6];
	__be16 type;
};

struct arp {
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 op;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} __attribute__((packed));

struct ipv4 {
	__u8 version_ihl, tos;
	__be16 length, id, fragment;
	__u8 ttl, proto;
	__u16 checksum;
	__be32 src, dst;
};

struct ipv6 {
	__be32 first;			/* version, traffic class, flow label */
	__be16 length;
	__u8 next, hops;
	__u32 src[4], dst[4];
};

struct udp {
	__be16 src, dst, length;
	__u16 checksum;
};

struct tcp {
	__be16 src, dst;
	__be32 seq, ack;
	__u8 offset, flags;		/* offset: the header's length in words, in the upper half */
	__be16 window;
	__u16 checksum;
	__be16 urgent;
};

struct vxlan {
	__be32 flags, vni;
};

#endif
