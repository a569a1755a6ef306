package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/kerneldrops"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

// Plane is the datapath as the agent keeps it; *datapath.Datapath is one.
type Plane interface {
	// Read returns what the kernel holds.
	Read(ctx context.Context) (datapath.State, error)
	// Apply is idempotent; after an error part of the change may be in force.
	Apply(ctx context.Context, c datapath.Change) error
	// Verify puts back programs that are missing from their devices, and forgets devices that have gone.
	Verify(ctx context.Context) error
	// Contests are the programs that others take off their devices again and again.
	Contests() []datapath.Contest
	// Events tells what happens in the datapath; it is closed with it.
	Events() <-chan datapath.Event
}

// Meter is what the datapath counts; *datapath.Datapath is one.
type Meter interface {
	Counters(ctx context.Context) (map[fabric.PortID]datapath.Counters, error)
	Host(ctx context.Context) (datapath.HostCounters, error)
	Mirrors(ctx context.Context) (map[fabric.VNI]datapath.MirrorCount, error)
	Heard(ctx context.Context) (map[datapath.FDBKey]datapath.Heard, error)
	RuleHits(ctx context.Context) (map[fabric.PortID]map[policy.RuleID]datapath.Hits, error)
	InheritHits(ctx context.Context, port fabric.PortID, hits map[policy.RuleID]datapath.Hits) error
	Remembered(ctx context.Context, ports []fabric.PortID) (map[fabric.PortID]datapath.Remembered, error)
	ExportFlows(ctx context.Context, port fabric.PortID, since datapath.Mark) ([]byte, datapath.Mark, error)
	ImportFlows(ctx context.Context, port fabric.PortID, carried []byte, age time.Duration) (int, error)
	ExportBacklog(ctx context.Context, port fabric.PortID) (datapath.Backlog, error)
	ImportBacklog(ctx context.Context, port fabric.PortID, carried datapath.Backlog, age time.Duration) error
}

// Probes are frames that the datapath follows; *datapath.Datapath is one.
type Probes interface {
	Arm(ctx context.Context, label uint64, session uint16, ttl time.Duration) error
	Disarm(ctx context.Context, label uint64) error
	Inject(ctx context.Context, device string, frame []byte, times int) error
	// Announce tells the network where a guest is now.
	Announce(ctx context.Context, device string) error
}

// Watches are live sessions on this host; *datapath.Datapath has them.
type Watches interface {
	Watch(ctx context.Context, s tracing.LiveSession) error
	Watched(ctx context.Context, id uint32) (tracing.LiveBatch, error)
	Unwatch(ctx context.Context, id uint32) error
}

// Links are the network devices of the host.
type Links interface {
	// Devices returns the kernel's number of every device by its name.
	Devices() (map[string]int, error)
	// Survey is Devices, with those described that could be an uplink, in the order of their names; not those that are skipped.
	Survey(skip func(device string) bool) (map[string]int, []fabric.NICStatus, error)
	// HasLink reports whether a device is up and has a link now.
	HasLink(device string) (bool, error)
	// MTU is the largest L3 packet of a device, in bytes.
	MTU(device string) (int, error)
	// Watch hints that devices may have changed, until ctx ends.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

var (
	_ Plane   = (*datapath.Datapath)(nil)
	_ Meter   = (*datapath.Datapath)(nil)
	_ Probes  = (*datapath.Datapath)(nil)
	_ Watches = (*datapath.Datapath)(nil)
)

// machine is what the agent needs of the machine beneath it.
type machine struct {
	Plane
	Meter
	Probes
	watches Watches
	Links
	Facades
	HostEnds
	// kernelDrops is nil where this kernel does not tell what it drops.
	kernelDrops KernelDrops
	// labelKeys are those of tracing.Label, the same on every host of the fabric.
	labelKeys [2]uint64
	// capabilities are what the kernel can do beyond what is required.
	capabilities []string
	close        func() error
}

// openMachine loads the datapath, or takes over the one that an agent before this one has left running.
func openMachine(ctx context.Context, c Config, log *slog.Logger) (machine, error) {
	keys, err := labelKeys(c)
	if err != nil {
		return machine{}, err
	}
	d, err := datapath.Load(ctx, datapath.Options{
		PinDir: c.BPFDir, Underlay: c.Underlay.Device, VTEP: c.Underlay.Address, LabelKeys: keys, Logger: log,
	})
	if err != nil {
		return machine{}, err
	}
	m := machine{Plane: d, Meter: d, Probes: d, watches: d, Links: kernelDevices{}, Facades: kernelDevices{}, HostEnds: kernelDevices{}, labelKeys: keys, capabilities: append([]string{"tcx"}, fabric.Features()...), close: d.Close}
	k, err := kerneldrops.Open()
	if err != nil {
		log.Warn("what the kernel itself drops is not counted on this host; everything else goes on", "error", err)
		return m, nil
	}
	m.kernelDrops, m.close = k, func() error { return errors.Join(k.Close(), d.Close()) }
	return m, nil
}

// labelKeys come from a secret that all hosts of the fabric have: the gossip key, or its CA where there is no gossip.
func labelKeys(c Config) (keys [2]uint64, err error) {
	path := c.Gossip.KeyFile
	if path == "" {
		path = c.TLS.CA
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		return keys, fmt.Errorf("read the secret that frames are labelled with: %w", err)
	}
	keys[0], keys[1] = tracing.LabelKeys(secret)
	return keys, nil
}

// kernelDevices are those of the process's network namespace.
type kernelDevices struct{}

// Devices asks the kernel.
func (kernelDevices) Devices() (map[string]int, error) {
	all, err := nic.Devices()
	if err != nil {
		return nil, err
	}
	names := make(map[string]int, len(all))
	for index, d := range all {
		names[d.Name] = index
	}
	return names, nil
}

// HasLink asks the kernel.
func (kernelDevices) HasLink(device string) (bool, error) { return nic.HasLink(device) }

// Survey asks the kernel.
func (kernelDevices) Survey(skip func(device string) bool) (map[string]int, []fabric.NICStatus, error) {
	return nic.Survey(skip)
}

// MTU asks the kernel.
func (kernelDevices) MTU(device string) (int, error) {
	d, err := nic.Find(device)
	return d.MTU, err
}

// Watch asks the kernel.
func (kernelDevices) Watch(ctx context.Context) (<-chan struct{}, error) { return nic.Watch(ctx) }

// watchGap and watchGapMost bound the time between two looks at the devices. Where many are plugged in each is news, and a list of all
// takes longer the more there are; a NIC that lost its link is not to wait for long.
const (
	watchGap     = 20 * time.Millisecond
	watchGapMost = 80 * time.Millisecond
)

// afterLook is how long to wait after a look that began then: what looks take is to stay a fifth of the time.
func afterLook(begun time.Time) time.Duration {
	return min(max(4*time.Since(begun), watchGap), watchGapMost)
}

// watchDevices looks at the devices as soon as one may have changed.
func (a *Agent) watchDevices(ctx context.Context) error {
	for ctx.Err() == nil {
		hints, err := a.machine.Watch(ctx)
		a.trouble("devices", err)
		if err == nil {
			for range hints {
				begun := time.Now()
				a.keeper.devicesChanged(ctx)
				pause(ctx, afterLook(begun))
			}
		}
		pause(ctx, retryEvery)
	}
	return nil
}

// watchPlane takes what happens in the datapath to those concerned.
func (a *Agent) watchPlane(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-a.machine.Events():
			if !open {
				return errors.New("the datapath has ended")
			}
			a.planeEvent(ctx, e)
		}
	}
}

