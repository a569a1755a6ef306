package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// preflight checks everything the agent needs before it touches anything, and returns all that is missing, each with its remedy.
func preflight(c Config) error {
	release, err := kernelRelease()
	if err != nil {
		return err
	}
	return errors.Join(
		checkKernel(release),
		checkPrivileges("/proc/self/status"),
		checkBPFFS(c.BPFDir),
		checkUnderlay(c.Underlay),
		checkTunnelPort(c.Underlay.Address),
		checkKey(c.TLS.Key),
		checkKey(c.Etcd.TLS.Key),
		checkKey(c.Gossip.KeyFile),
	)
}

// kernelRelease is what uname -r prints.
func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask the kernel for its version: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// checkKernel refuses kernels without tcx.
func checkKernel(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel version %q is not understood; Linux 6.6 or later is needed", release)
	}
	if major < 6 || major == 6 && minor < 6 {
		return fmt.Errorf("tcx needs Linux 6.6, this is %d.%d: install a newer kernel", major, minor)
	}
	return nil
}

// needed are the capabilities the agent works with, by their numbers in capabilities(7).
var needed = []struct {
	bit  uint
	name string
	why  string
}{
	{12, "CAP_NET_ADMIN", "to attach programs and make devices"},
	{13, "CAP_NET_RAW", "to send probes"},
	{38, "CAP_PERFMON", "to load programs that compare pointers"},
	{39, "CAP_BPF", "to load programs and make maps"},
}

// checkPrivileges reads the effective capabilities.
func checkPrivileges(status string) error {
	text, err := os.ReadFile(status)
	if err != nil {
		return fmt.Errorf("read the agent's own capabilities: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), "\nCapEff:")
	var effective uint64
	if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%x", &effective); err != nil {
		return fmt.Errorf("read the agent's own capabilities in %s: %w", status, err)
	}
	var missing []string
	for _, c := range needed {
		if effective&(1<<c.bit) == 0 {
			missing = append(missing, c.name+" "+c.why)
		}
	}
	switch {
	case effective == 0:
		return errors.New("the agent has no privileges: run it as root, or by the systemd unit weft.service")
	case len(missing) > 0:
		return fmt.Errorf("the agent lacks %s: run it as root, or add AmbientCapabilities to its systemd unit", strings.Join(missing, ", "))
	}
	return nil
}

// checkBPFFS checks that dir is, or will be made, within a bpf file system.
func checkBPFFS(dir string) error {
	at := filepath.Clean(dir)
	for {
		var s unix.Statfs_t
		err := unix.Statfs(at, &s)
		if err == nil && s.Type == unix.BPF_FS_MAGIC {
			return nil
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) || at == "/" {
			return fmt.Errorf("bpfDir %s is not within a bpf file system: mount one: mount -t bpf bpf %s", dir, filepath.Dir(dir))
		}
		at = filepath.Dir(at)
	}
}

// checkUnderlay checks that the underlay device is there and has the address.
func checkUnderlay(u Underlay) error {
	dev, err := net.InterfaceByName(u.Device)
	if err != nil {
		return fmt.Errorf("there is no underlay device %q: the devices are %s; set underlay.device", u.Device, strings.Join(deviceNames(), ", "))
	}
	addrs, err := dev.Addrs()
	if err != nil {
		return fmt.Errorf("read the addresses of %s: %w", u.Device, err)
	}
	var has []string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if p.Addr().Unmap() == u.Address {
			return nil
		}
		has = append(has, p.Addr().String())
	}
	return fmt.Errorf("underlay device %s does not have address %s (it has %s): set underlay.address, or configure the device first",
		u.Device, u.Address, or(strings.Join(has, ", "), "none"))
}

func deviceNames() []string {
	all, _ := net.Interfaces() // an empty list is as good as an error in a message about something else
	names := make([]string, 0, len(all))
	for _, d := range all {
		names = append(names, d.Name)
	}
	return names
}

// or is s, or other when s is empty.
func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// tunnelDevice is the kernel's tunnel device of the datapath, which owns the tunnel port once it exists.
const tunnelDevice = "weftvx0"

// checkTunnelPort checks that nobody else has the VXLAN port (RFC 7348: 4789).
func checkTunnelPort(vtep netip.Addr) error {
	if _, err := net.InterfaceByName(tunnelDevice); err == nil {
		return nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vtep, 4789)))
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("UDP port 4789 (VXLAN) on %s is in use by another tunnel: find it with `ip -d link show type vxlan` and `ss -lunp`, and remove it", vtep)
	}
	return nil // the address is missing, which the check of the underlay says better
}

// checkKey refuses secrets that others can read.
func checkKey(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at key %s: %w", path, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("key %s can be read by others (mode %04o): treat it as stolen, make a new one, and chmod 600 it", path, mode)
	}
	return nil
}
