package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/datapathtest"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store/storetest"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// ground is a machine without a kernel: it outlives the agents that run on it, as the datapath does.
type ground struct {
	*datapathtest.Memory

	mu      sync.Mutex
	devices map[string]int
	hints   chan struct{}
	applied int
	// contests are the programs that others fight over.
	contests []datapath.Contest
	// counts are what ports have seen.
	counts map[fabric.PortID]datapath.Counters
}

func newGround(devices ...string) *ground {
	g := &ground{Memory: datapathtest.New(netip.MustParseAddr("10.240.0.1")), devices: map[string]int{}, hints: make(chan struct{}, 1)}
	for i, d := range devices {
		g.devices[d] = i + 10
	}
	return g
}

func (g *ground) open(context.Context, Config, *slog.Logger) (machine, error) {
	return machine{Plane: g, Meter: g, Probes: g, watches: unwatched{}, Links: g, capabilities: []string{"tcx", fabric.FeatureMinimum, fabric.FeaturePolicy}, close: func() error { return nil }}, nil
}

// NICs are none: nothing of this machine is on a wire.
func (g *ground) HasLink(string) (bool, error) { return true, nil }
func (g *ground) Survey(func(string) bool) (map[string]int, []fabric.NICStatus, error) {
	devices, err := g.Devices()
	return devices, nil, err
}

func (g *ground) Announce(context.Context, string) error { return nil }

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

func (g *ground) Contests() []datapath.Contest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.contests
}

// count says what ports have seen from now on.
func (g *ground) count(counts map[fabric.PortID]datapath.Counters) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts = counts
}

// contest says which programs others fight over from now on.
func (g *ground) contest(all ...datapath.Contest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.contests = all
}

func (g *ground) Counters(context.Context) (map[fabric.PortID]datapath.Counters, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.counts), nil
}

func (g *ground) Host(context.Context) (datapath.HostCounters, error) {
	return datapath.HostCounters{}, nil
}

func (g *ground) Heard(context.Context) (map[datapath.FDBKey]datapath.Heard, error) {
	return nil, nil
}

func (g *ground) Mirrors(context.Context) (map[fabric.VNI]datapath.MirrorCount, error) {
	return nil, nil
}

func (g *ground) RuleHits(context.Context) (map[fabric.PortID]map[policy.RuleID]datapath.Hits, error) {
	return nil, nil
}

func (g *ground) InheritHits(context.Context, fabric.PortID, map[policy.RuleID]datapath.Hits) error {
	return nil
}

func (g *ground) Remembered(context.Context, []fabric.PortID) (map[fabric.PortID]datapath.Remembered, error) {
	return nil, nil
}

func (g *ground) ExportFlows(context.Context, fabric.PortID, datapath.Mark) ([]byte, datapath.Mark, error) {
	return nil, 0, nil
}

// ImportFlows takes connections that are none: nothing, or an error's text.
func (g *ground) ImportFlows(_ context.Context, _ fabric.PortID, carried []byte, _ time.Duration) (int, error) {
	switch string(carried) {
	case "":
		return 0, nil
	case fabric.ErrNotFound.Error():
		return 0, fabric.ErrNotFound
	}
	return 0, fmt.Errorf("%q: %w", carried, fabric.ErrInvalid)
}

func (g *ground) ExportBacklog(context.Context, fabric.PortID) (datapath.Backlog, error) {
	return datapath.Backlog{}, nil
}

func (g *ground) ImportBacklog(context.Context, fabric.PortID, datapath.Backlog, time.Duration) error {
	return nil
}

func (g *ground) Arm(context.Context, uint64, uint16, time.Duration) error { return nil }

func (g *ground) Disarm(context.Context, uint64) error { return nil }

// unwatched is a host on which no frames pass.
type unwatched struct{}

func (unwatched) Watch(context.Context, tracing.LiveSession) error { return nil }

func (unwatched) Watched(context.Context, uint32) (tracing.LiveBatch, error) {
	return tracing.LiveBatch{}, nil
}

func (unwatched) Unwatch(context.Context, uint32) error { return nil }

func (g *ground) Inject(context.Context, string, []byte, int) error { return nil }

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
	h.answers()
	return &tenant{Agent: a, Client: c, stop: stop}
}

// answers waits until an agent listens on the socket.
func (h *house) answers() {
	h.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for {
		c, err := net.Dial("unix", h.config.Socket)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-late:
			h.t.Fatalf("no agent listens: %v", err)
		}
	}
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
