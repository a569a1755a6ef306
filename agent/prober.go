package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weftnet/weft/agent/server"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/export"
	"github.com/weftnet/weft/tracing/packet"
)

var (
	_ server.Prober  = (*prober)(nil)
	_ tracing.Fabric = hosts{}
)

// prober follows probes: on this host through the datapath, on others through their API.
type prober struct {
	host      fabric.HostID
	keys      [2]uint64
	probes    Probes
	telemetry *export.Telemetry
	tls       *tls.Config
	latest    func() *fabric.Snapshot
	// device is what a port of this host is attached to.
	device func(fabric.PortID) (attachment, bool)

	mu sync.Mutex
	// sessions are those armed here, by label, with the hops seen so far.
	sessions map[uint64]*session
	// clients are those of other hosts by the address of their API.
	clients map[string]*client.Client
}

// session is a label that is followed here.
type session struct {
	tracing.Session
	ends time.Time
	hops []tracing.Hop
}

// maxHops bounds what one session keeps.
const maxHops = 4096

// Close lets go of the connections to other hosts.
func (p *prober) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.Close()
	}
	p.clients = nil
	return nil
}

// add keeps a hop that the datapath has seen.
func (p *prober) add(h tracing.Hop) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[h.Label]
	if s == nil || s.ID != h.Session || len(s.hops) == maxHops {
		return
	}
	h.Host = p.host
	s.hops = append(s.hops, h)
}

// Arm follows frames with the session's label on this host.
func (p *prober) Arm(ctx context.Context, s tracing.Session) error {
	if err := p.probes.Arm(ctx, s.Label, s.ID, s.TTL); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for label, old := range p.sessions {
		if now.After(old.ends) {
			delete(p.sessions, label)
		}
	}
	p.sessions[s.Label] = &session{Session: s, ends: now.Add(s.TTL)}
	return nil
}

// Inject sends a frame into a port of this host, times times, if a session that is armed here follows it: whoever may probe must not be
// able to speak for a guest.
func (p *prober) Inject(ctx context.Context, port fabric.PortID, frame []byte, times int) error {
	vni, err := vniOf(p.latest(), port)
	if err != nil {
		return fmt.Errorf("inject a frame into port %s: %w", port, err)
	}
	p.mu.Lock()
	s := p.sessions[tracing.Label(p.keys[0], p.keys[1], vni, frame)]
	armed := s != nil && time.Now().Before(s.ends)
	p.mu.Unlock()
	if !armed {
		return fmt.Errorf("inject a frame into port %s: no session armed on host %s follows it: %w", port, p.host, api.ErrForbidden)
	}
	a, there := p.device(port)
	if !there {
		return fmt.Errorf("inject a frame into port %s: it is not attached on host %s: %w", port, p.host, fabric.ErrNotFound)
	}
	return p.probes.Inject(ctx, a.Device, frame, min(times, api.MaxTimes))
}

// Hops returns what was seen here of the session so far.
func (p *prober) Hops(_ context.Context, s tracing.Session) ([]tracing.Hop, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.sessions[s.Label]
	if found == nil || found.ID != s.ID {
		return nil, fmt.Errorf("session %d is not armed on host %s: %w", s.ID, p.host, fabric.ErrNotFound)
	}
	return slices.Clone(found.hops), nil
}

// Disarm ends a session here.
func (p *prober) Disarm(ctx context.Context, s tracing.Session) error {
	p.mu.Lock()
	delete(p.sessions, s.Label)
	p.mu.Unlock()
	return p.probes.Disarm(ctx, s.Label)
}

