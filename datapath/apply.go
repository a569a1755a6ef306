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
// is idempotent. What fails does not keep the rest from being carried out, save for what depends on it; the error names the
// failures. An FDB entry of an older epoch than the kernel's is left out without an error, a port that an older epoch would
// open is fabric.ErrStaleEpoch.
func (d *Datapath) Apply(ctx context.Context, c Change) error {
	if err := d.begin(ctx); err != nil {
		return fmt.Errorf("change the datapath: %w", err)
	}
	defer d.mu.Unlock()
	if c.waits() {
		defer hurry(d.log)()
	}
	var failed failures
	for _, step := range []func(Change, *failures){
		d.applyClosings, d.applyLocal, d.applyExit, d.applyPeers, d.applySwitches, d.applyTables, d.applyMirrors, d.applyPorts, d.applySegments, d.applySinks, d.applyStations,
		d.applyWires, d.unapplyWires, d.unapplyStations, d.unapplySegments, d.unapplySinks, d.unapplyPorts, d.unapplyMirrors, d.unapplyTables, d.unapplySwitches, d.unapplyPeers, d.arrangeExits,
	} {
		if err := ctx.Err(); err != nil {
			failed.add(fmt.Errorf("change the datapath: %w", err))
			break
		}
		step(c, &failed)
	}
	return failed.err()
}

// waits reports whether the kernel waits for grace periods while the change is carried out: for programs, and for maps in maps.
func (c Change) waits() bool {
	return len(c.Put.Ports)+len(c.Delete.Ports)+len(c.Put.Uplinks)+len(c.Delete.Uplinks)+len(c.Delete.Tables) > 0
}

// failures are the errors of items that do not depend on each other: the first few, and how many there were.
type failures struct {
	first []error
	more  int
}

// mostFailures is how many errors are told in full.
const mostFailures = 16

func (f *failures) add(err error) {
	switch {
	case err == nil:
	case len(f.first) < mostFailures:
		f.first = append(f.first, err)
	default:
		f.more++
	}
}

func (f *failures) err() error {
	if f.more > 0 {
		return errors.Join(append(f.first, fmt.Errorf("and %d failures more", f.more))...)
	}
	return errors.Join(f.first...)
}

// applyClosings closes what is to pass less than now, or nothing any more, before anything else takes time.
func (d *Datapath) applyClosings(c Change, _ *failures) {
	for device := range c.Delete.Ports {
		if _, put := c.Put.Ports[device]; !put { // else it is what is put that may be too old
			d.closeFor(d.ports[device], Port{Gate: Closed})
		}
	}
	for device, p := range c.Put.Ports {
		if p.Gate != Staged && p.Check(device) == nil { // a staged port's first frame opens it anyway
			d.closeFor(d.ports[device], p)
		}
	}
}

// applyLocal changes this host's tunnel end point, and with it the header of every peer.
func (d *Datapath) applyLocal(c Change, failed *failures) {
	vtep := c.Put.Local.VTEP
	if !vtep.IsValid() || vtep == fromCore(d.shared.config.Vtep) {
		return
	}
	d.setVTEP(vtep)
	for address, p := range d.peers {
		p.value.Checksum = d.headerSum(address)
		if err := d.writePeer(p); err != nil {
			failed.add(fmt.Errorf("move the tunnel end point to %s: %w", vtep, err))
		}
	}
}

func (d *Datapath) applyPeers(c Change, failed *failures) {
	for _, vtep := range sorted(c.Put.Peers, netip.Addr.Compare) {
		failed.add(d.putPeer(vtep, c.Put.Peers[vtep]))
	}
}

func (d *Datapath) applySwitches(c Change, failed *failures) {
	for vni, s := range c.Put.Switches {
		failed.add(d.putNetwork(vni, s))
	}
}

// applyTables makes the tables that are not there yet; the ports' words name them afterwards.
func (d *Datapath) applyTables(c Change, failed *failures) {
	for digest, source := range c.Put.Tables {
		failed.add(d.putTable(digest, source))
	}
}

// applyMirrors makes the mirrors that ports name afterwards, or changes where their copies go.
func (d *Datapath) applyMirrors(c Change, failed *failures) {
	for vni, m := range c.Put.Mirrors {
		failed.add(d.putMirror(vni, m))
	}
}

// applySinks lets copies end at ports that are there, and at devices of their own.
func (d *Datapath) applySinks(c Change, failed *failures) {
	for vni, s := range c.Put.Sinks {
		failed.add(d.putSink(vni, s))
	}
}

func (d *Datapath) unapplySinks(c Change, failed *failures) {
	for vni := range c.Delete.Sinks {
		failed.add(d.deleteSink(vni))
	}
}

