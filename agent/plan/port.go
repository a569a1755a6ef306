package plan

import (
	"maps"

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
		w.segments(port, attached.Device)
	}
}

// segments puts the port of a device on what it is on beside its own segment. A device that two ports claim is on those of the
// one that has it.
func (w *wanted) segments(entry datapath.Port, device string) {
	maps.DeleteFunc(w.state.Segments, func(k datapath.SegmentKey, _ datapath.Segment) bool { return k.Device == device })
	port := w.snap.Ports[entry.Name]
	if port == nil {
		return
	}
	seg := w.snap.Segments(port)
	if !seg.Known {
		return
	}
	for _, vni := range seg.Also {
		set(&w.state.Segments, datapath.SegmentKey{Device: device, VNI: vni}, datapath.Segment{})
	}
	for tag, vni := range seg.Tags {
		set(&w.state.Segments, datapath.SegmentKey{Device: device, VNI: vni}, datapath.Segment{Tag: uint16(tag), QinQ: seg.QinQ})
	}
	if seg.QinQ && len(seg.Tags) == 0 { // a trunk's inner tags are behind one that it carries
		set(&w.state.Segments, datapath.SegmentKey{Device: device, VNI: seg.Receives}, datapath.Segment{QinQ: true})
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
	seg := w.snap.Segments(port)
	if !seg.Known {
		return entry
	}
	entry.VNI, entry.MAC = seg.Sends, port.Spec.MAC
	if seg.Receives != seg.Sends {
		entry.Receives = seg.Receives
	}
	copy(entry.Addresses[:], port.Spec.Addresses)
	of := w.snap.Settings(port)
	rules := w.rules(of, seg)
	entry.Guards = guards(of.Guards, len(sw.SubnetsOf(of.VLAN.Home()))+len(port.Spec.Addresses) > 0)
	entry.Generation = w.settings(port, sw, of.Profile, rules.revision)
	entry.Trunk = len(seg.Tags) > 0
	entry.Limits = limits(of)
	if of.Connections != fabric.DefaultConnections {
		entry.Connections = (of.Connections + 1023) / 1024 * 1024
	}
	entry.Priority = datapath.Priority{Trusted: of.Priority.Trusted, DSCP: of.Priority.DSCP}
	w.macs(&entry, port, of)
	entry.Mirrors = w.copiers(port)
	entry.Gate, entry.Epoch = w.gate(name)
	if entry.Policy = rules.table; !rules.known {
		entry.Gate = datapath.Closed
	}
	entry.Handover = !entry.Policy.IsZero() && w.handover(name, entry.Gate)
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

// handover reports whether the source of the port's move judges what is sent on to the destination, here or there.
func (w *wanted) handover(name fabric.PortID, gate datapath.Gate) bool {
	switch gate {
	case datapath.Relay:
		return w.local.Handoffs[name].Judges
	case datapath.Staged, datapath.Open:
		return w.local.Expects[name] != ""
	}
	return false
}

// guards is the bit set of the guards in force. Where a switch has no subnet the fabric knows no addresses to hold a port
// without addresses to (fabric.SwitchSpec.Subnets): addressed is false.
func guards(of fabric.EnforcedGuards, addressed bool) datapath.GuardSet {
	if !addressed {
		of.IP, of.ARP = false, false
	}
	var set datapath.GuardSet
	for _, g := range []struct {
		on  bool
		bit datapath.GuardSet
	}{
		{of.MAC, datapath.GuardMAC},
		{of.IP, datapath.GuardIP},
		{of.ARP, datapath.GuardARP},
		{of.DHCPServer, datapath.GuardDHCPServer},
		{of.RA, datapath.GuardRA},
		{of.L2Control, datapath.GuardL2Control},
		{of.VXLAN, datapath.GuardVXLAN},
	} {
		if g.on {
			set |= g.bit
		}
	}
	return set
}

// settings is the revision of the port's settings: the latest of the records they come from.
func (w *wanted) settings(port *fabric.Port, sw *fabric.Switch, name string, rules fabric.Revision) fabric.Revision {
	r := max(port.Metadata.Revision, sw.Metadata.Revision, rules)
	if profile := w.snap.Profiles[name]; profile != nil {
		r = max(r, profile.Metadata.Revision)
	}
	return r
}
