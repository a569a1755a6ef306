// Package server runs an etcd member inside the process, so that one machine, the lab or a small fleet needs no etcd of
// its own: 1, 3 or 5 hosts run one each. Members and clients speak mutual TLS 1.3 only, and etcd's own authorization is in
// force before the first client is served (ADR 9).
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/weftnet/weft/fabric"
)

// Limits and timings of a member.
const (
	// heartbeat and election, in milliseconds: etcd's own defaults, ten heartbeats to an election, tolerate a machine that is
	// busy for most of a second.
	heartbeat = 100
	election  = 1000
	// quota is the most the database may hold, in bytes; beyond it etcd refuses writes (alarm NOSPACE).
	quota = 4 << 30
	// MaxRequest is the largest transaction, in bytes, and MaxOps the most operations in it: an apply of a thousand ports is
	// one transaction.
	MaxRequest = 16 << 20
	MaxOps     = 32768
	// retention is how much history is kept for watchers that were away.
	retention = "1h"
	// progress is how often an idle watch is told that it missed nothing.
	progress = 5 * time.Second
	// pings is how often a client may ask whether the connection lives; a client that asks more often is disconnected.
	pings = time.Second
)

// Options configure a member.
type Options struct {
	// Name is the member's name and its certificate's common name: the host's name.
	Name string
	// DataDir holds the member's data; it is made with mode 0700.
	DataDir string
	// ClientURL and PeerURL are where the member listens and what it advertises: https://10.240.0.1:2379 and :2380.
	ClientURL, PeerURL string
	// InitialCluster lists all members as name=peerURL, comma separated; only this member when empty. Only certificates
	// whose common name is one of these names may be members.
	InitialCluster string
	// Token keeps members of different fabrics apart; all members of one fabric have the same.
	Token string
	// Join is true when the member is added to a cluster that runs already, and has no data yet.
	Join bool
	// CAFile, CertFile and KeyFile are the host's certificate, in PEM.
	CAFile, CertFile, KeyFile string
	// Logger gets etcd's warnings and errors; discarded when nil.
	Logger *slog.Logger
}

// Server is a running member.
type Server struct {
	name    string
	log     *slog.Logger
	etcd    *embed.Etcd
	ready   chan struct{} // closed once authorization is in force
	settled chan struct{} // closed when settle has ended
	stop    context.CancelFunc
	once    sync.Once // etcd's own Close panics the second time
}

// Start starts a member and returns without waiting for the others: a member is ready once a majority runs. Options that
// cannot work are fabric.ErrInvalid.
func Start(o Options) (*Server, error) {
	config, err := o.config()
	if err != nil {
		return nil, fmt.Errorf("configure etcd member %s: %w", o.Name, err)
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory of etcd member %s: %w", o.Name, err)
	}
	g := &gate{}
	config.GRPCAdditionalServerOptions = g.options()
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, fmt.Errorf("start etcd member %s in %s at %s: %w", o.Name, o.DataDir, o.ClientURL, err)
	}
	g.etcd.Store(etcd.Server)
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{name: o.Name, log: o.Logger, etcd: etcd, ready: make(chan struct{}), settled: make(chan struct{}), stop: stop}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	go s.settle(ctx)
	return s, nil
}

// Ready is closed when the member serves: it has joined a majority, knows a leader, and authorization is in force.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Wait returns when the member serves, or with an error when ctx ends or the member stops first.
func (s *Server) Wait(ctx context.Context) error {
	select {
	case <-s.Ready():
		return nil
	case <-s.etcd.Server.StopNotify():
		return fmt.Errorf("etcd member %s stopped before it was ready: its log says why", s.name)
	case <-ctx.Done():
		return fmt.Errorf("etcd member %s is not ready: a majority of the members must run and reach one another: %w", s.name, ctx.Err())
	}
}

// Run returns when ctx ends, after closing the member, or with the error that stopped the member.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-s.etcd.Server.StopNotify():
		return fmt.Errorf("etcd member %s stopped: its log says why", s.name)
	case err := <-s.etcd.Err():
		return fmt.Errorf("etcd member %s: %w", s.name, err)
	}
}

// Close stops the member and returns when its last goroutine has; the data stays. A second Close does nothing.
func (s *Server) Close() {
	s.once.Do(func() {
		s.stop()
		s.etcd.Close()
		<-s.settled
	})
}

func (o Options) config() (*embed.Config, error) {
	client, err := parseURL("client", o.ClientURL)
	if err != nil {
		return nil, err
	}
	peer, err := parseURL("peer", o.PeerURL)
	if err != nil {
		return nil, err
	}
	members, err := o.members()
	if err != nil {
		return nil, err
	}
	c := embed.NewConfig()
	c.Name, c.Dir = o.Name, o.DataDir
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster, c.InitialClusterToken = o.cluster(), o.Token
	if o.Token == "" {
		c.InitialClusterToken = "weft"
	}
	if o.Join {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	o.secure(c, members)
	o.tune(c)
	return c, nil
}

// secure allows TLS 1.3 with certificates of the fabric's CA only, and as members only the hosts of the cluster.
func (o Options) secure(c *embed.Config, members []string) {
	c.TlsMinVersion = "TLS1.3"
	c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = o.CertFile, o.KeyFile
	c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = o.CAFile, true
	c.PeerTLSInfo = c.ClientTLSInfo
	c.PeerTLSInfo.AllowedCNs = members
	// A host may reach a member from another of its addresses than the one in its certificate; its name is what counts.
	c.PeerTLSInfo.SkipClientSANVerify = true
}

func (o Options) tune(c *embed.Config) {
	c.TickMs, c.ElectionMs = heartbeat, election
	c.QuotaBackendBytes = quota
	c.MaxRequestBytes, c.MaxTxnOps = MaxRequest, MaxOps
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, retention
	c.WatchProgressNotifyInterval = progress
	c.GRPCKeepAliveMinTime = pings
	c.GRPCKeepAliveInterval, c.GRPCKeepAliveTimeout = 5*time.Second, 3*time.Second
	c.EnableGRPCGateway = false
	c.LogLevel = "warn"
	logger := zap.NewNop()
	if o.Logger != nil {
		logger = zap.New(logCore{log: o.Logger.With("member", o.Name)})
	}
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
}

func (o Options) cluster() string {
	if o.InitialCluster != "" {
		return o.InitialCluster
	}
	return o.Name + "=" + o.PeerURL
}

// members are the names in the initial cluster; this member must be among them.
func (o Options) members() ([]string, error) {
	var names []string
	found := false
	for entry := range strings.SplitSeq(o.cluster(), ",") {
		name, at, ok := strings.Cut(entry, "=")
		if !ok || fabric.CheckName(name) != nil {
			return nil, fmt.Errorf("initial cluster %q: write name=https://address:2380, comma separated: %w", o.InitialCluster, fabric.ErrInvalid)
		}
		if _, err := parseURL("peer", at); err != nil {
			return nil, err
		}
		names = append(names, name)
		found = found || name == o.Name && at == o.PeerURL
	}
	if !found {
		return nil, fmt.Errorf("initial cluster %q does not hold %s=%s: add it on every member: %w", o.InitialCluster, o.Name, o.PeerURL, fabric.ErrInvalid)
	}
	return names, nil
}

func parseURL(what, s string) (url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Port() == "" || u.Path != "" {
		return url.URL{}, errors.Join(fmt.Errorf("%s URL %q: write https://address:port: %w", what, s, fabric.ErrInvalid), err)
	}
	return *u, nil
}
