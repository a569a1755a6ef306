package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

const (
	// benchVNI is the one switch of the benchmark.
	benchVNI fabric.VNI = 77
	// pinRoot is where the BPF file systems of the hosts are mounted, under names that begin with prefix.
	pinRoot = "/run"
	// allGuards is what a port of a fabric has unless its owner says otherwise.
	allGuards = datapath.GuardMAC | datapath.GuardIP | datapath.GuardARP | datapath.GuardDHCPServer |
		datapath.GuardRA | datapath.GuardL2Control | datapath.GuardVXLAN
)

// buildWeft has weft's forwarding core on each host, told directly what an agent would tell it, with all guards and
// counters on.
func buildWeft(number int) (s *site, err error) {
	s = newSite(weft, number)
	defer closeOnError(s, &err)
	hosts, guests, err := s.switched()
	if err != nil {
		return s, err
	}
	vteps, err := s.underlay(hosts[0], hosts[1])
	if err != nil {
		return s, err
	}
	// The devices stay down: the core raises them once it guards them.
	if err := s.populate(hosts, guests, func(nic.Namespace, string) error { return nil }); err != nil {
		return s, err
	}
	states := make([]datapath.State, len(hosts))
	for i, host := range hosts {
		plane, err := s.openPlane(host, vteps[i])
		if err != nil {
			return s, err
		}
		s.hosts, s.planes = append(s.hosts, host), append(s.planes, plane)
		states[i] = wanted(i, vteps, guests)
		if err := s.apply(i, datapath.Change{Put: states[i]}); err != nil {
			return s, fmt.Errorf("fill the core of host %d: %w", i, err)
		}
	}
	s.judge = func(r ruleset) error { return s.judgeWeft(r, states) }
	return s, nil
}

// apply changes the core of a host.
func (s *site) apply(host int, c datapath.Change) error {
	return s.hosts[host].Do(func() error { return s.planes[host].Apply(context.Background(), c) })
}

// judgeWeft puts the guests of the lane across hosts under a ruleset. Tables that were in force stay, so that a ruleset that comes
// again is there.
func (s *site) judgeWeft(r ruleset, states []datapath.State) error {
	source := r.source()
	for i, device := range []string{portA, portB} {
		port := states[i].Ports[device]
		c := datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{}}}
		if source != nil {
			port.Policy = source.Digest()
			c.Put.Tables = map[policy.Digest]*policy.Source{port.Policy: source}
		}
		c.Put.Ports[device] = port
		if err := s.apply(i, c); err != nil {
			return fmt.Errorf("judge %s by %s: %w", device, r, err)
		}
	}
	return nil
}

// openPlane loads the core into a host, pinned in a BPF file system of its own.
func (s *site) openPlane(host nic.Namespace, vtep netip.Addr) (plane *datapath.Datapath, err error) {
	dir := filepath.Join(pinRoot, host.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s.undo = append(s.undo, func() error { return os.Remove(dir) })
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		return nil, fmt.Errorf("mount a BPF file system on %s: %w", dir, err)
	}
	s.undo = append(s.undo, func() error { return unix.Unmount(dir, 0) })
	pins := filepath.Join(dir, "weft") // its own, since Uninstall removes it
	err = host.Do(func() error {
		plane, err = datapath.Load(context.Background(), datapath.Options{PinDir: pins, Underlay: "eth0", VTEP: vtep})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load the core into %s: %w", host.Name, err)
	}
	s.undo = append(s.undo, func() error {
		return host.Do(func() error { return errors.Join(plane.Close(), datapath.Uninstall(pins)) })
	})
	return plane, nil
}

// wanted is what an agent would compute for host i of two.
func wanted(i int, vteps [2]netip.Addr, p population) datapath.State {
	here, there := vteps[i], vteps[1-i]
	state := datapath.State{
		Local:     datapath.Local{VTEP: here},
		Peers:     map[netip.Addr]datapath.Peer{there: {MTU: underlayMTU}},
		Switches:  map[fabric.VNI]datapath.Switch{benchVNI: {MTU: guestMTU}},
		Ports:     map[string]datapath.Port{},
		FDB:       map[datapath.FDBKey]datapath.FDB{},
		Neighbors: map[datapath.NeighborKey]fabric.MAC{},
		Flood:     map[datapath.FloodKey]struct{}{{VNI: benchVNI, Peer: there}: {}},
	}
	for _, v := range []struct {
		device string
		kind   datapath.PortKind
		host   int
		guest  guest
	}{
		{portA, datapath.Veth, 0, p.a}, {portB, datapath.Veth, 1, p.b}, {portC, datapath.Veth, 0, p.c}, {portT, datapath.Tap, 1, p.t},
	} {
		station := datapath.FDB{Peer: there, Epoch: 1}
		if v.host == i {
			station = datapath.FDB{Device: v.device, Epoch: 1}
			state.Ports[v.device] = datapath.Port{
				Name: fabric.PortID(v.device), VNI: benchVNI, Kind: v.kind, Gate: datapath.Open, MAC: v.guest.mac,
				Addresses: [datapath.MaxPortAddresses]netip.Addr{v.guest.addr}, Guards: allGuards, Epoch: 1, Generation: 1,
			}
		}
		state.FDB[datapath.FDBKey{VNI: benchVNI, MAC: v.guest.mac}] = station
		state.Neighbors[datapath.NeighborKey{VNI: benchVNI, Addr: v.guest.addr}] = v.guest.mac
	}
	return state
}
