// Package plan computes what one host's datapath must hold, and the steps from what it does hold. It is pure: a snapshot
// of the fabric and the host's own knowledge in, a datapath.State or a list of changes out; no I/O, no clock, no memory.
package plan

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// Wanted is the state that host's datapath must hold under the snapshot. The result depends on its arguments alone: how
// many snapshots came before, and in which order, does not matter.
func Wanted(snap *fabric.Snapshot, host fabric.HostID, local Local) datapath.State {
	w := &wanted{snap: snap, host: host, local: local, judged: map[judged]ruled{}, grouped: map[string][]netip.Prefix{}}
	w.state.Local.VTEP, w.state.Tables = local.VTEP, map[policy.Digest]*policy.Source{}
	w.state.Flood = map[datapath.FloodKey]struct{}{}
	w.peers()
	w.networks()
	w.state.Segments = map[datapath.SegmentKey]datapath.Segment{}
	w.uplinks()
	w.mirrors()
	w.ports()
	w.exit()
	w.stations()
	w.gateways()
	return w.state
}

// wanted collects one state.
type wanted struct {
	snap  *fabric.Snapshot
	host  fabric.HostID
	local Local
	state datapath.State
	// vteps are the tunnel end points that can be reached from here; this host's own is not among them.
	vteps map[fabric.HostID]netip.Addr
	// present are the segments in force here, and of which switches.
	present  map[fabric.VNI]bool
	switches map[fabric.SwitchID]bool
	// wires are the segments of external switches in force here, and how they reach the wire.
	wires map[fabric.VNI]wire
	// judged is what the lists of the ports so far come to, grouped the members of the groups.
	judged  map[judged]ruled
	grouped map[string][]netip.Prefix
	// copied are the mirrors that copy at a port here.
	copied []*fabric.Mirror
	// byVM are the ports of each VM, once somebody has asked for them.
	byVM map[string][]*fabric.Port
}

// peers lists the hosts that this one can reach: those whose tunnel end point is of the family of its own.
func (w *wanted) peers() {
	w.vteps = make(map[fabric.HostID]netip.Addr, len(w.snap.Hosts))
	w.state.Peers = make(map[netip.Addr]datapath.Peer, len(w.snap.Hosts))
	own := w.snap.Hosts[w.host]
	for id, h := range w.snap.Hosts {
		vtep := h.Spec.VTEP
		if id == w.host || !vtep.IsValid() || vtep == w.local.VTEP || vtep.Is4() != w.local.VTEP.Is4() {
			continue
		}
		mtu := h.Spec.UnderlayMTU
		if own != nil && own.Spec.UnderlayMTU > 0 {
			mtu = min(mtu, own.Spec.UnderlayMTU)
		}
		if other, twice := w.state.Peers[vtep]; twice {
			mtu = min(mtu, other.MTU)
		}
		if peer := (datapath.Peer{MTU: mtu}); peer.Check(vtep) == nil {
			w.vteps[id], w.state.Peers[vtep] = vtep, peer
		}
	}
}

// networks puts the segments in force that a port with a device here is on, or one whose late frames are still sent on from here.
func (w *wanted) networks() {
	w.present, w.switches = map[fabric.VNI]bool{}, map[fabric.SwitchID]bool{}
	w.state.Switches = map[fabric.VNI]datapath.Switch{}
	for name := range w.local.Attachments {
		w.bring(name)
	}
	for name := range w.local.Handoffs {
		w.bring(name)
	}
	for name, loc := range w.snap.Locations {
		if loc.From == w.host {
			w.bring(name)
		}
	}
}

// bring puts the segments of a port in force.
func (w *wanted) bring(name fabric.PortID) {
	port := w.snap.Ports[name]
	if port == nil {
		return
	}
	seg := w.snap.Segments(port)
	if !seg.Known {
		return
	}
	w.force(port.Spec.Switch, append(seg.Heard(), seg.Sends)...)
}

// force puts segments of a switch in force.
func (w *wanted) force(name fabric.SwitchID, vnis ...fabric.VNI) {
	sw := w.snap.Switches[name]
	mtu := min(max(w.snap.SwitchMTU(sw), minMTU), maxMTU)
	w.switches[name] = true
	for _, vni := range vnis {
		w.present[vni] = true
		w.state.Switches[vni] = datapath.Switch{MTU: mtu, Services: vni == sw.Spec.VNI && sw.ServesDHCP()}
	}
}

// The bounds of datapath.Switch.MTU, in bytes: what every IPv4 host must be able to receive (RFC 791), and the longest packet.
const (
	minMTU = 576
	maxMTU = 65535
)

// stations fills the FDB, the neighbours and the flood lists of every segment in force here with the ports that are on it.
func (w *wanted) stations() {
	w.state.FDB = make(map[datapath.FDBKey]datapath.FDB, len(w.snap.Ports))
	w.state.Neighbors = make(map[datapath.NeighborKey]fabric.MAC, len(w.snap.Ports))
	var heard []fabric.VNI // one for all ports: most are on one segment
	for name, port := range w.snap.Ports {
		if !w.switches[port.Spec.Switch] {
			continue
		}
		seg := w.snap.Segments(port)
		if !seg.Known {
			continue
		}
		heard = seg.AppendHeard(heard[:0])
		for _, vni := range heard {
			w.member(name, port, vni)
		}
		if !slices.Contains(heard, seg.Sends) {
			w.source(name, port, seg.Sends)
		}
	}
}

