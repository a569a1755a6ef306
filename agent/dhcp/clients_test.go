package dhcp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostMAC is the host's own, which is not the gateway's.
var hostMAC = fabric.MAC{0x52, 0x54, 0, 0, 0, 0xfe}

// link is a host and a guest, joined by a pair of devices: weft-blue of the host and eth0 of the guest.
type link struct {
	*Server
	host, guest nic.Namespace
	notices     chan Notice
}

// newLink makes them, and has the host answer.
func newLink(t testing.TB, c Config) *link {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root (make test)")
	}
	l := &link{notices: make(chan Notice, 16)}
	for _, n := range []struct {
		to   *nic.Namespace
		name string
	}{{&l.host, "host"}, {&l.guest, "guest"}} {
		space, err := nic.CreateNamespace(fmt.Sprintf("dhcptest-%d-%s", os.Getpid(), n.name))
		must(t, err)
		*n.to = space
		t.Cleanup(func() { must(t, space.Delete()) })
	}
	for _, n := range []nic.Namespace{l.host, l.guest} { // addresses are usable at once
		must(t, n.Do(func() error {
			return errors.Join(nic.SetSysctl("net/ipv6/conf/all/accept_dad", "0"), nic.SetSysctl("net/ipv6/conf/default/accept_dad", "0"))
		}))
	}
	must(t, l.host.Do(func() error {
		if err := nic.CreateVeth(nic.Veth{Name: c.Device, Peer: "eth0", PeerNamespace: l.guest, MAC: hostMAC, PeerMAC: one}); err != nil {
			return err
		}
		t.Cleanup(func() { must(t, l.host.Do(func() error { return nic.Delete(c.Device) })) })
		for _, a := range []netip.Prefix{netip.PrefixFrom(c.Gateway4, 24), netip.PrefixFrom(c.Gateway6, 64), netip.PrefixFrom(linkLocal(c.GatewayMAC), 64)} {
			if err := nic.AddAddress(c.Device, a); err != nil {
				return err
			}
		}
		if err := nic.SetUp(c.Device); err != nil {
			return err
		}
		var err error
		l.Server, err = Open(t.Context(), c, Options{Notify: func(n Notice) { l.notices <- n }})
		return err
	}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
		must(t, l.Close())
	})
	return l
}

func (l *link) up(t *testing.T) {
	t.Helper()
	must(t, l.guest.Do(func() error { return nic.SetUp("eth0") }))
	for range 1000 { // its link-local address comes a little later
		if strings.Contains(l.run(t, "ip", "-6", "address", "show", "dev", "eth0", "scope", "link", "-tentative"), "inet6") {
			return
		}
	}
	t.Fatal("the guest has no link-local address")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		t.FailNow()
	}
}

// patience bounds a wait for another program; a client that got what it asked for ends long before.
const patience = 30 * time.Second

// until starts a program in the guest and returns what it says up to the line that begins with last; then it is killed, and
// has no time to give its lease back.
func (l *link) until(t *testing.T, last string, command ...string) string {
	t.Helper()
	return l.converse(t, map[string]syscall.Signal{last: syscall.SIGKILL}, command...)
}

// converse gives a program that runs in the guest a signal after each line that begins with a key, until it ends.
func (l *link) converse(t *testing.T, signals map[string]syscall.Signal, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, in, err := os.Pipe()
	must(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	must(t, l.guest.Start(cmd))
	in.Close()
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		for prefix, signal := range signals {
			if strings.HasPrefix(lines.Text(), prefix) {
				_ = syscall.Kill(cmd.Process.Pid, signal)
				delete(signals, prefix)
			}
		}
	}
	_ = cmd.Wait() // ended by a signal
	if len(signals) > 0 {
		t.Fatalf("%s never said %v in %s:\n%s\nthe server's counts: %+v", command[0], signals, patience, said.String(), l.Counts())
	}
	return said.String()
}

// script makes what a client runs with a lease: it takes the address, prints what it was told, and last a line end=<reason>.
func script(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(path, []byte(`#!/bin/sh
case "${reason:-$1}" in
bound|renew) ip address replace "$ip/$mask" dev "$interface" ;;
BOUND|REBOOT|RENEW|REBIND) ip address replace "$new_ip_address/24" dev "$interface" ;;
BOUND6|RENEW6) ip address replace "$new_ip6_address/128" dev "$interface" ;;
esac
env
echo "end=${reason:-$1}"
`), 0o755))
	return path
}

