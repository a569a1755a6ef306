package datapath_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// trackedRouter is a Linux router between two stations, in a namespace of its own, whose packets nftables is asked about with
// connection tracking. Bridges have none in every kernel (CONFIG_NF_CONNTRACK_BRIDGE), routers do.
type trackedRouter struct{ *filteredBridge }

// trackedRouter makes the router. It knows the addresses of both stations and asks nobody for them; connection tracking looks at
// neither checksums nor windows, and opens no connection in its middle.
func (w *world) trackedRouter(name string, addresses [2][]netip.Addr) *trackedRouter {
	w.tb.Helper()
	r := &trackedRouter{&filteredBridge{tb: w.tb, ns: w.namespace(name)}}
	w.in(r.ns, func() error {
		for _, setting := range [][2]string{
			{"net/ipv6/conf/default/addr_gen_mode", "1"}, {"net/ipv4/ip_forward", "1"}, {"net/ipv6/conf/all/forwarding", "1"},
			{"net/ipv4/conf/default/rp_filter", "0"}, {"net/ipv4/conf/all/rp_filter", "0"},
			{"net/netfilter/nf_conntrack_checksum", "0"}, {"net/netfilter/nf_conntrack_tcp_loose", "0"}, {"net/netfilter/nf_conntrack_tcp_be_liberal", "1"},
		} {
			if err := nic.SetSysctl(setting[0], setting[1]); err != nil {
				return err
			}
		}
		var knows strings.Builder
		for i, device := range []string{"p0", "p1"} {
			if err := firstError(r.plug(i), nic.SetMAC(device, routerMAC(i))); err != nil {
				return err
			}
			for _, a := range addresses[i] {
				fmt.Fprintf(&knows, "route add %s dev %s\nneigh add %s lladdr %s dev %s nud permanent\n", netip.PrefixFrom(a, a.BitLen()), device, a, stations[i], device)
			}
			end := numbered(lastNumber, i, nil).frame
			end = ip{protocol: endOfRoutedBatch}.packet(addresses[i][0], addresses[1-i][0], end)
			r.last[i] = ether(routerMAC(i), stations[i], typeIPv4, end)
		}
		batch := exec.Command("ip", "-batch", "-")
		batch.Stdin = strings.NewReader(knows.String())
		if out, err := batch.CombinedOutput(); err != nil {
			return fmt.Errorf("tell the router of its stations: %w: %s", err, out)
		}
		return nil
	})
	return r
}

// routerMAC is the router's address at a station.
func routerMAC(station int) fabric.MAC { return mac(0x70 + station) }

// endOfRoutedBatch is the protocol of packets that pass whatever the rules say: one for experiments (RFC 3692).
const endOfRoutedBatch = 253

// pass sends a batch to the router and takes what comes out, by number. The numbers are in the packets: a router forwards no padding.
func (r *trackedRouter) pass(batch []sample) passed {
	var out []sample
	for _, s := range batch {
		to := routerMAC(s.from)
		out = append(out, sample{s.number, s.from, slices.Concat(to[:], s.frame[6:])})
	}
	return r.filteredBridge.pass(out)
}

// tracked is the table of a guest behind the router. The packets of a connection that a stateful rule has opened are allowed before any rule
// is asked; connections of another zone are not known. An error about a connection, and the reply to an echo,
// open nothing, though nftables would mark the connection.
func (t *ruleset) tracked(zone int) string {
	t.chain("opens", "meta l4proto tcp tcp flags & 0x17 != 0x2 drop", "ct state related accept", "icmp type 0 accept", "icmpv6 type 129 accept", "ct mark set 1 accept")
	t.chain("zone", "type filter hook prerouting priority raw; policy accept;", fmt.Sprintf("ct zone set %d", zone))
	t.chain("forward", "type filter hook forward priority 0; policy accept;", fmt.Sprintf("meta l4proto %d accept", endOfRoutedBatch),
		"ct mark 1 accept", "iifname p0 jump guest_out", "oifname p0 jump guest_in")
	return "flush ruleset\ntable inet opinion {\n" + t.chains.String() + "}\n"
}
