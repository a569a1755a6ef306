package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// Wanted is what a host's libvirt shall have. The zero value is a libvirt without weft.
type Wanted struct {
	// Command is the program and its first arguments that hooks run, without blanks or quotes; no hooks when it is empty.
	Command []string
	// Switches get a network each.
	Switches []fabric.SwitchID
}

// Change is one difference between what libvirt has and what it shall have.
type Change struct {
	// Object is a file's path, or "network NAME".
	Object string
	// Diff is what changes, each line with - or + before it.
	Diff string
	// Hook is true for a hook: libvirtd looks for hooks when it starts.
	Hook bool

	do func(context.Context) error
}

// Do makes the change.
func (c Change) Do(ctx context.Context) error {
	if err := c.do(ctx); err != nil {
		return fmt.Errorf("change %s: %w", c.Object, err)
	}
	return nil
}

// Plan is what must change for libvirt to be as wanted; nothing else of libvirt's is touched. A network that has a switch's name
// and is not weft's stays as it is, and is an error of fabric.ErrConflict beside the other changes.
func (h Host) Plan(ctx context.Context, want Wanted) ([]Change, error) {
	changes, err := h.planHooks(want.Command)
	if err != nil {
		return nil, err
	}
	have, err := h.networks(ctx)
	if err != nil {
		return nil, err
	}
	more, err := h.planNetworks(want.Switches, have)
	return append(changes, more...), err
}

// planNetworks compares networks.
func (h Host) planNetworks(want []fabric.SwitchID, have map[string]network) (changes []Change, taken error) {
	wanted := map[string]bool{}
	for _, sw := range slices.Sorted(slices.Values(want)) {
		wanted[string(sw)] = true
		n, there := have[string(sw)]
		switch {
		case there && n.uuid != networkUUID(sw):
			taken = errors.Join(taken, fmt.Errorf("libvirt has a network %s that is not weft's: rename it or the switch, or have guests name the switch's bridge instead of a network: %w", sw, fabric.ErrConflict))
			continue
		case there && n.active && n.autostart:
			continue
		}
		diff := "+started, and started with libvirt\n"
		if !there {
			diff = signed("+", networkXML(sw))
		}
		changes = append(changes, Change{Object: "network " + string(sw), Diff: diff, do: func(ctx context.Context) error { return h.define(ctx, sw, n) }})
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if n := have[name]; !wanted[name] && n.uuid == networkUUID(fabric.SwitchID(name)) {
			changes = append(changes, Change{Object: "network " + name, Diff: signed("-", networkXML(fabric.SwitchID(name))),
				do: func(ctx context.Context) error { return h.undefine(ctx, name, n) }})
		}
	}
	return changes, taken
}

// mark is in every hook that weft has written.
const mark = "# Written by 'weft integrate libvirt'; 'weft integrate libvirt --undo' removes it."

// hookScript is what stands in a hook's file.
func hookScript(hook string, command []string) string {
	return fmt.Sprintf("#!/bin/sh\n%s\nexec %s hook libvirt %s \"$@\"\n", mark, strings.Join(command, " "), hook)
}

// planHooks compares the hooks. They are files of their own beside those of others (libvirt 6.5.0).
func (h Host) planHooks(command []string) (changes []Change, err error) {
	for _, word := range command {
		if strings.ContainsAny(word, " \t\n'\"\\$`;&|<>()*?[]#~") {
			return nil, fmt.Errorf("a hook cannot run %q: give a path without blanks and quotes: %w", word, fabric.ErrInvalid)
		}
	}
	for _, hook := range []string{"network", "qemu"} {
		path := filepath.Join(h.hooks(), hook+".d", "weft")
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		want := ""
		if len(command) > 0 {
			want = hookScript(hook, command)
		}
		switch have := string(text); {
		case have == want:
			continue
		case have != "" && !strings.Contains(have, mark):
			return nil, fmt.Errorf("%s is not weft's: move it away: %w", path, fabric.ErrConflict)
		default:
			changes = append(changes, Change{Object: path, Diff: signed("-", have) + signed("+", want), Hook: true,
				do: func(context.Context) error { return setFile(path, want) }})
		}
	}
	return changes, nil
}

// setFile writes a hook in one step, so that libvirt never runs half of one; an empty text removes it.
func setFile(path, text string) error {
	if text == "" {
		return os.Remove(path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Beside the directory: libvirt runs every executable that is in it.
	next := filepath.Dir(path) + "-weft.next"
	if err := os.WriteFile(next, []byte(text), 0o755); err != nil {
		return err
	}
	return errors.Join(os.Chmod(next, 0o755), os.Rename(next, path))
}

// signed puts a sign before each line.
func signed(sign, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(sign + line)
	}
	return b.String()
}

// scratch keeps a text in a file until remove.
func scratch(text string) (path string, remove func(), err error) {
	f, err := os.CreateTemp("", "weft-libvirt-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.Remove(f.Name()) }
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		remove()
	}
	return f.Name(), remove, err
}
