package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Errors of the map calls that have a remedy of their own.
var (
	errNoSpace = unix.ENOSPC
	errTooBig  = unix.E2BIG
)

// Apply carries a change out: puts before deletes, each in the order that keeps every packet's way closed or complete. It
// is idempotent, and stops at the first thing that fails; what came before is in force then. An FDB entry of an older
// epoch than the kernel's is left out without an error, a port that an older epoch would open is fabric.ErrStaleEpoch.
func (d *Datapath) Apply(ctx context.Context, c Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, step := range []func(Change) error{
		d.applyLocal, d.applyPeers, d.applySwitches, d.applyPorts, d.applyStations,
		d.unapplyStations, d.unapplyPorts, d.unapplySwitches, d.unapplyPeers,
	} {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("change the datapath: %w", err)
		}
		if err := step(c); err != nil {
			return err
		}
	}
	return nil
}

// applyLocal changes this host's tunnel end point, and with it the header of every peer.
func (d *Datapath) applyLocal(c Change) error {
	if vtep := c.Put.Local.VTEP; vtep.IsValid() && vtep != fromCore(d.shared.config.Vtep) {
		d.setVTEP(vtep)
		for address, p := range d.peers {
			p.value.Checksum = d.headerSum(address)
			if err := d.writePeer(p); err != nil {
				return fmt.Errorf("move the tunnel end point to %s: %w", vtep, err)
			}
		}
	}
	return nil
}

func (d *Datapath) applyPeers(c Change) error {
	for _, vtep := range sorted(c.Put.Peers, netip.Addr.Compare) {
		if err := d.putPeer(vtep, c.Put.Peers[vtep]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) applySwitches(c Change) error {
	for vni, s := range c.Put.Switches {
		if err := d.putNetwork(vni, s); err != nil {
			return err
		}
	}
	return nil
}

// applyPorts writes the ports that close before those that open.
func (d *Datapath) applyPorts(c Change) error {
	if len(c.Put.Ports) == 0 {
		return nil
	}
	mtus, err := d.mtus()
	if err != nil {
		return err
	}
	for _, device := range sorted(c.Put.Ports, func(a, b string) int {
		return c.Put.Ports[a].Gate.Openness() - c.Put.Ports[b].Gate.Openness()
	}) {
		if err := d.putPort(device, c.Put.Ports[device], mtus); err != nil {
			return err
		}
	}
	return nil
}

// mtus are the MTUs of the switches in force.
func (d *Datapath) mtus() (map[fabric.VNI]uint16, error) {
	found := map[fabric.VNI]uint16{}
	err := each(d.maps.NetworksV1, &d.buffers.networks, func(vni *uint32, n *coreNetwork) {
		found[fabric.VNI(*vni)] = uint16(n.Mtu)
	})
	return found, err
}

func (d *Datapath) applyStations(c Change) error {
	if err := d.putFDB(c.Put.FDB); err != nil {
		return err
	}
	if err := d.putNeighbors(c.Put.Neighbors); err != nil {
		return err
	}
	for vni, peers := range byNetwork(c.Put.Flood) {
		ids := make([]uint16, 0, len(peers))
		for _, vtep := range peers {
			id, err := d.peerID(vtep)
			if err != nil {
				return fmt.Errorf("flood VNI %d: %w", vni, err)
			}
			ids = append(ids, id)
		}
		if n, err := d.network(vni); err != nil || n == nil {
			return errors.Join(err, fmt.Errorf("flood VNI %d: the switch is not in force here; put the switch first", vni))
		}
		if err := d.changeFlood(vni, ids, nil); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) unapplyStations(c Change) error {
	for vni, peers := range byNetwork(c.Delete.Flood) {
		var ids []uint16
		for _, vtep := range peers {
			if p := d.peers[vtep]; p != nil {
				ids = append(ids, p.id)
			}
		}
		if err := d.changeFlood(vni, nil, ids); err != nil {
			return err
		}
	}
	return errors.Join(d.deleteNeighbors(c.Delete.Neighbors), d.deleteFDB(c.Delete.FDB))
}

func (d *Datapath) unapplyPorts(c Change) error {
	for device := range c.Delete.Ports {
		if err := d.removePort(device); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) unapplySwitches(c Change) error {
	for vni := range c.Delete.Switches {
		if err := d.deleteNetwork(vni); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) unapplyPeers(c Change) error {
	for vtep := range c.Delete.Peers {
		if err := d.deletePeer(vtep); err != nil {
			return err
		}
	}
	return nil
}

// byNetwork groups flood members by switch.
func byNetwork(members map[FloodKey]struct{}) map[fabric.VNI][]netip.Addr {
	grouped := map[fabric.VNI][]netip.Addr{}
	for key := range members {
		grouped[key.VNI] = append(grouped[key.VNI], key.Peer)
	}
	return grouped
}

// sorted are the keys of a map in order.
func sorted[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	return slices.SortedFunc(maps.Keys(m), compare)
}