// Trace follows one probe from a port to another port or an address, wherever they are.
func (p *prober) Trace(ctx context.Context, r api.TraceRequest) (*tracing.Path, error) {
	snap := p.latest()
	if snap == nil {
		return nil, fmt.Errorf("trace from port %s: the wanted state is not known here yet: %w", r.Source, api.ErrUnavailable)
	}
	nonce := packet.NewNonce()
	o, err := p.plan(snap, r, packet.Probe{Nonce: nonce})
	if err != nil {
		return nil, fmt.Errorf("trace from port %s to %s: %w", r.Source, r.Destination, err)
	}
	path, err := p.followed(ctx, snap, o)
	if err != nil || !r.BothWays || path.Verdict != tracing.Delivered {
		return path, err
	}
	if o, answers := p.reply(snap, r, nonce); answers {
		if path.Reply, err = p.followed(ctx, snap, o); err != nil {
			return nil, fmt.Errorf("trace the answer to port %s: %w", r.Source, err)
		}
	}
	return path, nil
}

// plan says what to send where; of the probe the nonce is given, and what is not as in a first packet.
func (p *prober) plan(snap *fabric.Snapshot, r api.TraceRequest, probe packet.Probe) (tracing.ProbeOptions, error) {
	source := snap.Ports[r.Source]
	from := snap.Locations[r.Source].Host
	if source == nil || from == "" {
		return tracing.ProbeOptions{}, fmt.Errorf("it is plugged in nowhere: %w", fabric.ErrConflict)
	}
	o := tracing.ProbeOptions{From: from, Port: r.Source, VTEPs: map[netip.Addr]fabric.HostID{}, Timeout: time.Duration(r.TimeoutSeconds * float64(time.Second))}
	probe.Protocol, probe.SourceMAC, probe.DestinationPort, probe.Size = packet.Protocol(r.Protocol), source.Spec.MAC, r.Port, r.Size
	if err := aim(&probe, &o, snap, source, r); err != nil {
		return o, err
	}
	var err error
	if o.Frame, err = packet.Craft(probe); err != nil {
		return o, err
	}
	for id, h := range snap.Hosts {
		o.VTEPs[h.Spec.VTEP] = id
		o.Hosts = append(o.Hosts, id)
	}
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails since Go 1.24
	vni, err := vniOf(snap, r.Source)
	if err != nil {
		return o, err
	}
	o.Session = tracing.Session{ID: max(1, binary.BigEndian.Uint16(id[:])), Label: tracing.Label(p.keys[0], p.keys[1], vni, o.Frame)}
	return o, nil
}

// vniOf is the VNI that the port sends on, which is part of a probe's label.
func vniOf(snap *fabric.Snapshot, port fabric.PortID) (fabric.VNI, error) {
	if snap == nil {
		return 0, fmt.Errorf("the wanted state is not known here yet: %w", api.ErrUnavailable)
	}
	p := snap.Ports[port]
	if p == nil || snap.Switches[p.Spec.Switch] == nil {
		return 0, fmt.Errorf("the port or its switch does not exist: %w", fabric.ErrNotFound)
	}
	return snap.Segments(p).Sends, nil
}

