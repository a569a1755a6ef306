package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// mirrors finds the mirrors that copy at a port here, and the sinks that are here. A mirror whose sink cannot be reached copies nothing.
func (w *wanted) mirrors() {
	w.state.Mirrors, w.state.Sinks = map[fabric.VNI]datapath.Mirror{}, map[fabric.VNI]datapath.Sink{}
	for _, name := range slices.Sorted(maps.Keys(w.snap.Mirrors)) {
		m := w.snap.Mirrors[name]
		if m.Spec.VNI == 0 || w.local.Ended[name] {
			continue
		}
		if sink, here := w.sink(m); here && sink.Check(m.Spec.VNI) == nil {
			w.state.Sinks[m.Spec.VNI] = sink
		}
		peer, reachable := w.sinkPeer(m)
		if !reachable || len(w.copied) >= fabric.MaxHostMirrors || !w.copiesHere(m) {
			continue
		}
		if one := mirror(m, peer); one.Check(m.Spec.VNI) == nil {
			w.state.Mirrors[m.Spec.VNI] = one
			w.copied = append(w.copied, m)
		}
	}
}

// sink is where the copies of a mirror end here; a port that is prepared for a move to here has them, too.
func (w *wanted) sink(m *fabric.Mirror) (datapath.Sink, bool) {
	port := m.Spec.Sink.Port
	if port == "" {
		return datapath.Sink{Device: datapath.ListenDevice(m.Metadata.Name), Listen: true}, w.snap.SinkHost(m) == w.host
	}
	attached, here := w.local.Attachments[port]
	loc, held := w.snap.Locations[port]
	if !here || !held || w.snap.Ports[port] == nil || loc.Host != w.host && !w.staged(port, loc) {
		return datapath.Sink{}, false
	}
	return datapath.Sink{Device: attached.Device}, true
}

// sinkPeer is the host of a mirror's sink, not valid where that is this one; false when it cannot be reached.
func (w *wanted) sinkPeer(m *fabric.Mirror) (netip.Addr, bool) {
	host := w.snap.SinkHost(m)
	if host == w.host {
		_, there := w.state.Sinks[m.Spec.VNI]
		return netip.Addr{}, there
	}
	if port := m.Spec.Sink.Port; port != "" && w.snap.Ports[port] == nil {
		return netip.Addr{}, false
	}
	peer, known := w.vteps[host]
	return peer, known
}

// copiesHere reports whether the mirror copies at a port that is plugged in here.
func (w *wanted) copiesHere(m *fabric.Mirror) bool {
	for name := range w.local.Attachments {
		if p := w.snap.Ports[name]; p != nil && m.Copies(p) {
			return true
		}
	}
	return false
}

// copiers are the mirrors that copy at a port, the first by name where there are too many.
func (w *wanted) copiers(port *fabric.Port) (by datapath.Mirrors) {
	var sent, received []fabric.VNI
	for _, m := range w.copied {
		if !m.Copies(port) {
			continue
		}
		if m.Spec.Direction != fabric.MirrorIn && len(sent) < datapath.MaxPortMirrors {
			sent = append(sent, m.Spec.VNI)
		}
		if m.Spec.Direction != fabric.MirrorOut && len(received) < datapath.MaxPortMirrors {
			received = append(received, m.Spec.VNI)
		}
	}
	slices.Sort(sent)
	slices.Sort(received)
	copy(by.Sent[:], sent)
	copy(by.Received[:], received)
	return by
}

// mirror is the mirror as the core has it.
func mirror(m *fabric.Mirror, peer netip.Addr) datapath.Mirror {
	out := datapath.Mirror{Peer: peer, Sample: m.Spec.Sample, Truncate: m.Spec.Truncate}
	if m.Spec.Until != nil {
		out.Deadline = m.Spec.Until.UnixNano()
	}
	for i := range m.Spec.Filter {
		for _, c := range clauses(&m.Spec.Filter[i]) {
			if out.Clauses == datapath.MaxMirrorClauses {
				return datapath.Mirror{Clauses: -1} // a record that Validate would not have let pass: it copies nothing
			}
			out.Filter[out.Clauses] = c
			out.Clauses++
		}
	}
	return out
}

// clauses takes the lists of a clause apart.
func clauses(c *fabric.MirrorClause) (all []datapath.Clause) {
	base := datapath.Clause{}
	switch c.Family {
	case "ipv4":
		base.Family = 4
	case "ipv6":
		base.Family = 6
	}
	if n, err := fabric.ParseProtocol(c.Protocol); err == nil {
		base.HasProtocol, base.Protocol = true, n
	}
	localPrefixes, localPorts := ends(c.Local)
	remotePrefixes, remotePorts := ends(c.Remote)
	for _, local := range localPrefixes {
		for _, remote := range remotePrefixes {
			for _, lp := range localPorts {
				for _, rp := range remotePorts {
					one := base
					one.LocalPorts, one.RemotePorts = lp, rp
					if contradicts := narrow(&one, &one.Local, local) || narrow(&one, &one.Remote, remote); !contradicts {
						all = append(all, one)
					}
				}
			}
		}
	}
	if len(all) == 0 {
		all = []datapath.Clause{{Family: 4, Remote: netip.PrefixFrom(netip.IPv6Unspecified(), 128)}} // no packet is of two families
	}
	return all
}

// narrow asks for a prefix, a family where that is all of one; true when the clause asks for another family.
func narrow(c *datapath.Clause, at *netip.Prefix, p netip.Prefix) bool {
	if !p.IsValid() {
		return false
	}
	family := uint8(6)
	if p.Addr().Is4() {
		family = 4
	}
	if c.Family != 0 && c.Family != family {
		return true
	}
	c.Family = family
	if p.Bits() > 0 {
		*at = p
	}
	return false
}

// ends are the lists of an end, each with at least one element, which asks for nothing where the list is empty.
func ends(e *fabric.MirrorEnd) ([]netip.Prefix, []fabric.PortRange) {
	e = cmp.Or(e, &fabric.MirrorEnd{})
	prefixes, ports := e.Prefixes, e.Ports
	if len(prefixes) == 0 {
		prefixes = []netip.Prefix{{}}
	}
	if len(ports) == 0 {
		ports = []fabric.PortRange{{}}
	}
	return prefixes, ports
}
