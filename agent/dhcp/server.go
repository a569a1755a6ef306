package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing/packet"
)

// What one switch's guests may ask on one host. A client sends some four messages for a lease and one every half of it.
const (
	// perSecond bounds the messages that are looked at, well above what the core lets one port send to everybody.
	perSecond = 10000
	// perClient and clientBurst bound the messages of one known client that are answered.
	perClient   = 10
	clientBurst = 20
	// largest is the longest message that is read, in bytes; clients send some 300 to 600.
	largest = 2048
)

// Options of a server.
type Options struct {
	Logger *slog.Logger
	// Notify is told what an operator should know about a client; it must not block.
	Notify func(Notice)
	// AdvertiseEvery is the time between unsolicited router advertisements; 200 s when 0.
	AdvertiseEvery time.Duration
}

// Server answers on one device.
type Server struct {
	log    *slog.Logger
	notify func(Notice)
	every  time.Duration
	sender *nic.Sender
	udp4   *net.UDPConn
	udp6   *net.UDPConn
	icmp   *net.IPConn
	config atomic.Pointer[Config]
	// renewed has something after each change of the configuration, to be advertised.
	renewed chan struct{}
	all     *rate.Limiter

	answered, refused, unknown, malformed, unfit, limited, panicked, failed atomic.Uint64

	mu      sync.Mutex
	clients map[fabric.MAC]*rate.Limiter
	flooded time.Time // when all stations of this host were last answered together
}

// Open opens the sockets on c.Device, in the network namespace of the calling thread. Nothing is answered before Run.
func Open(ctx context.Context, c Config, o Options) (s *Server, err error) {
	s = &Server{log: o.Logger, notify: o.Notify, every: o.AdvertiseEvery, renewed: make(chan struct{}, 1), all: rate.NewLimiter(perSecond, perSecond/10), clients: map[fabric.MAC]*rate.Limiter{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.notify == nil {
		s.notify = func(Notice) {}
	}
	if s.every == 0 {
		s.every = 200 * time.Second
	}
	s.config.Store(&c)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("answer DHCP on %s: %w", c.Device, err), s.Close())
			s = nil
		}
	}()
	device, err := nic.Find(c.Device)
	if err != nil {
		return s, err
	}
	if s.sender, err = nic.OpenSender(c.Device); err != nil {
		return s, err
	}
	if s.udp4, err = listen4(ctx, c.Device); err != nil {
		return s, err
	}
	if s.udp6, err = listen6(ctx, device); err != nil {
		return s, err
	}
	s.icmp, err = listenSolicitations(ctx, device)
	return s, err
}

// Close ends the server; nothing that guests were told is taken back.
func (s *Server) Close() error {
	var all error
	if s.sender != nil {
		all = s.sender.Close()
	}
	if s.udp4 != nil {
		all = errors.Join(all, s.udp4.Close())
	}
	if s.udp6 != nil {
		all = errors.Join(all, s.udp6.Close())
	}
	if s.icmp != nil {
		all = errors.Join(all, s.icmp.Close())
	}
	return all
}

// Set has guests answered by another configuration from now on; its device is the one the server was opened on. What
// router advertisements say is told at once.
func (s *Server) Set(c Config) {
	s.config.Store(&c)
	s.mu.Lock()
	maps.DeleteFunc(s.clients, func(mac fabric.MAC, _ *rate.Limiter) bool { _, still := c.Clients[mac]; return !still })
	s.mu.Unlock()
	select {
	case s.renewed <- struct{}{}:
	default:
	}
}

// Counts are what the server has done.
func (s *Server) Counts() Counts {
	return Counts{
		Answered: s.answered.Load(), Refused: s.refused.Load(), Unknown: s.unknown.Load(), Malformed: s.malformed.Load(),
		Unfit: s.unfit.Load(), Limited: s.limited.Load(), Panicked: s.panicked.Load(), Failed: s.failed.Load(),
	}
}

