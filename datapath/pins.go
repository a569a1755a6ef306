package datapath

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// pins is the directory by which the core outlives its loader: maps/ by versioned name, progs/ by name, links/ by device
// index and program. The lock on it says who may change the core.
type pins struct {
	dir  string
	lock *os.File
}

// openPins makes the directory and locks it. It must be on a BPF file system.
func openPins(dir string) (p pins, err error) {
	for _, sub := range []string{"maps", "progs", "links"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return p, err
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return p, fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return p, fmt.Errorf("%s is not on a BPF file system: mount one (mount -t bpf bpf %s) or choose a directory below /sys/fs/bpf", dir, dir)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return p, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		return p, fmt.Errorf("lock %s: %w: %s holds it; stop it first", dir, err, lockHolder(lock))
	}
	return pins{dir: dir, lock: lock}, nil
}

// Close gives the lock back.
func (p pins) Close() error {
	if p.lock == nil {
		return nil
	}
	return p.lock.Close()
}

// lockHolder names the process that holds the lock on the file, from /proc/locks.
func lockHolder(f *os.File) string {
	var st unix.Stat_t
	locks, err := os.Open("/proc/locks")
	if err != nil || unix.Fstat(int(f.Fd()), &st) != nil {
		return "another process"
	}
	defer locks.Close()
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		field := strings.Fields(lines.Text())
		if len(field) > 5 && field[1] == "FLOCK" && field[5] == inode {
			return "process " + field[4]
		}
	}
	return "another process"
}

// openMaps opens the pinned maps, and makes those that are not there. A pinned map of another shape is an error: its name
// should have had another version.
func (p pins) openMaps() (m coreMaps, err error) {
	spec, err := coreSpec()
	if err != nil {
		return m, err
	}
	for name, s := range spec.Maps {
		if versioned.MatchString(name) {
			s.Pinning = ebpf.PinByName
		}
	}
	if err := p.forgetParts(); err != nil {
		return m, err
	}
	var only struct{ coreMaps }
	err = spec.LoadAndAssign(&only, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: filepath.Join(p.dir, "maps")}})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return m, fmt.Errorf("%w: another release left it; remove the ports from this host and `weft datapath uninstall`", err)
	}
	return only.coreMaps, err
}

// versioned are the names of maps that outlive the programs: they end with the version of key and value.
var versioned = regexp.MustCompile(`_v[0-9]+$`)

// together are the maps that name each other's entries by number: slots and peers, and the tables of rules with their parts.
var together = [][]string{
	{"ports_v1", "slots_v1", "peers_v1", "vteps_v1", "networks_v2", "fdb_v1", "uplinks_v2", "shares_v1", "wires_v1", "tags_v1", "trunks_v1", "segments_v1", "mirrored_v1", "mirrors_v1", "sinks_v1"},
	{"tables_v2", "places_v1", "services_v1", "exacts_v1", "vectors_v1", "rules_v1"},
}

// forgetParts begins all maps of a kind anew when one of them has lost its name: numbers are given out again then, and the
// others would take the new owners for the old. Ports pass nothing until they, or their rules, are put again.
func (p pins) forgetParts() error {
	pinned, err := p.names("maps")
	if err != nil {
		return err
	}
	for _, kind := range together {
		if !slices.ContainsFunc(kind, func(name string) bool { return !pinned[name] }) {
			continue
		}
		for _, name := range kind {
			if err := p.unpin("maps", name); err != nil {
				return err
			}
		}
	}
	return nil
}

// linkKey names an attachment: the device it is on and the program.
type linkKey struct {
	ifindex int
	program string
}

func (k linkKey) file() string { return fmt.Sprintf("%d-%s", k.ifindex, k.program) }

// attached is a link with its number, by which it is found among the programs of a device.
type attached struct {
	link.Link
	id link.ID
}

// newAttached asks the kernel for the link's number.
func newAttached(l link.Link) (attached, error) {
	info, err := l.Info()
	if err != nil {
		return attached{}, err
	}
	return attached{Link: l, id: info.ID}, nil
}

// end takes the program off its device at once; closing alone leaves that to a worker of the kernel.
func (a attached) end() error {
	err := a.Detach()
	if err != nil && !isAttached(a) {
		err = nil // the device is gone, and the attachment with it
	}
	return errors.Join(err, a.Close())
}

// links are the attachments of the core.
type links map[linkKey]attached

// openLinks opens all pinned links.
func (p pins) openLinks() (links, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "links"))
	if err != nil {
		return nil, err
	}
	found := links{}
	for _, e := range entries {
		var key linkKey
		path := filepath.Join(p.dir, "links", e.Name())
		if _, err := fmt.Sscanf(e.Name(), "%d-%s", &key.ifindex, &key.program); err != nil || key.file() != e.Name() {
			os.Remove(path) // a temporary name of a loader that was killed
			continue
		}
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return found, fmt.Errorf("open link %s: %w", path, err)
		}
		if found[key], err = newAttached(l); err != nil {
			return found, fmt.Errorf("look at link %s: %w", path, err)
		}
	}
	return found, nil
}

// pinner is whatever can be pinned.
type pinner interface{ Pin(path string) error }

// pin puts an object in place of the one of that name, at once: a killed loader leaves the old or the new one.
func (p pins) pin(o pinner, kind, name string) error {
	path := filepath.Join(p.dir, kind, name)
	// A name of its own each time: the library takes a second pin under one name for done.
	temporary := fmt.Sprintf("%s~%d", path, monotonic())
	if err := o.Pin(temporary); err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	return nil
}

// unpin removes a name; one that is not there is gone already.
func (p pins) unpin(kind, name string) error {
	err := os.Remove(filepath.Join(p.dir, kind, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
