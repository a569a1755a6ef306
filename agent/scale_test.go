package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/internal/lab"
)

// many is how many remote ports a host must cope with; maxMemory is what its agent may take then, and maxMore what it may take for
// them, in kB: 2.8 for each. 80 MiB are the goal; what is read moves by two from run to run, with the collector and the pages in use.
const (
	many      = 10_000
	maxMemory = 82 << 10
	maxMore   = 28 << 10
)

func TestTenThousandRemotePorts(t *testing.T) {
	l := newLab(t, "scale", build(t, "scale"), 4) // the fourth has no etcd
	sw := blueSwitch()
	sw.Spec.Subnets = []netip.Prefix{netip.MustParsePrefix("10.32.0.0/16")}
	put(t, l, sw)
	for name, host := range map[string]fabric.HostID{"a": "h4", "b": "h1"} {
		if _, err := l.AddGuest(t.Context(), lab.GuestOptions{Name: name, Host: host, Switch: "blue", Kind: lab.Veth}, t.Logf); err != nil {
			t.Fatal(err)
		}
	}
	small := memory(t, l, "h4")
	fill(t, l)
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	took := changes(t, c, 30)
	large := memory(t, l, "h4")
	t.Logf("an agent without etcd takes %d MB with two ports and %d MB with %d more; a change is in force on 4 hosts after %s (median), %s (slowest of %d)",
		small>>10, large>>10, many, took[len(took)/2], took[len(took)-1], len(took))
	if large > maxMemory || large-small > maxMore {
		t.Errorf("an agent without etcd takes %d kB with %d remote ports, %d of them for these: more than %d, or than %d", large, many, large-small, maxMemory, maxMore)
	}
	b, err := l.Guest("b")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	argv := []string{"ping", "-c", "2", "-i", "0.2", "-W", "5", b.NIC.Addresses[0].Addr().String()}
	if err := l.Exec(t.Context(), "a", argv, lab.Streams{Out: &out, Err: &out}); err != nil {
		t.Errorf("a does not reach b: %v\n%s", err, &out)
	}
}

// memory is the resident set of a host's agent, in kB.
func memory(t *testing.T, l *lab.Lab, host fabric.HostID) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.Agent(host).PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb
}

// changes makes n changes of a profile that every port has, one after the other, and returns how long each took from the
// request to being in force on every host, shortest first.
func changes(t *testing.T, c *client.Client, n int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for i := range n {
		on := i%2 == 0
		begun := time.Now()
		result, err := c.Apply(t.Context(), []fabric.Object{&fabric.Profile{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindProfile}, Metadata: fabric.Metadata{Name: "gold"},
			Spec: fabric.ProfileSpec{Settings: fabric.Settings{Guards: fabric.Guards{RA: &on}}},
		}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if reach, err := c.InForce(t.Context(), result.Revision); err != nil || !reach.Done {
			t.Fatalf("in force: %+v, %v", reach, err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	return took
}

// fillVariable makes this test's binary a process that fills the fabric of the lab in this directory.
const fillVariable = "WEFT_TEST_FILL"

// fill makes many ports held by the lab's hosts but the last, as if their guests ran there.
func fill(t *testing.T, l *lab.Lab) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFillProcess$")
	cmd.Env = append(os.Environ(), fillVariable+"="+l.Dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.HostNamespace("h1").Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("fill the fabric: %v\n%s", err, &out)
	}
}

// TestFillProcess is no test but the process that fill starts inside a host's namespace, where etcd can be reached.
func TestFillProcess(t *testing.T) {
	dir := os.Getenv(fillVariable)
	if dir == "" {
		return
	}
	id, err := identity.Load(identity.EtcdFilesIn(filepath.Join(dir, "h1", "tls")), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Options{Endpoints: []string{"https://10.240.0.1:2379"}, TLS: id.Client(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for begin := 0; begin < many; begin += 500 {
		fillSome(t.Context(), t, s, begin, begin+500)
	}
}

// fillSome makes the ports numbered from begin to end.
func fillSome(ctx context.Context, t *testing.T, s *store.Store, begin, end int) {
	t.Helper()
	var ports []fabric.Object
	var locations []fabric.Location
	for i := begin; i < end; i++ {
		name := fmt.Sprintf("r%d", i)
		ports = append(ports, &fabric.Port{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort},
			Metadata: fabric.Metadata{Name: name, Labels: map[string]string{"tier": "web"}}, Spec: fabric.PortSpec{Switch: "blue", VM: name},
		})
		host := fabric.HostID(fmt.Sprintf("h%d", 1+i%3))
		locations = append(locations, fabric.Location{Port: fabric.PortID(name), Switch: "blue", Host: host, Epoch: 1})
	}
	if _, err := s.Apply(ctx, ports, store.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateLocations(ctx, nil, locations...); err != nil {
		t.Fatal(err)
	}
}