// Run answers until ctx ends, or until the device goes, which is an error.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = s.udp4.SetReadDeadline(past)
		_ = s.udp6.SetReadDeadline(past)
		_ = s.icmp.SetReadDeadline(past)
	})
	defer stop()
	g.Go(func() error { return s.read(ctx, s.udp4.ReadFromUDPAddrPort, s.answer4) })
	g.Go(func() error { return s.read(ctx, s.udp6.ReadFromUDPAddrPort, s.answer6) })
	g.Go(func() error { return s.read(ctx, s.solicitation, s.answerSolicitation) })
	g.Go(func() error { s.advertise(ctx); return nil })
	err := g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// read hands each message to answer, one at a time.
func (s *Server) read(ctx context.Context, receive func([]byte) (int, netip.AddrPort, error), answer func([]byte, netip.AddrPort) error) error {
	buf := make([]byte, largest)
	for {
		n, from, err := receive(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read what guests send on %s: %w", s.config.Load().Device, err)
		}
		if n == 0 || n == len(buf) || !s.all.Allow() {
			s.limited.Add(1)
			continue
		}
		s.count(s.isolated(func() error { return answer(buf[:n], from) }))
	}
}

// errPanicked is what a panic becomes.
var errPanicked = errors.New("the message made the reader panic")

// isolated runs one answer: a panic over a message ends that message alone.
func (s *Server) isolated(answer func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("a guest's message made the reader panic; it gets no answer", "cause", cause, "stack", string(debug.Stack()))
			err = errPanicked
		}
	}()
	return answer()
}

// errLimited: the client has used its budget.
var errLimited = errors.New("the client asks too often")

func (s *Server) count(err error) {
	switch {
	case err == nil:
		s.answered.Add(1)
	case errors.Is(err, errMalformed):
		s.malformed.Add(1)
	case errors.Is(err, errUnknown):
		s.unknown.Add(1)
	case errors.Is(err, errUnfit):
		s.unfit.Add(1)
	case errors.Is(err, errLimited):
		s.limited.Add(1)
	case errors.Is(err, errPanicked):
		s.panicked.Add(1)
	default:
		s.failed.Add(1)
		s.log.Warn("a guest was not answered", "device", s.config.Load().Device, "error", err)
	}
}

// afford reports whether a client may be answered once more; only clients that have a port are remembered.
func (s *Server) afford(mac fabric.MAC) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.clients[mac]
	if l == nil {
		l = rate.NewLimiter(perClient, clientBurst)
		s.clients[mac] = l
	}
	return l.Allow()
}

// Ports of DHCP (RFC 2131 section 4.1, RFC 8415 section 7.2).
const (
	serverPort4, clientPort4 = 67, 68
	serverPort6              = 547
)

func (s *Server) answer4(payload []byte, _ netip.AddrPort) error {
	c := s.config.Load()
	a, notice, err := c.respond4(payload)
	if a.to != (fabric.MAC{}) && !s.afford(a.to) {
		return errLimited
	}
	if notice != nil {
		s.notify(*notice)
	}
	if err != nil {
		return err
	}
	p, err := packet.Datagram(netip.AddrPortFrom(c.Gateway4, serverPort4), netip.AddrPortFrom(a.address, clientPort4), a.message.ToBytes())
	if err != nil {
		return err
	}
	if a.refused {
		s.refused.Add(1)
	}
	return s.sender.Send(a.to, p)
}

func (s *Server) answer6(payload []byte, from netip.AddrPort) error {
	if !from.Addr().IsLinkLocalUnicast() {
		return errUnfit
	}
	c := s.config.Load()
	if mac, _, known := c.clientAt(from.Addr().WithZone("")); known && !s.afford(mac) {
		return errLimited
	}
	reply, notice, err := c.respond6(payload, from.Addr().WithZone(""))
	if notice != nil {
		s.notify(*notice)
	}
	if err != nil {
		return err
	}
	_, err = s.udp6.WriteToUDPAddrPort(reply.ToBytes(), from)
	return err
}
