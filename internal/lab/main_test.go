package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath/nic"
)

// TestMain lets the test program be what a lab starts: pumps and hooks.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "lab" {
		if err := Helper(context.Background(), os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weft-lab-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	builds = dir
	return m.Run()
}

// own is the name of this run's lab: there may be another run, or what one that was killed has left.
func own(name string) string {
	return name + "-" + strconv.Itoa(os.Getpid()%1000)
}

// bare makes a lab of hosts without agents that goes with the test, each host with a bridge br0 that has eth0 on it: one
// layer-2 segment across all hosts.
func bare(t *testing.T, o Options) *Lab {
	t.Helper()
	if err := NeedRoot(); err != nil {
		t.Fatal(err)
	}
	o.Name = own(o.Name)
	o.Bare, o.Dir = true, filepath.Join("/run/weft", "test-"+o.Name)
	l, err := Up(t.Context(), o, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(l.file("guests", "*", "*", "*.log"))
			for _, log := range logs {
				t.Logf("%s:\n%s", log, tail(log))
			}
		}
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return withBridges(t, l)
}

// withBridges joins the hosts of a lab at layer 2.
func withBridges(t *testing.T, l *Lab) *Lab {
	t.Helper()
	for i, host := range HostNames(l.Hosts) {
		within(t, l.HostNamespace(host), func() error {
			return errors.Join(nic.CreateBridge("br0", 1500), nic.SetMaster("eth0", "br0"),
				nic.RemoveAddress("eth0", address4(i+1)), nic.AddAddress("br0", address4(i+1)))
		})
	}
	return l
}

func within(t *testing.T, ns nic.Namespace, fn func() error) {
	t.Helper()
	if err := ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// guest adds a guest to a bare lab and puts its device on the host's bridge.
func guest(t *testing.T, l *Lab, o GuestOptions) *Guest {
	t.Helper()
	g, err := l.AddGuest(t.Context(), o, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	bridge(t, l, g.Instances[0])
	return g
}

func bridge(t *testing.T, l *Lab, i Instance) {
	t.Helper()
	within(t, l.HostNamespace(i.Host), func() error {
		return errors.Join(nic.SetUp(i.Device), nic.SetMaster(i.Device, "br0"))
	})
}

// run runs a command in a guest and returns its output.
func run(t *testing.T, l *Lab, guest string, argv ...string) string {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Exec(ctx, guest, argv, Streams{Out: &out, Err: &out}); err != nil {
		t.Fatalf("%s: %v: %v\n%s", guest, argv, err, out.String())
	}
	return out.String()
}

// traces is everything a lab could leave behind on this machine.
func traces(t *testing.T, name, dir string) []string {
	t.Helper()
	var found []string
	spaces, err := nic.Namespaces("weft-" + name + "-")
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range spaces {
		found = append(found, "namespace "+ns.Name)
	}
	links, err := nic.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		found = append(found, "link "+link)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) || strings.Contains(line, "weft-"+name) {
			found = append(found, "mount "+line)
		}
	}
	out, err := exec.Command("ps", "-eo", "args").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) {
			found = append(found, "process "+line)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		found = append(found, "file "+dir)
	}
	slices.Sort(found)
	return found
}
