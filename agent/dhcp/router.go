package dhcp

import (
	"context"
	"net/netip"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing/packet"
)

const (
	// routerLifetime is the longest there is (RFC 4861 section 6.2.1): guests keep their default route for 2.5 hours without an
	// agent.
	routerLifetime = 9000 * time.Second
	// prefixLifetime is the protocol's default.
	prefixLifetime = 30 * 24 * time.Hour
	// apart is the least time between two answers to everybody (section 10, MIN_DELAY_BETWEEN_RAS).
	apart = 3 * time.Second
)

// advertisement is what guests are told about the router; nil where the switch has no IPv6.
func (c *Config) advertisement(to netip.Addr) ([]byte, error) {
	if !c.Gateway6.IsValid() {
		return nil, errUnfit
	}
	r := packet.Router{
		MAC: c.GatewayMAC, Source: linkLocal(c.GatewayMAC), Prefix: c.Subnet6, PrefixLifetime: prefixLifetime, MTU: c.MTU, DNS: c.DNS,
	}
	if c.Router {
		r.Lifetime = routerLifetime
	}
	return packet.RouterAdvertisement(r, to)
}

// answerSolicitation advertises to the station that asks; where it does not say who it is, to each on this host.
func (s *Server) answerSolicitation(payload []byte, from netip.AddrPort) error {
	if len(payload) < 8 || payload[0] != typeSolicitation {
		return errMalformed
	}
	c := s.config.Load()
	mac, _, known := c.clientAt(from.Addr())
	if !known {
		return s.toAll(c, time.Now())
	}
	if !s.afford(mac) {
		return errLimited
	}
	p, err := c.advertisement(from.Addr())
	if err != nil {
		return err
	}
	return s.sender.Send(mac, p)
}

// toAll advertises to each station on this host, by itself: a multicast would reach those of other hosts as well, which their
// own hosts tell the same.
func (s *Server) toAll(c *Config, now time.Time) error {
	s.mu.Lock()
	soon := now.Sub(s.flooded) < apart
	if !soon {
		s.flooded = now
	}
	s.mu.Unlock()
	if soon {
		return errLimited
	}
	return s.each(c.Local, c)
}

func (s *Server) each(stations []fabric.MAC, c *Config) error {
	p, err := c.advertisement(packet.AllNodes)
	if err != nil {
		return err
	}
	for _, mac := range stations {
		if err := s.sender.Send(mac, p); err != nil {
			return err
		}
	}
	return nil
}

// advertise tells each station of this host about the router, now and then, and when something about it has changed.
func (s *Server) advertise(ctx context.Context) {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	told := map[fabric.MAC]string{}
	for {
		c := s.config.Load()
		if p, err := c.advertisement(packet.AllNodes); err == nil {
			s.news(c, string(p), told)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			clear(told)
		case <-s.renewed:
		}
	}
}

// news advertises to the stations that were last told something else.
func (s *Server) news(c *Config, say string, told map[fabric.MAC]string) {
	next := make(map[fabric.MAC]string, len(c.Local))
	var stations []fabric.MAC
	for _, mac := range c.Local {
		next[mac] = say
		if told[mac] != say {
			stations = append(stations, mac)
		}
	}
	clear(told)
	for mac, text := range next {
		told[mac] = text
	}
	if len(stations) > 0 {
		s.count(s.isolated(func() error { return s.each(stations, c) }))
	}
}
