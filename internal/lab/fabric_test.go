package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// builds is where TestMain lets the tests build weft; it removes it.
var builds string

// program builds weft once for all tests that need real agents.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(builds, "weft")
	build := exec.Command("go", "build", "-o", path, "../../cmd/weft")
	build.Stderr = os.Stderr
	return path, build.Run()
})

// live makes a lab with agents that goes with the test, and a switch "blue" on it.
func live(t testing.TB, o Options) *Lab {
	t.Helper()
	if err := NeedRoot(); err != nil {
		t.Fatal(err)
	}
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	o.Name = own(o.Name)
	o.Binary, o.Dir = binary, "/run/weft/test-"+o.Name
	begun := time.Now()
	l, err := Up(t.Context(), o, t.Logf)
	t.Cleanup(func() {
		if l == nil {
			return
		}
		if t.Failed() {
			logs, _ := filepath.Glob(l.file("*", "*.log"))
			more, _ := filepath.Glob(l.file("guests", "*", "*", "*.log"))
			for _, log := range append(logs, more...) {
				t.Logf("%s:\n%s", log, tail(log))
			}
		}
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the lab was ready after %s", time.Since(begun)) // a figure of `make bench`; a time decides no test
	return l
}

// blue makes a switch and waits until it is in force everywhere.
func blue(t *testing.T, l *Lab) {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sw := &fabric.Switch{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch},
		Metadata: fabric.Metadata{Name: "blue"},
		Spec:     fabric.SwitchSpec{Type: fabric.Private, Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd10:10::/64")}},
	}
	result, err := c.Apply(t.Context(), []fabric.Object{sw}, false)
	if err != nil {
		t.Fatal(err)
	}
	if reach, err := c.InForce(t.Context(), result.Revision); err != nil || !reach.Done {
		t.Fatalf("in force: %+v, %v", reach, err)
	}
}

// plug adds a guest to a live lab.
func plug(t *testing.T, l *Lab, o GuestOptions) *Guest {
	t.Helper()
	o.Switch = "blue"
	g, err := l.AddGuest(t.Context(), o, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// migrate moves a guest through the API and waits until the move has settled.
func migrate(t *testing.T, l *Lab, guest string, to fabric.HostID) *fabric.Move {
	t.Helper()
	m, err := tryMove(t.Context(), l, guest, to)
	if err == nil {
		m, err = awaitPhase(t.Context(), l, m, fabric.MoveSettled)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// tryMove starts a move.
func tryMove(ctx context.Context, l *Lab, guest string, to fabric.HostID) (*fabric.Move, error) {
	c, err := l.Client("h1")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Move(ctx, api.MoveRequest{VM: guest, To: to, RelaySeconds: 1})
}

// awaitPhase waits until a move has been at a phase; one that has ended otherwise is an error.
func awaitPhase(ctx context.Context, l *Lab, m *fabric.Move, phase fabric.Phase) (*fabric.Move, error) {
	c, err := l.Client("h1")
	if err != nil {
		return m, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	been := func() bool { _, been := m.Status.At[phase]; return been || m.Status.Phase == phase }
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		if o, err := c.Get(ctx, fabric.KindMove, m.Metadata.Name); err == nil {
			m = o.(*fabric.Move)
		}
		return been() || api.Over(m.Status.Phase), nil
	})
	if err != nil || !been() {
		return m, fmt.Errorf("the move of %s to %s is %s (%s), want %s: %v", m.Spec.VM, m.Spec.To, m.Status.Phase, m.Status.Reason, phase, err)
	}
	return m, nil
}

func first(g *Guest) string { return g.NIC.Addresses[0].Addr().String() }

func TestFabricComesUpThreeTimesAndLeavesNothing(t *testing.T) {
	const name = "fabric"
	dir := "/run/weft/test-" + own(name)
	before := traces(t, own(name), dir)
	for range 3 {
		t.Run("", func(t *testing.T) {
			l := live(t, Options{Name: name, Hosts: 3})
			blue(t, l)
			plug(t, l, GuestOptions{Name: "a", Host: "h1"})
			b := plug(t, l, GuestOptions{Name: "b", Host: "h3", Kind: Veth})
			for _, address := range b.NIC.Addresses {
				run(t, l, "a", "ping", "-c", "2", "-i", "0.2", "-W", "5", address.Addr().String())
			}
		})
		if after := traces(t, own(name), dir); !slices.Equal(before, after) {
			t.Fatalf("left behind:\nbefore %q\nafter  %q", before, after)
		}
	}
}

func TestGuestsOfEveryKindTalkAndMove(t *testing.T) {
	l := live(t, Options{Name: "story", Hosts: 3})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h2", Pause: 20 * time.Millisecond})
	c := plug(t, l, GuestOptions{Name: "c", Host: "h2", Kind: QEMU})
	for _, g := range []*Guest{b, c} {
		run(t, l, "a", "ping", "-c", "2", "-i", "0.2", "-W", "5", first(g))
	}
	run(t, l, "c", "ping", "-c", "2", first(b))
	echoServer(t, l, "b", ":7")
	for _, g := range []*Guest{b, c} {
		stream, err := l.OpenStream(t.Context(), "a", g.NIC.Addresses[0].Addr())
		if err != nil {
			t.Fatal(err)
		}
		m := migrate(t, l, g.Name, "h3")
		seen, err := stream.Stop()
		t.Logf("%s: %+v, the stream saw %+v", g.Name, m.Status.Result, seen)
		if err != nil {
			t.Errorf("the connection to %s broke: %v", g.Name, err)
		}
		run(t, l, "a", "ping", "-c", "2", "-i", "0.2", "-W", "5", first(g))
		settled(t, l, g.Name, "h3")
	}
	if err := l.RemoveGuest(t.Context(), "b"); err != nil {
		t.Error(err)
	}
}

// settled waits until the lab has ended the half of the guest that was left.
func settled(t *testing.T, l *Lab, guest string, host fabric.HostID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := poll(ctx, 50*time.Millisecond, func() (bool, error) {
		g, err := l.Guest(guest)
		return err == nil && len(g.Instances) == 1 && g.Host() == host, err
	})
	if err != nil {
		g, _ := l.Guest(guest)
		t.Fatalf("after the move %s is at %+v: %v", guest, g.Instances, err)
	}
}

func TestGuestsAreServedByHostsThatRunNoEtcd(t *testing.T) {
	l := live(t, Options{Name: "five", Hosts: 5, Underlay: Underlay{IPv6: true, Segment: true, Loss: 0.01}})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h4"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h5"})
	run(t, l, "a", "ping", "-c", "5", "-i", "0.2", "-W", "5", first(b))
	if rate := iperf(t, l, "a", "b", b.NIC.Addresses[0].Addr(), "-n", "4M"); rate == 0 {
		t.Error("no TCP over an underlay that loses one frame of a hundred")
	}
	if err := l.KillAgent("h1"); err != nil { // guests can come and go while a server is away
		t.Fatal(err)
	}
	if err := l.RemoveGuest(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if l.GuestNamespace("b").Exists() || l.guest("b") != nil {
		t.Error("the removed guest is still there")
	}
	plug(t, l, GuestOptions{Name: "b", Host: "h4"})
}

func TestProgramsTakenOffComeBack(t *testing.T) {
	l := live(t, Options{Name: "strip", Hosts: 1})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h1"})
	run(t, l, "a", "ping", "-c", "1", "-W", "5", first(b))
	n, err := l.RemoveProgram("b")
	if err != nil || n == 0 {
		t.Fatalf("%d programs taken off (%v)", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = poll(ctx, 100*time.Millisecond, func() (bool, error) {
		return l.Exec(ctx, "a", []string{"ping", "-c", "1", "-W", "1", first(b)}, Streams{}) == nil, nil
	})
	if err != nil {
		t.Fatalf("the agent did not put the programs back: %v", err)
	}
}

func TestAgentsCanBeKilledFrozenAndStartedAgain(t *testing.T) {
	l := live(t, Options{Name: "agents", Hosts: 3})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h2"})
	talks := func() { t.Helper(); run(t, l, "a", "ping", "-c", "3", "-i", "0.05", "-W", "5", first(b)) }
	talks()
	if err := l.FreezeAgent("h2"); err != nil {
		t.Fatal(err)
	}
	talks()
	if err := l.ThawAgent("h2"); err != nil {
		t.Fatal(err)
	}
	if err := l.KillAgent("h2"); err != nil {
		t.Fatal(err)
	}
	if l.Agent("h2").Alive() {
		t.Fatal("the killed agent lives")
	}
	if err := l.FreezeAgent("h2"); err == nil {
		t.Error("a dead agent was frozen")
	}
	talks()
	if err := l.StartAgent("h2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := l.awaitReady(ctx, time.Now(), t.Logf); err != nil {
		t.Fatal(err)
	}
	talks()
}
