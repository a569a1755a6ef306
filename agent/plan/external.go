package plan

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// maxTag is the last VLAN that a tag can carry (IEEE 802.1Q 9.6).
const maxTag = 4094

// wire is how an external switch reaches the wire, as seen from this host.
type wire struct {
	// uplinked are the hosts that have a NIC on it; carrier is the one that carries for the others, empty when there is none.
	uplinked map[fabric.HostID]bool
	carrier  fabric.HostID
	// device is this host's own NIC, of several the one that leads; carries is true where this host is the carrier.
	device  string
	carries bool
	// team are all NICs of this host on it, share is how they serve the guests.
	team  []string
	share datapath.Share
}

// tunnels reports whether group frames of guests here reach the host by VXLAN: where it does not get them from the wire.
func (w wire) tunnels(host fabric.HostID) bool {
	switch {
	case w.device == "":
		return host == w.carrier || !w.uplinked[host]
	default:
		return w.carries && !w.uplinked[host]
	}
}

// uplinks puts the external switches on their NICs here, and says how those without one reach the wire.
func (w *wanted) uplinks() {
	w.wires = map[fabric.VNI]wire{}
	w.state.Uplinks, w.state.Wires = map[string]datapath.Uplink{}, map[fabric.VNI]datapath.Wire{}
	for _, name := range slices.Sorted(maps.Keys(w.snap.Switches)) {
		sw := w.snap.Switches[name]
		if sw.Spec.Type != fabric.External || w.local.Unconfirmed[name] {
			continue
		}
		way := w.wire(sw)
		if _, taken := w.state.Uplinks[way.device]; taken {
			way.device, way.carries = "", false // two records that met: the first by name has the NIC
		}
		if way.device != "" {
			w.join(sw, way)
		}
		w.lead(name, sw.Spec.VNI, 0, way)
		for _, v := range sw.Spec.VLANs {
			if v.ID > maxTag {
				continue // an isolation id has no tag: it stays within the fabric
			}
			w.lead(name, v.VNI, v.ID, way)
		}
	}
}

// join puts the switch on the NICs of this host. One that leads nowhere is kept ready: nothing is attached when it is needed.
func (w *wanted) join(sw *fabric.Switch, way wire) {
	w.state.Uplinks[way.device] = datapath.Uplink{HostAccess: sw.HostIsOn(), Share: way.share}
	for _, nic := range way.team {
		if _, taken := w.state.Uplinks[nic]; taken || !w.local.NICs[nic] && !w.local.Idle[nic] {
			continue
		}
		w.state.Uplinks[nic] = datapath.Uplink{HostAccess: sw.HostIsOn(), Leader: way.device, Share: way.share, Down: !w.local.NICs[nic]}
	}
}

// leader is the one of several NICs that leads: the best that has a link. One that has just got it again waits, so that a link that
// comes and goes does not take the guests along each time.
func (w *wanted) leader(nics []string) string {
	leads := ""
	for _, nic := range nics {
		if w.local.NICs[nic] && w.local.Leads[nic] {
			leads = nic
			break
		}
	}
	for _, nic := range nics {
		if w.local.NICs[nic] && (leads == "" || nic == leads || w.local.Settled[nic]) {
			return nic
		}
	}
	return ""
}

// shareOf is how several NICs serve the guests, by the mode in the record.
func shareOf(mode fabric.UplinkMode) datapath.Share {
	switch mode {
	case fabric.HashPort:
		return datapath.ByPort
	case fabric.HashFlow:
		return datapath.ByFlow
	}
	return datapath.Standby
}

// lead gives a segment its way to the wire, and the host that carries for it where it has none of its own.
func (w *wanted) lead(name fabric.SwitchID, vni fabric.VNI, vlan fabric.VLANID, way wire) {
	if vni == 0 || vni > fabric.MaxVNI || way.carrier == "" {
		return
	}
	if way.device != "" {
		w.force(name, vni)
		w.wires[vni] = way
		w.state.Wires[vni] = datapath.Wire{Device: way.device, VLAN: uint16(vlan), Carries: way.carries}
		return
	}
	if !w.present[vni] {
		return
	}
	w.wires[vni] = way
	if carrier, reachable := w.vteps[way.carrier]; reachable {
		w.state.Wires[vni] = datapath.Wire{Carrier: carrier}
		w.state.Flood[datapath.FloodKey{VNI: vni, Peer: carrier}] = struct{}{}
	}
}

// wire finds out who has an uplink of the switch, and elects who carries for the rest: the first by name of those that report, so
// that all hosts that know the same elect the same.
func (w *wanted) wire(sw *fabric.Switch) wire {
	way := wire{uplinked: map[fabric.HostID]bool{}}
	silent := fabric.HostID("")
	for _, id := range w.snap.UplinkHosts(sw) {
		uplink := sw.UplinkOn(id, w.snap.Hosts[id])
		nics := uplink.All()
		fit, reports := w.local.Others[id]
		unheard := id != w.host && !reports && w.local.Others != nil
		switch {
		case id == w.host && w.leader(nics) == "", id != w.host && reports && !slices.ContainsFunc(nics, func(nic string) bool { return fit[nic] }):
			continue
		case id == w.host:
			way.device, way.team, way.share = w.leader(nics), nics, shareOf(uplink.Mode)
		}
		way.uplinked[id] = true
		if unheard {
			silent = cmp.Or(silent, id)
			continue
		}
		way.carrier = cmp.Or(way.carrier, id)
	}
	way.carrier = cmp.Or(way.carrier, silent)
	way.carries = way.carrier == w.host
	return way
}