// member puts a port among those that a segment's frames reach.
func (w *wanted) member(name fabric.PortID, port *fabric.Port, vni fabric.VNI) {
	if !w.present[vni] {
		return
	}
	for _, a := range port.Spec.Addresses {
		key := datapath.NeighborKey{VNI: vni, Addr: a}
		if mac, taken := w.state.Neighbors[key]; !taken || lower(port.Spec.MAC, mac) {
			w.state.Neighbors[key] = port.Spec.MAC
		}
	}
	loc, held := w.snap.Locations[name]
	if !held {
		return
	}
	w.flood(vni, loc)
	if entry, ok := w.station(name, loc); ok {
		if wire, external := w.wires[vni]; external && entry.Device == "" && entry.Peer == w.vteps[loc.Host] {
			entry.Carried = wire.carries && !wire.uplinked[loc.Host]
		}
		w.put(datapath.FDBKey{VNI: vni, MAC: port.Spec.MAC}, entry)
		for _, mac := range port.Spec.AllowedMACs() {
			w.put(datapath.FDBKey{VNI: vni, MAC: mac}, entry)
		}
	}
}

// source puts a port among those that are heard on a segment and receive nothing there: what it sends is admitted from its host.
func (w *wanted) source(name fabric.PortID, port *fabric.Port, vni fabric.VNI) {
	loc, held := w.snap.Locations[name]
	if !held || !w.present[vni] {
		return
	}
	if entry, ok := w.station(name, loc); ok {
		entry.Device, entry.Relay, entry.Carried, entry.Source = "", false, false, true
		w.put(datapath.FDBKey{VNI: vni, MAC: port.Spec.MAC}, entry)
		for _, mac := range port.Spec.AllowedMACs() {
			w.put(datapath.FDBKey{VNI: vni, MAC: mac}, entry)
		}
	}
}

// put keeps the preferred one of two ports that claim one MAC.
func (w *wanted) put(key datapath.FDBKey, entry datapath.FDB) {
	if known, taken := w.state.FDB[key]; !taken || prefer(entry, known) {
		w.state.FDB[key] = entry
	}
}

// flood adds the hosts that hold the port, or may hold it next, to its switch's head-end replication; on an external switch those
// that do not get the frame from the wire.
func (w *wanted) flood(vni fabric.VNI, loc fabric.Location) {
	w.floodTo(vni, loc.Host)
	if loc.Grant != nil {
		w.floodTo(vni, loc.Grant.To)
	}
}

func (w *wanted) floodTo(vni fabric.VNI, host fabric.HostID) {
	if wire, external := w.wires[vni]; external && !wire.tunnels(host) {
		return
	}
	if peer, ok := w.vteps[host]; ok {
		w.state.Flood[datapath.FloodKey{VNI: vni, Peer: peer}] = struct{}{}
	}
}

// station says where a held port is, as seen from here; false when it cannot be reached from here. A local station that is
// moving names the other host as its peer beforehand, so that closing its gate is all there is to do when the guest stops.
func (w *wanted) station(name fabric.PortID, loc fabric.Location) (datapath.FDB, bool) {
	attached, here := w.local.Attachments[name]
	to, handed := w.handoff(name, loc)
	entry := datapath.FDB{Epoch: loc.Epoch}
	switch {
	case handed:
		entry.Peer = w.vteps[to]
	case loc.Host == w.host && !here:
		return entry, false
	case loc.Host == w.host:
		entry.Peer = w.vteps[loc.From]
		if loc.Grant != nil {
			entry.Peer = w.vteps[loc.Grant.To]
		}
	default:
		entry.Peer = w.vteps[loc.Host]
		if loc.Grant != nil && loc.Grant.To != w.host {
			entry.Alt = w.vteps[loc.Grant.To]
		}
	}
	// Once the move is committed the device is of no use: it goes with the machine, and must not take the relay along.
	if here && (handed || loc.Host == w.host || w.staged(name, loc)) {
		entry.Device = attached.Device
	} else {
		entry.Relay = handed || loc.From == w.host
	}
	return entry, entry.Device != "" || entry.Peer.IsValid()
}

// handoff says where the late frames of a port go whose guest has stopped here.
func (w *wanted) handoff(name fabric.PortID, loc fabric.Location) (fabric.HostID, bool) {
	h, stopped := w.local.Handoffs[name]
	return h.To, stopped && loc.Host == w.host && loc.Epoch == h.Epoch
}

// staged reports whether this host has prepared itself for the move that the port is granted to it by.
func (w *wanted) staged(name fabric.PortID, loc fabric.Location) bool {
	move, prepared := w.local.Staged[name]
	return prepared && loc.Grant != nil && loc.Grant.To == w.host && loc.Grant.Move == move
}

// prefer is a total order between two ports that claim one MAC, so that the result does not depend on the order of a map.
func prefer(a, b datapath.FDB) bool {
	if a.Epoch != b.Epoch {
		return a.Epoch > b.Epoch
	}
	if a.Device != b.Device {
		return a.Device > b.Device
	}
	if c := a.Peer.Compare(b.Peer); c != 0 {
		return c > 0
	}
	if c := a.Alt.Compare(b.Alt); c != 0 {
		return c > 0
	}
	if a.Carried != b.Carried {
		return a.Carried
	}
	if a.Relay != b.Relay {
		return a.Relay
	}
	return b.Source && !a.Source
}

// lower is a total order of MACs.
func lower(a, b fabric.MAC) bool { return string(a[:]) < string(b[:]) }
