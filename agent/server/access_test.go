package server_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

func TestTheSocketIsForRootAndTheGroup(t *testing.T) {
	o := serve(t, newMemory(), nil)
	st, err := os.Stat(o.Socket)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v; want 0660", st.Mode(), err)
	}
	if err := server.New(o).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another agent answers there") {
		t.Errorf("a second agent on the same socket: %v", err)
	}
}

func TestASocketLeftBehindIsReplaced(t *testing.T) {
	serve(t, newMemory(), func(o *server.Options) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	})
}

// issued is an identity on the loopback address.
func issued(tb testing.TB, ca *identity.CA, name string, role identity.Role, now time.Time) *identity.Identity {
	tb.Helper()
	cert, err := ca.Issue(identity.Request{Name: name, Roles: []identity.Role{role}, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Now: now})
	if err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(tb.TempDir(), name)
	if err := cert.Save(dir); err != nil {
		tb.Fatal(err)
	}
	id, err := identity.Load(identity.FilesIn(dir), now)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func TestCertificatesDecideWhoMayDoWhat(t *testing.T) {
	m := newMemory()
	now := time.Now()
	ca, err := identity.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, role identity.Role) *identity.Identity { return issued(t, ca, name, role, now) }
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	probe.Close()
	serve(t, m, func(o *server.Options) { o.Listen, o.TLS = address, issue("h1", identity.RoleServer).Server() })

	host := dial(t, client.Options{Address: address, TLS: issue("h2", identity.RoleHost).Client()})
	operator := dial(t, client.Options{Address: address, TLS: issue("ann", identity.RoleOperator).Client()})
	sw := &fabric.Switch{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: "blue"}, Spec: fabric.SwitchSpec{Type: fabric.Private}}
	ctx := t.Context()
	await(t, "the mTLS API", func() bool { _, err := host.Version(ctx); return err == nil })
	for _, c := range []struct {
		claim string
		err   error
		want  error
	}{
		{"a host may look", second(host.Status(ctx)), nil},
		{"a host may report about itself", host.ReportStatus(ctx, "h2", fabric.HostStatus{}), nil},
		{"a host may not report about another", host.ReportStatus(ctx, "h1", fabric.HostStatus{}), api.ErrForbidden},
		{"a host may not change the fabric", second(host.Apply(ctx, []fabric.Object{sw}, false)), api.ErrForbidden},
		{"a host may not plug in on another", second(host.Attach(ctx, "a", api.Attachment{Device: "tap0", Kind: api.Tap})), api.ErrForbidden},
		{"an operator may change the fabric", second(operator.Apply(ctx, []fabric.Object{sw}, false)), nil},
		{"a host may not speak as another of a move", host.Aside(ctx, api.MoveReport{Host: "h1", Move: "m1"}), api.ErrForbidden},
		{"a host may speak of a move as itself", host.Aside(ctx, api.MoveReport{Host: "h2", Move: "m1"}), fabric.ErrNotFound},
		{"an operator may not speak of a move as a host", operator.Aside(ctx, api.MoveReport{Host: "h2", Move: "m1"}), api.ErrForbidden},
		{"an operator may not report as a host", operator.ReportStatus(ctx, "h2", fabric.HostStatus{}), api.ErrForbidden},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v", c.claim, c.err)
		}
	}
	if len(m.reported) != 1 || m.reported[0] != "h2" {
		t.Errorf("reports that arrived: %v, want one by h2", m.reported)
	}
	for name, conf := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true},
		"TLS 1.2": func() *tls.Config {
			c := issue("bob", identity.RoleOperator).Client()
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(),
	} {
		if _, err := dial(t, client.Options{Address: address, TLS: conf}).Version(ctx); err == nil {
			t.Errorf("a caller with %s was answered", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }
