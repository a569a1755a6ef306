package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// record is what a lab has made or was about to make; it is written before the deed, to <dir>/lab.json.
type record struct {
	Options
	// Namespaces and Mounts are removed by Down, with all processes in the namespaces.
	Namespaces []string `json:"namespaces"`
	Mounts     []string `json:"mounts"`
	// Processes are those that do not live in a namespace of the lab.
	Processes []Process `json:"processes"`
	Guests    []*Guest  `json:"guests"`
}

// create claims the lab's directory; whoever makes it first has the name.
func create(o Options) (*Lab, error) {
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o755); err != nil {
		return nil, fmt.Errorf("make lab %s: %w", o.Name, err)
	}
	err := os.Mkdir(o.Dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make lab %s: %s is there: %w; remove it with: weft lab down --lab %s", o.Name, o.Dir, ErrExists, o.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("make lab %s: %w", o.Name, err)
	}
	l := &Lab{record{Options: o}}
	return l, l.update(func() {})
}

// file is the path of something in the lab's directory.
func (r *record) file(elem ...string) string {
	return filepath.Join(append([]string{r.Dir}, elem...)...)
}

// load reads the record.
func (r *record) load() error {
	b, err := os.ReadFile(r.file("lab.json"))
	if err != nil {
		return err
	}
	dir := r.Dir
	*r = record{}
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("read %s: %w; it is damaged, so remove by hand what `ip netns` lists as weft-NAME-…, and %s", filepath.Join(dir, "lab.json"), err, dir)
	}
	r.Dir = dir
	return nil
}

// update changes the record under a lock that other weft processes respect, starting from what they wrote last.
func (r *record) update(change func()) error {
	lock, err := os.Open(r.Dir)
	if err != nil {
		return fmt.Errorf("lock lab %s: %w", r.Name, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock lab %s: %w", r.Name, err)
	}
	if err := r.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	change()
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write lab.json: %w", err)
	}
	tmp := r.file(".lab.json")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write lab.json: %w", err)
	}
	return os.Rename(tmp, r.file("lab.json"))
}

// namespace makes a namespace weft-LAB-SUFFIX, written down first.
func (l *Lab) namespace(suffix string) (nic.Namespace, error) {
	name := l.namespaceName(suffix)
	err := l.update(func() {
		if !slices.Contains(l.Namespaces, name) {
			l.Namespaces = append(l.Namespaces, name)
		}
	})
	if err != nil {
		return nic.Namespace{}, err
	}
	return nic.CreateNamespace(name)
}

// dropNamespace ends the processes in a namespace and removes it.
func (l *Lab) dropNamespace(suffix string) error {
	name := l.namespaceName(suffix)
	if err := clearNamespace(nic.Namespace{Name: name}); err != nil {
		return err
	}
	return l.update(func() {
		l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n string) bool { return n == name })
	})
}

func (r *record) namespaceName(suffix string) string { return "weft-" + r.Name + "-" + suffix }

// HostNamespace is the namespace that stands for the host.
func (l *Lab) HostNamespace(h fabric.HostID) nic.Namespace {
	return nic.Namespace{Name: l.namespaceName(string(h))}
}

// GuestNamespace is the namespace of a guest that is not a real virtual machine.
func (l *Lab) GuestNamespace(guest string) nic.Namespace {
	return nic.Namespace{Name: l.namespaceName("vm-" + guest)}
}

// checkHost says which hosts there are when this is none of them.
func (l *Lab) checkHost(h fabric.HostID) error {
	names := HostNames(l.Hosts)
	if !slices.Contains(names, h) {
		return fmt.Errorf("lab %s has no host %q; it has %v: %w", l.Name, h, names, fabric.ErrNotFound)
	}
	return nil
}
