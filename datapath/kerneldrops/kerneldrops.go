// Package kerneldrops counts what the kernel itself drops on chosen devices, by the kernel's own reasons: what no program of the
// core sees, as a full queue of a guest that stands still (ADR 26). It is a BPF object of its own on the tracepoint kfree_skb, and
// ends with the process: nothing of it is pinned.
package kerneldrops

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" -type drop_key kerneldrops bpf/kerneldrops.c

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/weftnet/weft/tracing"
)

// Counter counts. Its methods may be called at any time by anybody.
type Counter struct {
	objects kerneldropsObjects
	link    link.Link
	reasons map[uint32]tracing.KernelReason

	mu      sync.Mutex
	watched map[uint32]bool // by index of the device
}

// Open counts on no device yet. The devices are those of the calling thread's network namespace. A kernel without its type
// information or the tracepoint (Linux before 5.17) is an error.
func Open() (c *Counter, err error) {
	c = &Counter{watched: map[uint32]bool{}}
	types := btf.NewCache() // some megabytes that nobody needs again: it goes with this function
	defer func() {
		if err != nil {
			c.Close()
			c, err = nil, fmt.Errorf("count what the kernel drops: %w", err)
		}
	}()
	if c.reasons, err = readReasons(types); err != nil {
		return c, err
	}
	spec, err := loadKerneldrops()
	if err != nil {
		return c, err
	}
	namespace, err := ownNamespace()
	if err != nil {
		return c, err
	}
	if err := spec.Variables["namespace"].Set(namespace); err != nil {
		return c, err
	}
	if err := spec.LoadAndAssign(&c.objects, &ebpf.CollectionOptions{Cache: types}); err != nil {
		return c, err
	}
	c.link, err = link.AttachTracing(link.TracingOptions{Program: c.objects.KernelDrop})
	return c, err
}

// ownNamespace is the inode of the calling thread's network namespace.
func ownNamespace() (uint32, error) {
	info, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return 0, fmt.Errorf("find the own network namespace: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("find the own network namespace: it has no inode")
	}
	return uint32(st.Ino), nil
}

// reasonPrefix begins the kernel's names of reasons.
const reasonPrefix = "SKB_DROP_REASON_"

// readReasons reads the names from the kernel's type information: their numbers differ from release to release.
func readReasons(types *btf.Cache) (map[uint32]tracing.KernelReason, error) {
	spec, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's type information (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	var enum *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &enum); err != nil {
		return nil, fmt.Errorf("find the kernel's reasons of drops (Linux 5.17): %w", err)
	}
	reasons := map[uint32]tracing.KernelReason{}
	for _, v := range enum.Values {
		if name, ok := strings.CutPrefix(v.Name, reasonPrefix); ok {
			reasons[uint32(v.Value)] = tracing.KernelReason(name)
		}
	}
	return reasons, nil
}

// Watch counts on these devices, by their index, from now on and on no others. What was counted on a device that is no longer among
// them is forgotten. Called twice with the same devices it changes nothing.
func (c *Counter) Watch(devices []int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := map[uint32]bool{}
	for _, d := range devices {
		wanted[uint32(d)] = true
		if c.watched[uint32(d)] {
			continue
		}
		if err := c.objects.KernelWatched.Put(uint32(d), uint8(1)); err != nil {
			return fmt.Errorf("count what the kernel drops on device %d: %w", d, err)
		}
		c.watched[uint32(d)] = true
	}
	left := false
	for d := range c.watched {
		if wanted[d] {
			continue
		}
		if err := c.objects.KernelWatched.Delete(d); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("count no longer what the kernel drops on device %d: %w", d, err)
		}
		delete(c.watched, d)
		left = true
	}
	if !left {
		return nil
	}
	return c.forget()
}

// forget removes the counts of devices that are not watched; the caller holds mu.
func (c *Counter) forget() error {
	var stale []kerneldropsDropKey
	var key kerneldropsDropKey
	var perCPU []uint64
	entries := c.objects.KernelDrops.Iterate()
	for entries.Next(&key, &perCPU) {
		if !c.watched[key.Ifindex] {
			stale = append(stale, key)
		}
	}
	errs := []error{entries.Err()}
	for _, key := range stale {
		if err := c.objects.KernelDrops.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Counts are packets by the index of the device and the kernel's reason, since the device is watched, and how many found no counter.
func (c *Counter) Counts() (drops map[int]map[tracing.KernelReason]uint64, missed uint64, err error) {
	drops = map[int]map[tracing.KernelReason]uint64{}
	var key kerneldropsDropKey
	var perCPU []uint64
	entries := c.objects.KernelDrops.Iterate()
	for entries.Next(&key, &perCPU) {
		device := int(key.Ifindex)
		if drops[device] == nil {
			drops[device] = map[tracing.KernelReason]uint64{}
		}
		drops[device][c.name(key.Reason)] += sum(perCPU)
	}
	if err := entries.Err(); err != nil {
		return nil, 0, fmt.Errorf("read what the kernel drops: %w", err)
	}
	if err := c.objects.KernelMissed.Lookup(uint32(0), &perCPU); err != nil {
		return nil, 0, fmt.Errorf("read what the kernel drops: %w", err)
	}
	return drops, sum(perCPU), nil
}

// name is the kernel's name of a reason. Subsystems that are modules have numbers of their own, from 2^16 on, without names here.
func (c *Counter) name(reason uint32) tracing.KernelReason {
	if name, known := c.reasons[reason]; known {
		return name
	}
	return tracing.KernelReason(fmt.Sprintf("%#x", reason))
}

func sum(perCPU []uint64) (total uint64) {
	for _, n := range perCPU {
		total += n
	}
	return total
}

// Close ends the counting. Closing what is half open, or nothing, is fine.
func (c *Counter) Close() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.link != nil {
		errs = append(errs, c.link.Close())
	}
	for _, o := range []interface{ Close() error }{c.objects.KernelDrop, c.objects.KernelWatched, c.objects.KernelDrops, c.objects.KernelMissed} {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}
