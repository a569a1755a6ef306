package tracing

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Fabric is what a probe asks of the hosts. Each call concerns one host, may be made for several hosts at once, and must
// return when its context ends. An agent implements it for itself directly and for others over the host API.
type Fabric interface {
	// Arm makes the host record every stage of a frame with the session's label, and catch the frame before it reaches a
	// guest, until the session is disarmed or its TTL is over, even if nobody is left to disarm it.
	Arm(ctx context.Context, host fabric.HostID, s Session) error
	// Inject sends a frame into the port's own ingress, times times, as if its guest had sent it.
	Inject(ctx context.Context, host fabric.HostID, port fabric.PortID, frame []byte, times int) error
	// Hops returns all that the host has recorded for the session so far, with Hop.Host set. It does not wait.
	Hops(ctx context.Context, host fabric.HostID, s Session) ([]Hop, error)
	// Disarm ends the session on the host; to disarm what is not armed succeeds.
	Disarm(ctx context.Context, host fabric.HostID, s Session) error
}

// Session is one tracing session as every host knows it.
type Session struct {
	// ID tells sessions apart, 1 to 65535.
	ID uint16 `json:"id"`
	// Label is the label of the frame to record.
	Label uint64 `json:"label,string"`
	// TTL is how long the session lives on a host that hears nothing more, in ns.
	TTL time.Duration `json:"ttl"`
}

// ProbeOptions says what to send where. Session.ID, Label, From, Port and Frame are required.
type ProbeOptions struct {
	Session Session
	// From and Port are where the frame starts; Frame is what is sent, from its Ethernet header on (tracing/packet crafts it).
	From  fabric.HostID
	Port  fabric.PortID
	Frame []byte
	// To is the host of the port that the frame is for; empty where it is not known or there is none.
	To fabric.HostID
	// Hosts are all hosts that the frame may come by; From and To are added.
	Hosts []fabric.HostID
	// VTEPs says which host owns which tunnel end point.
	VTEPs map[netip.Addr]fabric.HostID
	// ArmTimeout is how long a host may take to arm, 2 s when 0; Timeout how long to wait for the frame to end, 3 s when 0.
	ArmTimeout, Timeout time.Duration
}

// Pauses between two collections: the first is short because most probes end within a millisecond.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 100 * time.Millisecond
	settle     = 50 * time.Millisecond
	// answer is how long one host may take to hand over its hops or to disarm; the next round asks it again.
	answer = 250 * time.Millisecond
)

// ErrNotArmed: a host that the probe depends on could not be armed, so nothing was sent.
var ErrNotArmed = errors.New("not armed")

// Probe follows one frame through the fabric: it arms all hosts, injects the frame, collects what the hosts saw until the
// frame's way has ended, and disarms. Unless both ends are armed nothing is sent, for the frame could reach the guest; the error
// then wraps ErrNotArmed and names the host. Any other host that does not answer is named in Path.Missing.
func Probe(ctx context.Context, f Fabric, o ProbeOptions) (*Path, error) {
	if len(o.Frame) == 0 || o.Session.Label == 0 || o.Session.ID == 0 {
		return nil, fmt.Errorf("probe from port %s on %s: a frame that has a label and a session number are needed: %w",
			o.Port, o.From, fabric.ErrInvalid)
	}
	o.fill()
	run := probe{fabric: f, o: o, hops: map[fabric.HostID][]Hop{}, missing: map[fabric.HostID]Missing{}}
	defer run.disarm(ctx)
	if err := run.arm(ctx); err != nil {
		return nil, err
	}
	if err := f.Inject(ctx, o.From, o.Port, o.Frame, 1); err != nil {
		return nil, fmt.Errorf("inject the probe at port %s on %s: %w", o.Port, o.From, err)
	}
	return run.collect(ctx), nil
}