// aim fills in the destination, and the source address of its family.
func aim(probe *packet.Probe, o *tracing.ProbeOptions, snap *fabric.Snapshot, source *fabric.Port, r api.TraceRequest) error {
	if address, is := r.Address(); is {
		probe.Destination = address
		for id, port := range snap.Ports {
			if port.Spec.Switch == source.Spec.Switch && slices.Contains(port.Spec.Addresses, address) {
				probe.DestinationMAC, o.To = port.Spec.MAC, snap.Locations[id].Host
			}
		}
		if sw := snap.Switches[source.Spec.Switch]; probe.DestinationMAC.IsZero() && snap.Segments(source).Sends == sw.Spec.VNI && len(sw.Gateways()) > 0 {
			probe.DestinationMAC, o.To = fabric.GatewayMAC(sw.Spec.VNI), snap.Locations[r.Source].Host
		}
		if sw := snap.Switches[source.Spec.Switch]; probe.DestinationMAC.IsZero() && sw.Spec.Type == fabric.External {
			probe.DestinationMAC = fabric.StrangerMAC()
		}
		if probe.DestinationMAC.IsZero() && probe.Protocol != packet.ARP {
			return fmt.Errorf("no port of switch %s has the address: trace to a port, or with arp: %w", source.Spec.Switch, fabric.ErrNotFound)
		}
	} else {
		port := snap.Ports[fabric.PortID(r.Destination)]
		if port == nil {
			return fmt.Errorf("there is no such port: see 'weft get ports': %w", fabric.ErrNotFound)
		}
		probe.DestinationMAC, o.To = port.Spec.MAC, snap.Locations[fabric.PortID(r.Destination)].Host
		for _, a := range port.Spec.Addresses {
			if hasFamily(source.Spec.Addresses, a) {
				probe.Destination = a
				break
			}
		}
	}
	if probe.Protocol == packet.ARP {
		probe.DestinationMAC = fabric.MAC{}
	}
	for _, a := range source.Spec.Addresses {
		if a.Is4() == probe.Destination.Is4() {
			probe.Source = a
			break
		}
	}
	if !probe.Source.IsValid() || !probe.Destination.IsValid() {
		return fmt.Errorf("the two have no addresses of one family: give the ports addresses, or use an address as destination: %w", fabric.ErrConflict)
	}
	return nil
}

// hasFamily reports whether one of the addresses is of the family of a.
func hasFamily(addresses []netip.Addr, a netip.Addr) bool {
	return slices.ContainsFunc(addresses, func(b netip.Addr) bool { return a.Is4() == b.Is4() })
}

// everywhere does what tracing.Probe asks for on every host.
func (p *prober) everywhere() tracing.Fabric { return hosts{p} }

// hosts are all hosts of the fabric, this one included.
type hosts struct{ *prober }

// on calls this host directly, or another one through its API.
func (h hosts) on(host fabric.HostID, here func(*prober) error, there func(*client.Client) error) error {
	if host == h.host {
		return here(h.prober)
	}
	c, err := h.client(host)
	if err != nil {
		return err
	}
	return there(c)
}

// client is the connection to another host.
func (p *prober) client(host fabric.HostID) (*client.Client, error) {
	snap := p.latest()
	if snap == nil || snap.Hosts[host] == nil || snap.Hosts[host].Spec.API == "" {
		return nil, fmt.Errorf("host %s has no API address: %w", host, api.ErrUnavailable)
	}
	address := snap.Hosts[host].Spec.API
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[address]; c != nil {
		return c, nil
	}
	c, err := client.New(client.Options{Address: address, TLS: p.tls})
	if err != nil {
		return nil, err
	}
	if p.clients == nil {
		p.clients = map[string]*client.Client{}
	}
	p.clients[address] = c
	return c, nil
}

// Arm makes the host follow the session's label.
func (h hosts) Arm(ctx context.Context, host fabric.HostID, s tracing.Session) error {
	return h.on(host, func(p *prober) error { return p.Arm(ctx, s) }, func(c *client.Client) error { return c.Arm(ctx, s) })
}

// Inject sends the frame into a port of the host.
func (h hosts) Inject(ctx context.Context, host fabric.HostID, port fabric.PortID, frame []byte, times int) error {
	return h.on(host, func(p *prober) error { return p.Inject(ctx, port, frame, times) },
		func(c *client.Client) error { return c.Inject(ctx, port, frame, times) })
}

// Hops returns what the host has seen.
func (h hosts) Hops(ctx context.Context, host fabric.HostID, s tracing.Session) (hops []tracing.Hop, err error) {
	err = h.on(host, func(p *prober) (err error) { hops, err = p.Hops(ctx, s); return err },
		func(c *client.Client) (err error) { hops, err = c.Hops(ctx, s); return err })
	return hops, err
}

// Disarm ends the session on the host.
func (h hosts) Disarm(ctx context.Context, host fabric.HostID, s tracing.Session) error {
	return h.on(host, func(p *prober) error { return p.Disarm(ctx, s) }, func(c *client.Client) error { return c.Disarm(ctx, s) })
}
