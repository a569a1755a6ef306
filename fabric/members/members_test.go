package members

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/weftnet/weft/fabric"
)

// TestMain checks that nothing runs on after Close, but for the last probe, which takes up to 2 s: Find waits about one
// second each time.
func TestMain(m *testing.M) {
	code := m.Run()
	var left error
	for range 5 {
		if left = goleak.Find(); left == nil {
			break
		}
	}
	if left != nil && code == 0 {
		fmt.Fprintln(os.Stderr, left)
		code = 1
	}
	os.Exit(code)
}

// network is what stands between the hosts of a test: it may be cut in two.
type network struct {
	mu   sync.Mutex
	side map[string]int // by address; hosts of different sides do not hear one another
}

func (n *network) cut(side map[string]int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.side = side
}

func (n *network) passes(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	host, _, err := net.SplitHostPort(to)
	return err == nil && n.side[from] == n.side[host]
}

// link is a host's transport on the network.
type link struct {
	memberlist.NodeAwareTransport
	network *network
	self    string
}

func (l link) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if !l.network.passes(l.self, to.Addr) {
		return time.Now(), nil // lost
	}
	return l.NodeAwareTransport.WriteToAddress(b, to)
}

func (l link) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if !l.network.passes(l.self, to.Addr) {
		return nil, fmt.Errorf("no route to %s", to.Addr)
	}
	return l.NodeAwareTransport.DialAddressTimeout(to, timeout)
}

// fleet is some hosts on 127.0.0.x that name one another as seeds.
type fleet struct {
	network *network
	hosts   []*Members
	seeds   []netip.AddrPort
	retired int
	said    journal
}

func addressOf(i int) string { return fmt.Sprintf("127.0.0.%d", 11+i) }

func newFleet(tb testing.TB, n int) *fleet {
	tb.Helper()
	f := &fleet{network: &network{}}
	port := freePort(tb)
	for i := range n {
		f.seeds = append(f.seeds, netip.AddrPortFrom(netip.MustParseAddr(addressOf(i)), port))
	}
	for i := range n {
		f.hosts = append(f.hosts, f.start(tb, i))
	}
	return f
}

// wanted are the hosts that should be there.
func (f *fleet) wanted() []netip.AddrPort {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	return f.seeds[:len(f.seeds)-f.retired]
}

// retire takes the last hosts off the list of those that should be there.
func (f *fleet) retire(n int) {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	f.retired = n
}

func (f *fleet) start(tb testing.TB, i int) *Members {
	tb.Helper()
	m, err := Open(Options{
		Host: fabric.HostID(fmt.Sprintf("h%d", i+1)), Bind: f.seeds[i], Label: "test", Key: []byte("0123456789abcdef0123456789abcdef"),
		Seeds:  func(context.Context) []netip.AddrPort { return f.wanted() },
		Logger: slog.New(slog.NewTextHandler(&f.said, &slog.HandlerOptions{Level: slog.LevelDebug})),
		wrap: func(t memberlist.NodeAwareTransport) memberlist.NodeAwareTransport {
			return link{t, f.network, addressOf(i)}
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, m.Close()); err != nil {
			tb.Error(err)
		}
	})
	return m
}

// freePort finds a loopback port that is free now, below those the kernel hands out for outgoing connections: one of them
// must not take it while a listener restarts.
func freePort(tb testing.TB) uint16 {
	tb.Helper()
	for range 100 {
		port := 20000 + rand.N(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return uint16(port)
		}
	}
	tb.Fatal("no free port from 20000 to 32000")
	return 0
}

// await waits until a host sees exactly these alive, and returns how long that took.
func await(tb testing.TB, m *Members, within time.Duration, want ...string) time.Duration {
	tb.Helper()
	begin := time.Now()
	deadline := time.After(within)
	for {
		var alive []string
		for h := range m.Alive() {
			alive = append(alive, string(h))
		}
		slices.Sort(alive)
		if slices.Equal(alive, want) {
			return time.Since(begin)
		}
		select {
		case <-m.Changes():
		case <-deadline:
			tb.Fatalf("host %s sees %v after %v, want %v", m.options.Host, alive, within, want)
		}
	}
}

func TestHostsFindOneAnotherAndNoticeADeath(t *testing.T) {
	f := newFleet(t, 3)
	for _, m := range f.hosts {
		await(t, m, 15*time.Second, "h1", "h2", "h3")
	}
	f.network.cut(map[string]int{addressOf(2): 1})
	for _, m := range f.hosts[:2] {
		t.Logf("host %s noticed after %v", m.options.Host, await(t, m, 15*time.Second, "h1", "h2"))
	}
}

func TestAGoodByeIsSeenAtOnce(t *testing.T) {
	f := newFleet(t, 2)
	await(t, f.hosts[0], 15*time.Second, "h1", "h2")
	await(t, f.hosts[1], 15*time.Second, "h1", "h2")
	f.retire(1)
	if err := f.hosts[1].Close(); err != nil {
		t.Fatal(err)
	}
	await(t, f.hosts[0], 15*time.Second, "h1")
	if said := f.said.String(); strings.Contains(said, "timeout reached") {
		t.Errorf("it was found out, and not seen:\n%s", said)
	}
}

