package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// Config is agent.yaml. Unknown keys are errors; what has a default may be left out.
type Config struct {
	// Host is this host's name in the fabric.
	Host fabric.HostID `yaml:"host"`
	// Underlay is the NIC that carries the tunnels.
	Underlay Underlay `yaml:"underlay"`
	// Listen is the address of the mTLS API; port 7443 of the underlay address when empty.
	Listen string `yaml:"listen"`
	// Socket is the path of the API's unix socket; /run/weft/agent.sock when empty.
	Socket string `yaml:"socket"`
	// StateDir keeps what must outlive the agent; /var/lib/weft when empty. It is made with mode 0700.
	StateDir string `yaml:"stateDir"`
	// BPFDir is where the datapath is pinned, within a bpf file system; /sys/fs/bpf/weft when empty.
	BPFDir string `yaml:"bpfDir"`
	// TLS is this host's certificate of the fabric's CA; other hosts are reached with it and nothing else.
	TLS    TLSFiles `yaml:"tls"`
	Gossip Gossip   `yaml:"gossip"`
	Etcd   Etcd     `yaml:"etcd"`
	// Servers are API addresses of hosts that may write to etcd. A host without embedded etcd writes through them.
	Servers []string `yaml:"servers"`
	Hooks   Hooks    `yaml:"hooks"`
	Libvirt Libvirt  `yaml:"libvirt"`
	OTLP    OTLP     `yaml:"otlp"`
	// Metrics is the loopback address that answers Prometheus; 127.0.0.1:9464 when empty, none when "off".
	Metrics string `yaml:"metrics"`

	// Version is what runs, set by the caller.
	Version string `yaml:"-"`
}

// Underlay is the NIC that carries the tunnels.
type Underlay struct {
	Device string `yaml:"device"`
	// Address is this host's tunnel end point, on Device.
	Address netip.Addr `yaml:"address"`
	// Capacity is what the NIC sends at most, such as 10G bits a second, for what ports have for certain; the speed of its link when empty.
	Capacity string `yaml:"capacity"`
}

// TLSFiles are paths of PEM files.
type TLSFiles struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	// Key must not be readable by others than its owner.
	Key string `yaml:"key"`
}

// Gossip is how hosts tell each other that they are alive.
type Gossip struct {
	// Port on the underlay address; 7946 when 0.
	Port int `yaml:"port"`
	// KeyFile holds the fleet's gossip key; no gossip when empty.
	KeyFile string `yaml:"keyFile"`
	// Label keeps fleets on one network apart; "weft" when empty.
	Label string `yaml:"label"`
}

// Etcd says where the wanted state is.
type Etcd struct {
	// Endpoints are client URLs; those of the embedded member when empty.
	Endpoints []string `yaml:"endpoints"`
	// TLS is the certificate that says which user of etcd this host is (ADR 9). Left out: the CA of tls, and etcd.crt and
	// etcd.key beside tls.cert.
	TLS TLSFiles `yaml:"tls"`
	// Embedded makes this host a member of the fleet's own cluster.
	Embedded *EmbeddedEtcd `yaml:"embedded"`
}

// files are the paths as package identity takes them.
func (t TLSFiles) files() identity.Files { return identity.Files{CA: t.CA, Cert: t.Cert, Key: t.Key} }

// EmbeddedEtcd is a member that runs inside the agent.
type EmbeddedEtcd struct {
	// Name of the member; the host's when empty.
	Name string `yaml:"name"`
	// DataDir is stateDir/etcd when empty.
	DataDir   string `yaml:"dataDir"`
	ClientURL string `yaml:"clientURL"`
	PeerURL   string `yaml:"peerURL"`
	// InitialCluster names all members: h1=https://10.240.0.1:2380,h2=…
	InitialCluster string `yaml:"initialCluster"`
}

// Hooks are commands that the agent runs.
type Hooks struct {
	// Incoming starts the destination hypervisor of a move: it reads {vm, ports, move} as JSON on standard input and prints
	// {uri, attachments} as JSON.
	Incoming []string `yaml:"incoming"`
}

