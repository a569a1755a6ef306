package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// room is how many bytes the object of a mutant may have more than that of the core as it is.
const room = 1 << 16

// workshop builds cores with faults, each into a test binary of its own. The binary is linked once, by go's -overlay with room
// behind the embedded object, and gets another object for each fault: the product needs no door for that.
type workshop struct {
	root    string
	dir     string   // removed by Close
	compile []string // the command that `go generate ./datapath` runs, without `go run`
	binary  []byte   // the test binary, with zeros in the place of the object
	at      int      // where that begins in it,
	size    int      // and how many bytes there are
}

// mutant is a test binary with a fault in its core.
type mutant struct {
	fault
	binary string
	err    error // why there is none
}

// errUnusable is why a fault says nothing: it is not C, or the core is not what it was to the loader.
var errUnusable = errors.New("not usable")

func newWorkshop(ctx context.Context, root string) (w *workshop, err error) {
	source, err := os.ReadFile(filepath.Join(root, "datapath/core.go"))
	if err != nil {
		return nil, err
	}
	command, err := generator(string(source))
	if err != nil {
		return nil, fmt.Errorf("datapath/core.go: %w", err)
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, err
	}
	compiler := filepath.Join(dir, "bpf2go")
	w = &workshop{root: root, dir: dir, compile: append([]string{compiler}, command[1:]...)}
	err = w.run(ctx, root, "go", "build", "-o", compiler, command[0])
	if err == nil {
		err = w.prepare(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Close removes all that was built.
func (w *workshop) Close() error { return os.RemoveAll(w.dir) }

var directive = regexp.MustCompile(`(?m)^//go:generate go run (.*)$`)

// generator is the command of the only line in a Go file that generates something.
func generator(source string) ([]string, error) {
	lines := directive.FindAllStringSubmatch(source, -1)
	if len(lines) != 1 {
		return nil, fmt.Errorf("%d lines with go:generate, want 1", len(lines))
	}
	var words []string
	for i, part := range strings.Split(lines[0][1], `"`) {
		if i%2 == 1 { // in quotes
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words, nil
}

// builds are the mutants of faults; while one is tried, the next is built.
func (w *workshop) builds(ctx context.Context, faults []fault) iter.Seq[mutant] {
	return func(yield func(mutant) bool) {
		ctx, cancel := context.WithCancel(ctx)
		built := make(chan mutant)
		go func() {
			defer close(built)
			for _, f := range faults {
				m := mutant{fault: f}
				m.binary, m.err = w.build(ctx, f)
				built <- m
			}
		}()
		defer func() {
			cancel()
			for range built { // until the builder is through
			}
		}()
		for m := range built {
			if ctx.Err() != nil || !yield(m) {
				return
			}
		}
	}
}

// prepare links the test binary with the core as it is, which must be the one that is committed.
func (w *workshop) prepare(ctx context.Context) error {
	dir, err := w.object(ctx, fault{})
	if err != nil {
		return err
	}
	object := filepath.Join(dir, "core_bpfel.o")
	if err := w.compare(object); err != nil {
		return fmt.Errorf("%w: run go generate ./datapath", err)
	}
	text, err := os.ReadFile(object)
	if err != nil {
		return err
	}
	text = append(text, make([]byte, room)...)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(w.root, "datapath/core_bpfel.o"): object}})
	if err != nil {
		return err
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "test")
	if err := errors.Join(os.WriteFile(object, text, 0o644), os.WriteFile(list, overlay, 0o644)); err != nil {
		return err
	}
	if err := w.run(ctx, w.root, "go", "test", "-c", "-overlay", list, "-o", binary, "./datapath"); err != nil {
		return err
	}
	if w.binary, err = os.ReadFile(binary); err != nil {
		return err
	}
	if n := bytes.Count(w.binary, text); n != 1 {
		return fmt.Errorf("the object is in the test binary %d times, not once", n)
	}
	w.at, w.size = bytes.Index(w.binary, text), len(text)
	clear(w.binary[w.at : w.at+w.size])
	return nil
}

// object compiles the tree with a fault in it, and returns the directory that it is in.
func (w *workshop) object(ctx context.Context, f fault) (string, error) {
	dir, err := os.MkdirTemp(w.dir, "fault")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(filepath.Join(dir, "bpf"), os.DirFS(filepath.Join(w.root, sources))); err != nil {
		return "", err
	}
	if f.old != "" {
		if err := f.apply(filepath.Join(dir, "bpf")); err != nil {
			return "", err
		}
	}
	if err := w.run(ctx, dir, w.compile[0], w.compile[1:]...); err != nil {
		return "", fmt.Errorf("%w: %w", errUnusable, err)
	}
	// The core's types are the loader's too: what changes them is another loader, not a fault in the core.
	if err := w.compare(filepath.Join(dir, "core_bpfel.go")); err != nil {
		return "", fmt.Errorf("%w: %w", errUnusable, err)
	}
	return dir, nil
}

// build makes a test binary with a fault in its core.
func (w *workshop) build(ctx context.Context, f fault) (string, error) {
	dir, err := w.object(ctx, f)
	if err != nil {
		return "", err
	}
	object, err := os.ReadFile(filepath.Join(dir, "core_bpfel.o"))
	if err != nil {
		return "", err
	}
	if len(object) > w.size {
		return "", fmt.Errorf("%w: an object of %d bytes, there is room for %d", errUnusable, len(object), w.size)
	}
	binary := filepath.Join(dir, "test")
	file, err := os.OpenFile(binary, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = file.Write(w.binary)
	if err == nil {
		_, err = file.WriteAt(object, int64(w.at))
	}
	return binary, errors.Join(err, file.Close())
}

// compare fails unless a file that was built is what is committed.
func (w *workshop) compare(file string) error {
	built, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	committed, err := os.ReadFile(filepath.Join(w.root, "datapath", filepath.Base(file)))
	if err != nil {
		return err
	}
	if !bytes.Equal(built, committed) {
		return fmt.Errorf("%s is not what is committed", filepath.Base(file))
	}
	return nil
}

// run runs a command in a directory; what it says goes into the error.
func (w *workshop) run(ctx context.Context, dir, command string, args ...string) error {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPACKAGE=datapath")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(command), err, bytes.TrimSpace(out))
	}
	return nil
}
