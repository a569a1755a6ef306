package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// finding is what the doctor says about one check.
func finding(t *testing.T, all []api.Finding, check string) api.Finding {
	t.Helper()
	i := slices.IndexFunc(all, func(f api.Finding) bool { return f.Check == check })
	if i < 0 {
		t.Fatalf("nothing was said about %s in %+v", check, all)
	}
	return all[i]
}

func TestTheDoctorFindsWhatIsWrongAndSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	c := Config{
		Host: "h1", Underlay: Underlay{Device: "lo", Address: netip.MustParseAddr("127.0.0.1")}, StateDir: filepath.Join(dir, "state"),
		BPFDir: filepath.Join(dir, "bpf"), TLS: TLSFiles{CA: dir + "/ca.crt", Cert: dir + "/tls.crt", Key: dir + "/tls.key"},
	}
	c.Default()
	for _, made := range []string{c.StateDir, filepath.Join(c.BPFDir, "links")} {
		if err := os.MkdirAll(made, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.BPFDir, "links", "987654-vp_in"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	snap := blue(10, 1)
	snap.Switches["blue"].Spec.MTU = 70000
	snap.Hosts["h9"] = &fabric.Host{Metadata: fabric.Metadata{Name: "h9"}, Spec: fabric.HostSpec{VTEP: netip.MustParseAddr("fd00::9"), UnderlayMTU: 1500}}
	g := newLastGood(c.StateDir, nil)
	g.keep(snap)
	g.flush()
	all := Doctor(t.Context(), c)
	for _, f := range all {
		if (f.Severity == api.OK) != (f.Remedy == "") {
			t.Errorf("a finding has a remedy exactly when it is not ok: %+v", f)
		}
	}
	for check, want := range map[string]api.Finding{
		"kernel.version":  {Severity: api.OK, Message: "Linux"},
		"bpf.core":        {Severity: api.OK, Message: "core works"},
		"bpf.mount":       {Severity: api.Failed, Message: "not within a bpf file system", Remedy: "mount -t bpf"},
		"underlay.device": {Severity: api.OK, Message: "lo has 127.0.0.1"},
		"underlay.mtu":    {Severity: api.Failed, Message: "blue lets guests send 70000 bytes", Remedy: "set spec.mtu"},
		"peer.h9":         {Severity: api.Failed, Message: "cannot be reached from 127.0.0.1", Remedy: "one family"},
		"state.snapshot":  {Severity: api.OK, Message: "revision 10"},
		"bpf.pins":        {Severity: api.Warning, Message: "987654-vp_in", Remedy: "start the agent"},
		"tls":             {Severity: api.Failed, Message: "ca.crt does not exist", Remedy: "issue"},
	} {
		got := finding(t, all, check)
		if got.Severity != want.Severity || !strings.Contains(got.Message, want.Message) || !strings.Contains(got.Remedy, want.Remedy) {
			t.Errorf("%s: got %+v, want %+v", check, got, want)
		}
	}
}

func TestAnEchoIsAnsweredAndAMissingHostIsNot(t *testing.T) {
	self := netip.MustParseAddr("127.0.0.1")
	for _, size := range []int{100, 1500, 9000} {
		if err := echo(t.Context(), self, self, size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if err := echo(t.Context(), self, netip.MustParseAddr("::1"), 100); err == nil {
		t.Error("an IPv6 address answered from an IPv4 one")
	}
	if err := echo(t.Context(), netip.MustParseAddr("::1"), netip.MustParseAddr("::1"), 1500); err != nil {
		t.Errorf("IPv6: %v", err)
	}
}
