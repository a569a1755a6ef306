package datapath_test

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath"
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

// forget empties the map of fragments.
func forget(tb testing.TB, m *ebpf.Map) {
	tb.Helper()
	var keys []datapath.FragmentKey
	var key datapath.FragmentKey
	var value datapath.Fragment
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		keys = append(keys, key)
	}
	for i := range keys {
		if err := m.Delete(&keys[i]); err != nil {
			tb.Fatal(err)
		}
	}
}

// change rewrites every value of a map.
func change[K, V any](tb testing.TB, m *ebpf.Map, edit func(*K, *V)) {
	tb.Helper()
	var keys []K
	var values []V
	var k K
	var v V
	entries := m.Iterate()
	for entries.Next(&k, &v) {
		keys, values = append(keys, k), append(values, v)
	}
	for i := range keys {
		edit(&keys[i], &values[i])
		if err := m.Put(&keys[i], &values[i]); err != nil {
			tb.Fatal(err)
		}
	}
}
