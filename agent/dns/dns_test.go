package dns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/weftnet/weft/datapath/nic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func config() Config {
	a, b := netip.MustParseAddr("10.10.0.11"), netip.MustParseAddr("fd00:10::11")
	return Config{
		Device: "weft-blue", Addresses: []netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("fd00:10::1")}, Zones: []string{"blue", "corp.example.org"},
		Ports: map[string][]netip.Addr{"web-1": {a, b}, "web-2": {netip.MustParseAddr("10.10.0.12")}}, Names: map[netip.Addr]string{a: "web-1", b: "web-1"},
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd00:10::/64")}, Upstreams: []netip.Addr{},
	}
}

// link is a host that answers and a guest that asks.
type link struct {
	*Server
	guest nic.Namespace
}

func newLink(t *testing.T, c Config) *link {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root (make test)")
	}
	l := &link{}
	var host nic.Namespace
	for name, to := range map[string]*nic.Namespace{"host": &host, "guest": &l.guest} {
		n, err := nic.CreateNamespace(fmt.Sprintf("dnstest-%d-%s", os.Getpid(), name))
		must(t, err)
		*to = n
		t.Cleanup(func() { must(t, n.Delete()) })
	}
	must(t, host.Do(func() error {
		if err := nic.CreateVeth(nic.Veth{Name: c.Device, Peer: "eth0", PeerNamespace: l.guest}); err != nil {
			return err
		}
		var err error
		l.Server, err = Open(t.Context(), c, nil) // before its addresses are there
		return err
	}))
	for n, device := range map[nic.Namespace]string{host: c.Device, l.guest: "eth0"} {
		must(t, n.Do(func() error {
			number := "1"
			if device == "eth0" {
				number = "11"
			}
			for _, a := range []string{"10.10.0." + number + "/24", "fd00:10::" + number + "/64"} {
				if err := nic.AddAddress(device, netip.MustParsePrefix(a)); err != nil {
					return err
				}
			}
			return nic.SetUp(device)
		}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
	})
	return l
}

