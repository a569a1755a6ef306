/* The rules that a packet meets: a class in each dimension, and the first rule that is in the vectors of all of them. The
 * work is bounded by the dimensions and the blocks, whatever the rules and the traffic are. */
#ifndef WEFT_CLASSIFY_H
#define WEFT_CLASSIFY_H

#include "packet.h"

/* Looks up what the port's table consists of, in one direction; whether it is there. */
__attribute__((noinline)) int read_table(__u32 which, __u32 in)
{
	struct judgement *j = judgement(which);
	const struct table *t;
	struct known *k;

	if (!j || !(t = bpf_map_lookup_elem(&tables_v2, &j->table)))
		return 0;
	k = in & 1 ? &j->known[1] : &j->known[0];
	k->shape = t->shape;
	k->places = t->places;
	k->side = t->sides[in & 1];
	k->table = j->table;
	return 1;
}

/* Says on the docket what the port's table consists of. A table never changes, and its number never comes again: the one that this
 * CPU asked last in that direction is known without a look-up. */
INLINE int open_table(struct judgement *j, __u32 which, __u32 in)
{
	const struct known *k = in & 1 ? &j->known[1] : &j->known[0];

	if (k->table != j->table && !read_table(which, in))
		return 0;
	j->shape = k->shape;
	j->places = k->places;
	j->asked = in & 1;
	j->side = k->side;
	return 1;
}

/* The number of the lowest bit that is set. The compiler knows that it is below 64; the mask tells the verifier. */
INLINE __u64 lowest(__u64 word)
{
	__u64 bit = __builtin_ctzll(word);

	__asm__ volatile("%0 &= 63" : "+r"(bit));
	return bit;
}

INLINE __u16 place_of(struct judgement *j, __u32 in, __u32 dim, const struct address *a)
{
	const __u32 *class;

	if (!j->ip)
		return 0;
	j->place = (struct place_key){.bits = 64 + 128, .places = j->places, .in = in, .dim = dim, .family = j->ip};
	if (j->ip == 4) {
		j->place.bits = 64 + 32;
		j->place.address[0] = a->w[3];
	} else {
		__builtin_memcpy(j->place.address, a, sizeof(j->place.address));
	}
	class = bpf_map_lookup_elem(&places_v1, &j->place);
	return class ? *class : 0;
}

INLINE __u16 service_of(struct judgement *j, __u32 in, __u32 dim, __u32 proto, __u16 port)
{
	const __u32 *class;

	j->service = (struct service_key){
		.bits = 80, .shape = j->shape, .in_dim = in << 4 | dim, .kind = j->kind, .proto = proto, .port = bswap16(port),
	};
	class = bpf_map_lookup_elem(&services_v1, &j->service);
	return class ? *class : 0;
}

INLINE __u16 exact_of(struct judgement *j, __u32 in, __u32 dim, __u64 value)
{
	const __u32 *class;

	j->exact = (struct exact_key){.shape = j->shape, .in = in, .dim = dim, .value = value};
	class = bpf_map_lookup_elem(&exacts_v1, &j->exact);
	return class ? *class : 0;
}

/* The class of the packet in each dimension that the rules use; 0 in the others. */
__attribute__((noinline)) int find_classes(__u32 which)
{
	struct judgement *j = judgement(which);
	__u16 local;

	if (!j)
		return 0;
	__u32 in = j->asked, dims = j->side.dims;

	j->combo = (struct combo_key){.shape = j->shape, .in = in};
	local = j->has_icmp ? j->icmp_type << 8 | j->icmp_code : j->has_ports ? j->key.lport : 0;
	j->combo.class[DIM_SERVICE] = service_of(j, in, DIM_SERVICE, j->key.proto, local);
	if (dims & 1 << DIM_REMOTE)
		j->combo.class[DIM_REMOTE] = place_of(j, in, DIM_REMOTE, &j->key.remote);
	if (dims & 1 << DIM_LOCAL)
		j->combo.class[DIM_LOCAL] = place_of(j, in, DIM_LOCAL, &j->key.local);
	if ((dims & 1 << DIM_REMOTE_PORT) && j->has_ports)
		j->combo.class[DIM_REMOTE_PORT] = service_of(j, in, DIM_REMOTE_PORT, 0, j->key.rport);
	if ((dims & 1 << DIM_FLAGS) && j->has_ports && j->key.proto == PROTO_TCP)
		j->combo.class[DIM_FLAGS] = exact_of(j, in, DIM_FLAGS, j->flags);
	if (dims & 1 << DIM_ETHER)
		j->combo.class[DIM_ETHER] = exact_of(j, in, DIM_ETHER, j->ethertype);
	if (dims & 1 << DIM_REMOTE_MAC)
		j->combo.class[DIM_REMOTE_MAC] = exact_of(j, in, DIM_REMOTE_MAC, j->inward ? j->src_mac : j->dst_mac);
	if (dims & 1 << DIM_LOCAL_MAC)
		j->combo.class[DIM_LOCAL_MAC] = exact_of(j, in, DIM_LOCAL_MAC, j->inward ? j->dst_mac : j->src_mac);
	if (dims & 1 << DIM_SEGMENT)
		j->combo.class[DIM_SEGMENT] = exact_of(j, in, DIM_SEGMENT, j->segment);
	return 0;
}

/* The first rule of a block that is in the vectors of all the packet's classes; NO_RULE if none is. A dimension that rules
 * do not ask about has the services' vector, which is there always, a second time. */
__attribute__((noinline)) int search(__u32 which, __u32 block)
{
	struct judgement *j = judgement(which);
	const struct vector *vectors[DIMS], *v;
	__u64 left = ~0ULL;

	if (!j)
		return NO_RULE;
#pragma unroll
	for (int dim = 0; dim < DIMS; dim++) {
		vectors[dim] = vectors[DIM_SERVICE];
		if (dim != DIM_SERVICE && !(j->side.dims & 1 << dim))
			continue;
		j->vector = (struct vector_key){.shape = j->shape, .class = j->combo.class[dim], .in_dim = j->asked << 4 | dim, .block = block};
		v = bpf_map_lookup_elem(&vectors_v1, &j->vector);
		if (!v || !(left &= v->summary))
			return NO_RULE;
		vectors[dim] = v;
	}
	for (int i = 0; i < VECTOR_WORDS && left; i++) {
		__u64 at = lowest(left), word = ~0ULL;

#pragma unroll
		for (int dim = 0; dim < DIMS; dim++)
			word &= vectors[dim]->words[at];
		if (word)
			return at * 64 + lowest(word);
		left &= left - 1;
	}
	return NO_RULE;
}

/* The first deciding rule and the first meter for the packet, as rule << 16 | meter. */
INLINE __u32 find_rules(struct judgement *j, __u32 which)
{
	const struct combo *known;

	find_classes(which);
	known = bpf_map_lookup_elem(&combos_v2, &j->combo);
	if (likely(known))
		return known->rule << 16 | known->meter;
	j->combined = (struct combo){.rule = NO_RULE, .meter = NO_RULE};
	for (__u32 block = 0; block < MAX_BLOCKS && block < j->side.blocks; block++) {
		__u32 at = search(which, block);

		if (at != NO_RULE) {
			j->combined.rule = block * VECTOR_BITS + at;
			break;
		}
	}
	if (j->side.flags & SIDE_METERS)
		j->combined.meter = search(which, MAX_BLOCKS);
	bpf_map_update_elem(&combos_v2, &j->combo, &j->combined, BPF_ANY);
	return j->combined.rule << 16 | j->combined.meter;
}

#endif
