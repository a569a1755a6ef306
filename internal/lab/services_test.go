package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// served makes the internal switch blue with NAT, and a guest on it whose addresses are taken away: it is to ask for them.
func served(t testing.TB, l *Lab, spec fabric.SwitchSpec) {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	spec.Type, spec.Subnets = fabric.Internal, []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd10:10::/64")}
	sw := &fabric.Switch{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: "blue"}, Spec: spec}
	result, err := c.Apply(t.Context(), []fabric.Object{sw}, false)
	if err != nil {
		t.Fatal(err)
	}
	if reach, err := c.InForce(t.Context(), result.Revision); err != nil || !reach.Done {
		t.Fatalf("switch blue is not in force: %+v, %v", reach, err)
	}
}

// leaseScript is what udhcpc runs: it takes the address and the default route, and prints what it was told.
func leaseScript(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	text := "#!/bin/sh\n[ \"$1\" = bound ] || [ \"$1\" = renew ] || exit 0\nip address replace $ip/$mask dev $interface\nip route replace default via $router\nenv\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGuestsOfAnInternalSwitchAreServed(t *testing.T) {
	l := live(t, Options{Name: "served", Hosts: 2})
	served(t, l, fabric.SwitchSpec{Services: fabric.Services{NAT: fabric.NATService{Enabled: true}}})
	script, first := leaseScript(t), ""
	for i, host := range []fabric.HostID{"h1", "h2"} {
		name := fmt.Sprintf("web-%d", i+1)
		g, err := l.AddGuest(t.Context(), GuestOptions{Name: name, Host: host, Switch: "blue"}, t.Logf)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = g.NIC.Addresses[0].Addr().String()
		}
		said := inGuest(t, l, name, "sh", "-c", "ip address flush dev eth0 scope global; busybox udhcpc -f -q -n -t 10 -T 1 -i eth0 -s "+script)
		want := fmt.Sprintf("ip=%s\n", g.NIC.Addresses[0].Addr())
		for _, line := range []string{want, "router=10.10.0.1\n", "dns=10.10.0.1\n", "domain=blue\n", "hostname=" + name + "\n", "serverid=10.10.0.1\n", "mtu=1450\n"} {
			if !strings.Contains(said, line) {
				t.Errorf("%s: %q is not in\n%s", name, line, said)
			}
		}
		if said := inGuest(t, l, name, "dig", "+short", "@10.10.0.1", "web-1.blue", "A"); strings.TrimSpace(said) != first {
			t.Errorf("%s is told that web-1.blue is %q, want %s", name, said, first)
		}
		if said := inGuest(t, l, name, "ping", "-c", "2", "-W", "5", WireAddresses(0)[0].Addr().String()); !strings.Contains(said, " 0% packet loss") {
			t.Errorf("%s does not reach the world:\n%s", name, said)
		}
		servedWithIPv6(t, l, g)
	}
}

