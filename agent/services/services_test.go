package services

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/datapath/nat"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing/export"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a keeper on a host that is a namespace; its device on the switch comes and goes.
type rig struct {
	*Keeper
	host     nic.Namespace
	troubles map[string]error
	notices  []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root (make test)")
	}
	host, err := nic.CreateNamespace(fmt.Sprintf("servtest-%d", os.Getpid()))
	must(t, err)
	t.Cleanup(func() { must(t, host.Delete()) })
	r := &rig{host: host, troubles: map[string]error{}}
	file := filepath.Join(t.TempDir(), "forwarding")
	r.Keeper = New(Options{
		Host: "h1", File: file,
		Trouble: func(subject string, err error) { r.troubles[subject] = err },
		Notify:  func(kind, object, text string) { r.notices = append(r.notices, kind) },
	})
	t.Cleanup(func() {
		must(t, r.Close())
		must(t, host.Do(func() error { return nat.Uninstall(file) }))
	})
	return r
}

func (r *rig) keep(t *testing.T, snap *fabric.Snapshot) {
	t.Helper()
	must(t, r.host.Do(func() error { r.Keep(t.Context(), snap); return nil }))
}

// plug makes the host's device on the switch.
func (r *rig) plug(t *testing.T) {
	t.Helper()
	must(t, r.host.Do(func() error {
		if err := nic.CreateVeth(nic.Veth{Name: "weft-blue", Peer: "wp-blue"}); err != nil {
			return err
		}
		return errors.Join(nic.AddAddress("weft-blue", netip.MustParsePrefix("10.10.0.254/24")), nic.SetUp("weft-blue"))
	}))
}

func (r *rig) subjects() (names []string) {
	for name := range r.servers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestServersComeAndGoWithTheirDevices(t *testing.T) {
	r, snap := newRig(t), snapshot()
	both := []string{"dhcp on weft-blue", "dns on weft-blue"}
	r.keep(t, snap)
	if got := r.subjects(); len(got) != 0 {
		t.Errorf("without a device there is %v", got)
	}
	r.plug(t)
	r.keep(t, snap)
	if got := r.subjects(); !slices.Equal(got, both) {
		t.Fatalf("with its device there is %v, %v", got, r.troubles)
	}
	first := r.servers[both[0]].server
	changed := snapshot()
	changed.Switches["blue"].Spec.MTU = 1300
	r.keep(t, changed)
	if r.servers[both[0]].server != first {
		t.Error("another configuration has taken another server")
	}
	must(t, r.host.Do(func() error { return nic.Delete("weft-blue") }))
	r.plug(t)
	r.keep(t, changed)
	if r.servers[both[0]].server == first {
		t.Error("the server hears a device that is gone")
	}
	// One that ends by itself is told of, and opened again, and the other goes on.
	dns := r.servers[both[1]]
	must(t, r.servers[both[0]].Close())
	var told error
	for range 1000 {
		if r.keep(t, changed); r.troubles[both[0]] != nil {
			told = r.troubles[both[0]]
			break
		}
	}
	if r.keep(t, changed); told == nil || r.troubles[both[0]] != nil || !slices.Equal(r.subjects(), both) || r.servers[both[1]] != dns {
		t.Errorf("after one has ended there is %v; told %v, and then %v", r.subjects(), told, r.troubles)
	}
	off := false
	changed.Switches["blue"].Spec.Services.DHCP.Enabled = &off
	if r.keep(t, changed); !slices.Equal(r.subjects(), both[1:]) {
		t.Errorf("with DHCP off there is %v", r.subjects())
	}
	var c []export.ServiceCount
	must(t, r.host.Do(func() error { c = r.Counts(); return nil }))
	if !slices.ContainsFunc(c, func(n export.ServiceCount) bool { return n.Service == "nat" }) {
		t.Errorf("the counts are %v", c)
	}
	delete(changed.Switches, "blue")
	if r.keep(t, changed); len(r.subjects()) != 0 {
		t.Errorf("without the switch there is %v", r.subjects())
	}
	for subject, err := range r.troubles {
		if err != nil {
			t.Errorf("%s: %v", subject, err)
		}
	}
}

// bomb is a server that panics.
type bomb struct{ closed bool }

func (*bomb) Run(context.Context) error { panic("boom") }
func (b *bomb) Close() error            { b.closed = true; return nil }

func TestAServerThatPanicsEndsAlone(t *testing.T) {
	r := start(t.Context(), &bomb{}, 1, nil)
	if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("it ended with %v", err)
	}
}

func TestATableThatIsHarmedIsPutBackAndTold(t *testing.T) {
	r, snap := newRig(t), snapshot()
	r.keep(t, snap)
	must(t, r.host.Do(func() error { return nat.Uninstall("") }))
	if r.keep(t, snap); !slices.Equal(r.notices, []string{"nat.repaired"}) {
		t.Errorf("the notices are %v", r.notices)
	}
}