// fill sets defaults and makes Hosts the sorted set of all hosts concerned.
func (o *ProbeOptions) fill() {
	if o.ArmTimeout == 0 {
		o.ArmTimeout = 2 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Second
	}
	if o.Session.TTL == 0 {
		o.Session.TTL = o.ArmTimeout + o.Timeout + 5*time.Second
	}
	o.Hosts = append(slices.Clone(o.Hosts), o.From)
	if o.To != "" {
		o.Hosts = append(o.Hosts, o.To)
	}
	slices.Sort(o.Hosts)
	o.Hosts = slices.Compact(o.Hosts)
}

// probe is one run of Probe.
type probe struct {
	fabric Fabric
	o      ProbeOptions
	armed  []fabric.HostID

	mu      sync.Mutex
	hops    map[fabric.HostID][]Hop
	missing map[fabric.HostID]Missing
}

func (p *probe) arm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.o.ArmTimeout)
	defer cancel()
	failed := map[fabric.HostID]error{}
	p.each(p.o.Hosts, func(host fabric.HostID) {
		err := p.fabric.Arm(ctx, host, p.o.Session)
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			failed[host] = err
			p.missing[host] = Missing{Host: host, Asked: "arm", Error: err.Error()}
		}
	})
	for _, host := range p.o.Hosts {
		err := failed[host]
		if err == nil {
			p.armed = append(p.armed, host)
			continue
		}
		if host == p.o.From || host == p.o.To {
			return fmt.Errorf("arm the probe on %s, one of its ends: %w: %w; nothing was sent; weft status says how %s is",
				host, ErrNotArmed, err, host)
		}
	}
	return nil
}

// collect asks all armed hosts for their hops until the way has ended, and once more after that for late ones.
func (p *probe) collect(ctx context.Context) *Path {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	path := p.gather(ctx)
	for pause := firstPause; !path.Complete() || !p.begun(path); pause = min(2*pause, lastPause) {
		if !sleep(ctx, pause) {
			return p.path()
		}
		path = p.gather(ctx)
	}
	for path.Floods() {
		// Other ends of a flood may still be on their way to hosts whose records have not come yet.
		seen := len(path.Hops)
		if !sleep(ctx, settle) {
			return p.path()
		}
		if path = p.gather(ctx); len(path.Hops) == seen {
			break
		}
	}
	return path
}

// begun reports whether the path shows where the frame was sent: the end's records may come before the beginning's.
func (p *probe) begun(path *Path) bool {
	return slices.ContainsFunc(path.Hops, func(s Step) bool { return s.Host == p.o.From })
}

// gather asks every armed host once; one that hangs holds the others up for no longer than answer.
func (p *probe) gather(ctx context.Context) *Path {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	p.each(p.armed, func(host fabric.HostID) {
		hops, err := p.fabric.Hops(ctx, host, p.o.Session)
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.missing[host] = Missing{Host: host, Asked: "collect", Error: err.Error()}
			return
		}
		delete(p.missing, host)
		p.hops[host] = hops
	})
	return p.path()
}

func (p *probe) path() *Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	var hops []Hop
	for _, host := range p.o.Hosts {
		hops = append(hops, p.hops[host]...)
	}
	path := Assemble(p.o.Session.ID, p.o.Session.Label, hops, p.o.VTEPs)
	path.Frame = p.o.Frame
	for _, host := range p.o.Hosts {
		if m, ok := p.missing[host]; ok {
			path.Missing = append(path.Missing, m)
		}
	}
	return path
}

// disarm tells every host, also the ones whose answer to arm was lost, and even when the caller has gone. A host that does
// not hear it forgets the session when its TTL is over.
func (p *probe) disarm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answer)
	defer cancel()
	p.each(p.o.Hosts, func(host fabric.HostID) { _ = p.fabric.Disarm(ctx, host, p.o.Session) })
}

// each calls do for all hosts at once and waits for all.
func (p *probe) each(hosts []fabric.HostID, do func(fabric.HostID)) {
	var wg sync.WaitGroup
	for _, host := range hosts {
		wg.Go(func() { do(host) })
	}
	wg.Wait()
}

// sleep waits for d; it reports false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