func (d *Datapath) unapplyMirrors(c Change, failed *failures) {
	for vni := range c.Delete.Mirrors {
		failed.add(d.deleteMirror(vni))
	}
}

// unapplyTables removes tables that no port names any more.
func (d *Datapath) unapplyTables(c Change, failed *failures) {
	if len(c.Delete.Tables) > 0 {
		failed.add(d.releaseTables(c.Delete.Tables))
	}
}

// applyPorts writes the ports that close before those that open, and puts the sentinels on their devices when all of them
// carry traffic already.
func (d *Datapath) applyPorts(c Change, failed *failures) {
	if len(c.Put.Ports) == 0 {
		return
	}
	mtus, err := d.mtus()
	if err != nil {
		failed.add(err)
		return
	}
	for _, device := range sorted(c.Put.Ports, func(a, b string) int {
		return c.Put.Ports[a].Gate.Openness() - c.Put.Ports[b].Gate.Openness()
	}) {
		failed.add(d.putPort(device, c.Put.Ports[device], mtus))
	}
	for device := range c.Put.Ports {
		if p := d.ports[device]; p != nil {
			failed.add(d.finishPort(device, p))
		}
	}
}

// mtus are the MTUs of the switches in force.
func (d *Datapath) mtus() (map[fabric.VNI]uint16, error) {
	found := map[fabric.VNI]uint16{}
	err := each(d.maps.NetworksV2, &d.buffers.networks, func(vni *uint32, n *coreNetwork) {
		found[fabric.VNI(*vni)] = uint16(n.Mtu)
	})
	return found, err
}

func (d *Datapath) applyStations(c Change, failed *failures) {
	d.putFDB(c.Put.FDB, failed)
	d.putNeighbors(c.Put.Neighbors, failed)
	for vni, peers := range byNetwork(c.Put.Flood) {
		ids := make([]uint16, 0, len(peers))
		for _, vtep := range peers {
			id, err := d.peerID(vtep)
			if err == nil && id == 0 {
				err = errors.New("the peer has no address")
			}
			if err != nil {
				failed.add(fmt.Errorf("flood VNI %d: %w", vni, err))
				continue
			}
			ids = append(ids, id)
		}
		if n, err := d.network(vni); err != nil || n == nil {
			failed.add(errors.Join(err, fmt.Errorf("flood VNI %d: the switch is not in force here; put the switch first", vni)))
			continue
		}
		failed.add(d.changeFlood(vni, ids, nil))
	}
}

// applyWires puts the core on the uplinks, and gives the segments their ways to the wire when all else is in force.
func (d *Datapath) applyWires(c Change, failed *failures) {
	if len(c.Put.Uplinks)+len(c.Put.Wires) == 0 {
		return
	}
	for _, leads := range []bool{true, false} { // who is led names its leader
		for device, u := range c.Put.Uplinks {
			if leads == (u.Leader == "") {
				failed.add(d.putUplink(device, u))
			}
		}
	}
	moved, err := d.putShares()
	failed.add(err)
	for vni, w := range c.Put.Wires {
		failed.add(d.putWire(vni, w))
	}
	failed.add(errors.Join(d.listen(), d.dropShares()))
	for vni, w := range d.wires {
		if moved[w.Slot] {
			d.announceAll(vni)
		}
	}
}

// unapplyWires takes segments off the wire before the core leaves their NICs.
func (d *Datapath) unapplyWires(c Change, failed *failures) {
	for vni := range c.Delete.Wires {
		failed.add(d.deleteWire(vni))
	}
	for device := range c.Delete.Uplinks {
		failed.add(d.deleteUplink(device))
	}
}

func (d *Datapath) unapplyStations(c Change, failed *failures) {
	for vni, peers := range byNetwork(c.Delete.Flood) {
		var ids []uint16
		for _, vtep := range peers {
			if p := d.peers[vtep]; p != nil {
				ids = append(ids, p.id)
			}
		}
		failed.add(d.changeFlood(vni, nil, ids))
	}
	failed.add(d.deleteNeighbors(c.Delete.Neighbors))
	failed.add(d.deleteFDB(c.Delete.FDB))
}

func (d *Datapath) unapplyPorts(c Change, failed *failures) {
	for device := range c.Delete.Ports {
		failed.add(d.removePort(device))
	}
}

func (d *Datapath) unapplySwitches(c Change, failed *failures) {
	for vni := range c.Delete.Switches {
		failed.add(d.deleteNetwork(vni))
	}
}

func (d *Datapath) unapplyPeers(c Change, failed *failures) {
	if len(c.Delete.Peers) == 0 {
		return
	}
	for vtep := range c.Delete.Peers {
		failed.add(d.deletePeer(vtep))
	}
	failed.add(d.releasePeers())
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
