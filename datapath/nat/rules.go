package nat

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// chain is one base chain with its rules.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

// rule is one rule with the comment that `nft list ruleset` shows.
type rule struct {
	comment string
	exprs   []expr.Any
}

// chains is the whole table, given the devices whose forwarding only we have switched on. A chain without rules is left out: the
// kernel would ask it for every packet.
func (c *Config) chains(opened []Opened) []chain {
	return slices.DeleteFunc([]chain{
		{"prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, c.prerouting()},
		{"output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, c.output()},
		{"postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, c.postrouting()},
		{"input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, c.input()},
		{"forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, c.forward(opened)},
	}, func(ch chain) bool { return len(ch.rules) == 0 })
}

// prerouting turns what is sent to a forwarded port of any of the host's addresses towards the guest.
func (c *Config) prerouting() (rules []rule) {
	for _, s := range c.Switches {
		for _, w := range s.Forwards {
			rules = append(rules, rule{s.Device + " forward", join(
				family(w.To.Addr().Is6()), toHost(), protocol(w.Protocol), destinationPort(w.HostPort), turn(expr.NATTypeDestNAT, w.To.Addr(), w.To.Port()))})
		}
	}
	return rules
}

// output turns the host's own connections to its forwarded ports, as prerouting turns those of others. What goes to a loopback address
// stays: its answers could not come from outside (RFC 1122 section 3.2.1.3).
func (c *Config) output() (rules []rule) {
	for _, s := range c.Switches {
		for _, w := range s.Forwards {
			six := w.To.Addr().Is6()
			rules = append(rules, rule{s.Device + " forward of the host", join(
				family(six), toHost(), notToLoopback(six), protocol(w.Protocol), destinationPort(w.HostPort), turn(expr.NATTypeDestNAT, w.To.Addr(), w.To.Port()))})
		}
	}
	return rules
}

// postrouting hides the guests behind the host's address, and the host behind its address on the switch where answers would not
// come back else: from a guest elsewhere, from one that is on the switch together with who asks, and from one that the host asks.
func (c *Config) postrouting() (rules []rule) {
	for _, s := range c.Switches {
		for _, w := range s.Forwards {
			six := w.To.Addr().Is6()
			own := slices.IndexFunc(s.Host, func(a netip.Addr) bool { return a.Is6() == six })
			if own < 0 {
				continue
			}
			back := func(from ...expr.Any) []expr.Any {
				return join(family(six), turned(), from, protocol(w.Protocol), destination(w.To.Addr()), destinationPort(w.To.Port()), turn(expr.NATTypeSourceNAT, s.Host[own], 0))
			}
			if !w.Local {
				rules = append(rules, rule{s.Device + " forward elsewhere", back()})
				continue
			}
			rules = append(rules, rule{s.Device + " forward of the host", back(fromHost()...)})
			for _, p := range s.Prefixes {
				if p.Addr().Is6() == six {
					rules = append(rules, rule{s.Device + " forward from the same switch", back(source(p)...)})
				}
			}
		}
		for _, p := range s.Prefixes {
			if s.NAT {
				rules = append(rules, rule{s.Device + " masquerade", join(family(p.Addr().Is6()), source(p), device(expr.MetaKeyOIFNAME, expr.CmpOpNeq, s.Device), []expr.Any{&expr.Counter{}, &expr.Masq{}})})
			}
		}
	}
	return rules
}

// input keeps guests off the host where they may not reach it.
func (c *Config) input() (rules []rule) {
	for _, s := range c.Switches {
		if s.HostAccess {
			continue
		}
		add := func(what string, exprs ...[]expr.Any) {
			rules = append(rules, rule{s.Device + " " + what, join(append([][]expr.Any{device(expr.MetaKeyIIFNAME, expr.CmpOpEq, s.Device)}, exprs...)...)})
		}
		accept := verdict(expr.VerdictAccept)
		add("answers", established(), accept)
		add("dhcp", protocol(unix.IPPROTO_UDP), destinationPort(67), family(false), accept)
		add("dhcp", protocol(unix.IPPROTO_UDP), destinationPort(547), family(true), accept)
		for _, g := range s.Gateways {
			echo, icmp := uint8(8), uint8(unix.IPPROTO_ICMP)
			if g.Is6() {
				echo, icmp = 128, unix.IPPROTO_ICMPV6
			}
			add("dns", family(g.Is6()), destination(g), protocol(unix.IPPROTO_UDP), destinationPort(53), accept)
			add("dns", family(g.Is6()), destination(g), protocol(unix.IPPROTO_TCP), destinationPort(53), accept)
			add("ping", family(g.Is6()), destination(g), protocol(icmp), icmpType(echo), accept)
		}
		for _, kind := range []uint8{133, 135, 136} { // router solicitation, neighbour solicitation and advertisement
			add("neighbours", family(true), protocol(unix.IPPROTO_ICMPV6), icmpType(kind), accept)
		}
		add("no host access", verdict(expr.VerdictDrop))
	}
	return rules
}

// forward lets through what the switches are for, and closes the rest of what forwarding opens: the world reaches no guest
// unasked, nor one switch another; what came to the host for somebody else is dropped, as it was before we switched
// forwarding on.
func (c *Config) forward(opened []Opened) (rules []rule) {
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	for _, s := range c.Switches {
		out := device(expr.MetaKeyOIFNAME, expr.CmpOpEq, s.Device)
		rules = append(rules,
			rule{s.Device + " answers", join(out, established(), accept)},
			rule{s.Device + " forwards", join(out, turned(), accept)},
			rule{s.Device + " not asked for", join(out, drop)})
	}
	for _, s := range c.Switches {
		in := device(expr.MetaKeyIIFNAME, expr.CmpOpEq, s.Device)
		for _, p := range s.Prefixes {
			if s.NAT {
				rules = append(rules, rule{s.Device + " to the world", join(in, family(p.Addr().Is6()), source(p), accept)})
			}
		}
		rules = append(rules, rule{s.Device + " not to be forwarded", join(in, drop)})
	}
	for _, o := range opened {
		rules = append(rules, rule{openedComment + o.String(), join(family(o.Six), device(expr.MetaKeyIIFNAME, expr.CmpOpEq, o.Device), drop)})
	}
	return rules
}

// openedComment begins the comment of a rule that closes a device; behind it is which.
const openedComment = "closed: "
