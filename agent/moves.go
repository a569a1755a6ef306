package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/tracing/export"
)

var _ server.Moves = (*starter)(nil)

// starter begins and aborts moves in the records; the hosts concerned do the rest.
type starter struct {
	store *store.Store
}

// Start grants a move. Both hosts must be reporting, or nobody would carry it out.
func (s *starter) Start(ctx context.Context, r api.MoveRequest) (*fabric.Move, error) {
	snap, err := s.store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	vm := r.VM
	if vm == "" {
		port := snap.Ports[r.Port]
		if port == nil {
			return nil, fmt.Errorf("move port %s: there is no such port: see 'weft get ports': %w", r.Port, fabric.ErrNotFound)
		}
		vm = location.Machine(port)
	}
	if err := s.reachable(ctx, snap, vm, r.To); err != nil {
		return nil, fmt.Errorf("move %s to host %s: %w", vm, r.To, err)
	}
	now := time.Now()
	move := &fabric.Move{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindMove},
		Metadata: fabric.Metadata{Name: "m-" + strings.ToLower(rand.Text()[:10]), Trace: export.Traceparent(ctx)},
		Spec:     fabric.MoveSpec{VM: vm, To: r.To, RelaySeconds: r.RelaySeconds},
		Status:   fabric.MoveStatus{At: map[fabric.Phase]time.Time{fabric.MoveGranted: now}},
	}
	var records location.Store = s.store
	if r.DryRun {
		records = unwritten{s.store}
	}
	return location.New(records).Grant(ctx, move)
}

// reachable checks that both ends of the move are there.
func (s *starter) reachable(ctx context.Context, snap *fabric.Snapshot, vm string, to fabric.HostID) error {
	statuses, err := s.store.Statuses(ctx)
	if err != nil {
		return err
	}
	ends := []fabric.HostID{to}
	for _, port := range location.PortsOf(snap, vm) {
		if host := snap.Locations[port].Host; host != "" {
			ends = append(ends, host)
		}
	}
	for _, host := range ends {
		if _, reports := statuses[host]; !reports && snap.Hosts[host] != nil {
			return fmt.Errorf("host %s does not report: start its agent first: %w", host, api.ErrUnavailable)
		}
	}
	return nil
}

// Abort gives a move up.
func (s *starter) Abort(ctx context.Context, id fabric.MoveID) (*fabric.Move, error) {
	return location.New(s.store).Abort(ctx, id, "aborted by a person", time.Now())
}

// unwritten decides as the ledger would, and writes nothing.
type unwritten struct{ *store.Store }

// UpdateLocations leaves everything as it is.
func (unwritten) UpdateLocations(context.Context, *fabric.Move, ...fabric.Location) error { return nil }
