package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// ruleset is what a guest's port is judged by: so many rules for what the guest sends, and as many for what it receives. All but
// the last refuse what the benchmark never sends, the last allows everything, statefully or not. The zero ruleset has no rules.
type ruleset struct {
	n        int
	stateful bool
}

// String is the ruleset as the figures name it.
func (r ruleset) String() string {
	if r.n == 0 {
		return "no rules"
	}
	kind := "stateless"
	if r.stateful {
		kind = "stateful"
	}
	rules := "rules"
	if r.n == 1 {
		rules = "rule"
	}
	return fmt.Sprintf("%s %s %s", thousands(r.n), kind, rules)
}

// short is the ruleset in the names of figures.
func (r ruleset) short() string {
	if r.stateful {
		return fmt.Sprintf("%d-stateful", r.n)
	}
	return fmt.Sprint(r.n)
}

// refusal is one rule that refuses: a protocol from or to some ports of a network that the benchmark has no guest in.
type refusal struct {
	protocol    string
	network     netip.Prefix
	first, last uint16
}

// refusals are all rules but the last: every other one for a part of the network before it, with ranges of ports that overlap.
func (r ruleset) refusals() []refusal {
	all := make([]refusal, 0, max(r.n-1, 0))
	for i := range max(r.n-1, 0) {
		long := 28 + i&1*2
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>13), byte(i >> 5), byte(i>>1) << 4}), long).Masked()
		first := uint16(1 + i*7%2000)
		all = append(all, refusal{protocol: []string{"tcp", "udp"}[i>>1&1], network: network, first: first, last: first + uint16(i%8)})
	}
	return all
}

// source is the ruleset as weft takes it; nil for none.
func (r ruleset) source() *policy.Source {
	if r.n == 0 {
		return nil
	}
	p := &fabric.Policy{Metadata: fabric.Metadata{Name: "bench"}}
	for _, d := range []fabric.Direction{fabric.Out, fabric.In} {
		for i, f := range r.refusals() {
			p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{
				Name: fmt.Sprintf("%s-%d", d, i), Weight: uint16(60_000 - i), Direction: d, Action: fabric.Deny, Protocol: f.protocol,
				Remote: &fabric.End{Prefixes: []netip.Prefix{f.network}, Ports: []fabric.PortRange{{First: f.first, Last: f.last}}},
			})
		}
		p.Spec.Rules = append(p.Spec.Rules, fabric.Rule{
			Name: string(d) + "-rest", Weight: 1, Direction: d, Action: fabric.Allow, Stateful: r.stateful,
			Remote: &fabric.End{Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
		})
	}
	return &policy.Source{Policies: []*fabric.Policy{p}, Default: fabric.Deny, VNI: benchVNI}
}

// nftables is the ruleset as a file for nft, for one host: judged are the guests given, by device in the bridge family where the
// rules are stateless. The bridge family of this kernel has no connection tracking (CONFIG_NF_CONNTRACK_BRIDGE), so that stateful
// rules are of the ip family, where br_netfilter brings the bridge's packets and shows the bridge instead of its ports: guests are
// known by address. What is established is accepted first. The host's own VXLAN is not tracked.
func (r ruleset) nftables(guests map[string]netip.Addr) string {
	var b strings.Builder
	b.WriteString("flush ruleset\n")
	if r.n == 0 {
		return b.String()
	}
	family, ends := "bridge", [2]string{"ip daddr", "ip saddr"}
	if r.stateful {
		family = "ip"
	}
	fmt.Fprintf(&b, "table %s weftbench {\n", family)
	for i, dir := range []string{"out", "in"} {
		fmt.Fprintf(&b, "chain %s {\n", dir)
		port := []string{"dport", "sport"}[i]
		for _, f := range r.refusals() {
			fmt.Fprintf(&b, "%s %s %s %s %d-%d drop\n", ends[i], f.network, f.protocol, port, f.first, f.last)
		}
		b.WriteString("return\n}\n")
	}
	b.WriteString("chain forward {\ntype filter hook forward priority 0; policy accept;\n")
	if r.stateful {
		b.WriteString("ct state established,related accept\n")
	}
	for device, address := range guests {
		if r.stateful {
			fmt.Fprintf(&b, "ip saddr %s jump out\nip daddr %s jump in\n", address, address)
		} else {
			fmt.Fprintf(&b, "iifname %q jump out\noifname %q jump in\n", device, device)
		}
	}
	b.WriteString("}\n")
	if r.stateful {
		for _, hook := range []string{"prerouting", "output"} {
			fmt.Fprintf(&b, "chain raw-%s {\ntype filter hook %s priority raw; policy accept;\nudp dport 4789 notrack\n}\n", hook, hook)
		}
	}
	b.WriteString("}\n")
	return b.String()
}
