package impair

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	pins "github.com/cilium/ebpf/pin"
)

// Objects are things in the kernel's BPF machinery, by the numbers that it gives each kind. A number is not given again soon.
type Objects struct {
	Programs, Maps, Links []uint32
}

// Count is how many there are.
func (o Objects) Count() int { return len(o.Programs) + len(o.Maps) + len(o.Links) }

// Pinned finds everything that hangs on the pins below a directory: what is pinned, all programs that use one of those maps,
// all maps of those programs, and all links to them.
func Pinned(dir string) (Objects, error) {
	var o Objects
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".debug") { // the kernel's own, in every bpf file system
			return err
		}
		p, err := pins.Load(path, nil)
		if err != nil {
			return err
		}
		defer p.Close()
		return o.note(p)
	})
	if err != nil {
		return o, fmt.Errorf("look for what is pinned below %s: %w", dir, err)
	}
	if err := o.complete(); err != nil {
		return o, fmt.Errorf("look for what belongs to the pins below %s: %w", dir, err)
	}
	return o, nil
}

// note adds one pinned thing.
func (o *Objects) note(pinned any) error {
	switch p := pinned.(type) {
	case *ebpf.Program:
		info, err := p.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		o.Programs = add(o.Programs, uint32(id))
	case *ebpf.Map:
		info, err := p.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		o.Maps = add(o.Maps, uint32(id))
	case link.Link:
		info, err := p.Info()
		if err != nil {
			return err
		}
		o.Links, o.Programs = add(o.Links, uint32(info.ID)), add(o.Programs, uint32(info.Program))
	}
	return nil
}

// complete follows the references of all programs and links there are.
func (o *Objects) complete() error {
	for before := -1; before != o.Count(); {
		before = o.Count()
		if err := o.programs(); err != nil {
			return err
		}
	}
	var all link.Iterator
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil {
			return err
		}
		if slices.Contains(o.Programs, uint32(info.Program)) {
			o.Links = add(o.Links, uint32(info.ID))
		}
	}
	return all.Err()
}

// programs adds the programs that use a known map, and their other maps.
func (o *Objects) programs() error {
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		id = next
		maps, err := mapsOf(id)
		if errors.Is(err, fs.ErrNotExist) { // it has gone meanwhile
			continue
		}
		if err != nil {
			return err
		}
		if slices.Contains(o.Programs, uint32(id)) || slices.ContainsFunc(maps, func(m uint32) bool { return slices.Contains(o.Maps, m) }) {
			o.Programs = add(o.Programs, uint32(id))
			for _, m := range maps {
				o.Maps = add(o.Maps, m)
			}
		}
	}
}

// mapsOf are the maps that a program uses.
func mapsOf(id ebpf.ProgramID) ([]uint32, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	maps := make([]uint32, len(ids))
	for i, m := range ids {
		maps[i] = uint32(m)
	}
	return maps, nil
}

// Left are those that are still there.
func (o Objects) Left() (left Objects, err error) {
	there := func(open func(uint32) (io.Closer, error)) func(uint32) bool {
		return func(id uint32) bool {
			c, failed := open(id)
			if failed == nil {
				return c.Close() == nil
			}
			if !errors.Is(failed, fs.ErrNotExist) {
				err = errors.Join(err, failed)
			}
			return false
		}
	}
	left.Programs = filter(o.Programs, there(func(id uint32) (io.Closer, error) { return ebpf.NewProgramFromID(ebpf.ProgramID(id)) }))
	left.Maps = filter(o.Maps, there(func(id uint32) (io.Closer, error) { return ebpf.NewMapFromID(ebpf.MapID(id)) }))
	left.Links = filter(o.Links, there(func(id uint32) (io.Closer, error) { return link.NewFromID(link.ID(id)) }))
	return left, err
}

func add(ids []uint32, id uint32) []uint32 {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

func filter(ids []uint32, keep func(uint32) bool) []uint32 {
	return slices.DeleteFunc(slices.Clone(ids), func(id uint32) bool { return !keep(id) })
}
