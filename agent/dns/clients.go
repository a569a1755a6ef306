package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// client is the rate of an address. When too many are remembered, those that ask nothing now are forgotten.
func (s *Server) client(a netip.Addr) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entry(a).rate
}

// entry is what an address uses; the lock is held.
func (s *Server) entry(a netip.Addr) *client {
	a = a.WithZone("")
	if c := s.clients[a]; c != nil {
		return c
	}
	if len(s.clients) >= mostClients {
		for other, c := range s.clients {
			if c.asking == 0 && c.connections == 0 {
				delete(s.clients, other)
			}
		}
	}
	c := &client{rate: rate.NewLimiter(perClient, clientBurst)}
	s.clients[a] = c
	return c
}

// begin takes a place among the questions that are asked elsewhere; false when there is none. end gives it back.
func (s *Server) begin(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.entry(a)
	if c.asking < mostOfOne {
		select {
		case s.asking <- struct{}{}:
			c.asking++
			s.asked.Add(1)
			return true
		default:
		}
	}
	s.limited.Add(1)
	return false
}

func (s *Server) end(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entry(a).asking--
	<-s.asking
}

// connect takes a place among the connections; disconnect gives it back.
func (s *Server) connect(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.entry(a)
	if c.connections < ofOne {
		select {
		case s.connected <- struct{}{}:
			c.connections++
			return true
		default:
		}
	}
	s.limited.Add(1)
	return false
}

func (s *Server) disconnect(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entry(a).connections--
	<-s.connected
}

// connections answers what comes by TCP.
func (s *Server) connections(ctx context.Context, g *errgroup.Group, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("accept what guests ask on %s: %w", s.config.Load().Device, err)
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err != nil || !s.connect(from.Addr()) {
			conn.Close()
			continue
		}
		g.Go(func() error {
			defer s.disconnect(from.Addr())
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			for s.turn(ctx, conn, from.Addr()) {
			}
			return nil
		})
	}
}

// turn answers one question of a connection (RFC 7766), and reports whether another may follow.
func (s *Server) turn(ctx context.Context, conn net.Conn, from netip.Addr) bool {
	_ = conn.SetDeadline(time.Now().Add(idle))
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return false
	}
	n := binary.BigEndian.Uint16(head[:])
	if n >= largest {
		s.limited.Add(1)
		return false
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(conn, b); err != nil {
		return false
	}
	q := s.read(b, from)
	if q == nil {
		return false
	}
	r := s.known(q)
	if r == nil {
		if !s.begin(from) {
			return false
		}
		r = s.isolated(func() *dns.Msg { return s.ask(ctx, s.config.Load(), q, "tcp") })
		s.end(from)
	}
	if r == nil {
		return false
	}
	out := s.packed(r, dns.MaxMsgSize)
	_ = conn.SetDeadline(time.Now().Add(idle))
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	return err == nil && len(out) > 0
}
