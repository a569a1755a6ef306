package libvirt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

var command = []string{"/usr/bin/weft", "--socket", "/run/weft/agent.sock"}

func TestHooksAreWrittenReplacedAndRemoved(t *testing.T) {
	h := Host{Hooks: t.TempDir()}
	carry := func(command []string) (diffs string) {
		t.Helper()
		changes, err := h.planHooks(command)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			if !c.Hook {
				t.Errorf("%s is not said to be a hook", c.Object)
			}
			if err := c.Do(t.Context()); err != nil {
				t.Fatal(err)
			}
			diffs += c.Diff
		}
		return diffs
	}
	if d := carry(command); !strings.Contains(d, `+exec /usr/bin/weft --socket /run/weft/agent.sock hook libvirt qemu "$@"`) {
		t.Errorf("first:\n%s", d)
	}
	for _, hook := range []string{"qemu", "network"} {
		st, err := os.Stat(filepath.Join(h.Hooks, hook+".d", "weft"))
		if err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("hook %s: %v, %v", hook, st, err)
		}
	}
	if d := carry(command); d != "" {
		t.Errorf("again:\n%s", d)
	}
	if d := carry([]string{"/opt/weft"}); !strings.Contains(d, "-exec /usr/bin/weft") || !strings.Contains(d, "+exec /opt/weft hook") {
		t.Errorf("with another program:\n%s", d)
	}
	carry(nil)
	if left, _ := filepath.Glob(h.Hooks + "/*.d/*"); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if d := carry(nil); d != "" {
		t.Errorf("undone twice:\n%s", d)
	}
}

func TestHooksOfOthersStay(t *testing.T) {
	h := Host{Hooks: t.TempDir()}
	path := filepath.Join(h.Hooks, "qemu.d", "weft")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{command, nil} {
		if _, err := h.planHooks(c); !errors.Is(err, fabric.ErrConflict) {
			t.Errorf("with %v: %v", c, err)
		}
	}
	if _, err := h.planHooks([]string{"/opt/my weft"}); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("a path with a blank: %v", err)
	}
}

func TestOnlyNetworksThatAreOursChange(t *testing.T) {
	ours := func(sw fabric.SwitchID) network { return network{uuid: networkUUID(sw), active: true, autostart: true} }
	stopped := ours("green")
	stopped.active = false
	changes, err := Host{}.planNetworks([]fabric.SwitchID{"blue", "default", "green", "new"}, map[string]network{
		"default": {uuid: "f1ab5a22-23e2-4752-90df-07ab0ef2f56a", active: true}, "theirs": {uuid: "676f5df2-fa5b-467c-8b56-27d7f61cb046"},
		"blue": ours("blue"), "green": stopped, "old": ours("old"),
	})
	var objects []string
	for _, c := range changes {
		objects = append(objects, c.Object+" "+c.Diff[:1])
	}
	if got, want := strings.Join(objects, ", "), "network green +, network new +, network old -"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
	if !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "network default that is not weft's") {
		t.Errorf("the name that is taken: %v", err)
	}
}

func TestALibvirtThatIsNotThereIsSaidToBeAway(t *testing.T) {
	h := Host{URI: "qemu+unix:///system?socket=" + t.TempDir() + "/none", Hooks: t.TempDir()}
	if _, err := h.Plan(t.Context(), Wanted{Command: command}); !errors.Is(err, ErrAbsent) {
		t.Errorf("%v", err)
	}
}
