package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/datapathtest"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// ground is a machine without a kernel: it outlives the agents that run on it, as the datapath does.
type ground struct {
	*datapathtest.Memory

	mu      sync.Mutex
	devices map[string]int
	hints   chan struct{}
	applied int
}

func newGround(devices ...string) *ground {
	g := &ground{Memory: datapathtest.New(netip.MustParseAddr("10.240.0.1")), devices: map[string]int{}, hints: make(chan struct{}, 1)}
	for i, d := range devices {
		g.devices[d] = i + 10
	}
	return g
}

func (g *ground) open(context.Context, Config, *slog.Logger) (machine, error) {
	return machine{Plane: g, Meter: g, Probes: g, Links: g, close: func() error { return nil }}, nil
}

func (g *ground) Apply(ctx context.Context, c datapath.Change) error {
	g.mu.Lock()
	g.applied++
	g.mu.Unlock()
	return g.Memory.Apply(ctx, c)
}

// writes is how often the datapath was changed.
func (g *ground) writes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.applied
}

func (g *ground) Verify(context.Context) error { return nil }

func (g *ground) Counters(context.Context) (map[fabric.PortID]datapath.Counters, error) {
	return nil, nil
}

func (g *ground) Host(context.Context) (datapath.HostCounters, error) {
	return datapath.HostCounters{}, nil
}

func (g *ground) Arm(context.Context, uint64, uint16, time.Duration) error { return nil }

func (g *ground) Disarm(context.Context, uint64) error { return nil }

func (g *ground) Inject(context.Context, string, []byte) error { return nil }

func (g *ground) Devices() (map[string]int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return cloneMap(g.devices), nil
}

func (g *ground) MTU(string) (int, error) { return 1500, nil }

func (g *ground) Watch(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{})
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case <-g.hints:
				select {
				case out <- struct{}{}:
				case <-ctx.Done():
				}
			}
		}
	}()
	return out, nil
}

// unplug makes a device vanish, as when its hypervisor ends.
func (g *ground) unplug(device string) {
	g.mu.Lock()
	delete(g.devices, device)
	g.mu.Unlock()
	g.Memory.Unplug(device)
	g.hints <- struct{}{}
}

// state is what the kernel would hold.
func (g *ground) state(tb testing.TB) datapath.State {
	tb.Helper()
	s, err := g.Read(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// house is one host with an etcd beside it, on which agents come and go.
type house struct {
	t      *testing.T
	etcd   *storetest.Etcd
	ground *ground
	config Config
}

func newHouse(t *testing.T, devices ...string) *house {
	t.Helper()
	e := storetest.Start(t)
	dir := t.TempDir()
	files := filepath.Join(filepath.Dir(e.DataDir), "tls")
	h := &house{t: t, etcd: e, ground: newGround(devices...), config: Config{
		Host: "h1", Underlay: Underlay{Device: "eth0", Address: netip.MustParseAddr("10.240.0.1")}, Version: "test",
		Listen: fmt.Sprintf("127.0.0.1:%d", port(t)), Socket: filepath.Join(dir, "s"), StateDir: filepath.Join(dir, "state"), Metrics: "off",
		TLS:  TLSFiles{CA: filepath.Join(files, "ca.crt"), Cert: filepath.Join(files, "tls.crt"), Key: filepath.Join(files, "tls.key")},
		Etcd: Etcd{Endpoints: []string{e.Endpoint}},
	}}
	h.config.Default()
	return h
}

// port is one that is free.
func port(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// tenant is an agent in the house.
type tenant struct {
	*Agent
	*client.Client
	stop func()
}

// start runs an agent until the test ends, or until stop.
func (h *house) start() *tenant {
	h.t.Helper()
	a, err := open(context.Background(), h.config, h.ground.open)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	c, err := client.New(client.Options{Socket: h.config.Socket})
	if err != nil {
		h.t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cancel()
		c.Close()
		if err := <-done; err != nil {
			h.t.Errorf("the agent ended: %v", err)
		}
		if err := a.close(); err != nil {
			h.t.Errorf("close the agent: %v", err)
		}
	})
	h.t.Cleanup(stop)
	return &tenant{Agent: a, Client: c, stop: stop}
}

// until waits for the agent to be as asked.
func (n *tenant) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if !n.await(ctx, done) {
		t.Fatalf("%s: not within 20 s; the host says %+v", what, n.Agent.Status())
	}
}

func (n *tenant) ready(t *testing.T) {
	t.Helper()
	n.until(t, "ready", func() bool { return n.Agent.Ready(t.Context()) == nil })
}

// apply writes objects, and waits until they are in force.
func (n *tenant) put(t *testing.T, objects ...fabric.Object) fabric.Revision {
	t.Helper()
	result, err := n.Apply(t.Context(), objects, false)
	if err != nil {
		t.Fatal(err)
	}
	n.until(t, fmt.Sprintf("revision %d in force", result.Revision), func() bool { return n.Agent.Status().Generation >= result.Revision })
	return result.Revision
}

func sw(name string) *fabric.Switch {
	return &fabric.Switch{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: name},
		Spec: fabric.SwitchSpec{Type: fabric.Private, Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")}},
	}
}

func prt(name string) *fabric.Port {
	return &fabric.Port{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: name},
		Spec: fabric.PortSpec{Switch: "blue"},
	}
}

