package datapath_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
)

// program opens a pinned program.
func (h *host) program(tb testing.TB, name string) *ebpf.Program {
	tb.Helper()
	p, err := ebpf.LoadPinnedProgram(filepath.Join(h.pinDir, "progs", name), nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	return p
}

// mapOf opens a map that a program uses.
func mapOf(tb testing.TB, p *ebpf.Program, name string) *ebpf.Map {
	tb.Helper()
	info, err := p.Info()
	if err != nil {
		tb.Fatal(err)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			tb.Fatal(err)
		}
		if i, err := m.Info(); err == nil && i.Name == name {
			tb.Cleanup(func() { m.Close() })
			return m
		}
		m.Close()
	}
	tb.Fatalf("no map %s", name)
	return nil
}

// held is what a map holds.
type held[K, V any] struct {
	keys   []K
	values []V
}

// read takes all of a map, which has room for so many, with few system calls.
func (h *held[K, V]) read(tb testing.TB, m *ebpf.Map) {
	tb.Helper()
	if room := int(m.MaxEntries()); len(h.keys) < room {
		h.keys, h.values = make([]K, room), make([]V, room)
	}
	h.keys, h.values = h.keys[:cap(h.keys)], h.values[:cap(h.values)]
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, h.keys, h.values, nil)
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		tb.Fatalf("read %v: %d elements, %v", m, n, err)
	}
	h.keys, h.values = h.keys[:n], h.values[:n]
}

// forget empties a map.
func (h *held[K, V]) forget(tb testing.TB, m *ebpf.Map) {
	tb.Helper()
	h.read(tb, m)
	if len(h.keys) == 0 {
		return
	}
	if _, err := m.BatchDelete(h.keys, nil); err != nil {
		tb.Fatalf("empty %v: %v", m, err)
	}
}
