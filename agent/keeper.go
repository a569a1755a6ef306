package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// plane is what the keeper needs of Plane.
type plane interface {
	Read(ctx context.Context) (datapath.State, error)
	Apply(ctx context.Context, c datapath.Change) error
	Verify(ctx context.Context) error
}

// tally is where the keeper's work is counted; *export.Metrics is one.
type tally interface {
	// Reconciled counts one comparison of wanted and actual state, InForce one snapshot that was put in force.
	Reconciled(took time.Duration, changed int, err error)
	Repaired(kind string, n int)
	InForce(took time.Duration)
}

// keeper keeps the plane as the newest accepted snapshot and the host's own knowledge say. All its methods may be called
// at any time by anybody; they take turns.
type keeper struct {
	host     fabric.HostID
	vtep     netip.Addr
	stateDir string
	plane    plane
	log      *slog.Logger
	tracer   trace.Tracer
	emit     func(fabric.Event)
	metrics  tally
	// devices returns the kernel's number of every device by its name.
	devices func() (map[string]int, error)
	// survey is devices, with those described that could be uplinks; underlay is the one that tunnels use.
	survey   func(skip func(device string) bool) (map[string]int, []fabric.NICStatus, error)
	underlay string
	// changed is told after every round that status may be different, accepted of every snapshot that is accepted.
	changed  func()
	accepted func(*fabric.Snapshot)

	waiting waiting
	// remembering are the changes that are in force and on their way to the disk.
	remembering sync.WaitGroup
	// ruling is the newest snapshot that was read back as wanted; nil before the first.
	ruling atomic.Pointer[fabric.Snapshot]

	mu    sync.Mutex
	snap  *fabric.Snapshot // accepted; nil before the first
	last  *fabric.Snapshot // accepted by the agent before this one; what the first is compared with
	held  *hold
	local local
	// want is the plan; nil when what it is computed from has changed.
	want    *datapath.State
	present map[string]int
	uplinks uplinks
	// silent are the NICs of uplinks by which nothing is reached that is by others (watchReach).
	silent map[string]bool
	// ended are the mirrors whose time is over, copying those that copy here; nil before the first round.
	ended   map[string]bool
	copying map[fabric.VNI]string
	have    datapath.State
	// inForce is the revision of the newest snapshot that was read back as wanted.
	inForce fabric.Revision
	// failure is what kept the last round from reaching what is wanted; nil when it did.
	failure   error
	complaint string // the event that told it
	states    map[fabric.PortID]fabric.PortState
}

// begin reads what the kernel holds. When the host's own knowledge was lost, what is plugged in is learned from it again.
func (k *keeper) begin(ctx context.Context, l local, lost bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	have, err := k.plane.Read(ctx)
	if err != nil {
		return fmt.Errorf("read the datapath: %w", err)
	}
	k.have, k.local, k.states = have, l, map[fabric.PortID]fabric.PortState{}
	if !lost {
		return k.look()
	}
	for device, p := range have.Ports {
		if _, known := k.local.Attachments[p.Name]; !known && p.Name != "" {
			k.local.Attachments[p.Name] = attachment{Attachment: plan.Attachment{Device: device, Kind: p.Kind}}
			k.log.Warn("a port was learned again from the datapath", tracing.KeyPort, p.Name, tracing.KeyDevice, device)
		}
	}
	if err := k.local.save(k.stateDir); err != nil {
		return err
	}
	return k.look()
}

// look finds out which devices there are.
func (k *keeper) look() error {
	present, nics, err := k.survey(k.plugIns())
	if err != nil {
		return fmt.Errorf("look at the host's devices: %w", err)
	}
	k.lookAtDevices(present)
	k.endMirrors(time.Now())
	k.lookAtNICs(nics, time.Now())
	return nil
}

func (k *keeper) lookAtDevices(present map[string]int) {
	if !sameDevices(present, k.present) {
		k.present, k.want = present, nil
	}
}

