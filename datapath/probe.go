package datapath

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// The devices that probes are sent from: a veth pair within the namespace.
const (
	probeDevice = "weftpr0"
	probePeer   = "weftpr1"
)

// maxProbes is how many labels can be armed at once, less than the map holds so that none is pushed out.
const maxProbes = 2048

// Arm follows frames with this label for ttl, as session: each stage they pass is a HopSeen event, and they are caught
// before the guest.
func (d *Datapath) Arm(ctx context.Context, label uint64, session uint16, ttl time.Duration) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("arm probe %#x: %w", label, err)
	}
	defer d.mu.Unlock()
	if label == 0 || ttl <= 0 {
		return fmt.Errorf("arm probe %#x for %v: a probe has a label and a time to live", label, ttl)
	}
	now := monotonic()
	if err := d.sweepProbes(now); err != nil {
		return fmt.Errorf("arm probe %#x: %w", label, err)
	}
	if len(d.probes) >= maxProbes {
		return fmt.Errorf("arm probe %#x: %d probes are under way already; wait for them to end", label, maxProbes)
	}
	until := now + uint64(ttl)
	if err := d.maps.ProbeLabelsV1.Put(label, coreProbe{Expires: until, Session: session, Caught: 1}); err != nil {
		return fmt.Errorf("arm probe %#x: %w", label, err)
	}
	d.probes[label] = until
	atomic.OrUint32(&d.shared.config.Tracing, tracingProbes)
	return nil
}

// Disarm ends what Arm began; a label that is not armed is no error.
func (d *Datapath) Disarm(ctx context.Context, label uint64) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("disarm probe %#x: %w", label, err)
	}
	defer d.mu.Unlock()
	err := d.maps.ProbeLabelsV1.Delete(label)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("disarm probe %#x: %w", label, err)
	}
	delete(d.probes, label)
	return d.sweepProbes(monotonic())
}

// sweepProbes forgets labels whose time is over; without any, the programs look for none.
func (d *Datapath) sweepProbes(now uint64) error {
	for label, until := range d.probes {
		if until > now {
			continue
		}
		if err := d.maps.ProbeLabelsV1.Delete(label); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		delete(d.probes, label)
	}
	if len(d.probes) == 0 {
		atomic.AndUint32(&d.shared.config.Tracing, ^uint32(tracingProbes))
	}
	return nil
}

// adoptProbes takes over the labels that a loader before has armed.
func (d *Datapath) adoptProbes() error {
	var label uint64
	var p coreProbe
	entries := d.maps.ProbeLabelsV1.Iterate()
	for entries.Next(&label, &p) {
		d.probes[label] = p.Expires
	}
	return errors.Join(entries.Err(), d.sweepProbes(monotonic()))
}

// Inject sends a frame into the port of the device, times times, as if its guest had sent it.
func (d *Datapath) Inject(ctx context.Context, device string, frame []byte, times int) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("inject a frame into %s: %w", device, err)
	}
	defer d.mu.Unlock()
	p := d.ports[device]
	if p == nil {
		return fmt.Errorf("inject a frame into %s: it carries no port here", device)
	}
	if gate, _ := d.shared.loadGate(p.value.Slot); gate == Staged {
		return fmt.Errorf("inject a frame into %s: its port is staged for a move, and opens for its guest alone; wait for the move to end", device)
	}
	if err := d.sendInto(p, frame, times); err != nil {
		return fmt.Errorf("inject a frame into %s: %w", device, err)
	}
	return nil
}

// sendInto sends a frame into a port, times times.
func (d *Datapath) sendInto(p *port, frame []byte, times int) error {
	if err := d.openProbeDevice(); err != nil {
		return err
	}
	from, err := nic.Find(probeDevice)
	if err != nil {
		return err
	}
	if err := d.entrance.open(); err != nil {
		return err
	}
	for range times {
		if err := d.entrance.send(from.Index, p.ifindex, frame); err != nil {
			return err
		}
	}
	return nil
}

// openProbeDevice makes the pair with its program, before it is raised.
func (d *Datapath) openProbeDevice() error {
	if err := nic.CreateVeth(nic.Veth{Name: probeDevice, Peer: probePeer, MTU: 65535}); err != nil {
		return err
	}
	peer, err := nic.Find(probePeer)
	if err != nil {
		return err
	}
	for _, program := range []string{sentinelIn, probeIn} {
		if err := d.attach(attachment{linkKey{peer.Index, program}, peer.Name}); err != nil {
			return err
		}
	}
	for _, device := range []string{probeDevice, probePeer} {
		if err := errors.Join(nic.DisableIPv6(device), nic.SetUp(device)); err != nil {
			return err
		}
	}
	return nil
}

// entrance is the socket by which frames go into ports. It is opened once: closing a packet socket waits for a grace period of RCU
// (packet_release), 12 ms in which nothing else would be sent, and a volley is a thousand frames.
type entrance struct {
	fd   int
	made bool
}

func (e *entrance) open() (err error) {
	if e.made {
		return nil
	}
	if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	e.made = true
	return nil
}

// send sends a frame out of a device with the mark that names the port's device to probe_in.
func (e *entrance) send(device, mark int, frame []byte) error {
	if err := unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_MARK, mark); err != nil {
		return err
	}
	return unix.Sendto(e.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: device})
}

// Close lets go of it.
func (e *entrance) Close() error {
	if !e.made {
		return nil
	}
	e.made = false
	return unix.Close(e.fd)
}

// monotonic is CLOCK_MONOTONIC in ns, the programs' clock.
func monotonic() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // the clock is always there
	}
	return uint64(now.Nano())
}
