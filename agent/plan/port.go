package plan

import (
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// ports puts an entry for every attached device. A device whose port the fabric does not know, or whose switch is not
// usable, keeps a closed entry: a device without the core would be an open door into the host.
func (w *wanted) ports() {
	w.state.Ports = make(map[string]datapath.Port, len(w.local.Attachments))
	for name, attached := range w.local.Attachments {
		port := w.port(name, attached)
		if other, taken := w.state.Ports[attached.Device]; taken && other.Name < port.Name {
			continue
		}
		w.state.Ports[attached.Device] = port
	}
}

// port is the entry of one attached device.
func (w *wanted) port(name fabric.PortID, attached Attachment) datapath.Port {
	entry := datapath.Port{Name: name, Kind: attached.Kind, Gate: datapath.Closed}
	port := w.snap.Ports[name]
	if port == nil {
		return entry
	}
	sw := w.snap.Switches[port.Spec.Switch]
	vni, usable := w.present[port.Spec.Switch]
	if !usable {
		return entry
	}
	entry.VNI, entry.MAC = vni, port.Spec.MAC
	copy(entry.Addresses[:], port.Spec.Addresses)
	profile := w.profile(port, sw)
	entry.Guards = guards(port, profile, sw)
	entry.Generation = max(port.Metadata.Revision, sw.Metadata.Revision)
	if profile != nil {
		entry.Generation = max(entry.Generation, profile.Metadata.Revision)
	}
	entry.Gate, entry.Epoch = w.gate(name)
	return entry
}

// gate says what the port lets through on this host, and by which epoch.
func (w *wanted) gate(name fabric.PortID) (datapath.Gate, fabric.Epoch) {
	loc, held := w.snap.Locations[name]
	if !held {
		return datapath.Closed, 0
	}
	if _, handed := w.handoff(name, loc); handed {
		return datapath.Relay, loc.Epoch
	}
	switch {
	case loc.Host == w.host:
		return datapath.Open, loc.Epoch
	case w.staged(name, loc):
		return datapath.Staged, loc.Grant.Epoch
	case loc.From == w.host:
		return datapath.Relay, loc.Epoch
	}
	return datapath.Closed, loc.Epoch
}

// profile is the one the port names, else its switch's; nil when there is none.
func (w *wanted) profile(port *fabric.Port, sw *fabric.Switch) *fabric.Profile {
	if port.Spec.Profile != "" {
		return w.snap.Profiles[port.Spec.Profile]
	}
	return w.snap.Profiles[sw.Spec.Profile]
}

// guards resolves each guard: the port's own word, else its profile's, else on. Where a switch has no subnet the fabric
// knows no addresses to hold a port without addresses to (fabric.SwitchSpec.Subnets).
func guards(port *fabric.Port, profile *fabric.Profile, sw *fabric.Switch) datapath.GuardSet {
	var of fabric.Guards
	if profile != nil {
		of = profile.Spec.Guards
	}
	own := port.Spec.Guards
	var set datapath.GuardSet
	for _, g := range []struct {
		own, profile *bool
		bit          datapath.GuardSet
	}{
		{own.MAC, of.MAC, datapath.GuardMAC},
		{own.IP, of.IP, datapath.GuardIP},
		{own.ARP, of.ARP, datapath.GuardARP},
		{own.DHCPServer, of.DHCPServer, datapath.GuardDHCPServer},
		{own.RA, of.RA, datapath.GuardRA},
		{own.L2Control, of.L2Control, datapath.GuardL2Control},
		{own.VXLAN, of.VXLAN, datapath.GuardVXLAN},
	} {
		if g.own == nil {
			g.own = g.profile
		}
		if g.own == nil || *g.own {
			set |= g.bit
		}
	}
	if len(sw.Spec.Subnets) == 0 && len(port.Spec.Addresses) == 0 {
		set &^= datapath.GuardIP | datapath.GuardARP
	}
	return set
}
