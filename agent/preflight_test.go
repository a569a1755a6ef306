package agent

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStartUpChecksSayWhatIsMissingAndWhatToDo(t *testing.T) {
	status := func(caps string) string {
		path := filepath.Join(t.TempDir(), "status")
		if err := os.WriteFile(path, []byte("Name:\tweft\nCapPrm:\tffff\nCapEff:\t"+caps+"\nCapBnd:\tffff\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := func(mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "tls.key")
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	local := netip.MustParseAddr("127.0.0.1")
	for _, c := range []struct {
		name string
		err  error
		want []string // all in the error; nil for none
	}{
		{"Linux 6.1", checkKernel("6.1.0-42-amd64"), []string{"tcx needs Linux 6.6, this is 6.1"}},
		{"Linux 5.15", checkKernel("5.15.0"), []string{"tcx needs Linux 6.6, this is 5.15"}},
		{"Linux 6.6", checkKernel("6.6.1"), nil},
		{"Linux 10.0", checkKernel("10.0-rc1"), nil},
		{"no Linux", checkKernel("FreeBSD"), []string{"not understood"}},
		{"no privileges", checkPrivileges(status("0000000000000000")), []string{"no privileges", "run it as root"}},
		{"all capabilities", checkPrivileges(status("000001ffffffffff")), nil},
		{"without CAP_BPF", checkPrivileges(status("0000007fffffffff")), []string{"lacks CAP_BPF", "AmbientCapabilities"}},
		{"no bpf file system", checkBPFFS(filepath.Join(t.TempDir(), "a", "b")), []string{"not within a bpf file system", "mount -t bpf"}},
		{"no such device", checkUnderlay(Underlay{Device: "nosuch0", Address: local}), []string{`no underlay device "nosuch0"`, "lo"}},
		{"device without the address", checkUnderlay(Underlay{Device: "lo", Address: netip.MustParseAddr("192.0.2.1")}),
			[]string{"lo does not have address 192.0.2.1", "127.0.0.1"}},
		{"device with the address", checkUnderlay(Underlay{Device: "lo", Address: local}), nil},
		{"a key for everybody", checkKey(key(0o644)), []string{"can be read by others (mode 0644)", "chmod 600"}},
		{"a key for the group", checkKey(key(0o640)), []string{"mode 0640"}},
		{"a key for its owner", checkKey(key(0o600)), nil},
		{"no key", checkKey(filepath.Join(t.TempDir(), "none")), []string{"no such file"}},
	} {
		if c.want == nil && c.err != nil {
			t.Errorf("%s: %v", c.name, c.err)
		}
		for _, w := range c.want {
			if c.err == nil || !strings.Contains(c.err.Error(), w) {
				t.Errorf("%s: got %v, want %q in it", c.name, c.err, w)
			}
		}
	}
}

func TestOneAgentPerStateDirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := takeLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = takeLock(dir)
	if err == nil || !strings.Contains(err.Error(), "another agent runs with "+dir+" (pid ") {
		t.Fatalf("got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := takeLock(dir)
	if err != nil {
		t.Fatal("the lock outlived its holder")
	}
	again.Close()
}

func TestAnotherTunnelOnThePortIsNamed(t *testing.T) {
	vtep := netip.MustParseAddr("127.0.0.99")
	other, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vtep, 4789)))
	if err != nil {
		t.Fatal(err)
	}
	err = checkTunnelPort(vtep)
	if err == nil || !strings.Contains(err.Error(), "UDP port 4789 (VXLAN) on 127.0.0.99 is in use") || !strings.Contains(err.Error(), "ss -lunp") {
		t.Errorf("got %v", err)
	}
	other.Close()
	if err := checkTunnelPort(vtep); err != nil {
		t.Errorf("the port is free, yet: %v", err)
	}
}