// settled is a host with switch blue and port a active on tap-a.
func (h *house) settled() *tenant {
	h.t.Helper()
	n := h.start()
	n.ready(h.t)
	n.until(h.t, "registered", func() bool { return n.Latest().Hosts["h1"] != nil })
	n.put(h.t, sw("blue"), prt("a"))
	attached, err := n.Client.Attach(h.t.Context(), "a", api.Attachment{Device: "tap-a", Kind: api.Tap})
	if err != nil {
		h.t.Fatal(err)
	}
	if attached.Status.State != fabric.PortActive {
		h.t.Fatalf("attached: %+v", attached.Status)
	}
	return n
}

// open reports whether the guest behind the device may speak.
func (h *house) open(device string) bool {
	return h.ground.state(h.t).Ports[device].Gate == datapath.Open
}

func TestAChangeIsInForceAndReportedWithItsGeneration(t *testing.T) {
	h := newHouse(t, "tap-a")
	before := goleak.IgnoreCurrent()
	n := h.settled()
	off := false
	port := prt("a")
	port.Spec.Guards = fabric.Guards{RA: &off}
	r := n.put(t, port)
	if p := h.ground.state(t).Ports["tap-a"]; p.Guards&datapath.GuardRA != 0 || p.Generation != r {
		t.Fatalf("the kernel holds %+v, wanted generation %d without guard ra", p, r)
	}
	if reach, err := n.InForce(t.Context(), r); err != nil || !reach.Done || len(reach.Hosts) != 1 || !reach.Hosts[0].Alive {
		t.Fatalf("reported: %+v, %v", reach, err)
	}
	n.stop()
	goleak.VerifyNone(t, before)
}

func TestAnAgentThatStartsAgainTouchesNothing(t *testing.T) {
	h := newHouse(t, "tap-a")
	h.settled().stop()
	before, writes := h.ground.state(t), h.ground.writes()
	n := h.start()
	n.ready(t)
	if after := h.ground.writes(); after != writes {
		t.Fatalf("the datapath was written %d times: %+v became %+v", after-writes, before, h.ground.state(t))
	}
	if p := n.keeper.portStatus("a"); p.State != fabric.PortActive {
		t.Fatalf("port a is %+v", p)
	}
}

