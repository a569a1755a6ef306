// Package members answers which hosts are alive, by gossip over the underlay, and carries hints that make things faster.
// Nothing is decided by it: whoever holds the gossip key can pretend to be any host (memberlist SECURITY.md), so ownership
// and policy come from the store alone.
package members

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftnet/weft/fabric"
)

// Timings of the gossip. With them the death of a host is seen after 2 to 6 s, and a partition heals within two rounds of
// joining after the network does.
const (
	probeInterval  = 500 * time.Millisecond
	probeTimeout   = 300 * time.Millisecond
	gossipInterval = 100 * time.Millisecond
	suspicion      = 3 // times probeInterval until a suspect is dead, at least
	suspicionMost  = 3 // times that, at most
	patience       = 4 // times probeInterval that a host waits which notices that it is slow itself
	tcpTimeout     = 2 * time.Second
	rejoinInterval = 4 * time.Second
	// joinsAtOnce is how many missing hosts one round tries: one that answers brings all that it knows.
	joinsAtOnce  = 3
	leaveTimeout = time.Second
)

// Options configure the gossip of one host.
type Options struct {
	// Host is this host's name.
	Host fabric.HostID
	// Bind is the underlay address and port, TCP and UDP, to listen at; never the unspecified address.
	Bind netip.AddrPort
	// Label keeps fabrics that share an underlay apart; all hosts of one fabric have the same.
	Label string
	// Key encrypts everything, 16, 24 or 32 bytes; all hosts of one fabric have the same.
	Key []byte
	// Allowed are the prefixes other hosts may speak from; everybody when empty.
	Allowed []netip.Prefix
	// Seeds names the hosts that should be there, from the store; it is asked every 4 s, and must not block for longer.
	Seeds func(context.Context) []netip.AddrPort
	// Logger gets what is worth knowing; discarded when nil.
	Logger *slog.Logger

	// wrap lets a test stand between the gossip and the network.
	wrap func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport
}

// Change says that a host was seen to come or go.
type Change struct {
	Host  fabric.HostID
	Alive bool
	// At is where the host gossips.
	At netip.AddrPort
}

// Members is this host's part in the gossip.
type Members struct {
	options Options
	log     *slog.Logger
	list    *memberlist.Memberlist
	changes chan Change
	hints   chan Hint

	mu     sync.Mutex
	closed bool
}

// Open begins to listen and to answer; Run looks for the others. An option that cannot work is fabric.ErrInvalid.
func Open(o Options) (*Members, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("open gossip: %w", err)
	}
	m := &Members{options: o, log: o.Logger, changes: make(chan Change, 1024), hints: make(chan Hint, 256)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	config, err := m.config()
	if err != nil {
		return nil, err
	}
	if m.list, err = memberlist.Create(config); err != nil {
		_ = config.Transport.Shutdown() // it is listening already
		return nil, fmt.Errorf("open gossip of host %s at %s: %w", o.Host, o.Bind, err)
	}
	return m, nil
}

// Run joins the hosts that Seeds names and that are not known to be alive, again and again, because gossip alone never
// heals a partition. It returns nil when ctx ends.
func (m *Members) Run(ctx context.Context) error {
	for {
		m.rejoin(ctx)
		timer := time.NewTimer(rejoinInterval/2 + rand.N(rejoinInterval/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// Alive are the hosts that are there, this one included.
func (m *Members) Alive() map[fabric.HostID]bool {
	alive := map[fabric.HostID]bool{}
	for _, n := range m.list.Members() {
		alive[fabric.HostID(n.Name)] = true
	}
	return alive
}

// Changes says who came and who went, oldest first, this host's own coming included. Who does not read for long loses the
// oldest; Alive has the truth. The channel is never closed.
func (m *Members) Changes() <-chan Change { return m.changes }

// Close says good-bye, so that the others need not find out, and stops listening. A probe that is under way ends by itself
// within 2 s. A second Close does nothing.
func (m *Members) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if err := m.list.Leave(leaveTimeout); err != nil {
		m.log.Debug("nobody heard the good-bye; the other hosts will notice by themselves", "error", err)
	}
	if err := m.list.Shutdown(); err != nil {
		return fmt.Errorf("close gossip of host %s: %w", m.options.Host, err)
	}
	return nil
}

func (o Options) check() error {
	if err := fabric.CheckName(string(o.Host)); err != nil {
		return err
	}
	if !o.Bind.IsValid() || o.Bind.Addr().IsUnspecified() || o.Bind.Port() == 0 {
		return fmt.Errorf("bind %q: give the host's underlay address and a port, such as 10.240.0.1:7946: %w", o.Bind, fabric.ErrInvalid)
	}
	if n := len(o.Key); n != 16 && n != 24 && n != 32 {
		return fmt.Errorf("key has %d bytes: it needs 16, 24 or 32: %w", n, fabric.ErrInvalid)
	}
	if o.Label == "" || len(o.Label) > memberlist.LabelMaxSize {
		return fmt.Errorf("label %q: give the fabric's name, 1 to %d bytes: %w", o.Label, memberlist.LabelMaxSize, fabric.ErrInvalid)
	}
	return nil
}

func (m *Members) config() (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.SecretKey = string(m.options.Host), m.options.Label, m.options.Key
	c.BindAddr, c.BindPort = m.options.Bind.Addr().String(), int(m.options.Bind.Port())
	c.AdvertiseAddr, c.AdvertisePort = c.BindAddr, c.BindPort
	c.ProbeInterval, c.ProbeTimeout, c.GossipInterval = probeInterval, probeTimeout, gossipInterval
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = suspicion, suspicionMost
	c.AwarenessMaxMultiplier = patience
	c.TCPTimeout, c.PushPullInterval = tcpTimeout, 15*time.Second
	c.GossipToTheDeadTime, c.DeadNodeReclaimTime = 10*time.Second, 10*time.Second
	c.EnableCompression = false // the messages are small, and what is not decompressed is no bomb
	for _, p := range m.options.Allowed {
		c.CIDRsAllowed = append(c.CIDRsAllowed, net.IPNet{
			IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		})
	}
	c.LogOutput, c.Logger = nil, log.New(logWriter{m.log}, "", 0)
	c.Delegate, c.Events, c.Conflict = delegate{m}, delegate{m}, delegate{m}
	transport, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{c.BindAddr}, BindPort: c.BindPort, Logger: c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open gossip of host %s: listen at %s, TCP and UDP: %w", m.options.Host, m.options.Bind, err)
	}
	c.Transport = transport
	if m.options.wrap != nil {
		c.Transport = m.options.wrap(transport)
	}
	return c, nil
}

// rejoin tries a few of the hosts that should be there and are not.
func (m *Members) rejoin(ctx context.Context) {
	if m.options.Seeds == nil {
		return
	}
	known := map[netip.AddrPort]bool{m.options.Bind: true}
	for _, n := range m.list.Members() {
		known[at(n)] = true
	}
	var missing []netip.AddrPort
	for _, seed := range m.options.Seeds(ctx) {
		if !known[seed] {
			missing = append(missing, seed)
		}
	}
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	var joins sync.WaitGroup
	for _, seed := range missing[:min(len(missing), joinsAtOnce)] {
		joins.Go(func() {
			if _, err := m.list.Join([]string{seed.String()}); err != nil {
				m.log.Debug("a host does not answer gossip yet", "address", seed, "error", err)
			}
		})
	}
	joins.Wait()
}

// at is where a node gossips.
func at(n *memberlist.Node) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(addr.Unmap(), n.Port)
}