func TestADeathIsFoundOut(t *testing.T) {
	f := newFleet(t, 2)
	await(t, f.hosts[0], 15*time.Second, "h1", "h2")
	f.network.cut(map[string]int{addressOf(1): 1})
	await(t, f.hosts[0], 15*time.Second, "h1")
	if said := f.said.String(); !strings.Contains(said, "timeout reached") { // what the test above looks for
		t.Errorf("gossip says something else of a host that is found dead:\n%s", said)
	}
}

// journal is what the hosts of a fleet log.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func TestAPartitionHeals(t *testing.T) {
	f := newFleet(t, 4)
	for _, m := range f.hosts {
		await(t, m, 20*time.Second, "h1", "h2", "h3", "h4")
	}
	f.network.cut(map[string]int{addressOf(2): 1, addressOf(3): 1})
	for i, m := range f.hosts {
		await(t, m, 30*time.Second, [][]string{{"h1", "h2"}, {"h3", "h4"}}[i/2]...)
	}
	f.network.cut(nil)
	begin := time.Now()
	for _, m := range f.hosts {
		await(t, m, 30*time.Second, "h1", "h2", "h3", "h4")
	}
	t.Logf("healed after %v", time.Since(begin))
}

func TestHintsReachEverybodyElse(t *testing.T) {
	f := newFleet(t, 3)
	for _, m := range f.hosts {
		await(t, m, 15*time.Second, "h1", "h2", "h3")
	}
	payload := []byte(strings.Repeat("x", MaxHint))
	if err := f.hosts[0].Hint(payload); err != nil {
		t.Fatal(err)
	}
	for _, m := range f.hosts[1:] {
		select {
		case h := <-m.Hints():
			if h.From != "h1" || string(h.Payload) != string(payload) {
				t.Errorf("host %s got %d bytes from %s", m.options.Host, len(h.Payload), h.From)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("host %s got no hint", m.options.Host)
		}
	}
	if err := f.hosts[0].Hint(append(payload, 'x')); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("a hint that is too large was sent: %v", err)
	}
}

func TestStrangersAreNotHeard(t *testing.T) {
	f := newFleet(t, 1)
	for name, spoil := range map[string]func(*Options){
		"another key":   func(o *Options) { o.Key = []byte("fedcba9876543210fedcba9876543210") },
		"another label": func(o *Options) { o.Label = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Host: "h9", Bind: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.31"), freePort(t)), Label: "test", Key: f.hosts[0].options.Key}
			spoil(&o)
			m, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if _, err := m.list.Join([]string{f.seeds[0].String()}); err == nil {
				t.Error("the stranger was let in")
			}
			if alive := f.hosts[0].Alive(); len(alive) != 1 {
				t.Errorf("the host sees %v", alive)
			}
		})
	}
}

func TestBadOptionsSayWhatToWrite(t *testing.T) {
	good := Options{Host: "h1", Bind: netip.MustParseAddrPort("127.0.0.1:7946"), Label: "test", Key: make([]byte, 32)}
	for name, c := range map[string]struct {
		spoil func(*Options)
		want  string
	}{
		"every address": {func(o *Options) { o.Bind = netip.MustParseAddrPort("0.0.0.0:7946") }, "underlay address"},
		"no port":       {func(o *Options) { o.Bind = netip.MustParseAddrPort("127.0.0.1:0") }, "underlay address"},
		"a short key":   {func(o *Options) { o.Key = []byte("secret") }, "16, 24 or 32"},
		"no label":      {func(o *Options) { o.Label = "" }, "fabric's name"},
		"a bad name":    {func(o *Options) { o.Host = "H 1" }, "must match"},
	} {
		o := good
		c.spoil(&o)
		m, err := Open(o)
		if err == nil {
			m.Close()
		}
		if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v does not say %q", name, err, c.want)
		}
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bind := netip.MustParseAddrPort(l.Addr().String())
	m, err := Open(Options{Host: "h1", Bind: bind, Label: "test", Key: make([]byte, 32)})
	if err == nil {
		m.Close()
		t.Fatal("it was opened")
	}
	if !strings.Contains(err.Error(), bind.String()) {
		t.Errorf("error %v does not name %s", err, bind)
	}
}

func TestGossipLogsQuietly(t *testing.T) {
	var out strings.Builder
	w := logWriter{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for line, want := range map[string]string{
		"[ERR] memberlist: no route\n":   `level=WARN msg="gossip: no route"`,
		"[WARN] memberlist: slow\n":      `level=INFO msg="gossip: slow"`,
		"[DEBUG] memberlist: hello\n":    `level=DEBUG msg="gossip: hello"`,
		"something without a level here": `level=DEBUG msg="gossip: something without a level here"`,
	} {
		out.Reset()
		if _, err := w.Write([]byte(line)); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%q became %q, want %q", line, out.String(), want)
		}
	}
}

func TestAFullChannelLosesTheOldest(t *testing.T) {
	c := make(chan int, 2)
	for i := range 4 {
		offer(c, i)
	}
	if a, b := <-c, <-c; a != 2 || b != 3 {
		t.Errorf("left are %d and %d, want 2 and 3", a, b)
	}
}

func FuzzDecodeHint(f *testing.F) {
	f.Add(encodeHint(Hint{From: "h1", Payload: []byte("trace")}))
	f.Add([]byte{1, 200, 'h'})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := decodeHint(b)
		if !ok {
			return
		}
		if string(encodeHint(h)) != string(b) {
			t.Errorf("%x was read as %+v", b, h)
		}
	})
}