// dig asks in the guest and returns what dig prints.
func (l *link) dig(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "dig", append([]string{"+tries=3", "+timeout=2"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.guest.Do(cmd.Run); err != nil {
		t.Fatalf("dig %v: %v\n%s\ncounts: %+v", args, err, out.String(), l.Counts())
	}
	return out.String()
}

func TestDigIsAnsweredFromTheRecords(t *testing.T) {
	l := newLink(t, config())
	for _, c := range []struct {
		ask  string
		want []string
	}{
		{"@10.10.0.1 web-1.blue A", []string{"status: NOERROR", "flags: qr aa rd ra", "web-1.blue.\t\t30\tIN\tA\t10.10.0.11"}},
		{"@fd00:10::1 WEB-1.Blue AAAA", []string{"status: NOERROR", "IN\tAAAA\tfd00:10::11"}},
		{"+tcp @10.10.0.1 web-1.corp.example.org A", []string{"status: NOERROR", "IN\tA\t10.10.0.11", "(TCP)"}},
		{"+noedns @10.10.0.1 web-1.blue ANY", []string{"status: NOERROR", "ANSWER: 2"}},
		{"@10.10.0.1 -x 10.10.0.11", []string{"status: NOERROR", "IN\tPTR\tweb-1.blue."}},
		{"@10.10.0.1 -x fd00:10::11", []string{"status: NOERROR", "IN\tPTR web-1.blue."}},
		{"@10.10.0.1 -x 10.10.0.99", []string{"status: NXDOMAIN", "SOA"}},
		{"@10.10.0.1 web-2.blue AAAA", []string{"status: NOERROR", "ANSWER: 0", "blue.\t\t\t30\tIN\tSOA"}},
		{"@10.10.0.1 web-9.blue", []string{"status: NXDOMAIN", "SOA"}},
		{"@10.10.0.1 a.web-1.blue", []string{"status: NXDOMAIN"}},
		{"@10.10.0.1 blue SOA", []string{"status: NOERROR"}},
		{"@10.10.0.1 example.com", []string{"status: REFUSED"}}, // there is nobody to ask
		{"@10.10.0.1 -c CH version.bind TXT", []string{"status: REFUSED"}},
	} {
		said := l.dig(t, strings.Fields(c.ask)...)
		for _, text := range c.want {
			if !strings.Contains(said, text) {
				t.Errorf("dig %s: %q is not in\n%s", c.ask, text, said)
			}
		}
	}
	if n := l.Counts(); n.Answered < 12 || n.Malformed+n.Panicked+n.Limited != 0 {
		t.Errorf("the counts are %+v", n)
	}
}

func TestOtherNamesAreAskedElsewhere(t *testing.T) {
	c := config()
	c.Upstreams = []netip.Addr{netip.MustParseAddr("127.0.0.99"), netip.MustParseAddr("127.0.0.1")} // the first is not there
	l := newLink(t, c)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	at := udp.LocalAddr().String()
	tcp, err := net.Listen("tcp", at)
	must(t, err)
	_, l.port, err = net.SplitHostPort(at)
	must(t, err)
	world := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		switch q.Question[0].Name {
		case "example.com.":
			rr, _ := dns.NewRR("example.com. 60 IN A 192.0.2.7")
			r.Answer = append(r.Answer, rr)
		case "large.example.com.":
			for i := range 200 {
				rr, _ := dns.NewRR(fmt.Sprintf("large.example.com. 60 IN A 192.0.2.%d", i))
				r.Answer = append(r.Answer, rr)
			}
			if _, small := w.RemoteAddr().(*net.UDPAddr); small {
				r.Truncate(payload)
			}
		case "odd.example.com.":
			r.Question[0].Name = "other.example.com."
		}
		_ = w.WriteMsg(r)
	})
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: world}, {Listener: tcp, Handler: world}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { must(t, s.Shutdown()) })
	}
	if said := l.dig(t, "@10.10.0.1", "example.com"); !strings.Contains(said, "192.0.2.7") || strings.Contains(said, "flags: qr aa") {
		t.Errorf("the world's answer is\n%s", said)
	}
	if said := l.dig(t, "@10.10.0.1", "large.example.com"); !strings.Contains(said, "ANSWER: 200") || !strings.Contains(said, "Truncated, retrying in TCP mode") {
		t.Errorf("a large answer is\n%s", said)
	}
	if said := l.dig(t, "@10.10.0.1", "odd.example.com"); !strings.Contains(said, "SERVFAIL") {
		t.Errorf("an answer to another question is taken:\n%s", said)
	}
}

func TestOneGuestCannotAskWithoutEnd(t *testing.T) {
	s := &Server{clients: map[netip.Addr]*client{}, asking: make(chan struct{}, mostAsked), connected: make(chan struct{}, mostConnections)}
	one, two := netip.MustParseAddr("10.10.0.11"), netip.MustParseAddr("10.10.0.12")
	for range mostOfOne {
		if !s.begin(one) {
			t.Fatal("it may ask less than it should")
		}
	}
	if s.begin(one) {
		t.Error("one guest may ask too much at a time")
	}
	if !s.begin(two) {
		t.Error("another guest may ask nothing")
	}
	for range mostOfOne {
		s.end(one)
	}
	if !s.begin(one) {
		t.Error("a guest whose questions are answered may ask nothing")
	}
	for range ofOne {
		s.connect(two)
	}
	if s.connect(two) {
		t.Error("one guest may have too many connections")
	}
	for i := range mostClients + 10 {
		s.client(netip.AddrFrom4([4]byte{10, 11, byte(i >> 8), byte(i)}))
	}
	if n := len(s.clients); n > mostClients {
		t.Errorf("%d addresses are remembered", n)
	}
	if s.clients[two] == nil {
		t.Error("an address was forgotten while it had connections")
	}
}

func FuzzAnswer(f *testing.F) {
	c := config()
	for _, name := range []string{"web-1.blue.", "11.0.10.10.in-addr.arpa.", "1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa."} {
		b, err := new(dns.Msg).SetQuestion(name, dns.TypeANY).Pack()
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if len(b) >= largest || q.Unpack(b) != nil {
			return
		}
		r := c.answer(q)
		if r == nil {
			return
		}
		if r.Id != q.Id || !r.Response {
			t.Errorf("%v is answered with %v", q, r)
		}
		r.Truncate(payload)
		if out, err := r.Pack(); err == nil && len(out) > payload {
			t.Errorf("%d bytes are answered", len(out))
		}
	})
}
