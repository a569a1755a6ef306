package migration

import (
	"cmp"
	"slices"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
)

// Placement is a host that a VM can move to, or what stands against it.
type Placement struct {
	VM       string
	From, To fabric.HostID
	// Ports are those that the host To holds already, of other VMs too.
	Ports int
	// Against is empty where the VM can go.
	Against []Finding
}

// Candidates says of each host whether the VM can move there: first those where it can, the one with the fewest ports before others,
// then by name. The host that the VM is on is not among them.
func Candidates(snap *fabric.Snapshot, statuses map[fabric.HostID]fabric.HostStatus, vm string) []Placement {
	return candidates(snap, statuses, vm, held(snap))
}

// Evacuate says where each VM on a host can be moved by the agents, in the order of their names: to that of the allowed hosts which then
// has the fewest ports. Allowed is nil for any. A VM that can go nowhere has no To, and what stands against the best host.
func Evacuate(snap *fabric.Snapshot, statuses map[fabric.HostID]fabric.HostStatus, from fabric.HostID, allowed []fabric.HostID) []Placement {
	ports := held(snap)
	all := []Placement{}
	for _, vm := range machines(snap, from) {
		best := Placement{VM: vm, From: from}
		for _, p := range candidates(snap, statuses, vm, ports) {
			if allowed != nil && !slices.Contains(allowed, p.To) {
				continue
			}
			p.Against = append(p.Against, Driven(snap, statuses, vm, p.To)...)
			if best = p; len(p.Against) > 0 {
				best.To = ""
			} else {
				ports[p.To] += len(location.PortsOf(snap, vm))
			}
			break
		}
		all = append(all, best)
	}
	return all
}

// held counts the ports that each host holds.
func held(snap *fabric.Snapshot) map[fabric.HostID]int {
	ports := map[fabric.HostID]int{}
	for _, loc := range snap.Locations {
		ports[loc.Host]++
	}
	return ports
}

// machines are the VMs with a port on the host, in the order of their names.
func machines(snap *fabric.Snapshot, on fabric.HostID) []string {
	var all []string
	for id, loc := range snap.Locations {
		if p := snap.Ports[id]; loc.Host == on && p != nil && !p.IsHost() {
			all = append(all, location.Machine(p))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func candidates(snap *fabric.Snapshot, statuses map[fabric.HostID]fabric.HostStatus, vm string, ports map[fabric.HostID]int) []Placement {
	var from fabric.HostID
	for _, id := range location.PortsOf(snap, vm) {
		from = cmp.Or(from, snap.Locations[id].Host)
	}
	all := []Placement{}
	for to := range snap.Hosts {
		if to != from {
			all = append(all, Placement{VM: vm, From: from, To: to, Ports: ports[to], Against: Preflight(snap, statuses, vm, to)})
		}
	}
	slices.SortFunc(all, func(a, b Placement) int {
		return cmp.Or(cmp.Compare(len(a.Against), len(b.Against)), cmp.Compare(a.Ports, b.Ports), cmp.Compare(a.To, b.To))
	})
	return all
}
