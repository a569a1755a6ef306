package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/members"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/tracing/export"
)

var (
	_ server.Objects  = (*store.Store)(nil)
	_ server.Statuses = (*store.Store)(nil)
	_ server.Fleet    = (*Agent)(nil)
	_ server.Host     = (*Agent)(nil)
)

// serve answers the host API.
func (a *Agent) serve(ctx context.Context) error {
	o := server.Options{
		Self: a.config.Host, Version: a.config.Version, Socket: a.config.Socket, Listen: a.config.Listen,
		TLS: a.identity.Server(), PeerTLS: a.identity.Client(), StateDir: a.config.StateDir, Writes: a.config.Server(),
		Objects: a.store, Statuses: a.store, Plugs: a, Mirrors: a, Fleet: a, Moves: a.moves, Prober: a.prober, Lives: a.live, Trials: a, Host: a, Hypervisor: a,
		Metrics: a.metrics.Handler(), Logger: a.log,
	}
	if a.config.Server() {
		o.Reports = a.reports
	}
	return server.New(o).Run(ctx)
}

// serveMetrics answers Prometheus on a loopback address.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.config.Metrics == "off" {
		return nil
	}
	listener, err := net.Listen("tcp", a.config.Metrics)
	if err != nil {
		a.trouble("metrics", fmt.Errorf("answer Prometheus on %s: %w; set metrics to a free loopback address, or to off", a.config.Metrics, err))
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	g.Go(func() error {
		if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("answer Prometheus on %s: %w", a.config.Metrics, err)
		}
		return nil
	})
	return g.Wait()
}

// openGossip begins to take part in the gossip; a host without key takes no part.
func (a *Agent) openGossip(context.Context) error {
	g := a.config.Gossip
	if g.KeyFile == "" {
		return nil
	}
	text, err := os.ReadFile(g.KeyFile)
	if err != nil {
		return fmt.Errorf("read the gossip key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		return fmt.Errorf("read the gossip key %s: it is not base64: make one with `head -c 32 /dev/urandom | base64`: %w", g.KeyFile, err)
	}
	m, err := members.Open(members.Options{
		Host: a.config.Host, Bind: netip.AddrPortFrom(a.config.Underlay.Address, uint16(g.Port)), Label: g.Label, Key: key,
		Seeds: a.seeds, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.members = m
	a.closeLater(m.Close)
	return nil
}

// seeds are where the other hosts of the fabric gossip.
func (a *Agent) seeds(context.Context) []netip.AddrPort {
	snap := a.Latest()
	if snap == nil {
		return nil
	}
	var at []netip.AddrPort
	for id, h := range snap.Hosts {
		if id != a.config.Host && h.Spec.VTEP.IsValid() {
			at = append(at, netip.AddrPortFrom(h.Spec.VTEP, uint16(a.config.Gossip.Port)))
		}
	}
	return at
}

// runGossip looks for the other hosts, and tells when one comes or goes.
func (a *Agent) runGossip(ctx context.Context) error {
	if a.members == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.members.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case c := <-a.members.Changes():
				kind, text := "host.down", "Host %s does not answer the gossip any more."
				if c.Alive {
					kind, text = "host.up", "Host %s answers the gossip."
				}
				a.emit(a.event(kind, "host/"+string(c.Host), fmt.Sprintf(text, c.Host)))
				a.news.tell()
			}
		}
	})
	return g.Wait()
}

// Alive are the hosts that gossip says are there, this one included.
func (a *Agent) Alive() map[fabric.HostID]bool {
	if a.members == nil {
		return map[fabric.HostID]bool{a.config.Host: true}
	}
	return a.members.Alive()
}

// Etcd is how the members of the fabric's etcd are.
func (a *Agent) Etcd(ctx context.Context) (api.Etcd, error) {
	found, err := a.store.Members(ctx)
	out := api.Etcd{Members: make([]api.EtcdMember, 0, len(found))}
	healthy := 0
	for _, m := range found {
		out.Members = append(out.Members, api.EtcdMember{Name: m.Name, Healthy: m.Healthy, Leader: m.Leader, Reason: m.Reason})
		if m.Healthy {
			healthy++
		}
	}
	out.CanLose = api.CanLose(len(found), healthy)
	return out, err
}

// Doctor examines this host.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) { return Doctor(ctx, a.config), nil }

// Events calls each with what happened on this host after the event of that number, oldest first; with follow it goes on
// until ctx ends.
func (a *Agent) Events(ctx context.Context, after uint64, follow bool, each func(uint64, fabric.Event) error) error {
	one := func(r export.Record) error { return each(r.Seq, r.Event) }
	if follow {
		return a.events.Follow(ctx, after, one)
	}
	return a.events.Since(after, one)
}

// Confirm goes on with what waits here for a person: a snapshot that removes many ports, on this host; or data of an etcd
// that went back in time, on every host. It returns what was confirmed, a sentence; fabric.ErrNotFound when nothing waits.
func (a *Agent) Confirm(ctx context.Context) (string, error) {
	if held := a.store.Held(); held != nil {
		if !a.config.Server() {
			return "", &api.Error{
				Code: api.CodeMisdirected, Message: fmt.Sprintf("host %s is not a server host: it cannot confirm the restored data of etcd", a.config.Host),
				Next: "run it on a server host, and every host goes on; weft get hosts -o wide shows which they are",
			}
		}
		if err := a.store.ConfirmRestore(ctx); err != nil {
			return "", err
		}
		return "The restored data of etcd is taken: " + held.Error(), nil
	}
	if reason, held := a.keeper.confirm(ctx); held {
		return "The change is put in force on host " + string(a.config.Host) + ": " + reason, nil
	}
	return "", fmt.Errorf("nothing waits for a confirmation on host %s: see 'weft status': %w", a.config.Host, fabric.ErrNotFound)
}
