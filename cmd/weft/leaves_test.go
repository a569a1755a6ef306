package main

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/internal/lab"
	"github.com/weftnet/weft/internal/lab/impair"
)

// belongings are the traces of one lab on this machine, each by a name of its own. Other labs run beside it.
type belongings struct {
	name, dir string
	// kinds has what was found, by kind.
	kinds map[string][]string
	bpf   impair.Objects
	// devices are the names that the lab's devices had in its own namespaces.
	devices map[string]bool
	// root are the devices of the machine's own namespace before the lab.
	root map[int]string
}

// belongingsKey is where a script keeps what it remembers of its lab.
type belongingsKey struct{}

// begin notes what is not the lab's.
func begin(env *testscript.Env, name string) error {
	root, err := rooted()
	env.Values[belongingsKey{}] = &belongings{name: name, dir: filepath.Join(lab.Root, name), devices: map[string]bool{"lo": false}, root: root}
	return err
}

// rememberCommand notes everything the lab has; every kind must be there, or nothing could be missed later.
func rememberCommand(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("usage: remember")
	}
	l, err := lab.Open(ts.Getenv("WEFT_LAB"))
	ts.Check(err)
	b := ts.Value(belongingsKey{}).(*belongings)
	for _, mount := range l.Mounts {
		found, err := impair.Pinned(mount)
		ts.Check(err)
		b.bpf.Programs, b.bpf.Maps, b.bpf.Links = append(b.bpf.Programs, found.Programs...), append(b.bpf.Maps, found.Maps...), append(b.bpf.Links, found.Links...)
	}
	b.kinds = look(ts, b)
	for kind, n := range map[string]int{"namespace": 5, "process": 6, "mount": 3, "file": 10, "program": 10, "map": 10, "link": 10} {
		if have := len(b.kinds[kind]); have < n {
			ts.Fatalf("the lab has %d of the kind %s, fewer than the %d it must have: %q", have, kind, n, b.kinds[kind])
		}
	}
}

// goneCommand checks that nothing of what was remembered is there, nor anything else of the lab.
func goneCommand(ts *testscript.TestScript, neg bool, _ []string) {
	b := ts.Value(belongingsKey{}).(*belongings)
	if neg || b.kinds == nil {
		ts.Fatalf("usage: gone, after remember")
	}
	var left map[string][]string
	defer func() {
		if len(left) > 0 {
			ts.Logf("left behind: %q", left)
		}
	}()
	within(ts, "the end of everything", func() bool { // the kernel frees programs and devices a moment later
		left = look(ts, b)
		return len(left) == 0
	})
}

// look lists what there is of the lab: what bears its name, and what was remembered.
func look(ts *testscript.TestScript, b *belongings) map[string][]string {
	found := map[string][]string{}
	add := func(kind, what string) { found[kind] = append(found[kind], what) }
	spaces, err := nic.Namespaces("weft-" + b.name + "-")
	ts.Check(err)
	for _, ns := range spaces {
		add("namespace", ns.Name)
		pids, err := ns.Processes()
		ts.Check(err)
		for _, pid := range pids {
			add("process", fmt.Sprint(pid))
		}
		ts.Check(ns.Do(func() error {
			links, err := nic.Links()
			for _, device := range links {
				b.devices[device] = device != "lo"
			}
			return err
		}))
	}
	b.strays(add)
	mounts, err := os.ReadFile("/proc/mounts")
	ts.Check(err)
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, b.dir+"/") || strings.Contains(at, "weft-"+b.name+"-") {
			add("mount", at)
		}
	}
	ts.Check(filepath.WalkDir("/run", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(path, b.dir) || strings.Contains(filepath.Base(path), "weft-"+b.name+"-")) {
			add("file", path)
		}
		return nil // what is removed meanwhile is another lab's
	}))
	left, err := b.bpf.Left()
	ts.Check(err)
	for kind, ids := range map[string][]uint32{"program": left.Programs, "map": left.Maps, "link": left.Links} {
		for _, id := range ids {
			add(kind, fmt.Sprint(id))
		}
	}
	root, err := rooted()
	ts.Check(err)
	for index, device := range root {
		if b.devices[device] && b.root[index] == "" {
			add("device", device)
		}
	}
	return found
}

// strays adds processes that are in none of the lab's namespaces, but carry its directory or its name in their arguments.
func (b *belongings) strays(add func(kind, what string)) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		pid := filepath.Base(filepath.Dir(path))
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), b.dir+"/") || slices.Contains(b.kinds["process"], pid) {
			add("process", pid)
		}
	}
}

// rooted are the devices of the machine's own namespace, by number.
func rooted() (map[int]string, error) {
	all, err := net.Interfaces()
	names := map[int]string{}
	for _, d := range all {
		names[d.Index] = d.Name
	}
	return names, err
}
