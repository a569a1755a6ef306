// Package storetest runs a real etcd member with the fabric's own certificates for the length of a test, and opens stores
// on it.
package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/server"
)

// Etcd is a member on a loopback port, with its data in the test's directory.
type Etcd struct {
	// DataDir holds the data; copy it while the member is stopped to make a backup.
	DataDir string
	// Endpoint is the client URL.
	Endpoint string
	// Identity is the certificate of a writer, which stores are opened with. The member's own, etcd's users and a host that is
	// no member have theirs in Certificates.
	Identity *identity.Identity
	// Certificates are by name: h1 (the member), h9 (a host), root, weft-reader, weft-writer.
	Certificates map[string]*identity.Identity

	options server.Options
	member  *server.Server
}

// Start runs a member until the test ends.
func Start(tb testing.TB) *Etcd {
	tb.Helper()
	return StartCluster(tb, 1)[0]
}

// StartCluster runs n members of one cluster, h1 to hn, until the test ends.
func StartCluster(tb testing.TB, n int) []*Etcd {
	tb.Helper()
	ca, err := identity.NewCA("test", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	var members []*Etcd
	var peers []string
	for i := range n {
		e := prepare(tb, ca, fmt.Sprintf("h%d", i+1))
		members = append(members, e)
		peers = append(peers, e.options.Name+"="+e.options.PeerURL)
	}
	for _, e := range members {
		e.options.InitialCluster = strings.Join(peers, ",")
		e.start(tb)
		tb.Cleanup(e.Stop)
	}
	for _, e := range members {
		e.wait(tb)
	}
	return members
}

// prepare gives a member its certificates and its ports.
func prepare(tb testing.TB, ca *identity.CA, name string) *Etcd {
	tb.Helper()
	dir := tb.TempDir()
	e := &Etcd{DataDir: filepath.Join(dir, "etcd"), Certificates: map[string]*identity.Identity{}}
	own := identity.FilesIn(filepath.Join(dir, "tls"))
	for _, host := range []struct {
		name  string
		role  identity.Role
		files identity.Files
	}{{name, identity.RoleServer, own}, {"h9", identity.RoleHost, identity.FilesIn(filepath.Join(dir, "h9"))}} {
		cert, err := ca.Issue(identity.Request{
			Name: host.name, Roles: []identity.Role{host.role}, Now: time.Now(), Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		})
		e.Certificates[host.name] = saved(tb, cert, err, host.files)
	}
	for _, user := range fabric.EtcdUsers() {
		files := identity.EtcdFilesIn(filepath.Join(dir, string(user)))
		if user == fabric.EtcdWriter {
			files = identity.EtcdFilesIn(filepath.Join(dir, "tls")) // where an agent looks for it
		}
		cert, err := ca.IssueEtcd(user, time.Now(), 0)
		e.Certificates[string(user)] = saved(tb, cert, err, files)
	}
	e.Identity = e.Certificates[string(fabric.EtcdWriter)]
	e.Endpoint = fmt.Sprintf("https://127.0.0.1:%d", freePort(tb))
	e.options = server.Options{
		Name: name, DataDir: e.DataDir, ClientURL: e.Endpoint, PeerURL: fmt.Sprintf("https://127.0.0.1:%d", freePort(tb)),
		CAFile: own.CA, CertFile: own.Cert, KeyFile: own.Key,
	}
	return e
}

// saved writes a certificate that was issued and loads it as its holder does.
func saved(tb testing.TB, cert identity.Certificate, err error, files identity.Files) *identity.Identity {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cert.SaveAs(files); err != nil {
		tb.Fatal(err)
	}
	id, err := identity.Load(files, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// Restart starts the member again after Stop, with the data that is in DataDir, and waits until it serves.
func (e *Etcd) Restart(tb testing.TB) {
	tb.Helper()
	e.start(tb)
	e.wait(tb)
}

func (e *Etcd) start(tb testing.TB) {
	tb.Helper()
	member, err := server.Start(e.options)
	if err != nil {
		tb.Fatal(err)
	}
	e.member = member
}

func (e *Etcd) wait(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := e.member.Wait(ctx); err != nil {
		tb.Fatal(err)
	}
}

// Stop ends the member; its data stays. A second Stop does nothing.
func (e *Etcd) Stop() { e.member.Close() }

// Open opens a store on the member until the test ends.
func (e *Etcd) Open(tb testing.TB) *store.Store {
	tb.Helper()
	return e.OpenAt(tb, e.Endpoint)
}

// OpenAt opens a store that reaches the member through other endpoints, such as a proxy's.
func (e *Etcd) OpenAt(tb testing.TB, endpoints ...string) *store.Store {
	tb.Helper()
	return open(tb, e.Identity, endpoints...)
}

// OpenAs opens a store with the certificate of this name until the test ends.
func (e *Etcd) OpenAs(tb testing.TB, name string) *store.Store {
	tb.Helper()
	return open(tb, e.Certificates[name], e.Endpoint)
}

func open(tb testing.TB, id *identity.Identity, endpoints ...string) *store.Store {
	tb.Helper()
	s, err := store.Open(context.Background(), store.Options{Endpoints: endpoints, TLS: id.Client()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// freePort finds a loopback port that is free now, below those the kernel hands out for outgoing connections: one of them
// must not take it while a listener restarts.
func freePort(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		port := 20000 + rand.N(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
	tb.Fatal("no free port from 20000 to 32000")
	return 0
}
