package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// What one switch's guests may ask on one host.
const (
	// perClient and clientBurst bound the questions of one address in a second, mostClients how many addresses are remembered.
	perClient   = 200
	clientBurst = 400
	mostClients = 4096
	// mostAsked bounds the questions that are being asked elsewhere, mostOfOne those of one address.
	mostAsked = 256
	mostOfOne = 32
	// largest is the longest question in bytes; mostConnections are open by TCP, each for idle without a question.
	largest         = 1500
	mostConnections = 64
	ofOne           = 8
	idle            = 5 * time.Second
)

// Counts are what a server has done since it was opened.
type Counts struct {
	// Answered are answers from the records, Asked those that were asked elsewhere; Malformed questions could not be read, Limited
	// came beyond a bound, Panicked ended in a panic.
	Answered, Asked, Malformed, Limited, Panicked uint64
}

// Server answers on one device.
type Server struct {
	log       *slog.Logger
	config    atomic.Pointer[Config]
	host      hostServers
	port      string // of the servers that are asked
	udp       []*net.UDPConn
	tcp       []net.Listener
	asking    chan struct{}
	connected chan struct{}

	answered, asked, malformed, limited, panicked atomic.Uint64

	mu      sync.Mutex
	clients map[netip.Addr]*client
}

// client is what one address has used of its bounds.
type client struct {
	rate        *rate.Limiter
	asking      int
	connections int
}

// Open opens the sockets at the gateway's addresses on c.Device, in the network namespace of the calling thread. The addresses may
// come later. Nothing is answered before Run.
func Open(ctx context.Context, c Config, log *slog.Logger) (s *Server, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s = &Server{log: log, port: domainPort, asking: make(chan struct{}, mostAsked), connected: make(chan struct{}, mostConnections), clients: map[netip.Addr]*client{}}
	s.config.Store(&c)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("answer DNS on %s: %w (another DNS server on all of the host's addresses? see `ss -lnp sport = :53`)", c.Device, err), s.Close())
			s = nil
		}
	}()
	l := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error { return bind(raw, c.Device) }}
	for _, a := range c.Addresses {
		at := netip.AddrPortFrom(a, 53).String()
		conn, err := l.ListenPacket(ctx, "udp", at)
		if err != nil {
			return s, err
		}
		s.udp = append(s.udp, conn.(*net.UDPConn))
		listener, err := l.Listen(ctx, "tcp", at)
		if err != nil {
			return s, err
		}
		s.tcp = append(s.tcp, listener)
	}
	return s, nil
}

// bind has a socket hear one device alone, and at an address that the device has not yet.
func bind(raw syscall.RawConn, device string) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = errors.Join(unix.BindToDevice(int(fd), device), unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1))
	})
	return errors.Join(err, failed)
}

// Close ends the server.
func (s *Server) Close() error {
	var all error
	for _, c := range s.udp {
		all = errors.Join(all, ignoreClosed(c.Close()))
	}
	for _, l := range s.tcp {
		all = errors.Join(all, ignoreClosed(l.Close()))
	}
	return all
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Set has guests answered by another configuration from now on; device and addresses are those the server was opened on.
func (s *Server) Set(c Config) { s.config.Store(&c) }

// Counts are what the server has done.
func (s *Server) Counts() Counts {
	return Counts{Answered: s.answered.Load(), Asked: s.asked.Load(), Malformed: s.malformed.Load(), Limited: s.limited.Load(), Panicked: s.panicked.Load()}
}

// Run answers until ctx ends, or until a socket fails, which is an error.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	for _, c := range s.udp {
		g.Go(func() error { return s.datagrams(ctx, g, c) })
	}
	for _, l := range s.tcp {
		g.Go(func() error { return s.connections(ctx, g, l) })
	}
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// datagrams answers what comes by UDP: from the records at once, and in a goroutine what is asked elsewhere.
func (s *Server) datagrams(ctx context.Context, g *errgroup.Group, c *net.UDPConn) error {
	buf := make([]byte, largest)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read what guests ask on %s: %w", s.config.Load().Device, err)
		}
		q := s.read(buf[:n], from.Addr())
		if q == nil {
			continue
		}
		send := func(r *dns.Msg) { s.send(c, from, q, r) }
		if r := s.known(q); r != nil {
			send(r)
			continue
		}
		if !s.begin(from.Addr()) {
			continue
		}
		g.Go(func() error {
			defer s.end(from.Addr())
			send(s.isolated(func() *dns.Msg { return s.ask(ctx, s.config.Load(), q, "udp") }))
			return nil
		})
	}
}

// send sends an answer by UDP, cut to what the client takes (RFC 6891 section 6.2.5).
func (s *Server) send(c *net.UDPConn, to netip.AddrPort, q, r *dns.Msg) {
	if r == nil {
		return
	}
	size := dns.MinMsgSize
	if o := q.IsEdns0(); o != nil {
		size = min(max(int(o.UDPSize()), dns.MinMsgSize), payload)
	}
	b := s.packed(r, size)
	if b == nil {
		return
	}
	if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
		s.log.Debug("a guest was not answered", "guest", to, "error", err)
	}
}

// packed is an answer in bytes; nil when it cannot be written.
func (s *Server) packed(r *dns.Msg, size int) (b []byte) {
	s.isolated(func() *dns.Msg {
		r.Truncate(size)
		b, _ = r.Pack()
		return nil
	})
	return b
}

// read is a question that may be answered; nil when it cannot be read, or comes beyond the client's rate.
func (s *Server) read(b []byte, from netip.Addr) *dns.Msg {
	if len(b) == largest || !s.client(from).Allow() {
		s.limited.Add(1)
		return nil
	}
	q := s.isolated(func() *dns.Msg {
		m := new(dns.Msg)
		if m.Unpack(b) != nil || m.Response {
			return nil
		}
		return m
	})
	if q == nil {
		s.malformed.Add(1)
	}
	return q
}

// known is the answer from the records.
func (s *Server) known(q *dns.Msg) *dns.Msg {
	r := s.isolated(func() *dns.Msg { return s.config.Load().answer(q) })
	if r != nil {
		s.answered.Add(1)
	}
	return r
}

// isolated runs one step of one question: a panic ends that question alone.
func (s *Server) isolated(step func() *dns.Msg) (m *dns.Msg) {
	defer func() {
		if cause := recover(); cause != nil {
			s.panicked.Add(1)
			s.log.Error("a guest's question made the reader panic; it gets no answer", "cause", cause, "stack", string(debug.Stack()))
			m = nil
		}
	}()
	return step()
}
