/* The kernel's interface, as far as the core uses it: uapi structures, and its helpers by number (linux/bpf.h). Beyond uapi
 * it reads four fields of struct sk_buff, which the loader finds in the running kernel's BTF (CO-RE), so that one object
 * loads on every kernel from 6.6 on. */
#ifndef WEFT_KERNEL_H
#define WEFT_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define barrier() __asm__ __volatile__("" ::: "memory") /* the compiler keeps loads and stores on their side of it */
#define barrier_var(x) __asm__ __volatile__("" : "+r"(x)) /* the compiler does not know what is in x */
#define bswap16(x) __builtin_bswap16(x)
#define bswap32(x) __builtin_bswap32(x)
#define bswap64(x) __builtin_bswap64(x)

/* Declarations of maps as BTF, as every loader reads them. */
#define MAP_UINT(name, value) int (*name)[value]
#define MAP_TYPE(name, type) type *name
#define MAP_OF(type) type *values[]

/* What tcx programs return: on to the next program, or the end of the chain (linux/bpf.h, enum tcx_action_base). */
enum {
	NEXT = -1,
	PASS = 0,
	DROP = 2,
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static __u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static __u64 (*const bpf_jiffies64)(void) = (void *)BPF_FUNC_jiffies64;
static long (*const bpf_tail_call)(void *skb, void *programs, __u32 index) = (void *)BPF_FUNC_tail_call;
static long (*const bpf_skb_store_bytes)(void *skb, __u32 offset, const void *from, __u32 len, __u64 flags) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*const bpf_l4_csum_replace)(void *skb, __u32 offset, __u64 from, __u64 to, __u64 size) =
	(void *)BPF_FUNC_l4_csum_replace;
static __s64 (*const bpf_csum_diff)(const void *from, __u32 from_size, const void *to, __u32 to_size, __u32 seed) =
	(void *)BPF_FUNC_csum_diff;
static long (*const bpf_csum_level)(void *skb, __u64 level) = (void *)BPF_FUNC_csum_level;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*const bpf_redirect_neigh)(__u32 ifindex, void *nexthop, int size, __u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;
static long (*const bpf_clone_redirect)(void *skb, __u32 ifindex, __u64 flags) = (void *)BPF_FUNC_clone_redirect;
static long (*const bpf_fib_lookup)(void *ctx, void *params, int size, __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static long (*const bpf_skb_set_tunnel_key)(void *skb, void *key, __u32 size, __u64 flags) =
	(void *)BPF_FUNC_skb_set_tunnel_key;
static long (*const bpf_skb_get_tunnel_key)(void *skb, void *key, __u32 size, __u64 flags) =
	(void *)BPF_FUNC_skb_get_tunnel_key;
static long (*const bpf_skb_adjust_room)(void *skb, __s32 by, __u32 mode, __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*const bpf_skb_change_tail)(void *skb, __u32 len, __u64 flags) = (void *)BPF_FUNC_skb_change_tail;
static long (*const bpf_skb_change_type)(void *skb, __u32 type) = (void *)BPF_FUNC_skb_change_type;
static long (*const bpf_skb_pull_data)(void *skb, __u32 len) = (void *)BPF_FUNC_skb_pull_data;
static long (*const bpf_skb_vlan_push)(void *skb, __be16 proto, __u16 tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*const bpf_skb_vlan_pop)(void *skb) = (void *)BPF_FUNC_skb_vlan_pop;
static long (*const bpf_skb_ecn_set_ce)(void *skb) = (void *)BPF_FUNC_skb_ecn_set_ce;
static __u32 (*const bpf_get_hash_recalc)(void *skb) = (void *)BPF_FUNC_get_hash_recalc;
static long (*const bpf_loop)(__u32 times, void *body, void *argument, __u64 flags) = (void *)BPF_FUNC_loop;
static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_output;

/* What the device is asked to complete, and whether the frame is in a tunnel still, as far as the kernel knows; uapi says
 * nothing of it. */
struct sk_buff {
	__u8 ip_summed : 2;
	__u8 encapsulation : 1;
	__u16 csum_start, csum_offset, mac_header;
} __attribute__((preserve_access_index));

enum { CHECKSUM_PARTIAL = 3 };

/* Linux 6.2 and newer. */
extern void *bpf_cast_to_kern_ctx(void *skb) __attribute__((section(".ksyms")));

/* A field of some bits: kernels keep them in different bits of different words. */
enum { FIELD_OFFSET, FIELD_SIZE, FIELD_EXISTS, FIELD_SIGNED, FIELD_LEFT, FIELD_RIGHT }; /* of __builtin_preserve_field_info */
#define READ_BITS(from, field)                                                                       \
	({                                                                                           \
		const void *at = (const void *)(from) + __builtin_preserve_field_info((from)->field, FIELD_OFFSET); \
		__u64 word = 0;                                                                      \
		switch (__builtin_preserve_field_info((from)->field, FIELD_SIZE)) {                  \
		case 1:                                                                              \
			word = *(const __u8 *)at;                                                    \
			break;                                                                       \
		case 2:                                                                              \
			word = *(const __u16 *)at;                                                   \
			break;                                                                       \
		case 4:                                                                              \
			word = *(const __u32 *)at;                                                   \
			break;                                                                       \
		case 8:                                                                              \
			word = *(const __u64 *)at;                                                   \
			break;                                                                       \
		}                                                                                    \
		word <<= __builtin_preserve_field_info((from)->field, FIELD_LEFT);                   \
		word >> __builtin_preserve_field_info((from)->field, FIELD_RIGHT);                   \
	})

INLINE __u32 ip_summed(const struct sk_buff *skb) { return READ_BITS(skb, ip_summed); }

INLINE __u32 encapsulation(const struct sk_buff *skb) { return READ_BITS(skb, encapsulation); }

/* Present from the kernel that has the decapsulation fix of 2026 on; the loader probes for it. */
#define ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)

#endif
