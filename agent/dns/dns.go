// Package dns answers the questions of an internal switch's guests at their gateway: the names and addresses of the switch's ports
// from the fabric's records, and everything else by asking other servers. Each message is bounded in size, each client in rate,
// what is asked elsewhere in number and time, and a panic over one message harms no other.
package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Config is what one switch's guests are told on one host, computed from the fabric's records alone.
type Config struct {
	// Device is the host's device on the switch, Addresses those of the gateway.
	Device    string
	Addresses []netip.Addr
	// Zones are the domains whose names are the ports': the switch's name, and its guests' domain. Lower case, without a dot at the end.
	Zones []string
	// Ports are the addresses by port name, Names the port names by address.
	Ports map[string][]netip.Addr
	Names map[netip.Addr]string
	// Subnets are those whose addresses have the names above, or none.
	Subnets []netip.Prefix
	// Upstreams are asked for all else, one after the other; those of the host when nil, nobody when empty.
	Upstreams []netip.Addr
}

// ttl is how long guests may remember an answer from the records, in seconds.
const ttl = 30

// payload is the largest UDP message we send and say that we take, in bytes: it fits any path without fragments.
const payload = 1232

// answer is what a question is answered with from the records; nil when others are to be asked.
func (c *Config) answer(q *dns.Msg) *dns.Msg {
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return refuse(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return refuse(q, dns.RcodeFormatError)
	case q.Question[0].Qclass != dns.ClassINET:
		return refuse(q, dns.RcodeRefused)
	}
	name := strings.ToLower(q.Question[0].Name)
	for _, zone := range c.Zones {
		if at := zone + "."; name == at {
			return authority(reply(q), at)
		} else if label, ours := strings.CutSuffix(name, "."+at); ours {
			return c.forward(q, label, at)
		}
	}
	if a, ok := reversed(name); ok {
		for _, p := range c.Subnets {
			if p.Contains(a) {
				return c.backward(q, a)
			}
		}
	}
	return nil
}

// forward answers with a port's addresses.
func (c *Config) forward(q *dns.Msg, label, zone string) *dns.Msg {
	addresses, known := c.Ports[label]
	r := reply(q)
	if !known {
		r.Rcode = dns.RcodeNameError
		return authority(r, zone)
	}
	asked := q.Question[0]
	for _, a := range addresses {
		h := dns.RR_Header{Name: asked.Name, Class: dns.ClassINET, Ttl: ttl}
		switch {
		case a.Is4() && (asked.Qtype == dns.TypeA || asked.Qtype == dns.TypeANY):
			h.Rrtype = dns.TypeA
			r.Answer = append(r.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && (asked.Qtype == dns.TypeAAAA || asked.Qtype == dns.TypeANY):
			h.Rrtype = dns.TypeAAAA
			r.Answer = append(r.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	if len(r.Answer) == 0 {
		return authority(r, zone)
	}
	return r
}

// backward answers with the name of a port.
func (c *Config) backward(q *dns.Msg, a netip.Addr) *dns.Msg {
	r := reply(q)
	asked := q.Question[0]
	name, known := c.Names[a]
	switch {
	case !known:
		r.Rcode = dns.RcodeNameError
	case asked.Qtype == dns.TypePTR || asked.Qtype == dns.TypeANY:
		r.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}, Ptr: name + "." + c.Zones[0] + "."}}
		return r
	}
	return authority(r, asked.Name)
}

// reply is an empty answer of our own.
func reply(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.Authoritative, r.RecursionAvailable = true, true
	if q.IsEdns0() != nil {
		r.SetEdns0(payload, false)
	}
	return r
}

// refuse is an answer that says no.
func refuse(q *dns.Msg, code int) *dns.Msg {
	r := new(dns.Msg).SetRcode(q, code)
	if q.IsEdns0() != nil {
		r.SetEdns0(payload, false)
	}
	return r
}

// authority says for how long there is nothing there (RFC 2308).
func authority(r *dns.Msg, zone string) *dns.Msg {
	r.Ns = []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  zone, Mbox: "hostmaster." + zone, Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}}
	return r
}

// reversed is the address that a name below in-addr.arpa or ip6.arpa stands for (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reversed(name string) (netip.Addr, bool) {
	if labels, four := strings.CutSuffix(name, ".in-addr.arpa."); four {
		parts := strings.Split(labels, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	labels, six := strings.CutSuffix(name, ".ip6.arpa.")
	if !six || len(labels) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i -= 2 {
		b.WriteByte(labels[i])
		if n := (62 - i) / 2; n%4 == 3 && n != 31 {
			b.WriteByte(':')
		}
		if i > 0 && labels[i-1] != '.' {
			return netip.Addr{}, false
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}
