package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
	"github.com/weftnet/weft/fabric/store"
	etcd "github.com/weftnet/weft/fabric/store/server"
)

// TestMain lets scripts run this program as the command weft.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weft": main})
}

// TestScripts runs the scripts of testdata that need neither a lab nor root.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("WEFT_SOCKET", filepath.Join(env.WorkDir, "no-agent.sock"))
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"fabric": fabricCommand, "status": statusCommand, "large": largeCommand, "until": untilCommand},
	})
}

// statusCommand runs a command and checks its exit status: status 3 weft get switch blue.
func statusCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = fmt.Sprint(exit.ExitCode())
	} else if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	if got != args[0] {
		ts.Fatalf("%s ended with status %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// untilCommand repeats a command until its status is the wanted one: until 3 weft get switch blue.
func untilCommand(ts *testscript.TestScript, neg bool, args []string) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(15 * time.Second); ; {
		err := ts.Exec(args[1], args[2:]...)
		got := "0"
		var exit interface{ ExitCode() int }
		if errors.As(err, &exit) {
			got = fmt.Sprint(exit.ExitCode())
		}
		if got == args[0] {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			ts.Fatalf("%s ended with status %s for 15 s, want %s", strings.Join(args[1:], " "), got, args[0])
		}
	}
}

// largeCommand makes a file of so many MiB of YAML: large FILE N.
func largeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: large FILE MiB")
	}
	var n int
	_, err := fmt.Sscan(args[1], &n)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat("# "+strings.Repeat("x", 1021)+"\n", n<<10)), 0o600))
}

// fabricCommand starts a fabric of one host without a datapath: etcd, the store and the API, on the script's own socket.
func fabricCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: fabric")
	}
	ctx, cancel := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "weft-cmd")
	ts.Check(err)
	member, id, err := startEtcd(ctx, dir)
	ts.Check(err)
	st, err := store.Open(ctx, store.Options{Endpoints: []string{member.ClientURL}, TLS: id.Client()})
	ts.Check(err)
	host := &fabric.Host{TypeMeta: head(fabric.KindHost), Metadata: fabric.Metadata{Name: "h1"}, Spec: fabric.HostSpec{VTEP: netip.MustParseAddr("10.240.0.1"), UnderlayMTU: 1500, API: "10.240.0.1:7443", Server: true}}
	_, err = st.Apply(ctx, []fabric.Object{host}, store.ApplyOptions{})
	ts.Check(err)
	socket := filepath.Join(dir, "agent.sock")
	s := server.New(server.Options{Self: "h1", Version: "test", Socket: socket, StateDir: dir, Writes: true, Objects: st, Statuses: st, Fleet: oneHost{}})
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- inForceAtOnce(ctx, st) }()
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
		ts.Check(<-done)
		ts.Check(st.Close())
		member.Close()
		ts.Check(os.RemoveAll(dir))
	})
	c, err := client.New(client.Options{Socket: socket})
	ts.Check(err)
	defer c.Close()
	for !answers(c) {
		if ctx.Err() != nil {
			return
		}
	}
	ts.Setenv("WEFT_SOCKET", socket)
}

// inForceAtOnce reports as an agent whose datapath is instant.
func inForceAtOnce(ctx context.Context, st *store.Store) error {
	err := st.Follow(ctx, func(s *fabric.Snapshot) {
		_ = st.ReportStatus(ctx, "h1", fabric.HostStatus{Generation: s.Revision, Ready: true, Version: "test"})
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// oneHost is what the only host of a fleet knows of the others.
type oneHost struct{}

func (oneHost) Alive() map[fabric.HostID]bool { return map[fabric.HostID]bool{"h1": true} }
func (oneHost) Latest() *fabric.Snapshot      { return nil }
func (oneHost) Etcd(context.Context) (api.Etcd, error) {
	return api.Etcd{Members: []api.EtcdMember{{Name: "h1", Healthy: true, Leader: true}}}, nil
}

// member is a running etcd member.
type member struct {
	*etcd.Server
	ClientURL string
}

func startEtcd(ctx context.Context, dir string) (*member, *identity.Identity, error) {
	ca, err := identity.NewCA("test", time.Now())
	if err != nil {
		return nil, nil, err
	}
	cert, err := ca.Issue(identity.Request{Name: "h1", Roles: []identity.Role{identity.RoleServer}, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Now: time.Now()})
	if err != nil {
		return nil, nil, err
	}
	if err := cert.Save(filepath.Join(dir, "tls")); err != nil {
		return nil, nil, err
	}
	files, user := identity.FilesIn(filepath.Join(dir, "tls")), identity.EtcdFilesIn(filepath.Join(dir, "tls"))
	writer, err := ca.IssueEtcd(fabric.EtcdWriter, time.Now(), 0)
	if err != nil {
		return nil, nil, err
	}
	if err := writer.SaveAs(user); err != nil {
		return nil, nil, err
	}
	id, err := identity.Load(user, time.Now())
	if err != nil {
		return nil, nil, err
	}
	clientURL, peerURL := freeURL(), freeURL()
	m, err := etcd.Start(etcd.Options{Name: "h1", DataDir: filepath.Join(dir, "etcd"), ClientURL: clientURL, PeerURL: peerURL, CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key})
	if err != nil {
		return nil, nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return &member{m, clientURL}, id, m.Wait(limited)
}

// freeURL asks the kernel for a loopback port that is free now.
func freeURL() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "https://127.0.0.1:0" // etcd then says why it cannot listen
	}
	defer l.Close()
	return "https://" + l.Addr().String()
}

func TestNoErrorSpeaksGo(t *testing.T) {
	jargon := regexp.MustCompile(`json:|goroutine|\bnil\b|panic|strconv|unmarshal|0x[0-9a-f]{6}`)
	a := newApp(strings.NewReader(""), new(strings.Builder), new(strings.Builder))
	for _, line := range []string{
		"nonsense", "get", "get x", "get ports -o xml", "status --timeout soon", "create switch", "create port a", "trace a b c", "trace a b tcp/0",
		"set switch", "delete switch", "migrate a", "create switch B! --type private", "create switch blue --mtu big", "create profile p --no-guard x",
		"create port a --switch s --mac zz", "create port a --switch s --address 10.0.0", "apply -f /nonexistent", "lab up --hosts 99", "lab nonsense",
		"create switch " + strings.Repeat("x", 300) + " --type private", "status --socket /nonexistent",
	} {
		root := a.root()
		root.SetArgs(strings.Fields(line))
		err := root.ExecuteContext(t.Context())
		if err == nil {
			t.Errorf("weft %s succeeded", line)
			continue
		}
		status, message, _ := explain(err)
		if status == exitOK || message == "" || jargon.MatchString(message) {
			t.Errorf("weft %s: status %d, %q", line, status, message)
		}
	}
}
