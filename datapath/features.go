package datapath

import (
	"bytes"
	"context"
	"errors"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// Ability is something the core needs, or uses where the kernel has it.
type Ability struct {
	Name string
	OK   bool
	// Required is false where weft does without.
	Required bool
	// Reason says why it does not work, Remedy what to do about it; both are empty when OK.
	Reason, Remedy string
}

// Probe asks the kernel what it can do, by doing it; nothing stays behind.
func Probe(ctx context.Context) []Ability {
	const newer = "boot Linux 6.6 or newer"
	checks := []struct {
		name, remedy string
		required     bool
		check        func() error
	}{
		{"tcx", newer, true, haveTCX},
		{"adjust-room", newer, true, haveHelper(asm.FnSkbAdjustRoom)},
		{"redirect-neigh", newer, true, haveHelper(asm.FnRedirectNeigh)},
		{"redirect-peer", newer, true, haveHelper(asm.FnRedirectPeer)},
		{"tunnel-key", newer, true, haveHelper(asm.FnSkbSetTunnelKey)},
		{"loop", newer, true, haveHelper(asm.FnLoop)},
		{"ring-buffer", newer, true, func() error { return features.HaveMapType(ebpf.RingBuf) }},
		{"core", "report the verifier's message with the kernel's version", true, loadOnce},
		{"decap-l4-udp", "nothing: aggregates take the kernel's VXLAN device until a kernel with BPF_F_ADJ_ROOM_DECAP_L4_UDP", false, haveDecap},
	}
	abilities := make([]Ability, 0, len(checks))
	for _, c := range checks {
		a := Ability{Name: c.name, Required: c.required}
		err := ctx.Err()
		if err == nil {
			err = c.check()
		}
		if a.OK = err == nil; !a.OK {
			a.Reason, a.Remedy = err.Error(), c.remedy
			if errors.Is(err, os.ErrPermission) {
				a.Remedy = "run it as root, with CAP_BPF and CAP_NET_ADMIN"
			}
		}
		abilities = append(abilities, a)
	}
	return abilities
}

// loopback has index 1 in every network namespace.
const loopback = 1

func haveTCX() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	return err
}

func haveHelper(f asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(ebpf.SchedCLS, f) }
}

// loadOnce loads the core on maps of its own, and lets go of both.
func loadOnce() error {
	spec, err := coreSpec()
	if err != nil {
		return err
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return err
	}
	collection.Close()
	return nil
}

func haveDecap() error {
	if decapFlags() == 0 {
		return errors.New("the kernel's bpf_skb_adjust_room cannot clear a tunnel's state")
	}
	return nil
}

// decapFlags are the flags of bpf_skb_adjust_room that clear a UDP tunnel's state when its header is taken off (Linux
// patch "bpf: add BPF_F_ADJ_ROOM_DECAP_* flags", 2026), found by name because their numbers are younger than the headers
// the core is built with; 0 where the kernel has none. Without them aggregates are left to the kernel's VXLAN device.
func decapFlags() uint64 {
	const name = "BPF_F_ADJ_ROOM_DECAP_L4_UDP"
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil || !bytes.Contains(types, []byte(name)) {
		return 0 // most kernels: parsing all of their types would cost more than everything else at the start
	}
	kernel, err := btf.LoadSpecFromReader(bytes.NewReader(types))
	if err != nil {
		return 0
	}
	for t, err := range kernel.All() {
		enum, ok := t.(*btf.Enum)
		if err != nil || !ok {
			continue
		}
		for _, v := range enum.Values {
			if v.Name == name {
				return v.Value
			}
		}
	}
	return 0
}
