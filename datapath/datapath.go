package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// TunnelDevice is the name of the kernel's VXLAN device that a Datapath makes and uses unless told otherwise.
const TunnelDevice = "weftvx0"

// Options say where the forwarding core works.
type Options struct {
	// PinDir is a directory of its own on a BPF file system, where the core lives on when its loader ends.
	PinDir string
	// Underlay is the NIC by which the other hosts are reached.
	Underlay string
	// VTEP is this host's tunnel end point, an address that the underlay delivers here.
	VTEP netip.Addr
	// LabelKeys are the keys of tracing.Label, the same on every host.
	LabelKeys [2]uint64
	// Logger gets sentences about repairs; nil is silent.
	Logger *slog.Logger
}

// Datapath is the forwarding core of this host: programs, maps and their attachments in the kernel. Its methods may be
// called at any time by anybody; they take turns. They work in the network namespace of the calling thread, which must be
// the one Load was called in.
type Datapath struct {
	log    *slog.Logger
	pins   pins
	maps   coreMaps
	shared shared
	events chan Event
	reader *ringbuf.Reader

	departures    sync.WaitGroup
	endDepartures context.CancelFunc

	emitting sync.Mutex
	ended    bool
	staged   map[int]place // by device index: ports whose guest's first frame has not been told of

	mu       sync.Mutex
	closed   bool
	programs programs
	links    links
	ports    map[string]*port // by device
	slots    slotAllocator
	peers    map[netip.Addr]*peer
	tables   tables
	peerIDs  slotAllocator
	uplinks  map[string]*uplink // by device
	wires    map[fabric.VNI]*coreWire
	// tags are the VLANs at the uplinks, shares what several of them serve, as the core holds both.
	tags    map[coreTag]uint32
	shares  map[coreShare]coreExit
	mirrors map[fabric.VNI]*session
	sinks   map[fabric.VNI]*coreSink
	mirror  nic.Device
	// shaper is the pair by which what waits for a rate goes, its entrance and its exit, once there is one; shaped are the rates by slot, in
	// bits a second.
	shaper [2]nic.Device
	shaped map[uint32]uint64
	// queueLost are the frames that the queues there had lost when Verify looked, by slot.
	queueLost map[uint16]uint32
	// exit is what the ways out are shared by, exitMade whether they were since Load, exitStale whether they are to be again.
	exit                Exit
	exitMade, exitStale bool

	mirrorIDs slotAllocator
	retired   map[uint16]bool // numbers of former peers that something may still name
	underlay  nic.Device
	tunnel    nic.Device
	buffers   buffers
	probes    map[uint64]uint64 // label → CLOCK_MONOTONIC of its end, in ns
	entrance  entrance
	lives     lives
	routed    []netip.Addr // peers whose routes Verify has still to ask for in this turn
	foreign   map[linkKey]uint64
	fights    map[linkKey]fight // programs that were missing lately
	lowered   map[int]bool      // by index: devices that are down because nothing of ours is left on one of their sides

	quit chan struct{} // closed by Close: nobody waits for a reader of events any more
	done chan struct{} // closed when the ring is read no more
}

// ErrClosed: the datapath was used after Close.
var ErrClosed = errors.New("the datapath is closed")

// begin takes the turn of a method; the caller gives it back with d.mu.Unlock unless there is an error.
func (d *Datapath) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return ErrClosed
	}
	return nil
}

