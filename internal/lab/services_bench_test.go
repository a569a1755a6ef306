package lab

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os/exec"
	"slices"
	"testing"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// BenchmarkNAT compares a guest's TCP through the core and our NAT to a machine on the wire with that of a namespace behind a veth
// and one masquerading rule of nftables, on the same host, in turns. Ratios are of neighbouring slices.
func BenchmarkNAT(b *testing.B) {
	l := live(b, Options{Name: "natbench", Hosts: 1})
	served(b, l, fabric.SwitchSpec{Services: fabric.Services{NAT: fabric.NATService{Enabled: true}}})
	g, err := l.AddGuest(b.Context(), GuestOptions{Name: "web-1", Host: "h1", Switch: "blue", Kind: Veth}, b.Logf)
	if err != nil {
		b.Fatal(err)
	}
	toGateway := func() error {
		return nic.AddRoute("eth0", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.10.0.1"))
	}
	host, plain := l.HostNamespace("h1"), l.plainGuest(b)
	for _, step := range []struct {
		in nic.Namespace
		do func() error
	}{{l.GuestNamespace(g.Name), toGateway}, {host, func() error { return nic.SetSysctl("net/ipv4/ip_forward", "1") }}} {
		if err := step.in.Do(step.do); err != nil {
			b.Fatal(err)
		}
	}
	server := exec.Command("iperf3", "-s")
	if err := l.WireNamespace().Start(server); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	rate(b, plain) // and until the server listens
	rate(b, l.GuestNamespace(g.Name))
	var ours, theirs, ratios []float64
	for b.Loop() {
		for range 21 {
			o, p := rate(b, l.GuestNamespace(g.Name)), rate(b, plain)
			ours, theirs, ratios = append(ours, o), append(theirs, p), append(ratios, o/p)
		}
	}
	for name, values := range map[string][]float64{"Gb/s-weft": ours, "Gb/s-nftables": theirs, "ratio": ratios} {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], name)
	}
	b.Logf("ratios: %.2f", ratios)
}

// plainGuest is a namespace behind a veth of host h1, which one rule of nftables masquerades.
func (l *Lab) plainGuest(b *testing.B) nic.Namespace {
	b.Helper()
	ns, err := nic.CreateNamespace(l.namespaceName("plain"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ns.Delete() })
	err = l.HostNamespace("h1").Do(func() error {
		if err := nic.CreateVeth(nic.Veth{Name: "plain", Peer: "eth0", PeerNamespace: ns, MTU: 1450}); err != nil {
			return err
		}
		if err := nic.AddAddress("plain", netip.MustParsePrefix("10.99.0.1/24")); err != nil {
			return err
		}
		if out, err := exec.Command("nft", "add table ip plain; add chain ip plain post { type nat hook postrouting priority 100 ; }; add rule ip plain post ip saddr 10.99.0.0/24 oifname != plain masquerade").CombinedOutput(); err != nil {
			b.Logf("%s", out)
			return err
		}
		return nic.SetUp("plain")
	})
	if err == nil {
		err = ns.Do(func() error {
			if err := nic.AddAddress("eth0", netip.MustParsePrefix("10.99.0.2/24")); err != nil {
				return err
			}
			if err := nic.SetUp("eth0"); err != nil {
				return err
			}
			return nic.AddRoute("eth0", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.99.0.1"))
		})
	}
	if err != nil {
		b.Fatal(err)
	}
	return ns
}

// rate is the throughput of one second of TCP from a namespace to the machine on the wire, in Gb/s.
func rate(b *testing.B, from nic.Namespace) float64 {
	b.Helper()
	var out bytes.Buffer
	for range 20 {
		out.Reset()
		cmd := exec.CommandContext(b.Context(), "iperf3", "-J", "-t", "1", "-c", WireAddresses(0)[0].Addr().String())
		cmd.Stdout = &out
		var said struct {
			End struct {
				Received struct {
					Bits float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			} `json:"end"`
		}
		if from.Do(cmd.Run) == nil && json.Unmarshal(out.Bytes(), &said) == nil && said.End.Received.Bits > 0 {
			return said.End.Received.Bits / 1e9
		}
	}
	b.Fatalf("iperf3 never came through: %s", out.String())
	return 0
}
