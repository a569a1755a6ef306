package identity

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

var issued = time.Now().Truncate(time.Second)

// newHost makes a CA, issues a certificate and returns where it was saved.
func newHost(tb testing.TB, ca *CA, r Request) Files {
	tb.Helper()
	if r.Now.IsZero() {
		r.Now = issued
	}
	cert, err := ca.Issue(r)
	if err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(tb.TempDir(), r.Name)
	if err := cert.Save(dir); err != nil {
		tb.Fatal(err)
	}
	return FilesIn(dir)
}

func newCA(tb testing.TB) *CA {
	tb.Helper()
	ca, err := NewCA("test", issued)
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

func load(tb testing.TB, f Files) *Identity {
	tb.Helper()
	id, err := Load(f, issued)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// handshake connects client to server over loopback and returns who each saw, or the client's and the server's error.
func handshake(tb testing.TB, server, client *tls.Config) (atServer, atClient Holder, errs [2]error) {
	tb.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			errs[1] = err
			return
		}
		defer conn.Close()
		c := conn.(*tls.Conn)
		if errs[1] = c.Handshake(); errs[1] == nil {
			state := c.ConnectionState()
			atServer, errs[1] = Peer(&state)
			_, _ = c.Write([]byte("x"))
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	defer raw.Close()
	client = client.Clone()
	client.ServerName = "127.0.0.1"
	c := tls.Client(raw, client)
	if errs[0] = c.Handshake(); errs[0] == nil {
		state := c.ConnectionState()
		atClient, errs[0] = Peer(&state)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // in TLS 1.3 the client learns here that it was refused
			errs[0] = err
		}
	}
	raw.Close()
	<-done
	return atServer, atClient, errs
}

func TestTwoHostsOfOneFabricAuthenticateEachOther(t *testing.T) {
	ca := newCA(t)
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	h1 := load(t, newHost(t, ca, Request{Name: "h1", Roles: []Role{RoleHost, RoleServer}, Addresses: loopback}))
	h2 := load(t, newHost(t, ca, Request{Name: "h2", Roles: []Role{RoleHost}, Addresses: loopback}))
	atServer, atClient, errs := handshake(t, h1.Server(), h2.Client())
	if errs[0] != nil || errs[1] != nil {
		t.Fatal(errs)
	}
	if atServer.Name != "h2" || atServer.Has(RoleServer) || !atServer.Has(RoleHost) {
		t.Errorf("the server saw %+v, want host h2", atServer)
	}
	if atClient.Name != "h1" || !atClient.Has(RoleServer) {
		t.Errorf("the client saw %+v, want server h1", atClient)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	ours := load(t, newHost(t, ca, Request{Name: "h1", Roles: []Role{RoleHost}, Addresses: loopback}))
	elsewhere := load(t, newHost(t, ca, Request{Name: "h3", Roles: []Role{RoleHost}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}))
	strange := load(t, newHost(t, other, Request{Name: "h2", Roles: []Role{RoleHost}, Addresses: loopback}))
	nameless := ours.Client()
	nameless.Certificates = nil
	old := ours.Client()
	old.MaxVersion, old.MinVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, c := range map[string]struct {
		server, client *tls.Config
		want           string
	}{
		"a server of another fabric's CA":       {strange.Server(), ours.Client(), "another fabric"},
		"a client of another fabric's CA":       {ours.Server(), withRoots(strange, ours), "refused our certificate"},
		"a client without a certificate":        {ours.Server(), nameless, "refused our certificate"},
		"TLS 1.2":                               {ours.Server(), old, "protocol version"},
		"a server whose address is not its own": {elsewhere.Server(), ours.Client(), "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, errs := handshake(t, c.server, c.client)
			if errs[0] == nil {
				t.Fatal("the connection was made")
			}
			if err := Explain(errs[0], issued); !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

// withRoots shows the certificate of one identity and trusts the CA of another.
func withRoots(cert, roots *Identity) *tls.Config {
	c := cert.Client()
	c.RootCAs = roots.pool
	return c
}

func TestWrongClockIsNamed(t *testing.T) {
	ca := newCA(t)
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	files := newHost(t, ca, Request{Name: "h1", Roles: []Role{RoleHost}, Addresses: loopback, Life: time.Hour})
	for name, c := range map[string]struct {
		now  time.Time
		want string
	}{
		"a clock an hour behind": {issued.Add(-time.Hour), "in 55m"},
		"a clock a day ahead":    {issued.Add(24 * time.Hour), "23h0m0s ago"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(files, c.now)
			if !errors.Is(err, ErrCertificate) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "clock") {
				t.Errorf("error %v does not name the skew %q", err, c.want)
			}
			id := load(t, files)
			client := id.Client()
			client.Time = func() time.Time { return c.now }
			_, _, errs := handshake(t, id.Server(), client)
			if err := Explain(errs[0], c.now); !errors.Is(err, ErrCertificate) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("handshake error %v does not name the skew %q", err, c.want)
			}
		})
	}
}

func TestFilesAreClosedToOthers(t *testing.T) {
	ca := newCA(t)
	dir := filepath.Join(t.TempDir(), "ca")
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	files := newHost(t, ca, Request{Name: "h1", Roles: []Role{RoleHost}})
	for _, path := range []string{filepath.Join(dir, caCertFile), filepath.Join(dir, caKeyFile), files.CA, files.Cert, files.Key} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		parent, err := os.Stat(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || parent.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %04o in a directory of mode %04o, want 0600 in 0700", path, info.Mode().Perm(), parent.Mode().Perm())
		}
	}
	again, err := OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(newHost(t, again, Request{Name: "h2", Roles: []Role{RoleHost}}), issued); err != nil {
		t.Errorf("a certificate of the reopened CA does not load: %v", err)
	}
}

func TestUnusableFilesSayWhatToDo(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	for name, c := range map[string]struct {
		spoil func(f Files) error
		want  string
	}{
		"a missing certificate":    {func(f Files) error { return os.Remove(f.Cert) }, "does not exist"},
		"a key that others read":   {func(f Files) error { return os.Chmod(f.Key, 0o644) }, "chmod 600"},
		"a truncated key":          {func(f Files) error { return os.Truncate(f.Key, 40) }, "issue the pair again"},
		"an empty CA file":         {func(f Files) error { return os.Truncate(f.CA, 0) }, "no PEM certificate"},
		"the CA of another fabric": {func(f Files) error { return os.WriteFile(f.CA, other.PEM(), 0o600) }, "not of the CA"},
		"a directory in its place": {func(f Files) error { return errors.Join(os.Remove(f.CA), os.Mkdir(f.CA, 0o700)) }, "is a directory"},
		"the key of somebody else's": {func(f Files) error {
			cert, err := ca.Issue(Request{Name: "h9", Roles: []Role{RoleHost}, Now: issued})
			return errors.Join(err, os.WriteFile(f.Key, cert.Key, 0o600))
		}, "not a certificate and its key"},
	} {
		t.Run(name, func(t *testing.T) {
			files := newHost(t, ca, Request{Name: "h1", Roles: []Role{RoleHost}})
			if err := c.spoil(files); err != nil {
				t.Fatal(err)
			}
			_, err := Load(files, issued)
			if !errors.Is(err, ErrCertificate) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	ca := newCA(t)
	for name, r := range map[string]Request{
		"a name that is no label": {Name: "H 1", Roles: []Role{RoleHost}},
		"no role":                 {Name: "h1"},
		"a role nobody knows":     {Name: "h1", Roles: []Role{"root"}},
	} {
		if _, err := ca.Issue(r); !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("%s: error %v is not ErrInvalid", name, err)
		}
	}
}

func TestACertificateWanesInTheLastThirdOfItsLife(t *testing.T) {
	id := load(t, newHost(t, newCA(t), Request{Name: "h1", Roles: []Role{RoleHost}, Life: 90 * 24 * time.Hour}))
	for _, c := range []struct {
		day  int
		want string
	}{
		{0, ""}, {59, ""}, {61, "in less than 30 days"}, {89, "in less than 2 days"}, {91, "has ended at"},
	} {
		err := id.Waning(issued.Add(time.Duration(c.day) * 24 * time.Hour))
		if c.want == "" && err != nil {
			t.Errorf("after %d days: %v", c.day, err)
		}
		if c.want != "" && (!errors.Is(err, ErrCertificate) || !strings.Contains(err.Error(), c.want+"; issue it again") && c.day < 90) {
			t.Errorf("after %d days: %v, want %q", c.day, err, c.want)
		}
	}
}
