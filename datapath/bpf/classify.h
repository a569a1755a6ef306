/* The rules that a packet meets: a class in each dimension, and the first rule that is in the vectors of all of them. The
 * work is bounded by the dimensions and the blocks, whatever the rules and the traffic are. */
#ifndef WEFT_CLASSIFY_H
#define WEFT_CLASSIFY_H

#include "packet.h"

/* The number of the lowest bit that is set. The compiler knows that it is below 64; the mask tells the verifier. */
INLINE __u64 lowest(__u64 word)
{
	__u64 bit = __builtin_ctzll(word);

	__asm__ volatile("%0 &= 63" : "+r"(bit));
	return bit;
}

INLINE __u16 place_of(const struct judgement *j, __u32 in, __u32 dim, const struct address *a)
{
	struct place_key key = {.bits = 64 + 128, .places = j->places, .in = in, .dim = dim, .family = j->ip};
	const __u32 *class;

	if (!j->ip)
		return 0;
	if (j->ip == 4) {
		key.bits = 64 + 32;
		key.address[0] = a->w[3];
	} else {
		__builtin_memcpy(key.address, a, sizeof(key.address));
	}
	class = bpf_map_lookup_elem(&places_v1, &key);
	return class ? *class : 0;
}

INLINE __u16 service_of(const struct judgement *j, __u32 in, __u32 dim, __u32 proto, __u16 port)
{
	struct service_key key = {
		.bits = 80, .shape = j->shape, .in_dim = in << 4 | dim, .kind = j->kind, .proto = proto, .port = bswap16(port),
	};
	const __u32 *class = bpf_map_lookup_elem(&services_v1, &key);

	return class ? *class : 0;
}

INLINE __u16 exact_of(const struct judgement *j, __u32 in, __u32 dim, __u64 value)
{
	struct exact_key key = {.shape = j->shape, .in = in, .dim = dim, .value = value};
	const __u32 *class = bpf_map_lookup_elem(&exacts_v1, &key);

	return class ? *class : 0;
}

/* The class of the packet in each dimension that the rules use; 0 in the others. */
__attribute__((noinline)) int find_classes(__u32 in, __u32 dims)
{
	struct judgement *j = judgement();

	if (!j)
		return 0;
	__u16 local = in ? j->dport : j->sport, remote = in ? j->sport : j->dport;

	__builtin_memset(j->class, 0, sizeof(j->class));
	if (j->has_icmp)
		local = j->icmp_type << 8 | j->icmp_code;
	j->class[DIM_SERVICE] = service_of(j, in, DIM_SERVICE, j->proto, j->has_ports || j->has_icmp ? local : 0);
	if (dims & 1 << DIM_REMOTE)
		j->class[DIM_REMOTE] = place_of(j, in, DIM_REMOTE, in ? &j->src : &j->dst);
	if (dims & 1 << DIM_LOCAL)
		j->class[DIM_LOCAL] = place_of(j, in, DIM_LOCAL, in ? &j->dst : &j->src);
	if ((dims & 1 << DIM_REMOTE_PORT) && j->has_ports)
		j->class[DIM_REMOTE_PORT] = service_of(j, in, DIM_REMOTE_PORT, 0, remote);
	if ((dims & 1 << DIM_FLAGS) && j->has_ports && j->proto == PROTO_TCP)
		j->class[DIM_FLAGS] = exact_of(j, in, DIM_FLAGS, j->flags);
	if (dims & 1 << DIM_ETHER)
		j->class[DIM_ETHER] = exact_of(j, in, DIM_ETHER, j->ethertype);
	if (dims & 1 << DIM_REMOTE_MAC)
		j->class[DIM_REMOTE_MAC] = exact_of(j, in, DIM_REMOTE_MAC, in ? j->src_mac : j->dst_mac);
	if (dims & 1 << DIM_LOCAL_MAC)
		j->class[DIM_LOCAL_MAC] = exact_of(j, in, DIM_LOCAL_MAC, in ? j->dst_mac : j->src_mac);
	return 0;
}

/* The first rule of a block that is in the vectors of all the packet's classes; NO_RULE if none is. */
__attribute__((noinline)) int search(__u32 in, __u32 dims, __u32 block)
{
	const struct judgement *j = judgement();
	const struct vector *of[DIMS], *first;
	__u64 left;

	if (!j)
		return NO_RULE;
	struct vector_key key = {.shape = j->shape, .class = j->class[DIM_SERVICE], .in_dim = in << 4 | DIM_SERVICE, .block = block};

	first = bpf_map_lookup_elem(&vectors_v1, &key);
	if (!first)
		return NO_RULE;
	left = first->summary;
#pragma unroll
	for (int dim = 1; dim < DIMS; dim++) {
		of[dim] = first;
		if (dims & 1 << dim) {
			key.in_dim = in << 4 | dim;
			key.class = j->class[dim];
			of[dim] = bpf_map_lookup_elem(&vectors_v1, &key);
			if (!of[dim])
				return NO_RULE;
			left &= of[dim]->summary;
		}
	}
	for (int i = 0; i < VECTOR_WORDS && left; i++) {
		__u64 at = lowest(left);
		__u64 word = first->words[at] & of[1]->words[at] & of[2]->words[at] & of[3]->words[at] & of[4]->words[at] &
			     of[5]->words[at] & of[6]->words[at] & of[7]->words[at];

		if (word)
			return at * 64 + lowest(word);
		left &= left - 1;
	}
	return NO_RULE;
}

/* The first deciding rule and the first meter for the packet, as rule << 16 | meter. */
__attribute__((noinline)) int find_rules(__u32 in, const struct side *side)
{
	struct judgement *j = judgement();
	struct combo found = {.rule = NO_RULE, .meter = NO_RULE};
	struct combo_key key = {.in = in};
	const struct combo *known;

	if (!j || !side)
		return -1;
	find_classes(in, side->dims);
	key.shape = j->shape;
	__builtin_memcpy(key.class, j->class, sizeof(key.class));
	known = bpf_map_lookup_elem(&combos_v1, &key);
	if (likely(known))
		return known->rule << 16 | known->meter;
	for (__u32 block = 0; block < MAX_BLOCKS && block < side->blocks; block++) {
		__u32 at = search(in, side->dims, block);

		if (at != NO_RULE) {
			found.rule = block * VECTOR_BITS + at;
			break;
		}
	}
	if (side->meters)
		found.meter = search(in, side->dims, MAX_BLOCKS);
	bpf_map_update_elem(&combos_v1, &key, &found, BPF_ANY);
	return found.rule << 16 | found.meter;
}

#endif
