package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/fabric/store"
)

var (
	_ server.Reports = (*ledger)(nil)
	_ server.Reports = (*messenger)(nil)
)

// ledger writes what hosts report into etcd; a server host has one, for itself and for the others.
type ledger struct {
	store     *store.Store
	locations *location.Ledger
}

func newLedger(s *store.Store) *ledger { return &ledger{store: s, locations: location.New(s)} }

// ReportHost writes the host's record, unless it is there already as it is.
func (l *ledger) ReportHost(ctx context.Context, h *fabric.Host) error {
	record := *h
	record.Metadata.Revision, record.Status = 0, fabric.HostStatus{}
	_, err := l.store.Apply(ctx, []fabric.Object{&record}, store.ApplyOptions{})
	return err
}

// ReportStatus writes the host's leased status.
func (l *ledger) ReportStatus(ctx context.Context, host fabric.HostID, s fabric.HostStatus) error {
	return l.store.ReportStatus(ctx, host, s)
}

// ReportLocation carries out one act on a location record and returns the record after it.
func (l *ledger) ReportLocation(ctx context.Context, r api.LocationReport) (fabric.Location, error) {
	var err error
	switch r.Act {
	case api.Claim:
		return l.locations.Claim(ctx, r.Port, r.Host)
	case api.Commit:
		err = l.locations.Commit(ctx, r.Port, r.Host, r.Epoch)
	case api.Rollback:
		err = l.locations.Rollback(ctx, r.Port, r.Host, r.Epoch)
	case api.Release:
		err = l.locations.Release(ctx, r.Port, r.Host, r.Epoch)
	case api.Join:
		return l.join(ctx, r.Host, r.Switch)
	case api.Welcome:
		return l.welcome(ctx, r)
	case api.Receive:
		return l.receive(ctx, r)
	case api.EndRelay:
		err = l.locations.EndRelay(ctx, r.Port, r.Host)
	default:
		err = fmt.Errorf("%q is nothing that can be done to a location: %w", r.Act, fabric.ErrInvalid)
	}
	if err != nil {
		return fabric.Location{}, err
	}
	snap, err := l.store.Snapshot(ctx)
	if err != nil {
		return fabric.Location{}, err
	}
	return snap.Locations[r.Port], nil
}

// join has the host hold its own port on an internal switch, and makes the port where there is none. What an operator has set on one
// that is there stays.
func (l *ledger) join(ctx context.Context, host fabric.HostID, sw fabric.SwitchID) (fabric.Location, error) {
	name := fabric.HostPort(host, sw)
	o, err := l.store.Get(ctx, fabric.KindPort, string(name))
	if errors.Is(err, fabric.ErrNotFound) {
		port := &fabric.Port{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: string(name)},
			Spec: fabric.PortSpec{Role: fabric.RoleHost, Switch: sw, Host: host},
		}
		_, err = l.store.Apply(ctx, []fabric.Object{port}, store.ApplyOptions{})
	} else if p, ok := o.(*fabric.Port); ok && (!p.IsHost() || p.Spec.Switch != sw) {
		return fabric.Location{}, fmt.Errorf("join switch %s as port %s: a port on switch %s has this name: delete that: %w", sw, name, p.Spec.Switch, fabric.ErrConflict)
	}
	if err != nil {
		return fabric.Location{}, fmt.Errorf("join switch %s: %w", sw, err)
	}
	return l.locations.Claim(ctx, name, host)
}

// ReportMove writes how far a move is, with what that means for the locations.
func (l *ledger) ReportMove(ctx context.Context, r api.MoveReport) (*fabric.Move, error) {
	return l.locations.Advance(ctx, r.Move, r.Host, r.Status)
}

// messenger reports through the API of a server host: the one that answered last, else the next in the list.
type messenger struct {
	clients []*client.Client

	mu   sync.Mutex
	next int // index of the client to ask first
}

func newMessenger(servers []string, conf *tls.Config) (*messenger, error) {
	m := &messenger{}
	for _, s := range servers {
		c, err := client.New(client.Options{Address: s, TLS: conf})
		if err != nil {
			return nil, err
		}
		m.clients = append(m.clients, c)
	}
	return m, nil
}

// Close lets go of idle connections.
func (m *messenger) Close() {
	for _, c := range m.clients {
		c.Close()
	}
}

// ask calls servers until one answers; an answer that refuses is an answer.
func (m *messenger) ask(ctx context.Context, call func(*client.Client) error) error {
	m.mu.Lock()
	first := m.next
	m.mu.Unlock()
	var err error
	for i := range m.clients {
		n := (first + i) % len(m.clients)
		err = call(m.clients[n])
		if !errors.Is(err, api.ErrUnavailable) || ctx.Err() != nil {
			m.mu.Lock()
			m.next = n
			m.mu.Unlock()
			return err
		}
	}
	return fmt.Errorf("none of the %d server hosts answers: %w", len(m.clients), err)
}

// ReportHost tells a server host about this one.
func (m *messenger) ReportHost(ctx context.Context, h *fabric.Host) error {
	return m.ask(ctx, func(c *client.Client) error { return c.Register(ctx, h) })
}

// ReportStatus tells a server host how this one is.
func (m *messenger) ReportStatus(ctx context.Context, host fabric.HostID, s fabric.HostStatus) error {
	return m.ask(ctx, func(c *client.Client) error { return c.ReportStatus(ctx, host, s) })
}

// ReportLocation asks a server host for one act on a location record.
func (m *messenger) ReportLocation(ctx context.Context, r api.LocationReport) (l fabric.Location, err error) {
	err = m.ask(ctx, func(c *client.Client) (err error) { l, err = c.ReportLocation(ctx, r); return err })
	return l, err
}

// ReportMove asks a server host to write how far a move is.
func (m *messenger) ReportMove(ctx context.Context, r api.MoveReport) (move *fabric.Move, err error) {
	err = m.ask(ctx, func(c *client.Client) (err error) { move, err = c.ReportMove(ctx, r); return err })
	return move, err
}
