package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// Doctor examines this host, whether or not an agent runs on it. It changes nothing. Every finding that is not ok has a
// remedy. What the fabric wants of the host it takes from the agent's last good snapshot.
func Doctor(ctx context.Context, c Config) []api.Finding {
	d := &doctor{config: c}
	d.kernel()
	d.abilities(ctx)
	d.kernelDrops()
	d.verdict("bpf.mount", checkBPFFS(c.BPFDir), "a bpf file system is mounted for "+c.BPFDir)
	d.verdict("underlay.device", checkUnderlay(c.Underlay), fmt.Sprintf("%s has %s", c.Underlay.Device, c.Underlay.Address))
	d.verdict("underlay.port", checkTunnelPort(c.Underlay.Address), "UDP port 4789 is free, or weft's")
	snap := d.snapshot()
	d.mtu(snap)
	d.peers(ctx, snap)
	d.certificate()
	d.clock()
	d.managers()
	d.facades()
	d.leftovers()
	d.disk()
	return d.findings
}

// doctor collects findings.
type doctor struct {
	config   Config
	findings []api.Finding
}

func (d *doctor) add(check string, s api.Severity, remedy, format string, args ...any) {
	d.findings = append(d.findings, api.Finding{Check: check, Severity: s, Message: fmt.Sprintf(format, args...), Remedy: remedy})
}

// verdict turns a start-up check into a finding; such an error ends in ": " and its remedy.
func (d *doctor) verdict(check string, err error, fine string) {
	if err == nil {
		d.add(check, api.OK, "", "%s", fine)
		return
	}
	text, remedy := err.Error(), "see the agent's log"
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text, remedy = text[:i], text[i+2:]
	}
	d.add(check, api.Failed, remedy, "%s", text)
}

func (d *doctor) kernel() {
	release, err := kernelRelease()
	if err == nil {
		err = checkKernel(release)
	}
	d.verdict("kernel.version", err, "Linux "+release)
	d.verdict("kernel.privileges", checkPrivileges("/proc/self/status"), "all needed capabilities are there")
}

// abilities asks the kernel by loading programs, which is the only sure answer.
func (d *doctor) abilities(ctx context.Context) {
	for _, a := range datapath.Probe(ctx) {
		switch {
		case a.OK:
			d.add("bpf."+a.Name, api.OK, "", "%s works", a.Name)
		case a.Required:
			d.add("bpf."+a.Name, api.Failed, a.Remedy, "%s does not work: %s", a.Name, a.Reason)
		default:
			d.add("bpf."+a.Name, api.OK, "", "%s does not work on this kernel, and weft does without: %s", a.Name, a.Reason)
		}
	}
}

// snapshot is the last good state, nil when this host has none.
func (d *doctor) snapshot() *fabric.Snapshot {
	path := filepath.Join(d.config.StateDir, "snapshot")
	body, err := inspect(path, "snapshot")
	if errors.Is(err, fs.ErrNotExist) {
		d.add("state.snapshot", api.Warning, "start the agent once while etcd answers", "there is no last good state: this host could not start without etcd")
		return nil
	}
	var s *fabric.Snapshot
	if err == nil {
		s, err = readSnapshot(strings.NewReader(string(body)))
	}
	if err != nil {
		d.add("state.snapshot", api.Warning, "start the agent: it sets the file aside and writes it again", "the last good state cannot be used: %v", err)
		return nil
	}
	d.add("state.snapshot", api.OK, "", "the last good state is revision %d", s.Revision)
	return s
}

// mtu compares the underlay with what the switches promise their guests.
func (d *doctor) mtu(s *fabric.Snapshot) {
	dev, err := net.InterfaceByName(d.config.Underlay.Device)
	if err != nil || s == nil {
		return
	}
	room := dev.MTU - fabric.Overhead(d.config.Underlay.Address)
	for name, sw := range s.Switches {
		if want := s.SwitchMTU(sw); want > room {
			d.add("underlay.mtu", api.Failed,
				fmt.Sprintf("raise the MTU of %s to %d, or set spec.mtu of switch %s to %d", dev.Name, want+dev.MTU-room, name, room),
				"switch %s lets guests send %d bytes, but %s (MTU %d) carries %d", name, want, dev.Name, dev.MTU, room)
		}
	}
	if h := s.Hosts[d.config.Host]; h != nil && h.Spec.UnderlayMTU != dev.MTU {
		d.add("underlay.mtu", api.Warning, "restart the agent, or wait until it registers the new MTU",
			"%s has MTU %d, but the fabric knows %d", dev.Name, dev.MTU, h.Spec.UnderlayMTU)
	}
	if !slices.ContainsFunc(d.findings, func(f api.Finding) bool { return f.Check == "underlay.mtu" }) {
		d.add("underlay.mtu", api.OK, "", "%s (MTU %d) carries what all switches promise", dev.Name, dev.MTU)
	}
}