func (a *Agent) planeEvent(ctx context.Context, e datapath.Event) {
	object := ""
	if e.Port != "" {
		object = "port/" + string(e.Port)
	}
	switch e.Kind {
	case datapath.HopSeen:
		a.prober.add(a.named(e.Hop))
	case datapath.RuleLogged:
		a.decided(e)
	case datapath.StoodIn:
		a.emit(a.event("port.stood-in", object, fmt.Sprintf("The guest of port %s on host %s sends with %s, which its VM's ports share: what is sent to it goes there from now on.", e.Port, a.config.Host, e.Alarm.MAC)))
	case datapath.Alarmed:
		a.emit(a.event("port.refused", object, fmt.Sprintf("Port %s on host %s drops what its guest sends from %s: %s (%s). More of it is counted and told of in ten seconds at the earliest.",
			e.Port, a.config.Host, e.Alarm.MAC, e.Alarm.Reason.Doc(), e.Alarm.Reason)))
	case datapath.PortOpened:
		a.opened.tell(e.Port, e.Time) // first: a move waits for it, and the event log for the disk
		a.emit(a.event("port.opened", object, fmt.Sprintf("The guest's first frame has opened port %s on host %s.", e.Port, a.config.Host)))
		a.announceOnWire(ctx, e)
		a.keeper.check(ctx)
	case datapath.Repaired:
		a.metrics.Repaired("program", 1)
		a.emit(a.event("datapath.repaired", object, e.Message))
	case datapath.Contested:
		a.emit(a.event("datapath.contested", object, e.Message))
		a.news.tell()
	case datapath.ForeignProgram:
		a.emit(a.event("datapath.foreign-program", object, e.Message))
	case datapath.DeviceGone:
		a.emit(a.event("device.gone", object, e.Message))
		a.keeper.devicesChanged(ctx)
	}
}

// counted puts what the datapath counts into the ports' status: Rx from the guest, Tx to the guest.
func counted(ports []fabric.PortStatus, counters map[fabric.PortID]datapath.Counters) []fabric.PortStatus {
	ports = slices.Clone(ports)
	for i := range ports {
		p := &ports[i]
		c, there := counters[p.Name]
		if !there {
			continue
		}
		p.RxPackets, p.RxBytes, p.TxPackets, p.TxBytes = c.Rx.Packets, c.Rx.Bytes, c.Tx.Packets, c.Tx.Bytes
		p.Drops, p.Relayed = byName(c.DropsIn, c.DropsOut), c.SentOn
		p.MarkedOut, p.MarkedIn, p.Waiting = c.MarkedOut, c.MarkedIn, c.Waiting
	}
	return ports
}

// byName sums drops under the names of their reasons; nil when there is none.
func byName(sides ...map[tracing.Reason]uint64) map[string]uint64 {
	var out map[string]uint64
	for _, drops := range sides {
		for reason, n := range drops {
			if out == nil {
				out = map[string]uint64{}
			}
			out[reason.String()] += n
		}
	}
	return out
}

// hostDrops are the drops of frames that belong to no port.
func hostDrops(h datapath.HostCounters) map[string]uint64 {
	sides := []map[tracing.Reason]uint64{}
	for _, c := range []datapath.Counters{h.Underlay, h.Tunnel, h.Nowhere} {
		sides = append(sides, c.DropsIn, c.DropsOut)
	}
	for _, c := range h.Uplinks {
		sides = append(sides, c.DropsIn, c.DropsOut)
	}
	return byName(sides...)
}

// sameDevices reports whether no device has come, gone or been made anew.
func sameDevices(a, b map[string]int) bool { return maps.Equal(a, b) }