// accept takes a snapshot of the store and puts it in force, unless it is to be held for confirmation.
func (k *keeper) accept(ctx context.Context, snap *fabric.Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := cmp.Or(k.snap, k.last)
	held := k.held
	if k.held = holds(before, snap); k.held != nil {
		if held == nil || held.reason() != k.held.reason() {
			k.log.Warn("a change is held for confirmation", tracing.KeyRevision, snap.Revision, "reason", k.held.reason())
			k.tell("change.held", "", k.held.reason())
		}
		if k.snap == nil {
			k.put(ctx, nil, k.last)
		}
		k.changed()
		return
	}
	k.put(ctx, before, snap)
}

// confirm accepts the held snapshot; it returns why it was held, and whether there was one.
func (k *keeper) confirm(ctx context.Context) (reason string, held bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		return "", false
	}
	h := k.held
	k.held = nil
	k.put(ctx, cmp.Or(k.snap, k.last), h.snap)
	return h.reason(), true
}

// resume goes on from what the agent before this one accepted, while the store does not answer.
func (k *keeper) resume(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.snap != nil || k.last == nil {
		return
	}
	k.log.Warn("etcd does not answer: the last good state is in force", tracing.KeyRevision, k.last.Revision)
	k.put(ctx, nil, k.last)
}

// put puts a snapshot in force that follows before.
func (k *keeper) put(ctx context.Context, before, snap *fabric.Snapshot) {
	begun := time.Now()
	ctx, span := k.span(ctx, before, snap)
	defer span.End()
	var was datapath.State
	switch {
	case k.want != nil && before == k.snap:
		was = *k.want
	case before != nil:
		was = plan.Wanted(before, k.host, k.plugged())
	}
	k.snap, k.want = snap, nil
	k.accepted(snap)
	c := plan.Reborn(was, k.wanted(), k.have)
	if before != nil && snap.Incarnation != before.Incarnation {
		c = plan.Adopt(k.wanted(), k.have) // the store goes back only after an operator has confirmed it
	}
	if plan.Entries(c.Delete)+plan.Entries(c.Put) > 0 {
		if err := k.renew(ctx, c); err != nil {
			k.fail(err)
			return
		}
	}
	k.round(ctx)
	if k.failure == nil {
		k.metrics.InForce(time.Since(begun))
	}
}

// renew applies a change and reads the result.
func (k *keeper) renew(ctx context.Context, c datapath.Change) error {
	if err := k.apply(ctx, []datapath.Change{c}); err != nil {
		return err
	}
	return k.read(ctx)
}

// check reads the kernel again and repairs what is not as wanted.
func (k *keeper) check(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.plane.Verify(ctx); err != nil {
		k.fail(err)
		return
	}
	present, known := k.present, k.local
	if err := k.look(); err != nil {
		k.fail(err)
		return
	}
	if err := k.read(ctx); err != nil {
		k.fail(err)
		return
	}
	if k.snap == nil {
		return
	}
	k.tidy()
	replanned := k.want == nil // by this host's own knowledge: a NIC, or a time that has passed
	steps := plan.Changes(k.wanted(), k.have)
	if len(steps) > 0 && !replanned && k.failure == nil && sameDevices(present, k.present) && known.equal(k.local) {
		k.repairing(steps)
	}
	k.round(ctx)
}

// repairing tells that something else has changed the datapath.
func (k *keeper) repairing(steps []datapath.Change) {
	text := describe(steps)
	k.log.Warn("the datapath was not as wanted and is repaired", "difference", text)
	k.tell("datapath.repaired", "", "The datapath was changed by something else and has been put right: "+text+".")
	for _, c := range steps {
		for _, s := range []datapath.State{c.Put, c.Delete} {
			for kind, n := range map[string]int{"port": len(s.Ports), "fdb": len(s.FDB), "neighbor": len(s.Neighbors), "peer": len(s.Peers), "switch": len(s.Switches), "table": len(s.Tables)} {
				if n > 0 {
					k.metrics.Repaired(kind, n)
				}
			}
		}
	}
}

// devicesChanged is check, if any device has come, gone or been made anew.
func (k *keeper) devicesChanged(ctx context.Context) {
	k.mu.Lock()
	plugIns := k.plugIns()
	k.mu.Unlock()
	present, nics, err := k.survey(plugIns)
	k.mu.Lock()
	same := err == nil && sameDevices(present, k.present)
	if err == nil && !k.sameNICs(nics) {
		same = false
		k.failover(ctx, nics)
	}
	k.mu.Unlock()
	if !same {
		k.check(ctx)
	}
}

