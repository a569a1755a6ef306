// Package impair loses and doubles frames on a device of a lab's underlay, and takes programs off devices by force, as a
// fault. It stands in for netem, which not every kernel has. It also lists what a lab has in the kernel's BPF machinery, so
// that a test can say that nothing of it is left.
package impair

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -type rates -type counts -cflags "-O2 -g -mcpu=v3 -Wall -Werror -I/usr/include/x86_64-linux-gnu" impair bpf/impair.c

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Rates are parts of the frames that leave a device, 0 to 1.
type Rates struct {
	Loss, Duplicate float64
}

// Counts are frames since Set was called first. Passed does not count the second copy of a doubled frame.
type Counts struct {
	Passed, Lost, Doubled uint64
}

// Set makes the frames that leave the device suffer, from now on and after this process; what it needs is pinned in a
// directory of a bpf file system, under the device's name. Called again it changes the rates.
func Set(device, dir string, r Rates) error {
	if err := set(device, dir, r); err != nil {
		return fmt.Errorf("impair %s: %w", device, err)
	}
	return nil
}

// Read returns what has happened to frames on the device.
func Read(device, dir string) (Counts, error) {
	counts, err := ebpf.LoadPinnedMap(pin(dir, device, "counts"), nil)
	if err != nil {
		return Counts{}, fmt.Errorf("read how %s is impaired: %w", device, err)
	}
	defer counts.Close()
	var each []impairCounts
	if err := counts.Lookup(uint32(0), &each); err != nil {
		return Counts{}, fmt.Errorf("read how %s is impaired: %w", device, err)
	}
	var sum Counts
	for _, c := range each {
		sum.Passed, sum.Lost, sum.Doubled = sum.Passed+c.Passed, sum.Lost+c.Lost, sum.Doubled+c.Doubled
	}
	return sum, nil
}

func set(device, dir string, r Rates) error {
	if !(r.Loss >= 0 && r.Loss <= 1 && r.Duplicate >= 0 && r.Duplicate <= 1) {
		return fmt.Errorf("rates %+v: give parts between 0 and 1", r)
	}
	value := impairRates{Loss: part(r.Loss), Duplicate: part(r.Duplicate)}
	rates, err := ebpf.LoadPinnedMap(pin(dir, device, "rates"), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return attach(device, dir, value)
	}
	if err != nil {
		return err
	}
	defer rates.Close()
	return rates.Put(uint32(0), value)
}

// attach loads the program with these rates and pins everything; the link last, since it is what makes frames suffer.
func attach(device, dir string, value impairRates) error {
	nic, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	var objects impairObjects
	if err := loadImpairObjects(&objects, nil); err != nil {
		return fmt.Errorf("load the program: %w", err)
	}
	defer objects.Close()
	if err := objects.ImpairRates.Put(uint32(0), value); err != nil {
		return err
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: nic.Index, Program: objects.Impair, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return fmt.Errorf("attach the program: %w (tcx needs Linux 6.6)", err)
	}
	defer l.Close()
	return errors.Join(
		objects.ImpairCounts.Pin(pin(dir, device, "counts")),
		objects.ImpairRates.Pin(pin(dir, device, "rates")),
		l.Pin(pin(dir, device, "link")))
}

// Clear ends the suffering; a device that does not suffer is left alone.
func Clear(device, dir string) error {
	var errs []error
	l, err := link.LoadPinnedLink(pin(dir, device, "link"), nil)
	switch {
	case err == nil: // detached here and now: the kernel would do so a moment after the last pin is gone
		errs = append(errs, l.Detach(), l.Close())
	case !errors.Is(err, fs.ErrNotExist):
		errs = append(errs, err)
	}
	for _, what := range []string{"link", "rates", "counts"} {
		if err := os.Remove(pin(dir, device, what)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Strip takes every tcx program off the device by force, pinned or not, as a careless tool would, and returns how many.
func Strip(device string) (int, error) {
	nic, err := net.InterfaceByName(device)
	if err != nil {
		return 0, fmt.Errorf("strip %s: %w", device, err)
	}
	stripped := 0
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: nic.Index, Attach: hook})
		if err != nil {
			return stripped, fmt.Errorf("strip %s: list its programs: %w", device, err)
		}
		for _, p := range found.Programs {
			if err := detach(p); err != nil {
				return stripped, fmt.Errorf("strip %s: %w", device, err)
			}
			stripped++
		}
	}
	return stripped, nil
}

func detach(p link.AttachedProgram) error {
	id, ok := p.LinkID()
	if !ok {
		return fmt.Errorf("program %d is attached without a link", p.ID)
	}
	l, err := link.NewFromID(id)
	if errors.Is(err, fs.ErrNotExist) { // it is being detached already
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Detach()
}

// part is a share of 2^32.
func part(share float64) uint32 { return uint32(math.Min(share*(1<<32), math.MaxUint32)) }

func pin(dir, device, what string) string { return filepath.Join(dir, device+"_"+what) }