func TestWithoutEtcdTheHostGoesOnAndStartsFromItsLastGoodState(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	h.etcd.Stop()
	if !h.open("tap-a") {
		t.Fatal("the port closed with etcd")
	}
	n.stop()
	// The host itself has been down: nothing is in the kernel any more.
	h.ground = newGround("tap-a")
	n = h.start()
	n.ready(t)
	if !h.open("tap-a") {
		t.Fatal("the port is not open from the last good state")
	}
	n.until(t, "a problem that says why", func() bool {
		return slices.ContainsFunc(n.Agent.Status().Problems, func(p string) bool { return strings.Contains(p, "etcd") })
	})
	if _, err := n.Client.Apply(t.Context(), []fabric.Object{prt("b")}, false); err == nil {
		t.Fatal("a change was accepted that nobody can keep")
	}
	h.etcd.Restart(t)
	n.put(t, prt("b"))
	n.until(t, "no problem", func() bool { return len(n.Agent.Status().Problems) == 0 })
}

func TestWhatIsChangedBehindTheAgentsBackIsRepaired(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	s := h.ground.state(t)
	p := s.Ports["tap-a"]
	p.Guards, p.Gate = 0, datapath.Closed
	if err := h.ground.Memory.Apply(t.Context(), datapath.Change{
		Put: datapath.State{Ports: map[string]datapath.Port{"tap-a": p}}, Delete: datapath.State{FDB: s.FDB},
	}); err != nil {
		t.Fatal(err)
	}
	n.until(t, "repaired", func() bool {
		now := h.ground.state(t)
		return now.Ports["tap-a"] == s.Ports["tap-a"] && len(now.FDB) == len(s.FDB)
	})
	n.until(t, "told", func() bool { return told(t, n, "datapath.repaired") == 1 })
}

