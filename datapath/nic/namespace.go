package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where `ip netns` keeps its names, so that its commands work on our namespaces.
const namespaceDir = "/run/netns"

// Namespace is a network namespace: a named one, as `ip netns` shows it, or one without a name, that its file keeps alive. The zero
// value is the namespace of the process.
type Namespace struct {
	Name string
	file *os.File // of one without a name
}

// OpenNamespace makes a namespace without a name, with its loopback device up. It ends, with all devices in it, when it has been
// closed and no socket is left in it: when this process ends, at the latest.
func OpenNamespace() (n Namespace, err error) {
	err = onLockedThread(func() error {
		handle, err := netns.New()
		if err != nil {
			return err
		}
		n.file = os.NewFile(uintptr(handle), "network namespace")
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("open a namespace: %w%s", err, remedy(err))
	}
	if err := n.Do(func() error { return SetUp("lo") }); err != nil {
		return Namespace{}, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close lets go of a namespace that OpenNamespace made.
func (n Namespace) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// isOwn reports whether it is the namespace of the process.
func (n Namespace) isOwn() bool { return n.Name == "" && n.file == nil }

// CreateNamespace makes the namespace with its loopback device up. An existing one is returned as it is.
func CreateNamespace(name string) (Namespace, error) {
	n := Namespace{Name: name}
	if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." || len(name) > unix.NAME_MAX {
		return n, fmt.Errorf("create namespace %q: not a file name", name)
	}
	unlock, err := lockNamespaceDir()
	if err != nil {
		return n, fmt.Errorf("create namespace %s: %w%s", name, err, remedy(err))
	}
	defer unlock()
	if n.Exists() {
		return n, nil
	}
	if err := bindNewNamespace(n.path()); err != nil {
		return n, fmt.Errorf("create namespace %s: %w%s", name, err, remedy(err))
	}
	return n, n.Do(func() error { return SetUp("lo") })
}

// Namespaces lists the named namespaces that begin with the prefix, in order of name.
func Namespaces(prefix string) ([]Namespace, error) {
	entries, err := os.ReadDir(namespaceDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var found []Namespace
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			found = append(found, Namespace{Name: e.Name()})
		}
	}
	return found, nil
}

// Exists reports whether the name stands for a living namespace.
func (n Namespace) Exists() bool {
	if n.isOwn() {
		return true
	}
	var st unix.Statfs_t
	return unix.Statfs(n.path(), &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Delete removes the name; the kernel removes the namespace with its devices when no process and no socket is left in it.
func (n Namespace) Delete() error {
	if n.Name == "" {
		return errors.New("delete namespace: the namespace of the process has no name to delete")
	}
	if _, err := os.Lstat(n.path()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lockNamespaceDir()
	if err != nil {
		return fmt.Errorf("delete namespace %s: %w%s", n.Name, err, remedy(err))
	}
	defer releaseNamespaceDir()
	defer unlock()
	if err := unix.Unmount(n.path(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete namespace %s: %w%s", n.Name, err, remedy(err))
	}
	if err := os.Remove(n.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete namespace %s: %w%s", n.Name, err, remedy(err))
	}
	return nil
}

// Do runs fn on a thread that is in the namespace. Goroutines started by fn are not in it; processes are, and so is
// every socket fn opens, for as long as it lives.
func (n Namespace) Do(fn func() error) error {
	if n.isOwn() {
		return fn()
	}
	return onLockedThread(func() error {
		if err := n.enter(); err != nil {
			return err
		}
		return fn()
	})
}

// Start starts the command in the namespace. The command must not set Pdeathsig: its parent is a thread that may end with this call.
func (n Namespace) Start(cmd *exec.Cmd) error {
	return n.Do(func() error {
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start %s in namespace %s: %w", filepath.Base(cmd.Path), n.Name, err)
		}
		return nil
	})
}

// Processes lists the processes that have at least one thread's namespace here: the main threads are looked at.
func (n Namespace) Processes() ([]int, error) {
	want, err := os.Stat(n.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list processes of namespace %s: %w", n.Name, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		have, err := os.Stat(filepath.Join("/proc", e.Name(), "ns/net"))
		if err == nil && os.SameFile(want, have) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// path is the file that stands for the namespace.
func (n Namespace) path() string {
	if n.file != nil {
		return fmt.Sprintf("/proc/self/fd/%d", n.file.Fd())
	}
	return filepath.Join(namespaceDir, n.Name)
}

// enter moves the calling thread into the namespace.
func (n Namespace) enter() error {
	handle, err := netns.GetFromPath(n.path())
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w (see `ip netns`)", n.Name, err)
	}
	defer handle.Close()
	if err := netns.Set(handle); err != nil {
		return fmt.Errorf("enter namespace %s: %w%s", n.Name, err, remedy(err))
	}
	return nil
}

// bindNewNamespace makes a namespace on a thread of its own and binds it to the file.
func bindNewNamespace(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	file.Close()
	err = onLockedThread(func() error {
		handle, err := netns.New()
		if err != nil {
			return err
		}
		defer handle.Close()
		return unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
	}
	return err
}

// onLockedThread runs fn, which changes the thread's namespace, on a thread that nobody else uses meanwhile, and changes
// back. A thread that cannot change back is not given back: it ends with the goroutine. It must change back even so, since
// the first thread of a process cannot end, and would keep the namespace alive and the process listed in it.
func onLockedThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("look at the namespace of this thread: %w", err)
			return
		}
		defer home.Close()
		err = fn()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// lockNamespaceDir makes the directory a shared mount of its own under a lock, exactly as `ip netns add` does, so that a
// later `ip netns` does not cover our mounts with its own.
func lockNamespaceDir() (unlock func(), err error) {
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(namespaceDir)
	if err != nil {
		return nil, err
	}
	defer closeOnError(dir, &err)
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	err = unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(namespaceDir, namespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return nil, err
		}
		err = unix.Mount("", namespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return nil, err
	}
	return func() { dir.Close() }, nil
}

// releaseNamespaceDir undoes lockNamespaceDir's mount when no name is left. It runs after the lock is given back, because
// the lock's file would keep the mount busy, and the unmount is not forced: a mount or a lock that somebody made inside
// since makes it fail, and then it stays.
func releaseNamespaceDir() {
	if entries, err := os.ReadDir(namespaceDir); err == nil && len(entries) == 0 {
		_ = unix.Unmount(namespaceDir, 0)
	}
}
