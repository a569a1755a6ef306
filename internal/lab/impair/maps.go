package impair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Fill puts entries of nobody's into a pinned hash map with 4-byte keys until the kernel takes no more, from the highest key down. It
// returns how many there are; Drain takes them out again.
func Fill(pin string) (n uint32, err error) {
	err = withMap(pin, func(m *ebpf.Map) error {
		value := make([]byte, m.ValueSize())
		for ; n <= m.MaxEntries(); n++ {
			err := m.Update(uint32(math.MaxUint32)-n, value, ebpf.UpdateNoExist)
			if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return fmt.Errorf("the kernel took %d entries into a map of %d", n, m.MaxEntries())
	})
	return n, err
}

// Drain takes out what Fill has put in.
func Drain(pin string, n uint32) error {
	return withMap(pin, func(m *ebpf.Map) error {
		for i := range n {
			if err := m.Delete(uint32(math.MaxUint32) - i); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
		return nil
	})
}

// Freeze has the kernel refuse every further change of a pinned map by user space, for as long as the map lives.
func Freeze(pin string) error { return withMap(pin, (*ebpf.Map).Freeze) }

// Forget has the counts of a pinned map of the core, stats by slot, say that as many frames more came in than went anywhere, as if the
// core had forgotten to count where they went: at every slot from the first one on that has seen any. It returns how many those are.
func Forget(pin string, first uint32, frames uint64) (n int, err error) {
	err = withMap(pin, func(m *ebpf.Map) error {
		for slot := first; slot < m.MaxEntries(); slot++ {
			var counts [][]byte // a CPU each; the first eight bytes are the frames that came in (struct stats in bpf/types.h)
			if err := m.Lookup(slot, &counts); err != nil {
				return err
			}
			if !slices.ContainsFunc(counts, func(c []byte) bool { return binary.NativeEndian.Uint64(c) > 0 }) {
				continue
			}
			binary.NativeEndian.PutUint64(counts[0], binary.NativeEndian.Uint64(counts[0])+frames)
			if err := m.Put(slot, counts); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

func withMap(pin string, do func(*ebpf.Map) error) error {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err == nil {
		defer m.Close()
		err = do(m)
	}
	if err != nil {
		return fmt.Errorf("change the map %s by force: %w", filepath.Base(pin), err)
	}
	return nil
}
