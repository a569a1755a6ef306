package lab

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// readyLimit is how long the hosts of a lab may take to be ready.
const readyLimit = 60 * time.Second

// Ports of a host; each host has its own namespace.
const (
	apiPort    = 7443
	clientPort = 2379
	peerPort   = 2380
)

// servers are the hosts that run etcd: an odd number, so that losing one costs no more than it must.
func (l *Lab) servers() []fabric.HostID {
	if l.Servers > 0 {
		return HostNames(l.Servers)
	}
	if l.Hosts < 3 {
		return HostNames(1)
	}
	return HostNames(3)
}

// startHosts makes what agents need, starts one in each namespace, and waits until all are ready.
func (l *Lab) startHosts(ctx context.Context, progress Progress) error {
	begun := time.Now()
	if err := l.issueCertificates(begun); err != nil {
		return fmt.Errorf("make the certificates of lab %s: %w", l.Name, err)
	}
	for _, host := range HostNames(l.Hosts) {
		if err := l.prepareHost(host); err != nil {
			return fmt.Errorf("prepare host %s: %w", host, err)
		}
	}
	for _, host := range HostNames(l.Hosts) {
		if err := l.StartAgent(host); err != nil {
			return err
		}
	}
	progress("%d agents started, %d with etcd", l.Hosts, len(l.servers()))
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("not ready after %s", readyLimit))
	defer cancel()
	return l.awaitReady(ctx, begun, progress)
}

