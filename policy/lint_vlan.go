package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// usedBy is a use of a VLAN, and the first port by name that makes it.
type usedBy struct {
	fabric.VLANUse
	port fabric.PortID
}

// segments tells of private VLANs that do not isolate as they are to, or keep ports from everybody, and of ports whose VLAN is not
// listed. What is written now cannot contradict itself (the store refuses it); records of before, or restored ones, can.
func (l *linter) segments() {
	uses := map[fabric.SwitchID][]usedBy{}
	for _, id := range slices.Sorted(maps.Keys(l.snapshot.Ports)) {
		port := l.snapshot.Ports[id]
		sw := l.snapshot.Switches[port.Spec.Switch]
		if sw == nil {
			continue
		}
		v := l.snapshot.VLAN(port)
		for _, u := range v.Uses() {
			uses[port.Spec.Switch] = append(uses[port.Spec.Switch], usedBy{u, id})
		}
		if seg := sw.Segments(v); !seg.Known {
			l.add(Finding{ID: "vlan-missing", Severity: Warning, Object: "port/" + string(id), Message: fmt.Sprintf("switch %s does not list a VLAN that it needs: it passes nothing", port.Spec.Switch),
				Next: "apply the port again, which adds it, or change its vlan"})
		}
		if l.snapshot.Settings(port).MACs.Sibling && slices.ContainsFunc(v.Uses(), func(u fabric.VLANUse) bool { return u.Primary != 0 && u.Mode == "" }) {
			l.add(Finding{ID: "pvlan-sibling", Severity: Warning, Object: "port/" + string(id),
				Message: "it may stand in for the VM's other ports (macs.sibling), which a promiscuous port does on the primary VLAN alone: isolated and community ports go on sending to the other one",
				Next:    "team the VM's ports on a VLAN that is not private, or take macs.sibling away"})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(uses)) {
		l.contradictions(id, uses[id])
		l.listed(id, uses[id])
		l.unheard(id, uses[id])
	}
}

// contradictions tells of VLANs that ports of a switch use in ways that do not go together; each way once.
func (l *linter) contradictions(id fabric.SwitchID, uses []usedBy) {
	var ways []usedBy
	for _, u := range uses {
		if slices.ContainsFunc(ways, func(w usedBy) bool { return w.VLANUse == u.VLANUse }) {
			continue
		}
		if i := slices.IndexFunc(ways, func(w usedBy) bool { return u.Contradicts(w.VLANUse) }); i >= 0 {
			l.add(Finding{ID: "pvlan-contradiction", Severity: Warning, Object: "switch/" + string(id),
				Message: fmt.Sprintf("VLAN %d is %s for port %s, and %s for port %s: both together do not isolate", u.ID, ways[i].VLANUse, ways[i].port, u.VLANUse, u.port),
				Next:    "change one of the ports, or prune the VLAN from the trunk"})
		}
		ways = append(ways, u)
	}
}

// listed tells of secondary VLANs that the switch lists as something else, by which trunks that carry all would carry them.
func (l *linter) listed(id fabric.SwitchID, uses []usedBy) {
	sw, told := l.snapshot.Switches[id], map[fabric.VLANID]bool{}
	for _, u := range uses {
		v := sw.VLAN(u.ID)
		if v == nil || u.Primary == 0 || told[u.ID] || v.Primary == u.Primary && (u.Mode == "" || v.Mode == u.Mode) {
			continue
		}
		told[u.ID] = true
		is := fabric.VLANUse{ID: v.ID, Primary: v.Primary, Mode: v.Mode}
		l.add(Finding{ID: "pvlan-listed", Severity: Warning, Object: "switch/" + string(id),
			Message: fmt.Sprintf("it lists VLAN %d as %s, and port %s uses it as %s", u.ID, is, u.port, u.VLANUse),
			Next:    fmt.Sprintf("apply port %s again, which corrects the list", u.port)})
	}
}

// unheard tells of secondary VLANs that no promiscuous port lists: their ports reach nobody beyond.
func (l *linter) unheard(id fabric.SwitchID, uses []usedBy) {
	heard, members := map[fabric.VLANID]bool{}, map[fabric.VLANID]usedBy{}
	for _, u := range uses {
		switch {
		case u.Primary == 0:
		case u.Mode == "":
			heard[u.ID] = true
		default:
			if first, known := members[u.ID]; !known || cmp.Less(u.port, first.port) {
				members[u.ID] = u
			}
		}
	}
	for _, vlan := range slices.Sorted(maps.Keys(members)) {
		if heard[vlan] {
			continue
		}
		whom, severity := "nobody", Warning
		if members[vlan].Mode == fabric.Community {
			whom, severity = "its own community alone", Note
		}
		l.add(Finding{ID: "pvlan-unheard", Severity: severity, Object: "switch/" + string(id),
			Message: fmt.Sprintf("no promiscuous port lists VLAN %d: port %s, %s, reaches %s", vlan, members[vlan].port, members[vlan].VLANUse, whom),
			Next:    fmt.Sprintf("add %d to the secondary VLANs of a promiscuous port of VLAN %d", vlan, members[vlan].Primary)})
	}
}
