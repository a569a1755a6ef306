package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

const (
	// portsName is the group of measures of a host with many ports.
	portsName  = "ports"
	attachName = "ports-attach"
	// crowd is how many ports the host with many has in all, crowdQuick in a quick run.
	crowd, crowdQuick = 1000, 100
	// attachers is how many ports are plugged in at a time, as a host does whose guests start together.
	attachers = 16
)

// Names of the contenders.
const (
	twoPorts  = "weft, 2 ports on the sender's host"
	manyPorts = "weft, 1,000 ports on the sender's host"
)

// portsMeasures are taken of two hosts with weft, of which one has many ports more.
var portsMeasures = []measure{
	{Name: "ports-udp64", Text: "64-byte UDP across hosts, one flow", Unit: "pps", lane: cross, run: packetRate},
	{Name: "ports-local", Text: "64-byte UDP on one host, one flow", Unit: "pps", lane: local, run: packetRate},
	{Name: "ports-crr", Text: "TCP connect/request/response, both guests on one core", Unit: "1/s", lane: cross, run: connectionRate},
}

// portsGroup is a host with many ports beside one with two.
var portsGroup = group{
	name: portsName, members: append(measureNames(portsMeasures), attachName),
	asked: []asked{
		{"ports-udp64", manyPorts, twoPorts, 0.90},
		{"ports-local", manyPorts, twoPorts, 0.90},
		{"ports-crr", manyPorts, twoPorts, 0.90},
	},
	take: takePorts,
}

// takePorts measures the datapath of a crowded host, and how long plugging in takes.
func takePorts(ctx context.Context, o options, progress func(string)) (g groupReport, err error) {
	if o.takesAny(measureNames(portsMeasures)) {
		if g.Results, err = takeCrowded(ctx, o, progress); err != nil {
			return g, err
		}
	}
	if !o.takes(attachName) {
		return g, nil
	}
	progress("plugging in many ports of one host")
	err = withWeft(ctx, func(weft string) error {
		return withLab(ctx, &quiet{budget: o.Patience}, weft, 3, func(b *bed) error {
			g.Figures, err = b.crowded(ctx, o.crowd())
			return err
		})
	})
	return g, err
}

// crowd is how many ports a crowded host has.
func (o options) crowd() int {
	if o.Quick {
		return crowdQuick
	}
	return crowd
}