// OTLP is where traces go.
type OTLP struct {
	// Endpoint is grpc://HOST:4317, grpcs://HOST:4317, http://HOST:4318 or https://HOST:4318; none when empty.
	Endpoint string `yaml:"endpoint"`
}

// maxConfig bounds agent.yaml, in bytes.
const maxConfig = 1 << 20

// LoadConfig reads agent.yaml, fills in the defaults and checks every value. The error is fabric.Findings, each with its line.
func LoadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the agent's configuration: %w; name the file with --config", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("read the agent's configuration: %w", err)
	}
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("read the agent's configuration %s: it is larger than 1 MiB, so it cannot be an agent.yaml", path)
	}
	return ParseConfig(path, text)
}

// ParseConfig is LoadConfig of a text that was read already; name stands in the errors.
func ParseConfig(name string, text []byte) (Config, error) {
	var c Config
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, findings(name, err)
	}
	c.Default()
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return Config{}, findings(name, err)
	}
	found := c.check()
	for i := range found {
		found[i].File = name
		found[i].Line, found[i].Column = locate(&root, found[i].Path)
	}
	slices.SortStableFunc(found, func(a, b fabric.Finding) int { return cmp.Or(a.Line-b.Line, strings.Compare(a.Path, b.Path)) })
	return c, found.Err()
}

// Default fills in what was left out.
func (c *Config) Default() {
	c.Underlay.Address = c.Underlay.Address.Unmap()
	first(&c.Socket, api.Socket)
	first(&c.StateDir, "/var/lib/weft")
	first(&c.BPFDir, "/sys/fs/bpf/weft")
	first(&c.Metrics, "127.0.0.1:9464")
	first(&c.Gossip.Label, "weft")
	if c.Gossip.Port == 0 {
		c.Gossip.Port = 7946
	}
	if c.Listen == "" && c.Underlay.Address.IsValid() {
		c.Listen = netip.AddrPortFrom(c.Underlay.Address, 7443).String()
	}
	first(&c.Etcd.TLS.CA, c.TLS.CA)
	beside := identity.EtcdFilesIn(filepath.Dir(c.TLS.Cert))
	first(&c.Etcd.TLS.Cert, beside.Cert)
	first(&c.Etcd.TLS.Key, beside.Key)
	if e := c.Etcd.Embedded; e != nil {
		first(&e.Name, string(c.Host))
		first(&e.DataDir, filepath.Join(c.StateDir, "etcd"))
		if len(c.Etcd.Endpoints) == 0 && e.ClientURL != "" {
			c.Etcd.Endpoints = []string{e.ClientURL}
		}
	}
}

// first gives a value to what has none.
func first(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// Server reports whether this host writes to etcd itself.
func (c *Config) Server() bool { return c.Etcd.Embedded != nil || len(c.Servers) == 0 }

var (
	unknownKey = regexp.MustCompile(`^line (\d+): field (\S+) not found in type .*$`)
	atLine     = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
)

// findings turns the decoder's complaints into findings with their lines, without the names of Go types.
func findings(name string, err error) error {
	lines := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	var several *yaml.TypeError
	if errors.As(err, &several) {
		lines = several.Errors
	}
	var f fabric.Findings
	for _, text := range lines {
		one := fabric.Finding{File: name, Message: text}
		if m := unknownKey.FindStringSubmatch(text); m != nil {
			one.Line, _ = strconv.Atoi(m[1])
			one.Message = fmt.Sprintf("unknown key %q: the keys are in docs/reference/agent.md", m[2])
		} else if m := atLine.FindStringSubmatch(text); m != nil {
			one.Line, _ = strconv.Atoi(m[1])
			one.Message = m[2]
		}
		f = append(f, one)
	}
	return f
}

// locate finds the line and column of a path such as etcd.endpoints[1], or of the nearest key above it.
func locate(n *yaml.Node, path string) (line, column int) {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	at := n
	for _, key := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		next, where := child(n, key)
		if next == nil {
			break
		}
		n, at = next, where
	}
	return at.Line, at.Column
}

// child is the value under a key or index, and the node whose place to show.
func child(n *yaml.Node, key string) (value, where *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1], n.Content[i]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}
