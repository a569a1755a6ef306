package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
)

// network reads a switch in force here; nil when it is not.
func (d *Datapath) network(vni fabric.VNI) (*coreNetwork, error) {
	var n coreNetwork
	err := d.maps.NetworksV2.Lookup(uint32(vni), &n)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read switch with VNI %d: %w", vni, err)
	}
	return &n, nil
}

// putNetwork brings a switch in force; its members stay, and its ports learn the MTU.
func (d *Datapath) putNetwork(vni fabric.VNI, s Switch) error {
	if err := s.Check(vni); err != nil {
		return err
	}
	n, err := d.network(vni)
	if err != nil {
		return err
	}
	if n == nil {
		n = &coreNetwork{}
		members, err := d.membersOf(vni)
		if err != nil {
			return err
		}
		n.PortsCount = uint16(copy(n.Ports[:], members))
		if w := d.wires[vni]; w != nil && w.Ifindex != 0 {
			n.Flags |= networkWire
		}
	}
	n.Mtu, n.Services = uint16(s.MTU), 0
	if s.Services {
		n.Services = 1
	}
	n.Host = d.hostSlot(n)
	if err := d.maps.NetworksV2.Put(uint32(vni), n); err != nil {
		return fullError(fmt.Sprintf("put switch with VNI %d", vni), err)
	}
	return d.setMTU(vni, s.MTU)
}

// deleteNetwork takes a switch out of force; ports that are still on it pass nothing from then on.
func (d *Datapath) deleteNetwork(vni fabric.VNI) error {
	err := d.maps.NetworksV2.Delete(uint32(vni))
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err = errors.Join(err, d.setMTU(vni, 0)); err != nil {
		return fmt.Errorf("delete switch with VNI %d: %w", vni, err)
	}
	return nil
}

// setMTU tells the ports of a switch its MTU; 0 says that it is not in force.
func (d *Datapath) setMTU(vni fabric.VNI, mtu int) error {
	for device, p := range d.ports {
		if p.value.Vni != uint32(vni) || p.value.Mtu == uint16(mtu) {
			continue
		}
		p.value.Mtu = uint16(mtu)
		if err := d.writePort(p); err != nil {
			return fmt.Errorf("set MTU %d of port %s on %s: %w", mtu, text(p.value.Name[:]), device, err)
		}
	}
	return nil
}

// changeMembers adds and removes slots of a switch's ports. A switch that is not in force has no members.
func (d *Datapath) changeMembers(vni fabric.VNI, add, remove []uint16) error {
	return d.changeNetwork(vni, func(n *coreNetwork) error {
		list, err := changeList(n.Ports[:n.PortsCount], add, remove, maxFloodPorts)
		if err != nil {
			return fmt.Errorf("a switch has at most %d ports on one host: %w", maxFloodPorts, err)
		}
		n.PortsCount = uint16(copy(n.Ports[:], list))
		n.Host = d.hostSlot(n)
		return nil
	})
}

// hostSlot is the slot of the host's own port among the members of a switch; 0 when there is none.
func (d *Datapath) hostSlot(n *coreNetwork) uint16 {
	for _, p := range d.ports {
		if PortKind(p.value.Kind) == HostEnd && slices.Contains(n.Ports[:n.PortsCount], uint16(p.value.Slot)) {
			return uint16(p.value.Slot)
		}
	}
	return 0
}

// changeFlood adds and removes peers of a switch.
func (d *Datapath) changeFlood(vni fabric.VNI, add, remove []uint16) error {
	return d.changeNetwork(vni, func(n *coreNetwork) error {
		list, err := changeList(n.Peers[:n.PeersCount], add, remove, maxFloodPeers)
		if err != nil {
			return fmt.Errorf("a switch is on at most %d other hosts: %w", maxFloodPeers, err)
		}
		n.PeersCount = uint16(copy(n.Peers[:], list))
		return nil
	})
}

// changeNetwork replaces a switch by a changed copy, at once.
func (d *Datapath) changeNetwork(vni fabric.VNI, change func(*coreNetwork) error) error {
	n, err := d.network(vni)
	if err != nil || n == nil {
		return err
	}
	before := *n
	if err := change(n); err != nil {
		return fmt.Errorf("change switch with VNI %d: %w", vni, err)
	}
	if *n == before {
		return nil
	}
	if err := d.maps.NetworksV2.Put(uint32(vni), n); err != nil {
		return fmt.Errorf("change switch with VNI %d: %w", vni, err)
	}
	return nil
}

var errFull = errors.New("the list is full")

// changeList is list with and without, each number once.
func changeList(list, add, remove []uint16, most int) ([]uint16, error) {
	next := slices.DeleteFunc(slices.Clone(list), func(n uint16) bool { return slices.Contains(remove, n) })
	for _, n := range add {
		if !slices.Contains(next, n) {
			next = append(next, n)
		}
	}
	if len(next) > most {
		return nil, errFull
	}
	return next, nil
}
