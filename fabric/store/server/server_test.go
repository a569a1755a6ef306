package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

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

// cluster prepares n members that know one another, each with a certificate of ca.
func cluster(tb testing.TB, ca *identity.CA, n int) []Options {
	tb.Helper()
	var all []Options
	var peers []string
	for i := range n {
		name := fmt.Sprintf("h%d", i+1)
		cert, err := ca.Issue(identity.Request{
			Name: name, Roles: []identity.Role{identity.RoleServer}, Now: time.Now(),
			Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		})
		if err != nil {
			tb.Fatal(err)
		}
		dir := filepath.Join(tb.TempDir(), name)
		if err := cert.Save(dir); err != nil {
			tb.Fatal(err)
		}
		writer, err := ca.IssueEtcd(fabric.EtcdWriter, time.Now(), 0)
		if err != nil {
			tb.Fatal(err)
		}
		if err := writer.SaveAs(identity.EtcdFilesIn(dir)); err != nil {
			tb.Fatal(err)
		}
		files := identity.FilesIn(dir)
		o := Options{
			Name: name, DataDir: filepath.Join(dir, "etcd"), CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key,
			ClientURL: fmt.Sprintf("https://127.0.0.1:%d", freePort(tb)), PeerURL: fmt.Sprintf("https://127.0.0.1:%d", freePort(tb)),
		}
		peers = append(peers, name+"="+o.PeerURL)
		all = append(all, o)
	}
	for i := range all {
		all[i].InitialCluster = strings.Join(peers, ",")
	}
	return all
}

func newCA(tb testing.TB) *identity.CA {
	tb.Helper()
	ca, err := identity.NewCA("test", time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

func load(tb testing.TB, o Options) *identity.Identity {
	tb.Helper()
	id, err := identity.Load(identity.Files{CA: o.CAFile, Cert: o.CertFile, Key: o.KeyFile}, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// client opens one with the certificate of a writer that lies beside the member's.
func client(tb testing.TB, o Options, endpoints ...string) *clientv3.Client {
	tb.Helper()
	id, err := identity.Load(identity.EtcdFilesIn(filepath.Dir(o.CertFile)), time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return clientOf(tb, id, endpoints...)
}

func clientOf(tb testing.TB, id *identity.Identity, endpoints ...string) *clientv3.Client {
	tb.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: id.Client(), Logger: zap.NewNop()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func TestThreeMembersServe(t *testing.T) {
	options := cluster(t, newCA(t), 3)
	begin := time.Now()
	var members []*Server
	for _, o := range options {
		s, err := Start(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		members = append(members, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, s := range members {
		if err := s.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("three members ready after %v", time.Since(begin))
	c := client(t, options[1], options[0].ClientURL, options[1].ClientURL, options[2].ClientURL)
	if _, err := c.Put(ctx, "/weft/k", "v"); err != nil {
		t.Fatal(err)
	}
}

func TestDataOutlivesTheProcess(t *testing.T) {
	o := cluster(t, newCA(t), 1)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, want := range []int64{0, 1} {
		s, err := Start(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		c := client(t, o, o.ClientURL)
		got, err := c.Get(ctx, "/weft/k")
		if err != nil || got.Count != want {
			t.Errorf("found %v (%v), want %d records", got, err, want)
		}
		if _, err := c.Put(ctx, "/weft/k", "v"); err != nil {
			t.Error(err)
		}
		s.Close()
		s.Close()
	}
}

func TestOnlyCertificatesOfTheFabricAreServed(t *testing.T) {
	ca := newCA(t)
	o := cluster(t, ca, 1)[0]
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	ours := load(t, o).Client()
	stranger := load(t, cluster(t, newCA(t), 1)[0]).Client()
	stranger.RootCAs = ours.RootCAs
	nobody := ours.Clone()
	nobody.Certificates = nil
	other := load(t, cluster(t, ca, 2)[1]).Client() // a host of the fabric, but no member of this cluster
	users := map[fabric.EtcdUser]*tls.Config{}
	for _, user := range fabric.EtcdUsers() {
		users[user] = etcdIdentity(t, ca, user).Client()
	}
	for name, c := range map[string]struct {
		url    string
		config *tls.Config
		served bool
	}{
		"a client of the fabric":            {o.ClientURL, other, true},
		"a client of another fabric":        {o.ClientURL, stranger, false},
		"a client without a certificate":    {o.ClientURL, nobody, false},
		"the member itself":                 {o.PeerURL, ours, true},
		"a host that is no member, as peer": {o.PeerURL, other, false},
		"etcd's reader, as peer":            {o.PeerURL, users[fabric.EtcdReader], false},
		"etcd's writer, as peer":            {o.PeerURL, users[fabric.EtcdWriter], false},
		"etcd's root, as peer":              {o.PeerURL, users[fabric.EtcdRoot], false},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: c.config, DisableKeepAlives: true}
			resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get(c.url + "/version")
			if err == nil {
				resp.Body.Close()
			}
			if served := err == nil; served != c.served {
				t.Errorf("served: %v (%v), want %v", served, err, c.served)
			}
		})
	}
}

func TestBadOptionsSayWhatToWrite(t *testing.T) {
	good := cluster(t, newCA(t), 1)[0]
	for name, c := range map[string]struct {
		spoil func(o *Options)
		want  string
	}{
		"plain http":                 {func(o *Options) { o.ClientURL = "http://127.0.0.1:2379" }, "https://address:port"},
		"no port":                    {func(o *Options) { o.PeerURL = "https://127.0.0.1" }, "https://address:port"},
		"a cluster without itself":   {func(o *Options) { o.InitialCluster = "h9=https://127.0.0.1:2380" }, "add it on every member"},
		"a cluster that is no list":  {func(o *Options) { o.InitialCluster = "h1,h2" }, "name=https"},
		"an entry with another port": {func(o *Options) { o.InitialCluster = "h1=https://127.0.0.1:1" }, "does not hold"},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			c.spoil(&o)
			s, err := Start(o)
			if err == nil {
				s.Close()
				t.Fatal("the member started")
			}
			if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}