// told counts the events of a kind.
func told(t *testing.T, n *tenant, kind string) int {
	t.Helper()
	count := 0
	err := n.Agent.Events(t.Context(), 0, false, func(_ uint64, e fabric.Event) error {
		if e.Type == kind {
			count++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func TestAVanishedDeviceMakesItsPortAbsentAtOnceAndKeepsItsLocation(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	h.ground.unplug("tap-a")
	n.until(t, "absent", func() bool { return n.keeper.portStatus("a").State == fabric.PortAbsent })
	if loc := n.Latest().Locations["a"]; loc.Host != "h1" {
		t.Fatalf("the location was given up: %+v", loc)
	}
	if err := n.Client.Detach(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	n.until(t, "released", func() bool { return n.Latest().Locations["a"].Host == "" })
	if _, attached := n.keeper.attachment("a"); attached {
		t.Fatal("still attached")
	}
}

func TestAnAttachmentThatCannotBeIsRefusedAndLeavesNothing(t *testing.T) {
	h := newHouse(t, "tap-a", "tap-b", "eth0")
	n := h.settled()
	n.put(t, prt("b"), prt("c"))
	if _, err := n.reports.ReportLocation(t.Context(), api.LocationReport{Host: "h1", Act: api.Claim, Port: "c"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		port fabric.PortID
		how  api.Attachment
		want string
	}{
		{"an unknown port", "nosuch", api.Attachment{Device: "tap-b", Kind: api.Tap}, "nosuch"},
		{"an unknown device", "b", api.Attachment{Device: "tap-x", Kind: api.Tap}, "no such device"},
		{"a device that is taken", "b", api.Attachment{Device: "tap-a", Kind: api.Tap}, "carries port a"},
		{"a port that is on another device", "a", api.Attachment{Device: "tap-b", Kind: api.Tap}, "is on device tap-a"},
		{"the underlay", "b", api.Attachment{Device: "eth0", Kind: api.Tap}, "not a guest's device"},
		{"an unknown kind", "b", api.Attachment{Device: "tap-b", Kind: "magic"}, "tap, veth"},
	} {
		if _, err := n.Client.Attach(t.Context(), c.port, c.how); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
	if s := h.ground.state(t); len(s.Ports) != 1 || n.Latest().Locations["b"].Host != "" {
		t.Fatalf("something was left: %+v, %+v", s.Ports, n.Latest().Locations["b"])
	}
	if _, err := n.Client.Attach(t.Context(), "a", api.Attachment{Device: "tap-a", Kind: api.Tap}); err != nil {
		t.Errorf("attaching again as it is: %v", err)
	}
}

func TestRemovingManyPortsIsHeldOnEveryHostUntilConfirmed(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	var ports []fabric.Object
	for i := range 20 {
		ports = append(ports, prt(fmt.Sprintf("p%d", i)))
	}
	n.put(t, ports...)
	n.stop() // the agent does not see the deletions one by one
	s := h.etcd.Open(t)
	for i := range 15 {
		if _, err := s.Delete(t.Context(), fabric.KindPort, fmt.Sprintf("p%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	n = h.start()
	n.until(t, "held", func() bool {
		return slices.ContainsFunc(n.Agent.Status().Problems, func(p string) bool { return strings.Contains(p, "removes 15 of 21 ports") })
	})
	if got := len(h.ground.state(t).Neighbors); got != 21 {
		t.Fatalf("%d neighbours are left of 21", got)
	}
	if _, err := n.Agent.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Agent.Confirm(t.Context()); !errors.Is(err, fabric.ErrNotFound) {
		t.Fatalf("confirmed twice: %v", err)
	}
	if got := len(h.ground.state(t).Neighbors); got != 6 || len(n.Agent.Status().Problems) != 0 {
		t.Fatalf("after the confirmation: %d neighbours, problems %q", got, n.Agent.Status().Problems)
	}
}

func TestEtcdThatWentBackIsNotFollowed(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	n.stop()
	h.etcd.Stop()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(h.etcd.DataDir)); err != nil {
		t.Fatal(err)
	}
	h.etcd.Restart(t)
	n = h.start()
	n.ready(t)
	on := true
	port := prt("a")
	port.Spec.Guards = fabric.Guards{MAC: &on}
	newest := n.put(t, port, prt("b"))
	n.until(t, "kept", func() bool { // on disk, that is
		s, err := n.lastGood.load(time.Now())
		return err == nil && s != nil && s.Revision >= newest
	})
	n.stop()
	h.etcd.Stop()
	if err := os.RemoveAll(h.etcd.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(h.etcd.DataDir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	h.etcd.Restart(t)
	writes := h.ground.writes()
	n = h.start()
	n.until(t, "the problem", func() bool {
		return slices.ContainsFunc(n.Agent.Status().Problems, func(p string) bool { return strings.Contains(p, "confirm") })
	})
	if h.ground.writes() != writes || !h.open("tap-a") {
		t.Fatal("older data has changed the datapath")
	}
	if _, err := n.Agent.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.until(t, "the restored data in force", func() bool {
		return len(n.Agent.Status().Problems) == 0 && n.Latest().Ports["b"] == nil && n.Agent.Ready(t.Context()) == nil
	})
	if !h.open("tap-a") {
		t.Fatal("the port did not come back")
	}
}

func TestTheSpanOfAReconcileBelongsToTheCommandThatCausedIt(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	n.stop() // what is told late is told at the end
	text, err := os.ReadFile(filepath.Join(h.config.StateDir, "spans", "spans.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	command := between(string(text), `"name":"apply"`, "traceId")
	if command == "" {
		t.Fatalf("no span of the command in\n%s", text)
	}
	for line := range strings.Lines(string(text)) {
		for span := range strings.SplitSeq(line, `{"traceId"`) {
			if strings.Contains(span, `"put in force"`) && strings.Contains(span, command) {
				if !strings.Contains(span, "weft.host") || !strings.Contains(span, "weft.policy.generation") {
					t.Fatalf("attributes are missing: %s", span)
				}
				return
			}
		}
	}
	t.Fatalf("no reconcile span in trace %s in\n%s", command, text)
}

// between finds the trace id of the span that has the mark.
func between(text, mark, _ string) string {
	for span := range strings.SplitSeq(text, `{"traceId":"`) {
		if strings.Contains(span, mark) {
			return span[:32]
		}
	}
	return ""
}
