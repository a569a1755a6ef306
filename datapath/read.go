package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// missingTable stands for a table that a port names and that is not there: no source has this digest.
var missingTable = policy.Digest{0: 0xff, 1: 0xff}

// Read returns what the kernel holds, from the kernel: nothing is remembered from Apply.
func (d *Datapath) Read(ctx context.Context) (State, error) {
	if err := d.begin(ctx); err != nil {
		return State{}, fmt.Errorf("read the datapath: %w", err)
	}
	defer d.mu.Unlock()
	s := State{
		Local:    Local{VTEP: fromCore(d.shared.config.Vtep), Exit: d.exit},
		Peers:    make(map[netip.Addr]Peer, len(d.peers)),
		Switches: map[fabric.VNI]Switch{}, Flood: map[FloodKey]struct{}{},
		Ports:     make(map[string]Port, len(d.ports)),
		FDB:       make(map[FDBKey]FDB, len(d.buffers.fdb.keys)),
		Segments:  map[SegmentKey]Segment{},
		Neighbors: make(map[NeighborKey]fabric.MAC, len(d.buffers.neighbors.keys)),
		Uplinks:   map[string]Uplink{}, Wires: map[fabric.VNI]Wire{},
		Mirrors: map[fabric.VNI]Mirror{}, Sinks: map[fabric.VNI]Sink{},
		Tables: map[policy.Digest]*policy.Source{},
	}
	vteps, err := d.readPeers(&s)
	if err != nil {
		return State{}, err
	}
	digests, err := d.readTables(&s)
	if err != nil {
		return State{}, err
	}
	devices, err := d.readPorts(&s, digests)
	if err != nil {
		return State{}, err
	}
	for _, read := range []func() error{
		func() error { return d.readNetworks(&s, vteps) },
		func() error { return d.readSegments(&s, devices) },
		func() error { return d.readFDB(&s, vteps, devices) },
		func() error { return d.readNeighbors(&s) },
		func() error { return d.readUplinks(&s, vteps) },
		func() error { return d.readMirrors(&s) },
		ctx.Err,
	} {
		if err := read(); err != nil {
			return State{}, err
		}
	}
	return s, nil
}

// readPeers returns the peers' addresses by number, too.
func (d *Datapath) readPeers(s *State) (map[uint16]netip.Addr, error) {
	byID := make(map[uint16]netip.Addr, len(d.peers))
	err := each(d.maps.VtepsV1, &d.buffers.vteps, func(vtep *coreAddress, id *uint32) {
		byID[uint16(*id)] = fromCore(*vtep)
	})
	if err != nil {
		return nil, err
	}
	for id, vtep := range byID {
		var p corePeer
		if err := d.maps.PeersV1.Lookup(uint32(id), &p); err != nil {
			return nil, err
		}
		s.Peers[vtep] = Peer{MTU: int(p.Mtu)}
	}
	return byID, nil
}

// readTables returns the digests by the tables' numbers, too. A table that somebody has deleted is forgotten, and made again under
// another number when it is put.
func (d *Datapath) readTables(s *State) (map[uint32]policy.Digest, error) {
	byID := make(map[uint32]policy.Digest, len(d.tables.byDigest))
	var id uint32
	var value coreTable
	entries := d.maps.TablesV2.Iterate()
	for entries.Next(&id, &value) {
		byID[id] = value.Digest
		s.Tables[value.Digest] = nil
	}
	if err := entries.Err(); err != nil {
		return nil, err
	}
	maps.DeleteFunc(d.tables.byDigest, func(_ policy.Digest, t *table) bool {
		_, there := byID[t.id]
		return !there
	})
	return byID, nil
}

