// Package migration moves a VM's ports with the VM: a state machine for each of the two hosts of a move, which decides
// from what the hypervisor, the record and the datapath tell, and a runner that carries its decisions out.
package migration

import (
	"context"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// Guest is a machine at either end of a move; *qmp.Guest is one.
type Guest interface {
	// Events tells how things stand at the start, and from then on what happens, in order. Closed after qmp.Gone.
	Events() <-chan qmp.Event
	// Announce makes the machine tell the switches around it where it is.
	Announce(ctx context.Context) error
	// Quit ends the machine; one that has ended is no error.
	Quit(ctx context.Context) error
}

// Sender is a machine that can be sent away; *qmp.Guest is one.
type Sender interface {
	// Migrate begins to send the guest to a waiting machine, and returns.
	Migrate(ctx context.Context, uri string) error
	// Continue lets a migration switch over that waits for it (qmp.Waiting).
	Continue(ctx context.Context) error
	// Cancel gives the migration up, unless everything has been sent.
	Cancel(ctx context.Context) error
	// Resume lets a stopped guest run here again.
	Resume(ctx context.Context) error
}

var (
	_ Guest  = (*qmp.Guest)(nil)
	_ Sender = (*qmp.Guest)(nil)
)

// Records is the fabric's memory of moves; *location.Ledger behind a watch is one.
type Records interface {
	// Follow calls fn with the move's record as it is, and then whenever it has changed, until ctx ends; the newest is enough.
	// nil means that the record was deleted. It returns when ctx ends, or when fn can never be called again.
	Follow(ctx context.Context, id fabric.MoveID, fn func(*fabric.Move)) error
	// Advance is location.Ledger.Advance: the record afterwards, also with an error. Errors of fabric.ErrConflict,
	// ErrStaleEpoch, ErrInvalid and ErrNotFound are final; after any other the report is made again. An empty status reads the
	// record from the store itself.
	Advance(ctx context.Context, id fabric.MoveID, host fabric.HostID, status fabric.MoveStatus) (*fabric.Move, error)
}

// SourcePlane is the forwarding of the host that the guest leaves. All methods are idempotent.
type SourcePlane interface {
	// Remember keeps, beyond the end of this agent, that the guest is about to be copied to the address, although that is not recorded. A
	// runner that begins again is given such a move as if it were recorded as copying.
	Remember(ctx context.Context, move *fabric.Move, incoming string) error
	// Handoff closes the move's ports for their guest and sends every frame for them on to the move's destination, until
	// Restore or Finish. It is called the moment the guest has stopped: its first act is to write the kernel's maps.
	Handoff(ctx context.Context, move *fabric.Move) error
	// Restore opens the ports again for the guest that runs on here, and ends the sending on.
	Restore(ctx context.Context, move *fabric.Move) error
	// Finish forgets what was kept for the move; afterwards only the records say what is forwarded. They say already how the
	// move has ended, but this host may hear it after Finish was called.
	Finish(ctx context.Context, move *fabric.Move) error
	// Inherited is closed once the destination has taken over what the move's ports take along; never, when ctx ends before.
	Inherited(ctx context.Context, move *fabric.Move) <-chan struct{}
	// Counted is how many packets of the move's ports were relayed and lost for a move's sake. The runner takes the difference
	// from a reading before the move.
	Counted(ctx context.Context, move *fabric.Move) (Counts, error)
}

// Drainer is what a SourcePlane may be able to do besides, for a guest that has a Process method: fetch the frames that
// the stopped guest's devices still hold, and send them on. It returns how many were relayed and lost.
type Drainer interface {
	Drain(ctx context.Context, move *fabric.Move, process int) (Counts, error)
}

// DestinationPlane is the forwarding of the host that the guest comes to. All methods are idempotent.
type DestinationPlane interface {
	// Stage starts a machine that waits for the guest, puts the ports' settings in force on its devices with the gate Staged,
	// and reads them back. It may take seconds; ctx is for the call only. A move that is staged already returns the machine
	// that waits, and once the move is beyond fabric.MoveStaged no other is started: when that machine has ended, Stage fails.
	Stage(ctx context.Context, move *fabric.Move) (Staged, error)
	// Unstage closes the ports, so that the guest can never send here by this move, and detaches them.
	Unstage(ctx context.Context, move *fabric.Move) error
	// Opened tells when the kernel let the guest's first frame pass at each of the move's staged ports; also for one that was
	// open when it was called. Closed when ctx ends.
	Opened(ctx context.Context, move *fabric.Move) <-chan FirstFrame
	// Counted is how many packets of the move's ports were lost at their staged devices: refused by the port, or for want of
	// room in the device's queue.
	Counted(ctx context.Context, move *fabric.Move) (Counts, error)
}

// Staged is a machine that waits for the guest.
type Staged struct {
	// Incoming is where, in QEMU's migration URI form.
	Incoming string
	// Guest is the machine; the runner does not close it.
	Guest Guest
}

// FirstFrame is the first frame that the guest sent through a port at its new host.
type FirstFrame struct {
	Port fabric.PortID
	Time time.Time
}

// Forms are those in which this release takes part in moves. A change of what one host tells the other in a move, which a release
// without it would misread, is a new form.
func Forms() fabric.MoveForms { return fabric.MoveForms{Least: 1, Most: 1} }

// Counts are packets of a move's ports.
type Counts struct {
	Relayed, Lost, Duplicated uint64
}

// most is the larger of two readings of the same counters: those of a device are gone with the device.
func (c Counts) most(o Counts) Counts {
	return Counts{max(c.Relayed, o.Relayed), max(c.Lost, o.Lost), max(c.Duplicated, o.Duplicated)}
}

// plus adds what was counted elsewhere.
func (c Counts) plus(o Counts) Counts {
	return Counts{c.Relayed + o.Relayed, c.Lost + o.Lost, c.Duplicated + o.Duplicated}
}

// less is what was counted since an earlier reading.
func (c Counts) less(o Counts) Counts {
	return Counts{c.Relayed - min(c.Relayed, o.Relayed), c.Lost - min(c.Lost, o.Lost), c.Duplicated - min(c.Duplicated, o.Duplicated)}
}

// Limits are how long each part of a move may take; a zero means the default.
type Limits struct {
	// Stage: from the grant until the destination waits. 60 s.
	Stage time.Duration
	// Record: for how long the copy waits for being recorded; then the source remembers it, and begins. 1 s.
	Record time.Duration
	// Copy: from then until the guest stops. 30 min; the guest runs all the while.
	Copy time.Duration
	// Inherit: from when frames go to the destination until it knows the ports' connections; then the guest goes on without. 50 ms.
	Inherit time.Duration
	// Switch: from the guest's stop until its state is sent. 10 s; the guest stands still.
	Switch time.Duration
	// Answer: from an order to the hypervisor until its effect; then it is given again. 2 s.
	Answer time.Duration
	// Relay: from the destination's commit until late packets are no longer sent on. 30 s, or what the move asks for.
	Relay time.Duration
}

// For fills in the defaults and what the move asks for.
func (l Limits) For(move *fabric.Move) Limits {
	if s := move.Spec.RelaySeconds; s > 0 {
		l.Relay = time.Duration(s * float64(time.Second))
	}
	for _, d := range []struct {
		limit    *time.Duration
		standard time.Duration
	}{{&l.Stage, time.Minute}, {&l.Record, time.Second}, {&l.Copy, 30 * time.Minute}, {&l.Switch, 10 * time.Second}, {&l.Inherit, 50 * time.Millisecond}, {&l.Answer, 2 * time.Second}, {&l.Relay, 30 * time.Second}} {
		if *d.limit <= 0 {
			*d.limit = d.standard
		}
	}
	return l
}
