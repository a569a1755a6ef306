/* The core's maps. A name carries the version of its key and value; all are pinned under it and outlive every program. */
#ifndef WEFT_MAPS_H
#define WEFT_MAPS_H

#include "kernel.h"
#include "protocols.h"
#include "types.h"

/* Key: 0. Value: what holds for the whole host.
 * Written by the loader. Read by every program. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, 1);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct config);
} config_v1 SEC(".maps");

/* Key: slot. Value: the limits of its port, and how far each is used up; words that change alone.
 * Told by the loader, used up by limit and is_storm. Read for ports whose policy word has a LIMIT_ bit. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, MAX_PORTS);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct limits);
} limits_v3 SEC(".maps");

/* Key: slot and MAC. Value: why the guest may use it beside its port's own: MAC_.
 * Written by the loader, and by vp_in for what is learned. Read for ports with GUARD_MACS. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_MACS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct mac_key);
	MAP_TYPE(value, __u32);
} macs_v1 SEC(".maps");

/* Key: ifindex of a port's device. Value: the port's settings; replaced as a whole, never changed in place.
 * Written by the loader. Read by vp_in for each frame, and by the sentinels. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_PORTS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct port);
} ports_v1 SEC(".maps");

/* Key: slot. Value: the port's gate and where it is; words that change alone.
 * Written by the loader, and by vp_in when a staged guest sends its first frame. Read by every program. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, MAX_PORTS);
	MAP_UINT(map_flags, BPF_F_MMAPABLE);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct slot);
} slots_v1 SEC(".maps");

/* Key: peer number. Value: another host's tunnel end point and the way to it.
 * Written by the loader, a number never reused while anything names it. Read when a frame leaves or enters the host. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, MAX_PEERS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct peer);
} peers_v1 SEC(".maps");

/* Key: address of a tunnel end point. Value: its peer number.
 * Written by the loader. Read to name the reason of a drop, and by the VXLAN guard. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_PEERS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, __u32);
} vteps_v1 SEC(".maps");

/* Key: VNI. Value: a switch in force here, with its members for head-end replication.
 * Written by the loader. Read for group frames, and to name the reason of a drop. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_SWITCHES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct network);
} networks_v2 SEC(".maps");

/* Key: VNI and MAC. Value: where the station is, and from where it may be heard.
 * Written by the loader. Read for each unicast frame: once on the way out, twice on the way in. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_STATIONS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct fdb_key);
	MAP_TYPE(value, struct fdb);
} fdb_v1 SEC(".maps");

/* Key: slot and tag. Value: the VNI of what a trunk's guest sends with it.
 * Written by the loader. Read for tagged frames. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_SEGMENTS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct trunk_key);
	MAP_TYPE(value, __u32);
} trunks_v1 SEC(".maps");

/* Key: slot and VNI. Value: how the port receives what is on that segment.
 * Written by the loader. Read for frames of another segment than the one in the slot's out, and those whose tag is payload. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_SEGMENTS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct segment_key);
	MAP_TYPE(value, struct segment);
} segments_v1 SEC(".maps");

/* Key: VNI and address. Value: the MAC that ARP and ND answer with.
 * Written by the loader. Read for ARP requests and neighbour solicitations. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_STATIONS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct neighbor_key);
	MAP_TYPE(value, struct neighbor);
} neighbors_v1 SEC(".maps");

/* Key: ifindex of a NIC that a switch is on. Value: what is on it.
 * Written by the loader. Read for every frame at that NIC. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_UPLINKS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct uplink);
} uplinks_v2 SEC(".maps");

/* Key: leader and part. Value: the NIC that serves that part.
 * Written by the loader. Read at NICs that share guests or flows, and for what leaves by them. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_UPLINKS * MAX_SHARES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct share);
	MAP_TYPE(value, struct exit);
} shares_v1 SEC(".maps");

/* Key: VNI of a segment that has a wire. Value: its way there.
 * Written by the loader. Read for group frames of that segment, and for those to stations that the fabric does not know. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_SWITCHES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct wire);
} wires_v1 SEC(".maps");

/* Key: NIC and VLAN. Value: the VNI of that VLAN's segment.
 * Written by the loader. Read for tagged frames at a NIC that a switch is on. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_SWITCHES);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct tag);
	MAP_TYPE(value, __u32);
} tags_v1 SEC(".maps");

/* Key: VNI and MAC of a station on the wire that has sent something to a guest. Value: where and when. The oldest give way.
 * Written by ext_in. Read by the loader; nothing is forwarded by it. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, MAX_HEARD);
	MAP_TYPE(key, struct fdb_key);
	MAP_TYPE(value, struct heard);
} heard_v1 SEC(".maps");

/* Key: slot. Value: the sessions of mirrors that copy there.
 * Written by the loader. Read for ports whose policy word has a MIRROR_ bit. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, MAX_PORTS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct mirrored);
} mirrored_v1 SEC(".maps");

/* Key: session. Value: what a mirror copies here, and where to.
 * Written by the loader, a number never reused while a port names it. Read for copies. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_ARRAY);
	MAP_UINT(max_entries, MAX_MIRRORS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct mirror);
} mirrors_v1 SEC(".maps");

/* Key: VNI of a mirror. Value: its sink on this host.
 * Written by the loader. Read for copies, and for VXLAN that comes from no station. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_HASH);
	MAP_UINT(max_entries, MAX_MIRRORS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct sink);
} sinks_v1 SEC(".maps");

/* Key: VNI of a mirror. Value: copies seen, per CPU.
 * Made by the loader, written by the programs. Read by the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_HASH);
	MAP_UINT(max_entries, 2 * MAX_MIRRORS);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct mirror_stats);
} mirror_stats_v1 SEC(".maps");

/* Key: slot. Value: frames seen, per CPU.
 * Written by every program. Read by the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_UINT(max_entries, MAX_PORTS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, struct stats);
} stats_v1 SEC(".maps");

/* Key: slot, direction and reason. Value: frames dropped, per CPU.
 * Written by every program; an entry is made by the first drop of its kind. Read by the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_PERCPU_HASH);
	MAP_UINT(max_entries, 65536);
	MAP_UINT(map_flags, BPF_F_NO_PREALLOC);
	MAP_TYPE(key, struct drop_key);
	MAP_TYPE(value, __u64);
} drops_v1 SEC(".maps");

/* Key: label of a frame. Value: the session that follows it, and until when.
 * Written by the loader. Read only while config.tracing is not 0. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_LRU_HASH);
	MAP_UINT(max_entries, 4096);
	MAP_TYPE(key, __u64);
	MAP_TYPE(value, struct probe);
} probe_labels_v1 SEC(".maps");

/* Hops of labelled frames, and first frames of staged ports: struct hop.
 * Written by every program. Read by the loader. */
struct {
	MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);
	MAP_UINT(max_entries, 1 << 20);
} events_v1 SEC(".maps");

#endif