// readPorts returns the devices by slot, too. A port whose table is not there, which passes nothing, has missingTable.
func (d *Datapath) readPorts(s *State, digests map[uint32]policy.Digest) (map[uint32]string, error) {
	bySlot := make(map[uint32]string, len(d.ports))
	var macs map[uint32][]StationMAC // read when a port has any
	var failed error
	err := each(d.maps.PortsV1, &d.buffers.ports, func(_ *uint32, c *corePort) {
		device, p := d.portFromCore(c)
		if c.Guards&guardMACs != 0 && macs == nil && failed == nil {
			macs, failed = d.readMACs()
		}
		p.MACs = d.macsFromCore(c, macs[c.Slot])
		if word := d.shared.policyWord(c.Slot); word != 0 {
			p.Policy, p.Handover = missingTable, word&policyHandover != 0
			if digest, there := digests[uint32(word)]; there {
				p.Policy = digest
			}
		}
		s.Ports[device] = p
		bySlot[c.Slot] = device
	})
	return bySlot, errors.Join(err, failed)
}

func (d *Datapath) readNetworks(s *State, vteps map[uint16]netip.Addr) error {
	return each(d.maps.NetworksV2, &d.buffers.networks, func(vni *uint32, n *coreNetwork) {
		s.Switches[fabric.VNI(*vni)] = Switch{MTU: int(n.Mtu), Services: n.Services != 0}
		for _, id := range n.Peers[:n.PeersCount] {
			if vtep, known := vteps[id]; known {
				s.Flood[FloodKey{VNI: fabric.VNI(*vni), Peer: vtep}] = struct{}{}
			}
		}
	})
}

func (d *Datapath) readFDB(s *State, vteps map[uint16]netip.Addr, devices map[uint32]string) error {
	return each(d.maps.FdbV1, &d.buffers.fdb, func(k *coreFdbKey, v *coreFdb) {
		e := FDB{Peer: vteps[v.Peer], Alt: vteps[v.Alt], Relay: v.Flags&fdbRelay != 0, Carried: v.Flags&fdbCarried != 0, Source: v.Flags&fdbSource != 0, Epoch: fabric.Epoch(v.Epoch)}
		if v.Flags&fdbLocal != 0 {
			e.Device = devices[v.Slot]
		}
		s.FDB[FDBKey{VNI: fabric.VNI(k.Vni), MAC: k.Mac}] = e
	})
}

func (d *Datapath) readNeighbors(s *State) error {
	return each(d.maps.NeighborsV1, &d.buffers.neighbors, func(k *coreNeighborKey, v *coreNeighbor) {
		s.Neighbors[NeighborKey{VNI: fabric.VNI(k.Vni), Addr: fromCore(k.Address)}] = v.Mac
	})
}

// adopt learns from the kernel what a loader before left: which devices have which slots, which peers which numbers.
func (d *Datapath) adopt(context.Context, Options) error {
	err := each(d.maps.PortsV1, &d.buffers.ports, func(ifindex *uint32, c *corePort) {
		d.ports[text(c.Device[:])] = &port{ifindex: int(*ifindex), value: *c}
		d.slots.adopt(c.Slot)
		if gate, _ := d.shared.loadGate(c.Slot); gate == Staged {
			d.expectOpened(int(*ifindex), place{fabric.PortID(text(c.Name[:])), text(c.Device[:])}, true)
		}
		d.slots.next = max(d.slots.next, c.Slot+1)
	})
	if err != nil {
		return err
	}
	err = each(d.maps.VtepsV1, &d.buffers.vteps, func(vtep *coreAddress, id *uint32) {
		d.peers[fromCore(*vtep)] = &peer{id: uint16(*id)}
		d.peerIDs.adopt(*id)
		d.peerIDs.next = max(d.peerIDs.next, *id+1)
	})
	if err != nil {
		return err
	}
	if err := errors.Join(d.adoptUplinks(), d.adoptRetired(), d.adoptProbes(), d.adoptTables(), d.adoptMirrors(), d.adoptShaper(), d.adoptExit()); err != nil {
		return err
	}
	for _, p := range d.peers {
		if err := d.maps.PeersV1.Lookup(uint32(p.id), &p.value); err != nil {
			return err
		}
	}
	return nil
}
