// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Loses and doubles frames on their way out of a device: what netem does, for kernels without it.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// Verdicts of a tcx program (linux/bpf.h of Linux 6.6; Debian 12 has that of 6.1).
#define TCX_NEXT -1
#define TCX_DROP 2

struct rates {
	__u32 loss;      // of 2^32
	__u32 duplicate; // of 2^32
};

struct counts {
	__u64 passed;
	__u64 lost;
	__u64 doubled;
};

// key 0 -> what to do. Written by user space, read here.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rates);
} impair_rates SEC(".maps");

// key 0 -> what was done, per processor. Written here, read by user space.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} impair_counts SEC(".maps");

#define SECOND 0x77656674 // mark of the second copy, so that it is not impaired again

SEC("tcx/egress")
int impair(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct rates *rates = bpf_map_lookup_elem(&impair_rates, &key);
	struct counts *counts = bpf_map_lookup_elem(&impair_counts, &key);

	if (!rates || !counts)
		return TCX_NEXT;
	if (skb->mark == SECOND) {
		skb->mark = 0;
		counts->doubled++;
		return TCX_NEXT;
	}
	if (bpf_get_prandom_u32() < rates->loss) {
		counts->lost++;
		return TCX_DROP;
	}
	if (bpf_get_prandom_u32() < rates->duplicate) {
		__u32 mark = skb->mark;

		skb->mark = SECOND;
		bpf_clone_redirect(skb, skb->ifindex, 0);
		skb->mark = mark;
	}
	counts->passed++;
	return TCX_NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