// servedWithIPv6 has a guest solicit its router, ask for its lease by DHCPv6, and reach the world.
func servedWithIPv6(t *testing.T, l *Lab, g *Guest) {
	t.Helper()
	router := fabric.GatewayLinkLocal(10001).String()
	usable := "for i in $(seq 2000); do ip -6 address show dev eth0 scope link -tentative | grep -q inet6 && exit 0; done; exit 1"
	inGuest(t, l, g.Name, "sh", "-c", usable)
	advertised := inGuest(t, l, g.Name, "rdisc6", "-1", "-w", "5000", "eth0")
	for _, text := range []string{"from " + router, "Stateful address conf.    :          Yes", "fd10:10::/64"} {
		if !strings.Contains(advertised, text) {
			t.Errorf("%s: %q is not in\n%s", g.Name, text, advertised)
		}
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ -z \"$new_ip6_address\" ] || ip address replace $new_ip6_address/128 dev $interface nodad\nenv > "+dir+"/$reason\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// It goes into the background with its lease; -x ends it there.
	files := []string{"-6", "-sf", script, "-lf", dir + "/leases", "-pf", dir + "/pid", "-cf", "/dev/null"}
	inGuest(t, l, g.Name, append(append([]string{"dhclient", "-1"}, files...), "eth0")...)
	inGuest(t, l, g.Name, append(append([]string{"dhclient", "-x"}, files...), "eth0")...)
	told, err := os.ReadFile(dir + "/BOUND6")
	if want := "new_ip6_address=" + g.NIC.Addresses[1].Addr().String() + "\n"; err != nil || !strings.Contains(string(told), want) {
		t.Errorf("%s: %q is not in\n%s (%v)", g.Name, want, told, err)
	}
	inGuest(t, l, g.Name, "ip", "-6", "address", "replace", g.NIC.Addresses[1].Addr().String()+"/128", "dev", "eth0", "nodad")
	if routes := inGuest(t, l, g.Name, "ip", "-6", "route"); !strings.Contains(routes, "default via "+router+" dev eth0 proto ra") {
		t.Errorf("%s has not taken the router that is advertised:\n%s", g.Name, routes)
	}
	if said := inGuest(t, l, g.Name, "ping", "-c", "2", "-W", "5", WireAddresses(0)[1].Addr().String()); !strings.Contains(said, " 0% packet loss") {
		t.Errorf("%s does not reach the world by IPv6:\n%s", g.Name, said)
	}
}

// TestServicesSurviveMovesAndAgents: what a guest was given stays its own when it moves, when the agent dies, and when it asks again.
func TestServicesSurviveMovesAndAgents(t *testing.T) {
	l := live(t, Options{Name: "survive", Hosts: 2})
	served(t, l, fabric.SwitchSpec{Services: fabric.Services{NAT: fabric.NATService{Enabled: true}}})
	g, err := l.AddGuest(t.Context(), GuestOptions{Name: "web-1", Host: "h1", Switch: "blue"}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	served(t, l, fabric.SwitchSpec{Services: fabric.Services{NAT: fabric.NATService{Enabled: true, Forwards: []fabric.Forward{{Protocol: "tcp", HostPort: 8080, Port: "web-1", PortNumber: 80}}}}})
	page := t.TempDir()
	if err := os.WriteFile(filepath.Join(page, "index.html"), []byte("web-1"), 0o644); err != nil {
		t.Fatal(err)
	}
	httpd := l.Command(t.Context(), "web-1", "busybox", "httpd", "-f", "-p", "80", "-h", page)
	if err := httpd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = httpd.Process.Kill(); _ = httpd.Wait() })
	script, address := leaseScript(t), g.NIC.Addresses[0].Addr().String()
	ask := func(when string) {
		t.Helper()
		said := inGuest(t, l, "web-1", "busybox", "udhcpc", "-f", "-q", "-n", "-t", "10", "-T", "1", "-i", "eth0", "-s", script)
		if !strings.Contains(said, "ip="+address+"\n") || !strings.Contains(said, "serverid=10.10.0.1\n") {
			t.Errorf("%s the guest is told\n%s", when, said)
		}
	}
	works := func(when string) {
		t.Helper()
		if said := inGuest(t, l, "web-1", "ping", "-c", "2", "-W", "5", WireAddresses(0)[0].Addr().String()); !strings.Contains(said, " 0% packet loss") {
			t.Errorf("%s the guest does not reach the world:\n%s", when, said)
		}
		for n := 1; n <= 2; n++ { // through the host that it runs on, and through the other
			url := fmt.Sprintf("http://%s:8080/", WireAddresses(n)[0].Addr())
			if said := inGuest(t, l, "wire", "curl", "-sm", "5", url); said != "web-1" {
				t.Errorf("%s %s answers %q", when, url, said)
			}
		}
	}
	ask("at first")
	works("at first")
	migrate(t, l, "web-1", "h2")
	works("after a move")
	ask("after a move")
	if err := l.KillAgent("h2"); err != nil {
		t.Fatal(err)
	}
	works("without an agent")
	if err := l.StartAgent("h2"); err != nil {
		t.Fatal(err)
	}
	ask("with the next agent")
	works("with the next agent")
}

// inGuest runs a command in a guest and returns what it says.
func inGuest(t *testing.T, l *Lab, guest string, argv ...string) string {
	t.Helper()
	var out strings.Builder
	if err := l.Exec(t.Context(), guest, argv, Streams{Out: &out, Err: &out}); err != nil {
		t.Fatalf("%s: %v: %v\n%s", guest, argv, err, out.String())
	}
	return out.String()
}