// rounds bounds how often one round tries: what does not settle at once is tried again by the next check.
const rounds = 3

// round makes the kernel hold what is wanted, and reads it back.
func (k *keeper) round(ctx context.Context) {
	defer k.changed()
	if k.snap == nil {
		return
	}
	begun := time.Now()
	changed, err := k.settle(ctx)
	k.metrics.Reconciled(time.Since(begun), changed, err)
	if err != nil {
		k.fail(err)
	} else {
		k.recovered()
		k.inForce, k.failure = k.snap.Revision, nil
		k.ruling.Store(k.snap)
		have := k.have
		k.want = &have // what was read is what is wanted: one of the two is enough
		k.tellMirrors()
	}
	k.transitions()
}

// settle changes the kernel until it reads back as wanted, and returns how many entries it has changed.
func (k *keeper) settle(ctx context.Context) (changed int, err error) {
	if len(k.local.Staged) > 0 {
		// The kernel may open a staged port at any moment; what it did must not be undone.
		if err := k.read(ctx); err != nil {
			return 0, err
		}
	}
	want := k.wanted()
	var failed error
	for range rounds {
		steps := plan.Changes(want, k.have)
		if len(steps) == 0 {
			return changed, nil
		}
		for _, c := range steps {
			changed += plan.Entries(c.Put) + plan.Entries(c.Delete)
		}
		failed = k.apply(ctx, steps)
		if err := k.read(ctx); err != nil {
			return changed, err
		}
	}
	rest := plan.Changes(want, k.have)
	switch {
	case len(rest) == 0:
		return changed, nil
	case failed != nil:
		return changed, failed
	}
	return changed, fmt.Errorf("the datapath does not take what is wanted: %s", describe(rest))
}

// read reads what the kernel holds.
func (k *keeper) read(ctx context.Context) error {
	have, err := k.plane.Read(ctx)
	if err != nil {
		return fmt.Errorf("read the datapath: %w", err)
	}
	k.have = have
	return nil
}

// fail remembers a failure, logs it once per text and tells it once per generation.
func (k *keeper) fail(err error) {
	fresh := k.failure == nil || k.failure.Error() != err.Error()
	k.failure = err
	if fresh {
		k.log.Error("the datapath is not as wanted", "error", err)
	}
	if text := asSentence(k.failed()); text != k.complaint {
		k.complaint = text
		k.tell("generation.failed", "host/"+string(k.host), text)
	}
	k.changed()
}

// wanted is the plan.
func (k *keeper) wanted() datapath.State {
	if k.want == nil {
		w := plan.Wanted(k.snap, k.host, k.plugged())
		k.want = &w
	}
	return *k.want
}

// plugged is the host's own knowledge, of devices that are there.
func (k *keeper) plugged() plan.Local {
	l := plan.Local{
		VTEP: k.vtep, Handoffs: k.local.Handoffs, Staged: k.local.Staged, Expects: k.local.Expects,
		Attachments: make(map[fabric.PortID]plan.Attachment, len(k.local.Attachments)),
	}
	l.Ended = k.ended
	l.NICs, l.Others, l.Unconfirmed = k.uplinks.fit, k.uplinks.others, k.uplinks.unconfirmed
	l.Idle, l.Settled, l.Leads = k.uplinks.idle, k.uplinks.settled, map[string]bool{}
	for _, wire := range k.have.Wires {
		l.Leads[wire.Device] = true
	}
	for name, a := range k.local.Attachments {
		if k.present[a.Device] != 0 {
			l.Attachments[name] = a.Attachment
		}
	}
	return l
}

// tell emits an event about this host.
func (k *keeper) tell(kind, object, message string) {
	e := fabric.Event{Time: time.Now(), Host: k.host, Type: kind, Object: object, Message: message}
	if k.snap != nil {
		e.Generation = k.snap.Revision
	}
	k.emit(e)
}
