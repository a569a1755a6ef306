// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Counts what the kernel itself drops on devices of weft (ADR 26). It hangs on a tracepoint: it sees every drop of the machine,
 * in every network namespace, and leaves after a few loads for all but ours. What programs of ours have dropped is in their own
 * counters and left out. It changes nothing about a packet. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

/* The kernel's own types, as far as they are read; the loader finds the offsets of the kernel that runs. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct net {
	struct ns_common ns;
} __attribute__((preserve_access_index));

typedef struct {
	struct net *net;
} __attribute__((preserve_access_index)) possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
} __attribute__((preserve_access_index));

struct sk_buff {
	struct net_device *dev;
} __attribute__((preserve_access_index));

enum skb_drop_reason {
	SKB_DROP_REASON_TC_INGRESS,
	SKB_DROP_REASON_TC_EGRESS,
};

struct drop_key {
	__u32 ifindex;
	__u32 reason;
};

/* The inode of the network namespace whose devices are counted. Written before loading. */
const volatile __u32 namespace = 0;

/* index of a device -> 1. Which devices are counted. Written by user space, read here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u8);
} kernel_watched SEC(".maps");

/* device and reason -> packets, per processor. Written here, read and pruned by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct drop_key);
	__type(value, __u64);
} kernel_drops SEC(".maps");

/* key 0 -> packets that kernel_drops had no room for, per processor. Written here, read by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} kernel_missed SEC(".maps");

/* own_program reports whether the reason is that a program at tcx has said so. */
static __always_inline int own_program(__u32 reason)
{
	return reason == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TC_INGRESS) ||
	       reason == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_TC_EGRESS);
}

/* count adds one to the counter of the key, which is made where there is none. */
static __always_inline void count(struct drop_key *key)
{
	__u32 zero = 0;
	__u64 one = 1, *n = bpf_map_lookup_elem(&kernel_drops, key);

	if (n) {
		(*n)++;
		return;
	}
	if (!bpf_map_update_elem(&kernel_drops, key, &one, BPF_NOEXIST))
		return;
	n = bpf_map_lookup_elem(&kernel_drops, key); /* another processor was faster */
	if (!n)
		n = bpf_map_lookup_elem(&kernel_missed, &zero);
	if (n)
		(*n)++;
}

/* A frame's dev may be something else in sockets' queues (sk_buff's union with rbnode and dev_scratch): such a pointer reads as
 * nothing, or as a device of no namespace. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kernel_drop, struct sk_buff *skb, void *location, __u32 reason)
{
	struct net_device *dev = skb->dev;
	struct drop_key key = {};

	if (own_program(reason) || dev->nd_net.net->ns.inum != namespace)
		return 0;
	key.ifindex = dev->ifindex;
	key.reason = reason;
	if (bpf_map_lookup_elem(&kernel_watched, &key.ifindex))
		count(&key);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
