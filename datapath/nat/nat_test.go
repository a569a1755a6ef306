package nat

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// world is a guest, its host and a peer outside, each in a namespace: guest eth0 — weft-blue host eth0 — eth0 peer; and a second
// device of the host, eth1, to a station that nobody is to reach through the host.
type world struct {
	guest, host, peer, other nic.Namespace
	file                     string
}

var (
	blue     = netip.MustParsePrefix("10.10.0.0/24")
	blue6    = netip.MustParsePrefix("fd00:10::/64")
	guest4   = netip.MustParseAddr("10.10.0.11")
	guest6   = netip.MustParseAddr("fd00:10::11")
	gateways = []netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("fd00:10::1")}
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root (make test)")
	}
	w := &world{file: filepath.Join(t.TempDir(), "opened")}
	for name, to := range map[string]*nic.Namespace{"guest": &w.guest, "host": &w.host, "peer": &w.peer, "other": &w.other} {
		n, err := nic.CreateNamespace(fmt.Sprintf("nattest-%d-%s", os.Getpid(), name))
		must(t, err)
		*to = n
		t.Cleanup(func() { must(t, n.Delete()) })
	}
	for _, l := range []struct {
		at     nic.Namespace
		device string
		here   []string
		there  []string
	}{
		{w.guest, "weft-blue", []string{"10.10.0.1/24", "10.10.0.254/24", "fd00:10::1/64"}, []string{"10.10.0.11/24", "fd00:10::11/64"}},
		{w.peer, "eth0", []string{"192.0.2.1/24", "2001:db8:2::1/64"}, []string{"192.0.2.9/24", "2001:db8:2::9/64"}},
		{w.other, "eth1", []string{"198.51.100.1/24", "2001:db8:3::1/64"}, []string{"198.51.100.9/24", "2001:db8:3::9/64"}},
	} {
		must(t, w.host.Do(func() error {
			return nic.CreateVeth(nic.Veth{Name: l.device, Peer: "eth0", PeerNamespace: l.at})
		}))
		w.address(t, w.host, l.device, l.here)
		w.address(t, l.at, "eth0", l.there)
	}
	must(t, w.guest.Do(func() error {
		if err := nic.AddRoute("eth0", netip.MustParsePrefix("0.0.0.0/0"), gateways[0]); err != nil {
			return err
		}
		return nic.AddRoute("eth0", netip.MustParsePrefix("::/0"), gateways[1])
	}))
	t.Cleanup(func() { must(t, w.host.Do(func() error { return Uninstall(w.file) })) })
	return w
}

func (w *world) address(t testing.TB, n nic.Namespace, device string, addresses []string) {
	t.Helper()
	must(t, n.Do(func() error {
		for _, a := range addresses {
			if err := nic.AddAddress(device, netip.MustParsePrefix(a)); err != nil {
				return err
			}
		}
		return nic.SetUp(device)
	}))
}

func (w *world) config() Config {
	return Config{Switches: []Switch{{
		Device: "weft-blue", Prefixes: []netip.Prefix{blue, blue6}, Gateways: gateways, Host: []netip.Addr{netip.MustParseAddr("10.10.0.254")}, NAT: true, HostAccess: true,
		Forwards: []Forward{
			{Protocol: unix.IPPROTO_TCP, HostPort: 8080, To: netip.AddrPortFrom(guest4, 80), Local: true},
			{Protocol: unix.IPPROTO_TCP, HostPort: 8080, To: netip.AddrPortFrom(guest6, 80), Local: true},
		},
	}}}
}

// keep has a table keep a configuration on the host.
func (w *world) keep(tb testing.TB, t *Table, c Config) (repaired bool) {
	tb.Helper()
	must(tb, w.host.Do(func() (err error) { repaired, err = t.Keep(c); return err }))
	return repaired
}

// run runs a program in a namespace; what it says on both ways, and whether it succeeded.
func run(tb testing.TB, n nic.Namespace, command ...string) (string, bool) {
	tb.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(tb.Context(), command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := n.Do(cmd.Run)
	return out.String(), err == nil
}

func pings(tb testing.TB, n nic.Namespace, to string) bool {
	tb.Helper()
	_, ok := run(tb, n, "ping", "-c", "1", "-W", "1", to)
	return ok
}

func nft(tb testing.TB, n nic.Namespace, args ...string) string {
	tb.Helper()
	out, ok := run(tb, n, append([]string{"nft"}, args...)...)
	if !ok {
		tb.Fatalf("nft %v: %s", args, out)
	}
	return out
}

// listen answers HTTP in a namespace with the address of who asks.
func (w *world) listen(t testing.TB, n nic.Namespace, port int) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/cgi-bin", 0o755))
	must(t, os.WriteFile(dir+"/cgi-bin/who", []byte("#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s' \"$REMOTE_ADDR\"\n"), 0o755))
	cmd := exec.Command("busybox", "httpd", "-f", "-p", fmt.Sprintf("[::]:%d", port), "-h", dir)
	must(t, n.Start(cmd))
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 1000 {
		if out, _ := run(t, n, "ss", "-Hltn", fmt.Sprintf("sport = :%d", port)); strings.Contains(out, "LISTEN") {
			return
		}
	}
	t.Fatal("the HTTP server does not listen")
}