// Load takes the core in PinDir over, or loads it there. What forwards goes on forwarding: programs are replaced one by
// one, each at once, and only if they are different. Another process that holds PinDir is an error that names it.
func Load(ctx context.Context, o Options) (d *Datapath, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if !o.VTEP.IsValid() || o.VTEP.IsUnspecified() || o.VTEP.IsMulticast() {
		return nil, fmt.Errorf("load the datapath: %v is no address for a tunnel end point: give the host's underlay address", o.VTEP)
	}
	d = &Datapath{
		log: o.Logger, events: make(chan Event, eventBacklog), quit: make(chan struct{}), done: make(chan struct{}),
		ports: map[string]*port{}, peers: map[netip.Addr]*peer{}, links: links{},
		probes: map[uint64]uint64{}, retired: map[uint16]bool{}, staged: map[int]place{}, foreign: map[linkKey]uint64{},
		fights: map[linkKey]fight{}, lowered: map[int]bool{},
		slots: slotAllocator{first: firstSlot, end: maxPorts}, peerIDs: slotAllocator{first: 1, end: maxPeers},
		mirrors: map[fabric.VNI]*session{}, sinks: map[fabric.VNI]*coreSink{}, mirrorIDs: slotAllocator{first: 1, end: maxMirrors},
	}
	defer d.closeOnError(&err)
	defer hurry(d.log)()
	for _, step := range []func(context.Context, Options) error{d.openPins, d.openDevices, d.openCore, d.adopt, d.attachHost, d.prune, d.openEvents, d.openLive, d.openDepartures} {
		if err := step(ctx, o); err != nil {
			return d, fmt.Errorf("load the datapath in %s: %w", o.PinDir, err)
		}
	}
	return d, nil
}

// openPins takes the directory for this process.
func (d *Datapath) openPins(_ context.Context, o Options) (err error) {
	d.pins, err = openPins(o.PinDir)
	return err
}

// openDevices finds the underlay and makes the kernel's VXLAN device, which stays down until a program guards it.
func (d *Datapath) openDevices(_ context.Context, o Options) (err error) {
	if d.underlay, err = nic.Find(o.Underlay); err != nil {
		return err
	}
	if d.tunnel, err = nic.EnsureVXLAN(TunnelDevice); err != nil {
		return err
	}
	return d.openMirrors()
}

// openCore opens or makes the maps, writes what holds for the whole host, and puts the programs in place.
func (d *Datapath) openCore(_ context.Context, o Options) (err error) {
	if d.maps, err = d.pins.openMaps(); err != nil {
		return err
	}
	if d.shared, err = mapShared(d.maps); err != nil {
		return err
	}
	if err := d.configure(o); err != nil {
		return err
	}
	if d.links, err = d.pins.openLinks(); err != nil {
		return err
	}
	d.programs, err = d.pins.openPrograms(&d.maps, d.links)
	return err
}

// attachHost guards the VXLAN device before it is raised, and meets the underlay.
func (d *Datapath) attachHost(context.Context, Options) error {
	for _, a := range append(d.hostAttachments(), mirrorAttachment(d.mirror)) {
		if err := d.attach(a); err != nil {
			return err
		}
	}
	return nic.SetUp(d.tunnel.Name)
}

// prune takes the core off devices that it has no business on any more, a NIC that was the underlay once, and forgets those that
// are gone. A port's device whose port is not known keeps the core, which passes nothing: without it, it would be a door into
// the host.
func (d *Datapath) prune(context.Context, Options) error {
	mine := map[int]bool{d.tunnel.Index: true, d.underlay.Index: true, d.mirror.Index: true, d.shaper[1].Index: true}
	for _, s := range d.sinks {
		mine[int(s.Ifindex)] = true
	}
	for _, p := range d.ports {
		mine[p.ifindex] = true
	}
	for _, u := range d.uplinks {
		mine[int(u.value.Ifindex)] = true
	}
	if probe, err := nic.Find(probePeer); err == nil {
		mine[probe.Index] = true
	}
	var foreign []attachment
	for key, l := range d.links {
		if !mine[key.ifindex] && (key.open() || !isAttached(l)) {
			foreign = append(foreign, attachment{linkKey: key})
		}
	}
	return d.detach(foreign)
}

// Close lets go of the core, which goes on forwarding. The channel of events is closed. A second call does nothing.
func (d *Datapath) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	close(d.quit)
	if d.reader != nil {
		d.reader.Close()
		<-d.done
	}
	d.lives.Close()
	if d.endDepartures != nil {
		d.endDepartures()
		d.departures.Wait()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	errs = append(errs, d.entrance.Close(), d.programs.Close(), d.shared.Close(), d.maps.Close(), d.pins.Close())
	return errors.Join(errs...)
}

// closeOnError closes what was half opened.
func (d *Datapath) closeOnError(err *error) {
	if *err != nil {
		d.Close()
	}
}