// takeCrowded compares two hosts with two ports with the same of which the sender's has many.
func takeCrowded(ctx context.Context, o options, progress func(string)) (results []result, err error) {
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("remove what an earlier benchmark left: %w", err)
	}
	sites, err := build(buildWeft, buildWeft)
	defer func() {
		for _, s := range sites {
			err = errors.Join(err, s.Close())
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := sites[1].crowd(o.crowd() - 2); err != nil {
		return nil, fmt.Errorf("plug in %d ports: %w", o.crowd(), err)
	}
	q := &quiet{budget: o.Patience}
	for _, m := range portsMeasures {
		if !o.takes(m.Name) {
			continue
		}
		progress(m.Text + ", beside many ports")
		r, err := m.take(ctx, []contender{{name: twoPorts, site: sites[0]}, {name: manyPorts, site: sites[1]}}, o, q)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// crowd gives host 0 more ports, whose guests are there and silent; the site's end removes them.
func (s *site) crowd(n int) error {
	guests, err := s.space("crowd")
	if err != nil {
		return err
	}
	c := datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{}, FDB: map[datapath.FDBKey]datapath.FDB{}, Neighbors: map[datapath.NeighborKey]fabric.MAC{}}}
	for i := range n {
		device, mac, addr := fmt.Sprintf("c%d", i), fabric.MAC{2, 0, 0, 0x78, byte(i >> 8), byte(i)}, netip.AddrFrom4([4]byte{10, 77, byte(1 + i>>8), byte(i)})
		err := s.hosts[0].Do(func() error {
			return nic.CreateVeth(nic.Veth{Name: device, Peer: device, PeerNamespace: guests, MTU: guestMTU, PeerMAC: mac})
		})
		if err != nil {
			return err
		}
		c.Put.Ports[device] = datapath.Port{
			Name: fabric.PortID(device), VNI: benchVNI, Kind: datapath.Veth, Gate: datapath.Open, MAC: mac,
			Addresses: [datapath.MaxPortAddresses]netip.Addr{addr}, Guards: allGuards, Epoch: 1, Generation: 1,
		}
		c.Put.FDB[datapath.FDBKey{VNI: benchVNI, MAC: mac}] = datapath.FDB{Device: device, Epoch: 1}
		c.Put.Neighbors[datapath.NeighborKey{VNI: benchVNI, Addr: addr}] = mac
	}
	return s.apply(0, c)
}

// crowded plugs n ports in on h1, all of whose devices are there, and times all of them together and each alone. Afterwards it
// looks at what the agent computes while nothing happens.
func (b *bed) crowded(ctx context.Context, n int) (figures []figure, err error) {
	space, err := nic.CreateNamespace(fmt.Sprintf("%s%s-crowd", prefix, b.lab.Name[len(labPrefix):]))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, space.Delete(), b.emptied(ctx)) }()
	ports, err := b.makeCrowd(ctx, space, n)
	if err != nil {
		return nil, err
	}
	took := make([]float64, n)
	before, err := processTime(b.lab.Agent("h1"))
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	g, attaching := errgroup.WithContext(ctx)
	g.SetLimit(attachers)
	for i, id := range ports {
		g.Go(func() error {
			begun := time.Now()
			_, err := b.api.Attach(attaching, id, api.Attachment{Device: nic.VethName(id), Kind: api.Veth})
			took[i] = milliseconds(begun)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("plug in %d ports: %w", n, err)
	}
	all := time.Since(begun).Seconds()
	after, err := processTime(b.lab.Agent("h1"))
	if err != nil {
		return nil, err
	}
	busy, err := busyPart(ctx, b.lab.Agent("h1"))
	name := thousands(n)
	return []figure{
		{Name: attachName, Text: name + " ports of one host plugged in through the API, 16 at a time, until all are in force", Unit: "s", Values: []float64{all}, Most: 20},
		{Name: attachName + "-one", Text: "each of these", Unit: "ms", Values: took},
		{Name: attachName + "-cpu", Text: "what the host's agent, with its etcd, computed for all of them", Unit: "s", Values: []float64{(after - before).Seconds()}},
		{Name: attachName + "-idle", Text: "what the agent of a host with " + name + " ports computes while nothing happens, of one core", Unit: "%", Values: []float64{busy}},
	}, err
}

// emptied waits until the devices of the crowd are gone from h1, which takes the kernel a while: the lab's end would not wait for it.
func (b *bed) emptied(ctx context.Context) error {
	for {
		var left []string
		err := b.lab.HostNamespace("h1").Do(func() (err error) { left, err = nic.Links(); return err })
		if err != nil || !slices.Contains(left, nic.VethName("c0")) {
			return err
		}
		if err := wait(ctx, quietWindow); err != nil {
			return err
		}
	}
}

// makeCrowd makes n ports in the records, and a device for each on h1.
func (b *bed) makeCrowd(ctx context.Context, guests nic.Namespace, n int) (ports []fabric.PortID, err error) {
	var objects []fabric.Object
	for i := range n {
		name := fmt.Sprintf("c%d", i)
		ports = append(ports, fabric.PortID(name))
		objects = append(objects, &fabric.Port{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: name},
			Spec: fabric.PortSpec{Switch: "blue"},
		})
	}
	const atOnce = 100
	for begin := 0; begin < n; begin += atOnce {
		if _, err := b.api.Apply(ctx, objects[begin:min(begin+atOnce, n)], false); err != nil {
			return nil, err
		}
	}
	return ports, b.lab.HostNamespace("h1").Do(func() error {
		for _, id := range ports {
			port, err := b.api.Port(ctx, id)
			if err == nil {
				err = nic.CreateVeth(nic.Veth{Name: nic.VethName(id), Peer: string(id), PeerNamespace: guests, MTU: guestMTU, PeerMAC: port.Spec.MAC})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// idleSpan is how long an agent is watched while nothing happens.
const idleSpan = 5 * time.Second

// busyPart is how much of one core a process uses while nothing is asked of it, in percent.
func busyPart(ctx context.Context, p lab.Process) (float64, error) {
	before, errBefore := processTime(p)
	begun := time.Now()
	errWait := wait(ctx, idleSpan)
	after, errAfter := processTime(p)
	return 100 * float64(after-before) / float64(time.Since(begun)), errors.Join(errBefore, errWait, errAfter)
}
