package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nic"
)

// peer is another host's tunnel end point: its entry in the kernel.
type peer struct {
	id    uint16
	value corePeer
}

// putPeer brings a peer to what is wanted, with the way to it as the kernel routes now.
func (d *Datapath) putPeer(vtep netip.Addr, p Peer) error {
	if err := p.Check(vtep); err != nil {
		return err
	}
	now := d.peers[vtep]
	if now == nil {
		id, ok := d.peerIDs.take()
		if !ok {
			return fmt.Errorf("put peer %s: this host has %d peers already, the most the core holds", vtep, maxPeers-1)
		}
		now = &peer{id: uint16(id)}
	}
	now.value.Vtep, now.value.Mtu, now.value.Checksum = toCore(vtep), uint32(p.MTU), d.headerSum(vtep)
	now.route(vtep)
	if err := d.writePeer(now); err != nil {
		return fmt.Errorf("put peer %s: %w", vtep, err)
	}
	if err := d.maps.VtepsV1.Put(now.value.Vtep, uint32(now.id)); err != nil {
		return fmt.Errorf("put peer %s: %w", vtep, err)
	}
	d.peers[vtep] = now
	return nil
}

func (d *Datapath) writePeer(p *peer) error { return d.maps.PeersV1.Put(uint32(p.id), &p.value) }

// route asks the kernel for the way to the peer; without one the programs leave its frames to the kernel's VXLAN device,
// which asks for each. It reports whether the way has changed.
func (p *peer) route(vtep netip.Addr) (changed bool, err error) {
	before := p.value
	p.value.Ifindex, p.value.Nexthop = 0, coreAddress{}
	r, err := nic.RouteTo(vtep)
	if err == nil {
		p.value.Ifindex, p.value.Nexthop = uint32(r.Index), toCore(r.NextHop)
	}
	return p.value != before, err
}

// headerSum adds the 16-bit words of the outer IPv4 header that are the same for every frame to the peer: version and
// length, DF, TTL 64 and UDP, both addresses (RFC 1071).
func (d *Datapath) headerSum(vtep netip.Addr) uint32 {
	if isIPv6(vtep) {
		return 0
	}
	var header [20]byte
	header[0], header[6], header[8], header[9] = 0x45, 0x40, 64, 17
	binary.NativeEndian.PutUint32(header[12:], d.shared.config.Vtep.W[3])
	binary.NativeEndian.PutUint32(header[16:], toCore(vtep).W[3])
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.NativeEndian.Uint16(header[i:]))
	}
	return sum
}

// deletePeer takes a peer away.
func (d *Datapath) deletePeer(vtep netip.Addr) error {
	p := d.peers[vtep]
	if p == nil {
		return nil
	}
	if err := d.maps.VtepsV1.Delete(p.value.Vtep); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete peer %s: %w", vtep, err)
	}
	p.value = corePeer{}
	if err := d.writePeer(p); err != nil {
		return fmt.Errorf("delete peer %s: %w", vtep, err)
	}
	delete(d.peers, vtep)
	d.retired[p.id] = true
	return nil
}

// releasePeers gives the numbers of former peers back that nothing names any more: whoever got one earlier would be taken
// for its former owner, as the home of that one's stations.
func (d *Datapath) releasePeers() error {
	named, err := d.namedPeers()
	if err != nil {
		return err
	}
	for id := range d.retired {
		if !named[id] {
			delete(d.retired, id)
			d.peerIDs.release(uint32(id))
		}
	}
	return nil
}

// namedPeers are the numbers that stations and switches name.
func (d *Datapath) namedPeers() (map[uint16]bool, error) {
	named := map[uint16]bool{}
	err := each(d.maps.FdbV1, &d.buffers.fdb, func(_ *coreFdbKey, v *coreFdb) { named[v.Peer], named[v.Alt] = true, true })
	if err != nil {
		return nil, err
	}
	err = each(d.maps.NetworksV2, &d.buffers.networks, func(_ *uint32, n *coreNetwork) {
		for _, id := range n.Peers[:min(int(n.PeersCount), maxFloodPeers)] {
			named[id] = true
		}
	})
	for _, w := range d.wires {
		named[w.Peer] = true
	}
	for _, s := range d.mirrors {
		named[uint16(s.value.Peer)] = true
	}
	delete(named, 0)
	return named, err
}

// adoptRetired finds the numbers that are named and belong to no peer.
func (d *Datapath) adoptRetired() error {
	named, err := d.namedPeers()
	for id := range named {
		if !d.peerIDs.taken[uint32(id)] {
			d.retired[id] = true
			d.peerIDs.adopt(uint32(id))
		}
	}
	return err
}

// peerID is the number of a peer; the zero address has number 0.
func (d *Datapath) peerID(vtep netip.Addr) (uint16, error) {
	if !vtep.IsValid() {
		return 0, nil
	}
	p := d.peers[vtep]
	if p == nil {
		return 0, fmt.Errorf("%s is not a peer; put the peer first", vtep)
	}
	return p.id, nil
}