func fetch(t testing.TB, n nic.Namespace, url string) string {
	t.Helper()
	out, ok := run(t, n, "curl", "-sgm", "3", url)
	if !ok {
		return "nothing"
	}
	return strings.TrimPrefix(strings.Trim(out, "[]"), "::ffff:")
}

func TestGuestsReachTheWorldAsTheirHost(t *testing.T) {
	w := newWorld(t)
	table := &Table{File: w.file}
	w.listen(t, w.peer, 80)
	if pings(t, w.guest, "192.0.2.9") {
		t.Fatal("the guest reaches the world before it may")
	}
	w.keep(t, table, w.config())
	if who := fetch(t, w.guest, "http://192.0.2.9/cgi-bin/who"); who != "192.0.2.1" {
		t.Errorf("the peer was asked by %s, want the host's 192.0.2.1", who)
	}
	if who := fetch(t, w.guest, "http://[2001:db8:2::9]/cgi-bin/who"); who != "2001:db8:2::1" {
		t.Errorf("the peer was asked by %s, want the host's 2001:db8:2::1", who)
	}
	must(t, w.host.Do(func() error {
		met, err := Counters()
		if met["weft-blue masquerade"] < 2 {
			t.Errorf("the counters are %v", met)
		}
		return err
	}))
	off := w.config()
	off.Switches[0].NAT, off.Switches[0].Forwards = false, nil
	w.keep(t, table, off)
	if pings(t, w.guest, "192.0.2.9") || pings(t, w.guest, "2001:db8:2::9") {
		t.Error("the guest reaches the world without NAT")
	}
	if !pings(t, w.guest, "10.10.0.1") || !pings(t, w.guest, "fd00:10::1") {
		t.Error("the guest does not reach its gateway")
	}
}

func TestAForwardLeadsToTheGuest(t *testing.T) {
	w := newWorld(t)
	table := &Table{File: w.file}
	w.listen(t, w.guest, 80)
	w.keep(t, table, w.config())
	for url, want := range map[string]string{"http://192.0.2.1:8080/cgi-bin/who": "192.0.2.9", "http://[2001:db8:2::1]:8080/cgi-bin/who": "2001:db8:2::9"} {
		if who := fetch(t, w.peer, url); who != want {
			t.Errorf("%s: the guest was asked by %s, want the peer itself, %s", url, who, want)
		}
	}
	if who := fetch(t, w.guest, "http://192.0.2.1:8080/cgi-bin/who"); who != "10.10.0.254" {
		t.Errorf("a guest that asks its own switch's forward was answered as %s, want the host's 10.10.0.254", who)
	}
	for url, want := range map[string]string{"http://192.0.2.1:8080/cgi-bin/who": "10.10.0.254", "http://[2001:db8:2::1]:8080/cgi-bin/who": "2001:db8:2::1", "http://10.10.0.1:8080/cgi-bin/who": "10.10.0.254"} {
		if who := fetch(t, w.host, url); who != want {
			t.Errorf("the host that asks its own forward, %s, was answered as %s, want %s", url, who, want)
		}
	}
	if out, ok := run(t, w.host, "curl", "-sS", "-m", "2", "http://127.0.0.1:8080/"); ok || !strings.Contains(out, "curl: (7)") {
		t.Errorf("a connection to a loopback address is not refused at once: %s", out)
	}
	elsewhere := w.config()
	elsewhere.Switches[0].Forwards[0].Local = false
	w.keep(t, table, elsewhere)
	if who := fetch(t, w.peer, "http://192.0.2.1:8080/cgi-bin/who"); who != "10.10.0.254" {
		t.Errorf("a guest elsewhere was asked by %s, want this host's own address on the switch", who)
	}
}

