package plan

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// macs says what a port's guest may use beside its own MAC: what is listed, and what its VM's other ports on the switch have,
// with their addresses, where it may stand in for them.
func (w *wanted) macs(entry *datapath.Port, port *fabric.Port, of fabric.EffectiveSettings) {
	var list []datapath.StationMAC
	for _, mac := range port.Spec.AllowedMACs() {
		list = append(list, datapath.StationMAC{MAC: mac})
	}
	if entry.Guards&datapath.GuardMAC == 0 {
		entry.MACs.Learned = uint16(of.MACs.Limit)
	}
	for _, other := range w.siblings(port) {
		theirs := w.snap.Settings(other)
		entry.MACs.Shared = entry.MACs.Shared || of.MACs.Sibling || theirs.MACs.Sibling
		if !of.MACs.Sibling {
			continue
		}
		list = append(list, datapath.StationMAC{MAC: other.Spec.MAC, Sibling: true})
		for _, a := range other.Spec.Addresses {
			free := slices.IndexFunc(entry.Addresses[:], func(b netip.Addr) bool { return !b.IsValid() })
			if free >= 0 && !slices.Contains(entry.Addresses[:], a) {
				entry.Addresses[free] = a
			}
		}
	}
	datapath.SortMACs(list)
	copy(entry.MACs.Listed[:], list)
}

// siblings are the other ports of a port's VM that send on the same segment, in the order of names.
func (w *wanted) siblings(port *fabric.Port) (all []*fabric.Port) {
	if w.byVM == nil {
		w.byVM = map[string][]*fabric.Port{}
		for _, p := range w.snap.Ports {
			w.byVM[p.Spec.VM] = append(w.byVM[p.Spec.VM], p)
		}
	}
	if port.Spec.VM == "" {
		return nil
	}
	own := w.snap.Segments(port).Sends
	for _, p := range w.byVM[port.Spec.VM] {
		if p.Metadata.Name != port.Metadata.Name && p.Spec.Switch == port.Spec.Switch && w.snap.Segments(p).Sends == own {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *fabric.Port) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return all
}