func wantLines(t *testing.T, said string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(said, line+"\n") {
			t.Errorf("%q is not in\n%s", line, said)
		}
	}
}

func TestUdhcpcGetsAndRenewsItsLease(t *testing.T) {
	l := newLink(t, config())
	l.up(t)
	said := l.converse(t, map[string]syscall.Signal{"end=bound": syscall.SIGUSR1, "end=renew": syscall.SIGTERM},
		"busybox", "udhcpc", "-f", "-R", "-i", "eth0", "-s", script(t), "-O", "mtu", "-O", "search", "-O", "staticroutes")
	wantLines(t, said, "ip=10.10.0.11", "mask=24", "router=10.10.0.1", "dns=10.10.0.1", "domain=blue", "hostname=web-1", "mtu=1450", "lease=3600", "serverid=10.10.0.1",
		"search=example.org", "staticroutes=192.168.9.0/24 10.10.0.9 0.0.0.0/0 10.10.0.1")
	if c := l.Counts(); c.Answered < 3 || c.Malformed+c.Failed+c.Refused != 0 {
		t.Errorf("the server's counts: %+v", c)
	}
}

func TestUdhcpcThatAsksForAnotherAddressGetsItsOwn(t *testing.T) {
	l := newLink(t, config())
	l.up(t)
	said := l.until(t, "end=bound", "busybox", "udhcpc", "-f", "-B", "-r", "10.10.0.200", "-i", "eth0", "-s", script(t))
	wantLines(t, said, "ip=10.10.0.11")
}

