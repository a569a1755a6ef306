package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/migration"
	"github.com/weftnet/weft/migration/libvirt"
	"github.com/weftnet/weft/migration/qmp"
	"github.com/weftnet/weft/tracing"
)

var _ migration.Records = records{}

// records are the moves as this host sees and reports them.
type records struct{ *Agent }

// Follow calls fn with the move's record as it is, and after every change; nil when it is gone.
func (r records) Follow(ctx context.Context, id fabric.MoveID, fn func(*fabric.Move)) error {
	var last *fabric.Move
	told := false
	for {
		change, aside := r.news.wait(), r.asides.changed.wait()
		if snap := r.Latest(); snap != nil {
			if move := r.asides.with(snap.Moves[id]); !told || !same(move, last) {
				fn(move)
				last, told = move, true
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-change:
		case <-aside:
		}
	}
}

// same reports whether two records of one move say the same.
func same(a, b *fabric.Move) bool {
	return a == b || a != nil && b != nil && a.Metadata.Revision == b.Metadata.Revision &&
		a.Status.Phase == b.Status.Phase && a.Status.Incoming == b.Status.Incoming && a.Status.Fault == b.Status.Fault
}

// Advance reports how far this host's part is, and returns the record afterwards, also with an error where it can be read.
func (r records) Advance(ctx context.Context, id fabric.MoveID, host fabric.HostID, status fabric.MoveStatus) (*fabric.Move, error) {
	report := api.MoveReport{Host: host, Move: id, Status: status}
	var aside sync.WaitGroup
	defer aside.Wait()
	aside.Go(func() { r.tellSource(ctx, report) })
	move, err := r.reports.ReportMove(ctx, report)
	if err == nil || move != nil && move.Metadata.Name != "" {
		return move, err
	}
	o, unread := r.store.Get(ctx, fabric.KindMove, string(id))
	if unread != nil {
		return nil, err
	}
	move, _ = o.(*fabric.Move)
	return move, err
}

// part is one host's part of one move.
type part struct {
	move fabric.MoveID
	role migration.Role
}

// movers runs this host's parts of moves.
type movers struct {
	*Agent
	running sync.WaitGroup

	mu sync.Mutex
	// begun are the parts that run or have ended, until their record is gone.
	begun map[part]bool
	// heard is what the last snapshot had.
	heard map[fabric.MoveID]bool
}

// runMoves begins this host's part of each move that concerns it, and goes on with those that an agent before this one began.
func (a *Agent) runMoves(ctx context.Context) error {
	m := &movers{Agent: a, begun: map[part]bool{}}
	defer m.running.Wait()
	for {
		change := a.news.wait()
		if snap := a.keeper.snapshot(); snap != nil {
			m.begin(ctx, snap)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-change:
		}
	}
}

// begin starts what the snapshot has and does not run yet.
func (m *movers) begin(ctx context.Context, snap *fabric.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.begun {
		if snap.Moves[p.move] == nil {
			delete(m.begun, p)
		}
	}
	before := m.heard
	m.heard = map[fabric.MoveID]bool{}
	for id, move := range snap.Moves {
		m.heard[id] = true
		if location.Over(move.Status.Phase) {
			continue
		}
		fresh := before != nil && !before[id] && move.Status.Phase == fabric.MoveGranted
		if move.Spec.From == m.config.Host {
			m.start(ctx, part{id, migration.Source}, move, fresh)
		}
		if move.Spec.To == m.config.Host {
			m.start(ctx, part{id, migration.Destination}, move, fresh)
		}
	}
}

// start runs a part beside the others, once. A part that breaks off is begun again a moment later.
func (m *movers) start(ctx context.Context, p part, move *fabric.Move, fresh bool) {
	if m.begun[p] {
		return
	}
	m.begun[p] = true
	if p.role == migration.Destination {
		m.running.Go(func() { m.inherit(ctx, move) })
	}
	m.running.Go(func() {
		phase, err := m.run(ctx, p.role, move, fresh)
		if err == nil {
			m.emit(m.event("move."+string(phase), "move/"+string(p.move), fmt.Sprintf("The move of %s from %s to %s is %s at its %s.",
				move.Spec.VM, move.Spec.From, move.Spec.To, phase, p.role)))
			return
		}
		if ctx.Err() != nil {
			return
		}
		m.log.Error("a part of a move broke off, and is begun again", tracing.KeyMove, p.move, "role", p.role, "error", err)
		pause(ctx, retryEvery)
		m.mu.Lock()
		delete(m.begun, p)
		m.mu.Unlock()
		m.news.tell()
	})
}

// run does one part until it has ended.
func (m *movers) run(ctx context.Context, role migration.Role, move *fabric.Move, fresh bool) (fabric.Phase, error) {
	if role == migration.Source {
		move = m.keeper.begunAs(move)
	}
	o := migration.Options{
		Move: move, Fresh: fresh, Host: m.config.Host, Records: records{m.Agent}, Logger: m.log, Tracer: m.keeper.tracer,
		Alarm: func(text string) { m.emit(m.event("move.alarm", "move/"+move.Metadata.Name, text)) },
	}
	ctx = remote(ctx, move.Metadata.Trace)
	if role == migration.Destination {
		defer m.arrivals.letGo(fabric.MoveID(move.Metadata.Name))
		return migration.RunDestination(ctx, o, m.arrivals)
	}
	if move.Spec.Driver == fabric.DriverLibvirt {
		guest := leaving{m.libvirt.Watch(move.Spec.VM, false), m.process(move)}
		defer guest.Close()
		return migration.RunSource(ctx, o, guest, sourcePlane{m.Agent})
	}
	socket := m.monitor(move)
	if socket == "" && (move.Status.Phase == fabric.MoveGranted || move.Status.Phase == fabric.MoveStaged) {
		return m.refuse(ctx, move)
	}
	guest := qmp.Watch(socket, qmp.Options{Logger: m.log})
	defer guest.Close()
	return migration.RunSource(ctx, o, guest, sourcePlane{m.Agent})
}

// monitor is the QMP socket of the move's guest; empty when none was given.
func (m *movers) monitor(move *fabric.Move) string {
	for _, port := range move.Spec.Ports {
		if at, attached := m.keeper.attachment(port); attached && at.QMP != "" {
			return at.QMP
		}
	}
	return ""
}

// leaving is a guest that libvirt sends away, with the process that it runs in.
type leaving struct {
	*libvirt.Guest
	process int
}

// Process is the machine's process; 0 when it is not known.
func (l leaving) Process() int { return l.process }

// process finds the machine that the move's guest runs in, by a tap of its.
func (m *movers) process(move *fabric.Move) int {
	for _, port := range move.Spec.Ports {
		if at, attached := m.keeper.attachment(port); attached {
			if pid := migration.Holder(at.Device); pid != 0 {
				return pid
			}
		}
	}
	return 0
}

// refuse gives up a move of a guest that cannot be spoken to.
func (m *movers) refuse(ctx context.Context, move *fabric.Move) (fabric.Phase, error) {
	reason := fmt.Sprintf("host %s has no QMP socket of guest %s: attach its port with one, or have its manager migrate it (libvirt: virsh migrate)", m.config.Host, move.Spec.VM)
	status := fabric.MoveStatus{Phase: fabric.MoveAborted, Reason: reason, At: map[fabric.Phase]time.Time{fabric.MoveAborted: time.Now()}}
	_, err := records{m.Agent}.Advance(ctx, fabric.MoveID(move.Metadata.Name), m.config.Host, status)
	if errors.Is(err, fabric.ErrConflict) || errors.Is(err, fabric.ErrNotFound) {
		err = nil // it is over already
	}
	return fabric.MoveAborted, err
}

// begunAs is the move as this host has begun it, where the record does not say so yet.
func (k *keeper) begunAs(move *fabric.Move) *fabric.Move {
	k.mu.Lock()
	defer k.mu.Unlock()
	incoming, begun := k.local.Begun[fabric.MoveID(move.Metadata.Name)]
	if !begun || move.Status.Phase != fabric.MoveGranted && move.Status.Phase != fabric.MoveStaged {
		return move
	}
	next := *move
	next.Status.Phase, next.Status.Incoming = fabric.MoveCopying, incoming
	return &next
}

// snapshot is the accepted one; nil before the first.
func (k *keeper) snapshot() *fabric.Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.snap
}
