// Package lab builds several weft hosts on one machine: a network namespace each, joined by an underlay, with an agent in
// each and guests behind real taps, and takes all of it away again. Tests, the demonstration and `weft lab` use the same
// code. A lab writes down what it is about to make before it makes it, so that a half-made one is removed as well.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Root is where labs live unless Options.Dir says otherwise: Root/NAME.
const Root = "/run/weft/lab"

// MaxHosts is how many hosts one lab has at most.
const MaxHosts = 8

// ErrExists: a lab of this name is there already.
var ErrExists = errors.New("this lab exists already")

// Options describe a lab; only the name is needed.
type Options struct {
	// Name tells labs on one machine apart: 1 to 12 of [a-z0-9-], beginning with a letter; "default" when empty.
	Name string `json:"name"`
	// Hosts is 1 to MaxHosts; 0 means 3.
	Hosts int `json:"hosts"`
	// Servers is how many of them run etcd, the first ones, an odd number; 0 means 3, and 1 of fewer hosts than that.
	Servers int `json:"servers,omitempty"`
	// Dir holds everything the lab writes; Root/NAME when empty. It must not exist, and be at most 56 bytes long, since
	// it holds unix sockets.
	Dir string `json:"dir"`
	// Binary is the weft program agents and guests run; this program when empty.
	Binary   string   `json:"binary"`
	Underlay Underlay `json:"underlay"`
	// Bare makes hosts and underlay without agents: what benchmarks compare with.
	Bare bool `json:"bare,omitempty"`
}

// Underlay is the network between the hosts.
type Underlay struct {
	// MTU in bytes of L3 packet, 1280 to 9216; 0 means 1500.
	MTU int `json:"mtu"`
	// IPv6 makes the hosts' IPv6 addresses the tunnel end points.
	IPv6 bool `json:"ipv6,omitempty"`
	// Segment takes the hosts' NICs every segmentation offload, GRO stays on: what a wire does to large frames. Without
	// it veths pass aggregates of 64 kB whole, which flatters every figure.
	Segment bool `json:"segment,omitempty"`
	// Loss and Duplicate are the parts of frames, 0 to 1, that are lost or doubled on their way to each host.
	Loss      float64 `json:"loss,omitempty"`
	Duplicate float64 `json:"duplicate,omitempty"`
	// Delay is added to every frame on its way to each host.
	Delay time.Duration `json:"delay,omitempty"`
}

// Lab is a lab that is, or is being, made.
type Lab struct {
	record
}

// Progress is told what has been done, one sentence each.
type Progress func(format string, args ...any)

var validName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$`)

// Up makes a lab and returns when every host is ready. The error wraps ErrExists when there is one of this name. When it
// fails, or ctx ends, what was made stays for inspection until Down.
func Up(ctx context.Context, o Options, progress Progress) (*Lab, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(string, ...any) {}
	}
	if err := NeedRoot(); err != nil {
		return nil, err
	}
	l, err := create(o)
	if err != nil {
		return nil, err
	}
	if err := l.makeUnderlay(); err != nil {
		return l, fmt.Errorf("make the underlay of lab %s: %w", o.Name, err)
	}
	if err := l.makeWire(); err != nil {
		return l, fmt.Errorf("make the wire of lab %s: %w", o.Name, err)
	}
	progress("%d hosts joined by an underlay, MTU %d, each with %s on a wire beside it", o.Hosts, o.Underlay.MTU, WireNIC)
	if o.Bare {
		return l, nil
	}
	return l, l.startHosts(ctx, progress)
}

// Open returns the lab in Root of this name, "default" when it is empty. The error wraps fs.ErrNotExist when there is none.
func Open(name string) (*Lab, error) {
	if name == "" {
		name = "default"
	}
	return OpenDir(filepath.Join(Root, name))
}

// OpenDir returns the lab that was made in this directory.
func OpenDir(dir string) (*Lab, error) {
	l := &Lab{record{Options: Options{Name: filepath.Base(dir), Dir: dir}}}
	err := l.load()
	if _, missing := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) && missing == nil {
		return l, nil // claimed, and then nothing: Down removes it
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab in %s: %w; make one with: weft lab up", dir, err)
	}
	return l, err
}

// List names the labs of this machine.
func List() ([]string, error) {
	entries, err := os.ReadDir(Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// NeedRoot says what to do when the process may not make namespaces.
func NeedRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("a lab makes network namespaces and loads programs into the kernel: run it as root, with sudo")
	}
	return nil
}

// HostNames are the names of n hosts: h1 to hN.
func HostNames(n int) []fabric.HostID {
	names := make([]fabric.HostID, n)
	for i := range names {
		names[i] = fabric.HostID(fmt.Sprintf("h%d", i+1))
	}
	return names
}

// complete fills in defaults and refuses what cannot work, before anything is made.
func (o *Options) complete() error {
	if o.Name == "" {
		o.Name = "default"
	}
	if o.Hosts == 0 {
		o.Hosts = 3
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(Root, o.Name)
	}
	if o.Underlay.MTU == 0 {
		o.Underlay.MTU = 1500
	}
	switch {
	case !validName.MatchString(o.Name):
		return fmt.Errorf("lab name %q: use 1 to 12 of a-z, 0-9 and -, beginning with a letter", o.Name)
	case o.Hosts < 1 || o.Hosts > MaxHosts:
		return fmt.Errorf("a lab of %d hosts: give 1 to %d; for more, use machines and weft join", o.Hosts, MaxHosts)
	case o.Servers < 0 || o.Servers > o.Hosts || o.Servers != 0 && o.Servers%2 == 0:
		return fmt.Errorf("a lab of %d hosts, %d of them with etcd: give an odd number of them, at most as many as hosts; an even number survives no more losses", o.Hosts, o.Servers)
	case !filepath.IsAbs(o.Dir) || len(o.Dir) > 56:
		return fmt.Errorf("lab directory %q: give an absolute path of at most 56 bytes; the names of unix sockets inside have only 107", o.Dir)
	case o.Underlay.MTU < 1280 || o.Underlay.MTU > 9216:
		return fmt.Errorf("underlay MTU %d: give 1280 to 9216; IPv6 needs 1280 (RFC 8200 section 5)", o.Underlay.MTU)
	}
	if err := o.Underlay.check(); err != nil {
		return err
	}
	return o.completeBinary()
}

func (u Underlay) check() error {
	for name, part := range map[string]float64{"loss": u.Loss, "duplicate": u.Duplicate} {
		if part < 0 || part > 1 {
			return fmt.Errorf("underlay %s %g: give a part between 0 and 1", name, part)
		}
	}
	if u.Delay < 0 || u.Delay > time.Second {
		return fmt.Errorf("underlay delay %s: give 0 to 1s", u.Delay)
	}
	return nil
}

func (o *Options) completeBinary() (err error) {
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program, which the agents run: %w", err)
		}
	}
	if unix.Access(o.Binary, unix.X_OK) != nil {
		return fmt.Errorf("weft program %s: it cannot be executed; build it with: make build", o.Binary)
	}
	return nil
}
