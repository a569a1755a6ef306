package agent

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/fabric"
)

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
	if _, err := fabric.ParseAmount(c.Underlay.Capacity); c.Underlay.Capacity != "" && err != nil {
		add("underlay.capacity", "%v; it is what the NIC sends at most, in bits a second", err)
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
	if t := c.TLS; t.CA == "" || t.Cert == "" || t.Key == "" {
		add("tls", "needs ca, cert and key: the files of this host's certificate")
	}
	if h := c.Libvirt.Hooks; h != "" && !filepath.IsAbs(h) {
		add("libvirt.hooks", "%q must be an absolute path", h)
	}
	if len(c.Hooks.Incoming) > 0 && c.Hooks.Incoming[0] == "" {
		add("hooks.incoming", "the first element is the command to run, and is empty")
	}
}

// checkAddresses checks what is listened on and called.
func (c *Config) checkAddresses(add func(path, format string, args ...any)) {
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
	if e := c.OTLP.Endpoint; e != "" && !isURL(e, "http", "https", "grpc", "grpcs") && !isHostPort(e) {
		add("otlp.endpoint", "%q is no collector: write grpc://HOST:4317 or http://HOST:4318", e)
	}
}

// checkEtcd checks where the wanted state is.
func (c *Config) checkEtcd(add func(path, format string, args ...any)) {
	if len(c.Etcd.Endpoints) == 0 && c.Etcd.Embedded == nil {
		add("etcd.endpoints", "is missing: give the client URLs of etcd, or etcd.embedded to run a member here")
	}
	for i, e := range c.Etcd.Endpoints {
		if !isURL(e, "https") {
			add(fmt.Sprintf("etcd.endpoints[%d]", i), "%q is not an https URL, such as https://10.240.0.1:2379", e)
		}
	}
	m := c.Etcd.Embedded
	if m == nil {
		return
	}
	if !isURL(m.ClientURL, "https") {
		add("etcd.embedded.clientURL", "%q is not a URL, such as https://10.240.0.1:2379", m.ClientURL)
	}
	if !isURL(m.PeerURL, "https") {
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
