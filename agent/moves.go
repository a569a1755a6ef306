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
	"github.com/weftnet/weft/migration"
	"github.com/weftnet/weft/tracing/export"
)

var _ server.Moves = (*starter)(nil)

// starter begins and aborts moves in the records; the hosts concerned do the rest.
type starter struct {
	store *store.Store
}

// Start grants a move, unless something stands against it.
func (s *starter) Start(ctx context.Context, r api.MoveRequest) (*fabric.Move, error) {
	return s.start(ctx, r, "")
}

func (s *starter) start(ctx context.Context, r api.MoveRequest, driver fabric.MoveDriver) (*fabric.Move, error) {
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
	statuses, err := s.store.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	found := migration.Preflight(snap, statuses, vm, r.To)
	if driver == "" {
		found = append(found, migration.Driven(snap, statuses, vm, r.To)...)
	}
	if len(found) > 0 {
		return nil, refusal(vm, r.To, found)
	}
	now := time.Now()
	move := &fabric.Move{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindMove},
		Metadata: fabric.Metadata{Name: "m-" + strings.ToLower(rand.Text()[:10]), Trace: export.Traceparent(ctx)},
		Spec:     fabric.MoveSpec{VM: vm, To: r.To, Driver: driver, RelaySeconds: r.RelaySeconds},
		Status:   fabric.MoveStatus{At: map[fabric.Phase]time.Time{fabric.MoveGranted: now}},
	}
	var records location.Store = s.store
	if r.DryRun {
		records = unwritten{s.store}
	}
	return location.New(records).Grant(ctx, move)
}

// refusal is the error of a move that cannot go well. Its identity is that of the first finding.
func refusal(vm string, to fabric.HostID, found []migration.Finding) error {
	identity := fabric.ErrConflict
	switch found[0].Code {
	case "vm-unknown", "host-unknown":
		identity = fabric.ErrNotFound
	case "same-host", "host-port":
		identity = fabric.ErrInvalid
	case "host-silent", "host-not-ready":
		identity = api.ErrUnavailable
	}
	texts := make([]string, len(found))
	for i, f := range found {
		texts[i] = f.String()
	}
	return fmt.Errorf("move %s to host %s: %s: %w", vm, to, strings.Join(texts, " "), identity)
}

// Abort gives a move up.
func (s *starter) Abort(ctx context.Context, id fabric.MoveID) (*fabric.Move, error) {
	return location.New(s.store).Abort(ctx, id, "aborted by a person", time.Now())
}

// pruneEvery is how often a server host deletes the records of moves that ended long ago.
const pruneEvery = 10 * time.Minute

// pruneMoves keeps the fabric from remembering every move there ever was.
func (a *Agent) pruneMoves(ctx context.Context) error {
	if !a.config.Server() {
		return nil
	}
	return every(ctx, pruneEvery, func() {
		n, err := a.store.PruneMoves(ctx, time.Now())
		switch {
		case err != nil && ctx.Err() == nil:
			a.log.Debug("the records of old moves stay for now", "error", err)
		case n > 0:
			a.log.Info("the records of old moves are deleted", "moves", n)
		}
	})
}

// unwritten decides as the ledger would, and writes nothing.
type unwritten struct{ *store.Store }

// UpdateLocations leaves everything as it is.
func (unwritten) UpdateLocations(context.Context, *fabric.Move, ...fabric.Location) error { return nil }
