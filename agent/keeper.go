package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Plane is the datapath as the keeper uses it.
type Plane interface {
	// Read returns what the kernel holds.
	Read(ctx context.Context) (datapath.State, error)
	// Apply is idempotent; after an error part of the change may be in force.
	Apply(ctx context.Context, c datapath.Change) error
}

// keeper keeps the plane as the newest accepted snapshot and the host's own knowledge say. All its methods may be called
// at any time by anybody; they take turns.
type keeper struct {
	host     fabric.HostID
	vtep     plan.Local // only its VTEP
	stateDir string
	plane    Plane
	log      *slog.Logger
	tracer   trace.Tracer
	emit     func(fabric.Event)
	// devices returns the names of the devices that exist.
	devices func() (map[string]bool, error)
	// changed is told after every round that status may be different.
	changed func()

	mu      sync.Mutex
	snap    *fabric.Snapshot // accepted; nil before the first
	held    *hold
	local   local
	present map[string]bool
	have    datapath.State
	// inForce is the revision of the newest snapshot that was read back as wanted.
	inForce fabric.Revision
	// failure is what kept the last round from reaching what is wanted; nil when it did.
	failure error
	states  map[fabric.PortID]fabric.PortState
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
	present, err := k.devices()
	if err != nil {
		return fmt.Errorf("list the host's devices: %w", err)
	}
	k.present = present
	return nil
}

// accept takes a snapshot and puts it in force, unless it is to be held for confirmation.
func (k *keeper) accept(ctx context.Context, snap *fabric.Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.snap != nil && snap.Revision < k.snap.Revision {
		return
	}
	before := k.snap
	if k.held = holds(before, snap); k.held != nil {
		k.log.Warn("a change is held for confirmation", tracing.KeyRevision, snap.Revision, "reason", k.held.reason())
		k.tell("change.held", "", k.held.reason())
		return
	}
	k.snap = snap
	ctx, span := k.span(ctx, before, snap)
	defer span.End()
	k.round(ctx)
}

// confirm accepts the held snapshot; it reports whether there was one.
func (k *keeper) confirm(ctx context.Context) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		return false
	}
	before := k.snap
	k.snap, k.held = k.held.snap, nil
	ctx, span := k.span(ctx, before, k.snap)
	defer span.End()
	k.round(ctx)
	return true
}

// change changes what the host knows itself, durably, and puts it in force.
func (k *keeper) change(ctx context.Context, edit func(*local) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.local.clone()
	if err := edit(&next); err != nil {
		return err
	}
	if err := next.save(k.stateDir); err != nil {
		return err
	}
	k.local = next
	if err := k.look(); err != nil {
		return err
	}
	k.round(ctx)
	return k.failure
}

// check reads the kernel again and repairs what is not as wanted.
func (k *keeper) check(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.look(); err != nil {
		k.fail(err)
		return
	}
	have, err := k.plane.Read(ctx)
	if err != nil {
		k.fail(fmt.Errorf("read the datapath: %w", err))
		return
	}
	was := k.failure
	k.have = have
	if k.snap == nil {
		return
	}
	steps := plan.Changes(k.wanted(), have)
	if len(steps) > 0 && was == nil {
		text := describe(steps)
		k.log.Warn("the datapath was not as wanted and is repaired", "difference", text)
		k.tell("datapath.repaired", "", "The datapath was changed by something else and has been put right: "+text+".")
	}
	k.round(ctx)
}

// rounds bounds how often one round tries: what does not settle at once is tried again by the next check.
const rounds = 3

// round makes the kernel hold what is wanted, and reads it back.
func (k *keeper) round(ctx context.Context) {
	defer k.changed()
	if k.snap == nil {
		return
	}
	if len(k.local.Staged) > 0 {
		// The kernel may open a staged port at any moment; what it did must not be undone.
		have, err := k.plane.Read(ctx)
		if err != nil {
			k.fail(fmt.Errorf("read the datapath: %w", err))
			return
		}
		k.have = have
	}
	want := k.wanted()
	for range rounds {
		steps := plan.Changes(want, k.have)
		if len(steps) == 0 {
			if k.inForce != k.snap.Revision || k.failure != nil {
				k.log.Debug("in force", tracing.KeyGeneration, k.snap.Revision)
			}
			k.inForce, k.failure = k.snap.Revision, nil
			k.transitions()
			return
		}
		k.failure = k.apply(ctx, steps)
		have, err := k.plane.Read(ctx)
		if err != nil {
			k.fail(fmt.Errorf("read the datapath back: %w", err))
			return
		}
		k.have = have
	}
	if k.failure == nil {
		k.failure = fmt.Errorf("the datapath does not take what is wanted: %s", describe(plan.Changes(want, k.have)))
	}
	k.fail(k.failure)
	k.transitions()
}

// fail remembers and logs a failure, once per text.
func (k *keeper) fail(err error) {
	if k.failure == nil || k.failure.Error() != err.Error() {
		k.log.Error("the datapath is not as wanted", "error", err)
	}
	k.failure = err
	k.changed()
}

