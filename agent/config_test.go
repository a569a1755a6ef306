package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

const goodConfig = `host: h1
underlay: {device: eth0, address: 10.240.0.1}
tls: {ca: /etc/weft/ca.crt, cert: /etc/weft/tls.crt, key: /etc/weft/tls.key}
etcd:
  embedded:
    clientURL: https://10.240.0.1:2379
    peerURL: https://10.240.0.1:2380
    initialCluster: h1=https://10.240.0.1:2380,h2=https://10.240.0.2:2380
`

func TestDefaultsFillInWhatWasLeftOut(t *testing.T) {
	c, err := ParseConfig("agent.yaml", []byte(goodConfig))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Listen, c.Socket, c.StateDir, c.BPFDir, c.Metrics, c.Gossip.Label, c.Etcd.Embedded.Name, c.Etcd.Embedded.DataDir,
		strings.Join(c.Etcd.Endpoints, ","), c.Etcd.TLS.CA, c.Etcd.TLS.Cert, c.Etcd.TLS.Key}
	want := []string{"10.240.0.1:7443", "/run/weft/agent.sock", "/var/lib/weft", "/sys/fs/bpf/weft", "127.0.0.1:9464", "weft", "h1",
		"/var/lib/weft/etcd", "https://10.240.0.1:2379",
		"/etc/weft/ca.crt", "/etc/weft/etcd.crt", "/etc/weft/etcd.key"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
	if !c.Server() || c.Gossip.Port != 7946 {
		t.Errorf("server %v, gossip port %d", c.Server(), c.Gossip.Port)
	}
}

func TestBadConfigurationIsNamedByLine(t *testing.T) {
	for _, bad := range []struct{ name, from, to, want string }{
		{"an unknown key", "host: h1", "host: h1\nhots: h2", `agent.yaml:2:0: unknown key "hots"`},
		{"an unknown key inside", "device: eth0,", "device: eth0, adress: 1.2.3.4,", `agent.yaml:2:0: unknown key "adress"`},
		{"a name that cannot be", "host: h1", "host: H_1", `agent.yaml:1:1: host: name "H_1"`},
		{"no name", "host: h1", "host:", `agent.yaml:1:1: host: name is missing`},
		{"no underlay", "underlay: {device: eth0, address: 10.240.0.1}", "", `underlay.device: is missing`},
		{"a multicast tunnel end point", "10.240.0.1}", "224.0.0.1}", `agent.yaml:2:26: underlay.address: 224.0.0.1 cannot be`},
		{"an address that is none", "address: 10.240.0.1", "address: 10.240.0", `agent.yaml`},
		{"half a certificate", ", key: /etc/weft/tls.key", "", `agent.yaml:3:1: tls: needs ca, cert and key`},
		{"etcd without TLS", "clientURL: https", "clientURL: http", `agent.yaml:6:5: etcd.embedded.clientURL`},
		{"a member that is not in the cluster", "h1=https://10.240.0.1:2380", "h9=https://10.240.0.1:2380", `agent.yaml:8:5: etcd.embedded.initialCluster: does not list`},
		{"metrics for everybody", "host: h1", "host: h1\nmetrics: 0.0.0.0:9464", `agent.yaml:2:1: metrics: "0.0.0.0:9464" must be a loopback`},
		{"a server without port", "host: h1", "host: h1\nservers: [10.240.0.2:7443, h3]", `agent.yaml:2:28: servers[1]: "h3" is not host:port`},
		{"a relative path", "host: h1", "host: h1\nstateDir: state", `agent.yaml:2:1: stateDir: "state" must be an absolute path`},
		{"a socket path that is too long", "host: h1", "host: h1\nsocket: /" + strings.Repeat("x", 110), `agent.yaml:2:1: socket: 111 characters`},
		{"not YAML", "host: h1", "host: [h1", `agent.yaml:`},
		{"a list for a name", "host: h1", "host: [h1]", `agent.yaml:1:0: cannot unmarshal`},
	} {
		t.Run(bad.name, func(t *testing.T) {
			text := strings.Replace(goodConfig, bad.from, bad.to, 1)
			_, err := ParseConfig("agent.yaml", []byte(text))
			if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), bad.want) {
				t.Fatalf("got  %v\nwant %s", err, bad.want)
			}
		})
	}
}

func TestAConfigurationThatIsNotThereSaysSo(t *testing.T) {
	_, err := LoadConfig(filepath.Join(t.TempDir(), "agent.yaml"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "--config") {
		t.Fatalf("got %v", err)
	}
	big := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(big, make([]byte, maxConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(big); err == nil || !strings.Contains(err.Error(), "larger than 1 MiB") {
		t.Fatalf("got %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte("etcd: {embedded: {}}\nservers: [1]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig("agent.yaml", text)
		if err == nil && (c.Host == "" || !c.Underlay.Address.IsValid()) {
			t.Fatalf("accepted without host or tunnel end point: %q", text)
		}
	})
}

func TestEveryKeyIsInTheReference(t *testing.T) {
	text, err := os.ReadFile("../docs/reference/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, of reflect.Type)
	walk = func(prefix string, of reflect.Type) {
		for f := range of.Fields() {
			key := f.Tag.Get("yaml")
			if key == "-" {
				continue
			}
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct && inner.PkgPath() == reflect.TypeFor[Config]().PkgPath() {
				walk(prefix+key+".", inner)
				continue
			}
			if !strings.Contains(string(text), "`"+prefix+key+"`") {
				t.Errorf("docs/reference/agent.md does not tell of %s", prefix+key)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
}
