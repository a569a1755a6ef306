package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// What is asked of other servers.
const (
	// mostServers are asked for one question, each for perServer.
	mostServers = 3
	perServer   = 2 * time.Second
	// resolvers is where a host names its servers (resolv.conf(5)); it is read again after a while.
	resolvers  = "/etc/resolv.conf"
	readAgain  = 5 * time.Second
	domainPort = "53"
)

// hostServers are those of the host itself.
type hostServers struct {
	mu   sync.Mutex
	read time.Time
	all  []netip.Addr
}

// list reads them, if that was long ago. A file that cannot be read names none.
func (h *hostServers) list(now time.Time) []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.read) < readAgain {
		return h.all
	}
	h.read, h.all = now, nil
	c, err := dns.ClientConfigFromFile(resolvers)
	if err != nil {
		return nil
	}
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			h.all = append(h.all, a)
		}
	}
	return h.all
}

// upstreams are who is asked: never ourselves, at any switch's gateway of this host.
func (s *Server) upstreams(c *Config) []netip.Addr {
	all := c.Upstreams
	if all == nil {
		all = s.host.list(time.Now())
	}
	all = slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return slices.Contains(c.Addresses, a) })
	return all[:min(len(all), mostServers)]
}

// ask asks one server after the other, by the transport the guest has used. What nobody answers is SERVFAIL.
func (s *Server) ask(ctx context.Context, c *Config, q *dns.Msg, network string) *dns.Msg {
	servers := s.upstreams(c)
	if len(servers) == 0 {
		return refuse(q, dns.RcodeRefused)
	}
	question := q.Copy()
	question.Id = dns.Id()
	question.RecursionDesired = true
	if question.IsEdns0() == nil {
		question.SetEdns0(payload, false)
	}
	client := dns.Client{Net: network, Timeout: perServer, UDPSize: payload}
	for _, a := range servers {
		r, _, err := client.ExchangeContext(ctx, question, net.JoinHostPort(a.String(), s.port))
		if err != nil || r.Rcode == dns.RcodeServerFailure || len(r.Question) != 1 || r.Question[0] != question.Question[0] {
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil
			}
			continue
		}
		r.Id, r.RecursionAvailable, r.Authoritative = q.Id, true, false
		if q.IsEdns0() == nil {
			r.Extra = slices.DeleteFunc(r.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
		}
		return r
	}
	return refuse(q, dns.RcodeServerFailure)
}
