package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/weftnet/weft/fabric"
)

// Config is agent.yaml. Unknown keys are errors; what has a default may be left out.
type Config struct {
	// Host is this host's name in the fabric.
	Host fabric.HostID `yaml:"host"`
	// Underlay is the NIC that carries the tunnels.
	Underlay Underlay `yaml:"underlay"`
	// Listen is the address of the mTLS API; port 7443 of the underlay address when empty.
	Listen string `yaml:"listen"`
	// Socket is the path of the API's unix socket; /run/weft/weft.sock when empty.
	Socket string `yaml:"socket"`
	// StateDir keeps what must outlive the agent; /var/lib/weft when empty. It is made with mode 0700.
	StateDir string `yaml:"stateDir"`
	// BPFDir is where the datapath is pinned, within a bpf file system; /sys/fs/bpf/weft when empty.
	BPFDir string `yaml:"bpfDir"`
	// TLS is this host's certificate; without it the host has no API beyond the socket.
	TLS    TLSFiles `yaml:"tls"`
	Gossip Gossip   `yaml:"gossip"`
	Etcd   Etcd     `yaml:"etcd"`
	// Servers are API addresses of hosts that may write to etcd. A host without embedded etcd writes through them.
	Servers []string `yaml:"servers"`
	Hooks   Hooks    `yaml:"hooks"`
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
	// Embedded makes this host a member of the fleet's own cluster.
	Embedded *EmbeddedEtcd `yaml:"embedded"`
}

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
	// Endpoint is an OTLP/gRPC or OTLP/HTTP URL; none when empty.
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
	return c, found.Err()
}

// Default fills in what was left out.
func (c *Config) Default() {
	c.Underlay.Address = c.Underlay.Address.Unmap()
	first(&c.Socket, "/run/weft/weft.sock")
	first(&c.StateDir, "/var/lib/weft")
	first(&c.BPFDir, "/sys/fs/bpf/weft")
	first(&c.Metrics, "127.0.0.1:9464")
	first(&c.Gossip.Label, "weft")
	if c.Gossip.Port == 0 {
		c.Gossip.Port = 7946
	}
	if c.Listen == "" && c.TLS.Cert != "" && c.Underlay.Address.IsValid() {
		c.Listen = netip.AddrPortFrom(c.Underlay.Address, 7443).String()
	}
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

// check finds what is wrong with a configuration whose defaults are filled in.
func (c *Config) check() fabric.Findings {
	var f fabric.Findings
	add := func(path, format string, args ...any) {
		f = append(f, fabric.Finding{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	if err := fabric.CheckName(string(c.Host)); err != nil {
		add("host", "%v; it is this host's name in the fabric, such as h1", err)
	}
	if c.Underlay.Device == "" {
		add("underlay.device", "is missing: name the NIC that carries the tunnels, such as eth0")
	}
	if a := c.Underlay.Address; !a.IsValid() {
		add("underlay.address", "is missing: give this host's address on the underlay, such as 10.240.0.1")
	} else if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		add("underlay.address", "%s cannot be a tunnel end point: give a unicast address of the underlay device", a)
	}
	c.checkPaths(add)
	c.checkAddresses(add)
	c.checkEtcd(add)
	return f
}

// checkPaths checks what names files.
func (c *Config) checkPaths(add func(path, format string, args ...any)) {
	for path, value := range map[string]string{"socket": c.Socket, "stateDir": c.StateDir, "bpfDir": c.BPFDir} {
		if !filepath.IsAbs(value) {
			add(path, "%q must be an absolute path", value)
		}
	}
	// sun_path holds 108 bytes with its terminating zero (unix(7)).
	if len(c.Socket) > 103 {
		add("socket", "%d characters are too long for a unix socket, the most is 103", len(c.Socket))
	}
	if t := c.TLS; t != (TLSFiles{}) && (t.CA == "" || t.Cert == "" || t.Key == "") {
		add("tls", "needs ca, cert and key together")
	}
	if len(c.Hooks.Incoming) > 0 && c.Hooks.Incoming[0] == "" {
		add("hooks.incoming", "the first element is the command to run, and is empty")
	}
}

// checkAddresses checks what is listened on and called.
func (c *Config) checkAddresses(add func(path, format string, args ...any)) {
	if c.Listen != "" && c.TLS.Cert == "" {
		add("listen", "the API beyond the unix socket needs mutual TLS: set tls.ca, tls.cert and tls.key, or leave listen out")
	}
	if c.Listen != "" && !isHostPort(c.Listen) {
		add("listen", "%q is not host:port, such as 10.240.0.1:7443", c.Listen)
	}
	for i, s := range c.Servers {
		if !isHostPort(s) {
			add(fmt.Sprintf("servers[%d]", i), "%q is not host:port, such as 10.240.0.1:7443", s)
		}
	}
	if c.Gossip.Port < 1 || c.Gossip.Port > 65535 {
		add("gossip.port", "%d is not a port, 1 to 65535", c.Gossip.Port)
	}
	if c.Metrics != "off" {
		host, _, err := net.SplitHostPort(c.Metrics)
		if a, aerr := netip.ParseAddr(host); err != nil || host != "localhost" && (aerr != nil || !a.IsLoopback()) {
			add("metrics", "%q must be a loopback address with a port, such as 127.0.0.1:9464, or off", c.Metrics)
		}
	}
	if e := c.OTLP.Endpoint; e != "" && !isURL(e, "http", "https") {
		add("otlp.endpoint", "%q is not a URL, such as http://127.0.0.1:4317", e)
	}
}

// checkEtcd checks where the wanted state is.
func (c *Config) checkEtcd(add func(path, format string, args ...any)) {
	if len(c.Etcd.Endpoints) == 0 && c.Etcd.Embedded == nil {
		add("etcd.endpoints", "is missing: give the client URLs of etcd, or etcd.embedded to run a member here")
	}
	for i, e := range c.Etcd.Endpoints {
		if !isURL(e, "http", "https", "unix") {
			add(fmt.Sprintf("etcd.endpoints[%d]", i), "%q is not a URL, such as https://10.240.0.1:2379", e)
		}
	}
	m := c.Etcd.Embedded
	if m == nil {
		return
	}
	if !isURL(m.ClientURL, "http", "https", "unix") {
		add("etcd.embedded.clientURL", "%q is not a URL, such as https://10.240.0.1:2379", m.ClientURL)
	}
	if !isURL(m.PeerURL, "http", "https", "unix") {
		add("etcd.embedded.peerURL", "%q is not a URL, such as https://10.240.0.1:2380", m.PeerURL)
	}
	if m.InitialCluster != "" && !slices.Contains(strings.Split(m.InitialCluster, ","), m.Name+"="+m.PeerURL) {
		add("etcd.embedded.initialCluster", "does not list this member: add %s=%s", m.Name, m.PeerURL)
	}
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.ParseUint(port, 10, 16)
	return err == nil && perr == nil && host != "" && n != 0
}

func isURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	return err == nil && slices.Contains(schemes, u.Scheme) && u.Host+u.Path != ""
}

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

// reconnect is how long to wait between attempts to reach what does not answer.
const reconnect = time.Second
