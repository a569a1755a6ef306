package datapath

import "github.com/cilium/ebpf/btf"

// decapFlags are the flags of bpf_skb_adjust_room that clear a UDP tunnel's state when its header is taken off (Linux
// patch "bpf: add BPF_F_ADJ_ROOM_DECAP_* flags", 2026), found by name because their numbers are younger than the headers
// the core is built with; 0 where the kernel has none. Without them aggregates are left to the kernel's VXLAN device.
func decapFlags() uint64 {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0
	}
	types, err := kernel.AnyTypesByName("bpf_adj_room_flags")
	for _, t := range types {
		enum, ok := t.(*btf.Enum)
		if err != nil || !ok {
			continue
		}
		for _, v := range enum.Values {
			if v.Name == "BPF_F_ADJ_ROOM_DECAP_L4_UDP" {
				return v.Value
			}
		}
	}
	return 0
}