// wanted is the plan.
func (k *keeper) wanted() datapath.State {
	l := plan.Local{
		VTEP: k.vtep.VTEP, Handoffs: k.local.Handoffs, Staged: k.local.Staged,
		Attachments: make(map[fabric.PortID]plan.Attachment, len(k.local.Attachments)),
	}
	for name, a := range k.local.Attachments {
		if k.present[a.Device] {
			l.Attachments[name] = a.Attachment
		}
	}
	return plan.Wanted(k.snap, k.host, l)
}

// apply carries the steps out. A step that fails is tried again port by port, so that one device that the kernel refuses
// does not keep the others from their settings.
func (k *keeper) apply(ctx context.Context, steps []datapath.Change) error {
	var failed error
	for _, step := range steps {
		err := k.plane.Apply(ctx, step)
		if err == nil {
			continue
		}
		failed = fmt.Errorf("put the change in force: %w", err)
		rest := step
		rest.Put.Ports, rest.Delete.Ports = nil, nil
		for _, part := range append(portByPort(step), rest) {
			if err := k.plane.Apply(ctx, part); err != nil {
				failed = fmt.Errorf("put the change in force: %w", err)
			}
		}
	}
	return failed
}

// portByPort splits the ports of a change.
func portByPort(c datapath.Change) []datapath.Change {
	var parts []datapath.Change
	for device, p := range c.Put.Ports {
		parts = append(parts, datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{device: p}}})
	}
	for device, p := range c.Delete.Ports {
		parts = append(parts, datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{device: p}}})
	}
	return parts
}

// transitions tells what became of each port since the last round.
func (k *keeper) transitions() {
	now := map[fabric.PortID]fabric.PortState{}
	for _, p := range k.ports() {
		now[p.Name] = p.State
		if k.states[p.Name] != p.State {
			k.tell("port."+string(p.State), "port/"+string(p.Name), portSentence(p, k.host))
		}
	}
	for name := range k.states {
		if _, still := now[name]; !still {
			k.tell("port.detached", "port/"+string(name), fmt.Sprintf("Port %s was taken off host %s.", name, k.host))
		}
	}
	k.states = now
}

// ports is every attached port as it is here, in the order of names.
func (k *keeper) ports() []fabric.PortStatus {
	var all []fabric.PortStatus
	for _, name := range slices.Sorted(maps.Keys(k.local.Attachments)) {
		all = append(all, k.port(name))
	}
	return all
}

// port is one attached port as it is here.
func (k *keeper) port(name fabric.PortID) fabric.PortStatus {
	a := k.local.Attachments[name]
	s := fabric.PortStatus{Name: name, Host: k.host, Device: a.Device, State: fabric.PortAbsent}
	if k.snap != nil {
		s.Epoch = k.snap.Locations[name].Epoch
	}
	p, there := k.have.Ports[a.Device]
	switch {
	case !k.present[a.Device]:
		s.Reason = fmt.Sprintf("device %s is gone: start the guest again, or detach the port", a.Device)
		return s
	case !there || p.Name != name:
		s.State, s.Reason = fabric.PortClosed, "its settings are not in force yet"
		return s
	}
	s.Epoch = p.Epoch
	switch p.Gate {
	case datapath.Open:
		s.State = fabric.PortActive
	case datapath.Staged:
		s.State, s.Reason = fabric.PortStaged, "it opens with the guest's first frame"
	case datapath.Relay:
		s.State, s.Reason = fabric.PortRelayed, "the guest has left; late frames are sent on"
	default:
		s.State, s.Reason = fabric.PortClosed, k.closedBecause(name)
	}
	return s
}

// closedBecause says why nothing passes a port whose device is here.
func (k *keeper) closedBecause(name fabric.PortID) string {
	if k.snap == nil {
		return "the fabric's wanted state is not known yet"
	}
	port := k.snap.Ports[name]
	if port == nil {
		return "the port was deleted: detach its device"
	}
	if sw := k.snap.Switches[port.Spec.Switch]; sw == nil || sw.Spec.VNI == 0 {
		return fmt.Sprintf("switch %s is not there", port.Spec.Switch)
	}
	loc, held := k.snap.Locations[name]
	switch {
	case !held || loc.Host == "":
		return "no host holds the port yet"
	case loc.Host != k.host:
		return fmt.Sprintf("host %s holds the port at epoch %d", loc.Host, loc.Epoch)
	}
	return "its settings are not in force yet"
}

// tell emits an event about this host.
func (k *keeper) tell(kind, object, message string) {
	e := fabric.Event{Time: time.Now(), Host: k.host, Type: kind, Object: object, Message: message}
	if k.snap != nil {
		e.Generation = k.snap.Revision
	}
	k.emit(e)
}

// describe counts what steps change, for people.
func describe(steps []datapath.Change) string {
	puts, deletes := 0, 0
	var ports []string
	for _, c := range steps {
		puts += plan.Entries(c.Put)
		deletes += plan.Entries(c.Delete)
		for device := range c.Put.Ports {
			ports = append(ports, device)
		}
	}
	text := fmt.Sprintf("%d entries to write, %d to remove", puts, deletes)
	if len(ports) > 0 {
		slices.Sort(ports)
		text += fmt.Sprintf(", devices %v", ports)
	}
	return text
}

// portSentence says in words what a port has become.
func portSentence(p fabric.PortStatus, host fabric.HostID) string {
	text := fmt.Sprintf("Port %s on host %s (device %s) is %s", p.Name, host, p.Device, p.State)
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text + "."
}