func TestForwardingOpensNothingElse(t *testing.T) {
	w := newWorld(t)
	table := &Table{File: w.file}
	must(t, w.peer.Do(func() error {
		for to, by := range map[string]string{"198.51.100.0/24": "192.0.2.1", "10.10.0.0/24": "192.0.2.1", "2001:db8:3::/64": "2001:db8:2::1", "fd00:10::/64": "2001:db8:2::1"} {
			if err := nic.AddRoute("eth0", netip.MustParsePrefix(to), netip.MustParseAddr(by)); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, w.other.Do(func() error {
		if err := nic.AddRoute("eth0", netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr("198.51.100.1")); err != nil {
			return err
		}
		return nic.AddRoute("eth0", netip.MustParsePrefix("2001:db8:2::/64"), netip.MustParseAddr("2001:db8:3::1"))
	}))
	w.keep(t, table, w.config())
	if !pings(t, w.guest, "192.0.2.9") {
		t.Fatal("the guest does not reach the world")
	}
	for _, to := range []string{"198.51.100.9", "2001:db8:3::9", "10.10.0.11", "fd00:10::11"} {
		if pings(t, w.peer, to) {
			t.Errorf("the peer reaches %s through the host", to)
		}
	}
	// The operator has the host forward: between its own networks it does then, and the guests stay out of reach.
	must(t, w.host.Do(func() error { return nic.SetSysctl("net/ipv4/ip_forward", "1") }))
	w.keep(t, table, w.config())
	if !pings(t, w.peer, "198.51.100.9") {
		t.Error("the host does not forward although its operator says so")
	}
	if pings(t, w.peer, "10.10.0.11") {
		t.Error("the peer reaches the guest through the host")
	}
}

func TestWithoutHostAccessTheHostIsOutOfReach(t *testing.T) {
	w := newWorld(t)
	table := &Table{File: w.file}
	w.listen(t, w.host, 80)
	w.listen(t, w.peer, 80)
	c := w.config()
	w.keep(t, table, c)
	if who := fetch(t, w.guest, "http://10.10.0.1/cgi-bin/who"); who != "10.10.0.11" {
		t.Fatalf("with host access the host was asked by %s", who)
	}
	c.Switches[0].HostAccess = false
	w.keep(t, table, c)
	for _, url := range []string{"http://10.10.0.1/", "http://192.0.2.1/", "http://[fd00:10::1]/", "http://[2001:db8:2::1]/"} {
		if who := fetch(t, w.guest, url+"cgi-bin/who"); who != "nothing" {
			t.Errorf("%s answers %s", url, who)
		}
	}
	if pings(t, w.guest, "192.0.2.1") || pings(t, w.guest, "10.10.0.254") {
		t.Error("an address of the host answers that is not the gateway")
	}
	if !pings(t, w.guest, "10.10.0.1") || !pings(t, w.guest, "fd00:10::1") {
		t.Error("the gateway does not answer a ping")
	}
	if who := fetch(t, w.guest, "http://192.0.2.9/cgi-bin/who"); who != "192.0.2.1" {
		t.Errorf("the world was asked by %s", who)
	}
}

func TestWhatOthersChangeIsPutBackAndTheirsIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	table := &Table{File: w.file}
	nft(t, w.host, "add table inet theirs; add chain inet theirs keep { type filter hook input priority 5 ; }; add rule inet theirs keep counter accept")
	w.keep(t, table, w.config())
	if w.keep(t, table, w.config()) {
		t.Error("nothing had changed, and it was repaired")
	}
	whole := nft(t, w.host, "-s", "list", "table", "inet", TableName)
	for _, harm := range []string{"flush chain inet weft forward", "delete table inet weft", "insert rule inet weft forward accept", "insert rule inet weft postrouting accept"} {
		nft(t, w.host, harm)
		if !w.keep(t, table, w.config()) {
			t.Errorf("after %q nothing was repaired", harm)
		}
		if now := nft(t, w.host, "-s", "list", "table", "inet", TableName); now != whole {
			t.Errorf("after %q the table is\n%s\nwant\n%s", harm, now, whole)
		}
	}
	must(t, w.host.Do(func() error { return nic.SetSysctl("net/ipv4/conf/eth0/forwarding", "0") }))
	w.keep(t, table, w.config())
	if !pings(t, w.guest, "192.0.2.9") {
		t.Error("forwarding was switched off and not on again")
	}
	// A new agent finds what the one before it has opened, and takes nothing of it for the operator's.
	nft(t, w.host, "delete table inet weft")
	w.keep(t, &Table{File: w.file}, w.config())
	if now := nft(t, w.host, "-s", "list", "table", "inet", TableName); now != whole {
		t.Errorf("a new agent has written\n%s\nwant\n%s", now, whole)
	}
	must(t, w.host.Do(func() error { return Uninstall(w.file) }))
	if rules := nft(t, w.host, "list", "ruleset"); strings.Contains(rules, "weft") || !strings.Contains(rules, "table inet theirs") {
		t.Errorf("uninstalled, there is\n%s", rules)
	}
	for _, setting := range []string{"net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/eth0/force_forwarding", "net/ipv4/conf/eth1/forwarding"} {
		must(t, w.host.Do(func() error {
			on, err := isOn(setting)
			if on {
				t.Errorf("%s is still on", setting)
			}
			return err
		}))
	}
}

func TestAThousandForwardsAreOneTransaction(t *testing.T) {
	w := newWorld(t)
	table := &Table{File: w.file}
	c := w.config()
	for i := range 1022 {
		c.Switches[0].Forwards = append(c.Switches[0].Forwards, Forward{Protocol: unix.IPPROTO_UDP, HostPort: uint16(10000 + i), To: netip.AddrPortFrom(guest4, uint16(10000+i))})
	}
	w.keep(t, table, c)
	if w.keep(t, table, c) {
		t.Error("what was written is not what is read back")
	}
}