// issueCertificates makes the fabric's authority, a certificate for each host and one for an operator, and the gossip key.
func (l *Lab) issueCertificates(now time.Time) error {
	ca, err := identity.NewCA("weft-lab-"+l.Name, now)
	if err != nil {
		return err
	}
	if err := ca.Save(l.file("ca")); err != nil {
		return err
	}
	issue := func(dir string, r identity.Request) error {
		r.Now = now
		cert, err := ca.Issue(r)
		if err != nil {
			return err
		}
		return cert.Save(dir)
	}
	etcd := func(dir string, user fabric.EtcdUser) error {
		cert, err := ca.IssueEtcd(user, now, 0)
		if err != nil {
			return err
		}
		return cert.SaveAs(identity.EtcdFilesIn(dir))
	}
	if err := etcd(l.file("ca"), fabric.EtcdRoot); err != nil {
		return err
	}
	for i, host := range HostNames(l.Hosts) {
		roles, user := []identity.Role{identity.RoleHost}, fabric.EtcdReader
		if i < len(l.servers()) {
			roles, user = append(roles, identity.RoleServer), fabric.EtcdWriter
		}
		if err := etcd(l.file(string(host), "tls"), user); err != nil {
			return err
		}
		addresses := []netip.Addr{address4(i + 1).Addr(), address6(i + 1).Addr()}
		if err := issue(l.file(string(host), "tls"), identity.Request{Name: string(host), Roles: roles, Addresses: addresses}); err != nil {
			return err
		}
	}
	if err := issue(l.OperatorDir(), identity.Request{Name: "operator", Roles: []identity.Role{identity.RoleOperator}}); err != nil {
		return err
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	return os.WriteFile(l.gossipKey(), []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
}

// OperatorDir has the certificate of an operator of the lab's fabric, in the files identity.FilesIn names.
func (l *Lab) OperatorDir() string { return l.file("operator") }

func (l *Lab) gossipKey() string { return l.file("gossip.key") }

// prepareHost mounts the host's own bpf file system and writes its agent.yaml.
func (l *Lab) prepareHost(host fabric.HostID) error {
	if err := os.MkdirAll(l.file(string(host), "state"), 0o700); err != nil {
		return err
	}
	if _, err := l.bpfMount(string(host)); err != nil {
		return err
	}
	b, err := yaml.Marshal(l.agentConfig(host))
	if err != nil {
		return err
	}
	return os.WriteFile(l.configFile(host), b, 0o600)
}

// bpfMount mounts a bpf file system for one part of the lab, so that nothing is pinned in the machine's own. It returns
// where; what is mounted already is left.
func (l *Lab) bpfMount(part string) (string, error) {
	mount := l.file(part, "bpf")
	var st unix.Statfs_t
	if unix.Statfs(mount, &st) == nil && st.Type == unix.BPF_FS_MAGIC {
		return mount, nil
	}
	if err := os.MkdirAll(mount, 0o700); err != nil {
		return "", err
	}
	if err := l.update(func() { l.Mounts = append(l.Mounts, mount) }); err != nil {
		return "", err
	}
	if err := unix.Mount("bpf", mount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount a bpf file system on %s: %w (the kernel needs CONFIG_BPF_SYSCALL)", mount, err)
	}
	return mount, nil
}

func (l *Lab) configFile(h fabric.HostID) string { return l.file(string(h), "agent.yaml") }

// agentConfig is agent.yaml of a host.
func (l *Lab) agentConfig(host fabric.HostID) map[string]any {
	self := l.VTEP(host)
	tls := identity.FilesIn(l.file(string(host), "tls"))
	var endpoints, servers, cluster []string
	embedded := false
	for _, s := range l.servers() {
		endpoints = append(endpoints, url(l.VTEP(s), clientPort))
		servers = append(servers, hostPort(l.VTEP(s), apiPort))
		cluster = append(cluster, fmt.Sprintf("%s=%s", s, url(l.VTEP(s), peerPort)))
		embedded = embedded || s == host
	}
	etcd := map[string]any{"endpoints": endpoints}
	config := map[string]any{
		"host":     host,
		"underlay": map[string]any{"device": "eth0", "address": self},
		"listen":   hostPort(self, apiPort),
		"socket":   l.Socket(host),
		"stateDir": l.file(string(host), "state"),
		"bpfDir":   l.file(string(host), "bpf"),
		"tls":      map[string]any{"ca": tls.CA, "cert": tls.Cert, "key": tls.Key},
		"gossip":   map[string]any{"keyFile": l.gossipKey(), "label": "weft-lab-" + l.Name},
		"etcd":     etcd,
		// Tests start a libvirt of the host's own there.
		"libvirt": map[string]any{"uri": "qemu+unix:///system?socket=" + l.file(string(host), "libvirt", "run", "libvirt-sock"), "hooks": l.file(string(host), "libvirt", "etc", "hooks")},
		"hooks":   map[string]any{"incoming": []string{l.Binary, "lab", "hook", "incoming", "--dir", l.Dir, "--host", string(host)}},
	}
	if embedded {
		etcd["embedded"] = map[string]any{
			"name": host, "clientURL": url(self, clientPort), "peerURL": url(self, peerPort), "initialCluster": strings.Join(cluster, ","),
		}
	} else {
		config["servers"] = servers
	}
	return config
}

func hostPort(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

func url(a netip.Addr, port uint16) string { return "https://" + hostPort(a, port) }

// StartAgent starts the host's agent, unless it runs.
func (l *Lab) StartAgent(host fabric.HostID) error {
	if err := l.checkHost(host); err != nil {
		return err
	}
	if l.Agent(host).Alive() {
		return nil
	}
	cmd := exec.Command(l.Binary, "agent", "--config", l.configFile(host))
	p, err := detach(l.HostNamespace(host), l.agentLog(host), cmd)
	if err != nil {
		return fmt.Errorf("start the agent of %s: %w", host, err)
	}
	return os.WriteFile(l.file(string(host), "agent.pid"), fmt.Appendf(nil, "%d %d\n", p.PID, p.Start), 0o600)
}

// Agent is the host's agent process, running or not.
func (l *Lab) Agent(host fabric.HostID) Process {
	var p Process
	b, err := os.ReadFile(l.file(string(host), "agent.pid"))
	if err == nil {
		_, _ = fmt.Sscan(string(b), &p.PID, &p.Start)
	}
	return p
}

func (l *Lab) agentLog(host fabric.HostID) string { return l.file(string(host), "agent.log") }

// awaitReady waits until every host says of every host that it is ready and alive.
func (l *Lab) awaitReady(ctx context.Context, begun time.Time, progress Progress) error {
	waiting := HostNames(l.Hosts)
	var why string
	err := poll(ctx, 50*time.Millisecond, func() (bool, error) {
		for len(waiting) > 0 {
			host := waiting[0]
			if !l.Agent(host).Alive() {
				return false, fmt.Errorf("its agent ended:\n%s", tail(l.agentLog(host)))
			}
			if why = l.unready(ctx, host); why != "" {
				return false, nil
			}
			waiting = waiting[1:]
			progress("%s  %s  ready after %.1f s", host, l.VTEP(host), time.Since(begun).Seconds())
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("wait for host %s: %w (%s); see %s", waiting[0], err, why, l.agentLog(waiting[0]))
	}
	return nil
}

// unready says what the host still waits for, nothing when it sees every host ready.
func (l *Lab) unready(ctx context.Context, host fabric.HostID) string {
	c, err := l.Client(host)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		return err.Error()
	}
	ready := 0
	for _, h := range s.Hosts {
		if h.Status.Ready && h.Status.Alive {
			ready++
		}
	}
	if ready < l.Hosts {
		return fmt.Sprintf("%s sees %d of %d hosts ready", host, ready, l.Hosts)
	}
	return ""
}

// KillAgent ends the host's agent at once, as kill -9 does; what it put into the kernel goes on.
func (l *Lab) KillAgent(host fabric.HostID) error {
	if err := l.checkHost(host); err != nil {
		return err
	}
	return l.Agent(host).Kill()
}

// FreezeAgent stops the host's agent without ending it; ThawAgent lets it go on.
func (l *Lab) FreezeAgent(host fabric.HostID) error {
	return l.signalAgent(host, syscall.SIGSTOP)
}

// ThawAgent undoes FreezeAgent.
func (l *Lab) ThawAgent(host fabric.HostID) error {
	return l.signalAgent(host, syscall.SIGCONT)
}

func (l *Lab) signalAgent(host fabric.HostID, s syscall.Signal) error {
	if err := l.checkHost(host); err != nil {
		return err
	}
	p := l.Agent(host)
	if !p.Alive() {
		return fmt.Errorf("signal the agent of %s: it does not run; start it with StartAgent", host)
	}
	return p.Signal(s)
}