// dhclient is the command for one family, with all its files in a directory of the test.
func dhclient(t *testing.T, dir, conf string, more ...string) []string {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o644))
	return append(append([]string{"dhclient", "-d", "-1", "-v", "-sf", script(t), "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "-cf", filepath.Join(dir, "conf")}, more...), "eth0")
}

func TestDhclientGetsALeaseAndComesBackWithIt(t *testing.T) {
	l := newLink(t, config())
	l.up(t)
	dir := t.TempDir()
	command := dhclient(t, dir, "request subnet-mask, routers, domain-name, domain-name-servers, host-name, interface-mtu;\n", "-4")
	said := l.until(t, "bound to", command...) // by then it has written its lease down
	wantLines(t, said, "new_ip_address=10.10.0.11", "new_subnet_mask=255.255.255.0", "new_routers=10.10.0.1", "new_domain_name=blue", "new_interface_mtu=1450", "new_host_name=web-1", "new_dhcp_server_identifier=10.10.0.1")
	said = l.until(t, "end=REBOOT", command...) // INIT-REBOOT: it asks for the lease it remembers
	wantLines(t, said, "new_ip_address=10.10.0.11")

	// The record has changed while the guest was off: the lease it remembers is refused, and it gets the new one.
	c := config()
	c.Clients = map[fabric.MAC]Client{one: {Name: "web-1", Address4: netip.MustParseAddr("10.10.0.33")}}
	l.Set(c)
	said = l.until(t, "end=BOUND", command...)
	wantLines(t, said, "new_ip_address=10.10.0.33")
	if n := l.Counts().Refused; n == 0 {
		t.Error("the old lease was not refused")
	}
}

func TestDhclientGetsItsIPv6Lease(t *testing.T) {
	l := newLink(t, config())
	l.up(t)
	said := l.until(t, "end=BOUND6", dhclient(t, t.TempDir(), "request dhcp6.name-servers, dhcp6.domain-search;\n", "-6")...)
	wantLines(t, said, "new_ip6_address=fd00:10::11", "new_dhcp6_name_servers=fd00:10::1", "new_dhcp6_domain_search=blue. example.org.")
}

func TestTheKernelTakesTheAdvertisementItSolicits(t *testing.T) {
	l := newLink(t, config())
	l.up(t)
	router := "default via " + linkLocal(config().GatewayMAC).String()
	for attempt := 0; ; attempt++ {
		routes := l.run(t, "ip", "-6", "route", "show", "dev", "eth0")
		if strings.Contains(routes, router) && strings.Contains(routes, "fd00:10::/64 proto kernel") && strings.Contains(routes, "mtu 1450") {
			break
		}
		if attempt == 1000 {
			t.Fatalf("the kernel has\n%s", routes)
		}
	}
	if addresses := l.run(t, "ip", "-6", "address", "show", "dev", "eth0", "scope", "global"); addresses != "" {
		t.Errorf("the guest makes addresses itself, which its port has not:\n%s", addresses)
	}
}

// run runs a program in the guest.
func (l *link) run(t *testing.T, command ...string) string {
	t.Helper()
	var out strings.Builder
	must(t, l.guest.Do(func() error {
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd.Run()
	}))
	return out.String()
}

func TestAnAdvertisementSaysWhatGuestsNeed(t *testing.T) {
	l := newLink(t, config())
	l.up(t)
	said := l.run(t, "rdisc6", "-1", "eth0")
	for _, text := range []string{"Stateful address conf.    :          Yes", "Stateful other conf.      :          Yes", "Prefix                   : fd00:10::/64", "On-link                 :          Yes",
		"Autonomous address conf.:           No", "MTU                      :         1450", "Recursive DNS server     : fd00:10::1", "Source link-layer address: 0A:57:45:00:27:11", "Router lifetime           :         9000",
		"from fe80::857:45ff:fe00:2711"} {
		if !strings.Contains(said, text) {
			t.Errorf("%q is not in\n%s", text, said)
		}
	}
}

func TestAnAddressThatIsDeclinedIsNoticed(t *testing.T) {
	c := config()
	l := newLink(t, c)
	l.up(t)
	// Another station, the host itself, has the guest's address: the client looks before it takes it, and declines.
	must(t, l.host.Do(func() error { return nic.AddAddress(c.Device, netip.PrefixFrom(lease1, 24)) }))
	l.converse(t, map[string]syscall.Signal{"udhcpc: offered address is in use": syscall.SIGTERM}, "busybox", "udhcpc", "-f", "-a500", "-i", "eth0", "-s", script(t))
	select {
	case n := <-l.notices:
		if n.Port != "web-1" || !strings.Contains(n.Text, "declines 10.10.0.11") {
			t.Errorf("the notice is %+v", n)
		}
	case <-time.After(patience):
		t.Error("nobody was told")
	}
}

// networkd runs systemd-networkd in mounts of its own, where it finds nothing of this machine's.
const networkd = `set -e
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs /etc/systemd/network
mkdir -p /run/systemd/netif /run/systemd/notify
chown systemd-network:systemd-network /run/systemd/netif
mount -t sysfs -o ro sysfs /sys
printf '[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\nLinkLocalAddressing=ipv6\n[DHCPv4]\nUseMTU=yes\n' > /etc/systemd/network/eth0.network
exec /lib/systemd/systemd-networkd
`

func TestNetworkdConfiguresItselfWithBothFamilies(t *testing.T) {
	l := newLink(t, config())
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	defer log.Close()
	must(t, os.MkdirAll("/etc/systemd/network", 0o755))
	cmd := exec.Command("unshare", "-m", "sh", "-c", networkd)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug")
	must(t, l.guest.Start(cmd))
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	deadline := time.Now().Add(patience)
	for {
		addresses, routes := l.run(t, "ip", "-o", "address", "show", "dev", "eth0"), l.run(t, "ip", "route")+l.run(t, "ip", "-6", "route")
		if strings.Contains(addresses, "10.10.0.11/24") && strings.Contains(addresses, "fd00:10::11/128") && strings.Contains(routes, "default via 10.10.0.1 ") &&
			strings.Contains(routes, "192.168.9.0/24 via 10.10.0.9") && strings.Contains(routes, "default via "+linkLocal(config().GatewayMAC).String()) {
			break
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("networkd has made\n%s\n%s\nthe server's counts: %+v\n%s", addresses, routes, l.Counts(), said)
		}
	}
	if said := l.run(t, "ip", "link", "show", "dev", "eth0"); !strings.Contains(said, "mtu 1450") {
		t.Errorf("the MTU was not taken: %s", said)
	}
}
