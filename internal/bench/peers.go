package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/datapath/nic"
)

// buildRaw joins each pair of guests by a veth of their own: no host, no switch, no tunnel. It is the ceiling.
func buildRaw(number int) (s *site, err error) {
	s = newSite(raw, number)
	defer closeOnError(s, &err)
	spaces, err := s.spaces("a", "b", "c")
	if err != nil {
		return s, err
	}
	for i, name := range []lane{cross, local} {
		if err := s.cable(name, spaces[0], spaces[i+1], byte(i)); err != nil {
			return s, fmt.Errorf("join the %s guests directly: %w", name, err)
		}
	}
	return s, nil
}

// cable joins two guests by a veth in subnet 10.77.N.0/24.
func (s *site) cable(name lane, a, b nic.Namespace, n byte) error {
	ethA, ethB := fmt.Sprintf("eth%d", n), "eth0"
	addrA, addrB := netip.AddrFrom4([4]byte{10, 77, n, 1}), netip.AddrFrom4([4]byte{10, 77, n, 2})
	err := a.Do(func() error {
		return nic.CreateVeth(nic.Veth{Name: ethA, Peer: ethB, PeerNamespace: b, MTU: guestMTU})
	})
	if err != nil {
		return err
	}
	s.wires = append(s.wires, wireEnd{space: a, device: ethA}, wireEnd{space: b, device: ethB})
	s.lanes[name], s.sender[name] = ends{from: a, to: b, addr: addrB}, addrA
	return errors.Join(guestNIC(a, ethA, netip.PrefixFrom(addrA, 24)), guestNIC(b, ethB, netip.PrefixFrom(addrB, 24)))
}

// buildBridge has a Linux bridge on each host, joined by a kernel VXLAN device: the same shape as weft's, without rules,
// guards or counters.
func buildBridge(number int) (s *site, err error) {
	s = newSite(bridge, number)
	defer closeOnError(s, &err)
	hosts, guests, err := s.switched()
	if err != nil {
		return s, err
	}
	vteps, err := s.underlay(hosts[0], hosts[1])
	if err != nil {
		return s, err
	}
	s.hosts = hosts
	for i, host := range hosts {
		err := host.Do(func() error {
			tunnel := nic.Tunnel{Name: "vx0", VNI: 77, Local: vteps[i], Remote: vteps[1-i], MTU: guestMTU}
			if err := errors.Join(nic.CreateBridge("br0", guestMTU), nic.CreateTunnel(tunnel)); err != nil {
				return err
			}
			return errors.Join(nic.SetMaster("vx0", "br0"), nic.SetUp("vx0"))
		})
		if err != nil {
			return s, err
		}
	}
	plug := func(host nic.Namespace, device string) error {
		return host.Do(func() error { return errors.Join(nic.SetMaster(device, "br0"), nic.SetUp(device)) })
	}
	return s, s.populate(hosts, guests, plug)
}

// device names of the ports on their hosts.
const (
	portA, portB, portC, portT = "port-a", "port-b", "port-c", "port-t"
)

// population is the guests of a switched site.
type population struct{ a, b, c, t guest }

// switched makes the namespaces of two hosts and four guests.
func (s *site) switched() (hosts []nic.Namespace, p population, err error) {
	spaces, err := s.spaces("h0", "h1", "a", "b", "c", "t")
	if err != nil {
		return nil, p, err
	}
	p = population{a: newGuest(spaces[2], 1), b: newGuest(spaces[3], 2), c: newGuest(spaces[4], 3), t: newGuest(spaces[5], 4)}
	return spaces[:2], p, nil
}

// populate gives the guests their NICs and hands every host device to plug, which joins it to the switch.
func (s *site) populate(hosts []nic.Namespace, p population, plug func(host nic.Namespace, device string) error) error {
	for _, v := range []struct {
		host   nic.Namespace
		device string
		guest  guest
	}{{hosts[0], portA, p.a}, {hosts[1], portB, p.b}, {hosts[0], portC, p.c}} {
		if err := errors.Join(plugVeth(v.host, v.device, v.guest), plug(v.host, v.device)); err != nil {
			return fmt.Errorf("plug in %s on %s: %w", v.device, s.peer, err)
		}
	}
	if err := s.plugTap(hosts[1], portT, p.t); err != nil {
		return fmt.Errorf("plug in %s on %s: %w", portT, s.peer, err)
	}
	if err := plug(hosts[1], portT); err != nil {
		return fmt.Errorf("plug in %s on %s: %w", portT, s.peer, err)
	}
	s.addLane(cross, p.a, p.b)
	s.addLane(local, p.a, p.c)
	s.addLane(tap, p.a, p.t)
	return nil
}