// certificate checks those that this host is known by, and how long they are still good.
func (d *doctor) certificate() {
	for _, c := range []struct {
		check, whom string
		files       TLSFiles
	}{{"tls", "to other hosts", d.config.TLS}, {"etcd.tls", "to etcd", d.config.Etcd.TLS}} {
		id, err := identity.Load(c.files.files(), time.Now())
		if err != nil {
			d.add(c.check, api.Failed, "issue the host's certificates again with the fabric's CA, and copy them there", "the host cannot show who it is %s: %v", c.whom, err)
			continue
		}
		if err := id.Waning(time.Now()); err != nil {
			text, remedy, _ := strings.Cut(err.Error(), "; ")
			d.add(c.check, api.Warning, remedy, "%s", text)
			continue
		}
		d.add(c.check, api.OK, "", "the host's certificate shows who it is %s, until %s", c.whom, id.NotAfter.UTC().Format(time.DateOnly))
	}
}

// clock asks the kernel whether anything keeps its clock right (adjtimex(2)). Nothing in the fabric is ordered by clocks,
// but certificates and traces are read by them.
func (d *doctor) clock() {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		d.add("clock", api.Warning, "see adjtimex(2)", "the kernel does not say how good its clock is: %v", err)
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		d.add("clock", api.Warning, "run chrony or systemd-timesyncd", "nothing keeps this host's clock right: certificates and traces depend on it")
	default:
		d.add("clock", api.OK, "", "the clock is synchronized, within %d ms", t.Maxerror/1000)
	}
}

// managers finds daemons that could take weft's devices for their own.
func (d *doctor) managers() {
	own, err := os.Readlink("/proc/self/ns/net")
	first, other := os.Readlink("/proc/1/ns/net")
	if err == nil && other == nil && own != first {
		return // they manage the machine's own network namespace, and this is another
	}
	for _, m := range []struct{ check, run, fine, remedy string }{
		{"manager.networkmanager", "/run/NetworkManager", "/etc/NetworkManager/conf.d/weft.conf",
			"install weft's package, or put this into /etc/NetworkManager/conf.d/weft.conf: [keyfile] unmanaged-devices=interface-name:weft*;interface-name:sw-*"},
		{"manager.networkd", "/run/systemd/netif/links", "/usr/lib/systemd/network/05-weft.network",
			"install weft's package, or make /etc/systemd/network/05-weft.network with [Match] Name=sw-* weft* and [Link] Unmanaged=yes"},
		{"manager.firewalld", "/run/firewalld", "/etc/firewalld/services/weft.xml",
			"firewall-cmd --permanent --add-port=4789/udp --add-port=7946/tcp --add-port=7946/udp --add-port=7443/tcp && firewall-cmd --reload"},
	} {
		if _, err := os.Stat(m.run); err != nil {
			continue
		}
		local := filepath.Join("/etc/systemd/network", filepath.Base(m.fine))
		if exists(m.fine) || exists(local) {
			d.add(m.check, api.OK, "", "%s runs and leaves weft's devices alone", strings.TrimPrefix(m.check, "manager."))
			continue
		}
		d.add(m.check, api.Warning, m.remedy, "%s runs here and may interfere with weft", strings.TrimPrefix(m.check, "manager."))
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// facades finds façade bridges that somebody has raised: a bridge that is up forwards around the core.
func (d *doctor) facades() {
	all, _ := net.Interfaces() // without the list there is nothing to say
	for _, dev := range all {
		if strings.HasPrefix(dev.Name, "sw-") && dev.Flags&net.FlagUp != 0 && exists("/sys/class/net/"+dev.Name+"/bridge") {
			d.add("facade.up", api.Failed, "ip link set "+dev.Name+" down, and find out who raised it",
				"bridge %s is up: frames between its ports pass around every guard", dev.Name)
		}
	}
}

// leftovers finds pinned links whose device is gone; their names begin with its number.
func (d *doctor) leftovers() {
	links, err := os.ReadDir(filepath.Join(d.config.BPFDir, "links"))
	if err != nil {
		return // nothing is pinned
	}
	var stale []string
	for _, l := range links {
		number, _, _ := strings.Cut(l.Name(), "-")
		index, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		if _, err := net.InterfaceByIndex(index); err != nil {
			stale = append(stale, l.Name())
		}
	}
	if len(stale) > 0 {
		d.add("bpf.pins", api.Warning, "start the agent, which removes them; without an agent remove "+d.config.BPFDir,
			"programs are pinned for devices that are gone: %s", strings.Join(stale, ", "))
		return
	}
	d.add("bpf.pins", api.OK, "", "every pinned program has its device")
}

// minFree is how much room the state directory should have, in bytes.
const minFree = 64 << 20

// disk checks that the state directory can be written.
func (d *doctor) disk() {
	var s unix.Statfs_t
	if err := unix.Statfs(d.config.StateDir, &s); err != nil {
		d.add("state.disk", api.Warning, "start the agent, which makes it", "there is no state directory %s", d.config.StateDir)
		return
	}
	free := s.Bavail * uint64(s.Bsize)
	switch {
	case s.Flags&unix.ST_RDONLY != 0:
		d.add("state.disk", api.Failed, "mount it read-write", "%s is read-only: the host forwards, but cannot remember changes", d.config.StateDir)
	case free < minFree:
		d.add("state.disk", api.Failed, "make room", "%s has %d MiB left: the host forwards, but may not remember changes", d.config.StateDir, free>>20)
	default:
		d.add("state.disk", api.OK, "", "%s has %d MiB free", d.config.StateDir, free>>20)
	}
}
