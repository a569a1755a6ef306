package server

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// view is the wanted state together with what the hosts say: what answers are computed from.
type view struct {
	self     fabric.HostID
	snap     *fabric.Snapshot
	statuses map[fabric.HostID]fabric.HostStatus
	alive    map[fabric.HostID]bool
	// copied is what hosts have counted of mirrors, once they were asked.
	copied []api.MirrorCount
	// stale says why the view is this host's last knowledge and not etcd's; nil when it is etcd's.
	stale error
}

// staleness says that the view is old, and why; empty when it is not.
func (v *view) staleness() string {
	if v.stale == nil {
		return ""
	}
	return fmt.Sprintf("etcd does not answer: this is what host %s knew last", v.self)
}

// sorted copies the objects of one kind in the order of their names, so that nobody writes into a snapshot.
func sorted[K cmp.Ordered, T any](objects map[K]*T) []T {
	out := make([]T, 0, len(objects))
	for _, k := range slices.Sorted(maps.Keys(objects)) {
		out = append(out, *objects[k])
	}
	return out
}

// hosts are all hosts with their status; one that reports nothing says so.
func (v *view) hosts() []fabric.Host {
	out := sorted(v.snap.Hosts)
	for i := range out {
		id := fabric.HostID(out[i].Metadata.Name)
		st, reports := v.statuses[id]
		st.Alive = v.alive[id]
		if !reports {
			st.Problems = []string{"the agent does not report; " + onHost(id, "systemctl status weft")}
		}
		out[i].Status = st
	}
	return out
}

// onHost is a command to run on a host.
func onHost(id fabric.HostID, command string) string {
	return fmt.Sprintf("on %s run: %s", id, command)
}

// force says on which of some hosts a record is in force.
func (v *view) force(r fabric.Revision, covered func(fabric.HostID) bool) (f fabric.Force) {
	for _, id := range slices.Sorted(maps.Keys(v.snap.Hosts)) {
		switch {
		case !covered(id):
		case v.statuses[id].Generation >= r:
			f.Hosts = append(f.Hosts, id)
		default:
			f.Absent = append(f.Absent, id)
		}
	}
	return f
}

// everywhere covers all hosts: rules and groups come to a host with the ports that move there.
func everywhere(fabric.HostID) bool { return true }

func (v *view) policies() []fabric.Policy {
	out := sorted(v.snap.Policies)
	for i := range out {
		out[i].Status = v.force(out[i].Metadata.Revision, everywhere)
	}
	return out
}

func (v *view) groups() []fabric.Group {
	out := sorted(v.snap.Groups)
	for i := range out {
		out[i].Status = v.force(out[i].Metadata.Revision, everywhere)
	}
	return out
}

func (v *view) profiles() []fabric.Profile {
	out := sorted(v.snap.Profiles)
	for i := range out {
		out[i].Status = v.force(out[i].Metadata.Revision, everywhere)
	}
	return out
}

// switches are all switches, with the hosts on which their newest settings are in force.
func (v *view) switches() []fabric.Switch {
	out := sorted(v.snap.Switches)
	for i := range out {
		sw := &out[i]
		f := v.force(sw.Metadata.Revision, sw.Covers)
		sw.Status = fabric.SwitchStatus{MTU: v.snap.SwitchMTU(sw), Hosts: f.Hosts, Absent: f.Absent}
		for _, p := range v.snap.Ports {
			if string(p.Spec.Switch) == sw.Metadata.Name {
				sw.Status.Ports++
			}
		}
	}
	return out
}

// ports are all ports, each as the host that holds it sees it.
func (v *view) ports() []fabric.Port {
	out := sorted(v.snap.Ports)
	seen := v.seen()
	for i := range out {
		out[i].Status = v.portStatus(&out[i], seen)
	}
	return out
}

// sighting is a port on one host.
type sighting struct {
	port fabric.PortID
	host fabric.HostID
}

// seen indexes what the hosts say about ports.
func (v *view) seen() map[sighting]fabric.PortStatus {
	seen := map[sighting]fabric.PortStatus{}
	for id, st := range v.statuses {
		for _, p := range st.Ports {
			seen[sighting{p.Name, id}] = p
		}
	}
	return seen
}

// portStatus is the word of the host that holds the port; the location decides who that is.
func (v *view) portStatus(p *fabric.Port, seen map[sighting]fabric.PortStatus) fabric.PortStatus {
	id := fabric.PortID(p.Metadata.Name)
	loc, held := v.snap.Locations[id]
	if !held || loc.Host == "" {
		return fabric.PortStatus{Name: id, State: fabric.PortAbsent, Reason: "plugged in nowhere"}
	}
	st, ok := seen[sighting{id, loc.Host}]
	if !ok {
		st = fabric.PortStatus{Name: id, State: fabric.PortAbsent, Reason: fmt.Sprintf("it has no device on host %s, which holds it", loc.Host)}
		if _, reports := v.statuses[loc.Host]; !reports {
			st.State, st.Reason = fabric.PortUnknown, fmt.Sprintf("host %s does not report; what is in force there goes on", loc.Host)
		}
	}
	st.Host, st.Epoch = loc.Host, loc.Epoch
	return st
}

// status is the fabric on one page.
func (v *view) status(self fabric.HostID, etcd api.Etcd) api.Status {
	st := api.Status{
		Host: self, Revision: v.changed(), Etcd: etcd, Hosts: v.hosts(), Switches: v.switches(), Ports: v.ports(),
		Moves: []fabric.Move{}, Problems: []api.Problem{},
	}
	for _, m := range v.moves() {
		if !api.Over(m.Status.Phase) {
			st.Moves = append(st.Moves, m)
		}
	}
	up := 0
	for i := range st.Hosts {
		if st.Hosts[i].Status.Alive {
			up++
		}
	}
	st.Tunnels = api.Tunnels{Up: up * (up - 1), Total: len(st.Hosts) * (len(st.Hosts) - 1)}
	st.Problems = append(st.Problems, v.problems(&st)...)
	st.Healthy = len(st.Problems) == 0
	return st
}

// changed is the revision of the last change of the wanted state; etcd's own revision rises with every status, too.
func (v *view) changed() fabric.Revision {
	var last fabric.Revision
	for _, o := range objects(v.snap) {
		last = max(last, o.Meta().Revision)
	}
	for _, l := range v.snap.Locations {
		last = max(last, l.Revision)
	}
	for _, st := range v.statuses { // what was deleted has no revision of its own
		last = max(last, st.Generation)
	}
	return last
}

// problems finds everything that keeps the fabric from being healthy, each with the next step.
func (v *view) problems(st *api.Status) []api.Problem {
	var out []api.Problem
	if v.stale != nil {
		out = append(out, api.Problem{Object: "etcd", Message: v.staleness() + ", and traffic goes on", Next: "look at the members below; a majority must run"})
	}
	for _, m := range st.Etcd.Members {
		if !m.Healthy {
			out = append(out, api.Problem{Object: "etcd/" + m.Name, Message: fmt.Sprintf("etcd member %s cannot serve: %s", m.Name, m.Reason), Next: v.nextOfMember(m.Name, st.Etcd.CanLose)})
		}
	}
	if len(st.Etcd.Members) > 0 && st.Etcd.CanLose < 0 {
		out = append(out, api.Problem{Object: "etcd", Message: "etcd has no majority: nothing can be changed until it has; traffic goes on", Next: "start the missing members"})
	}
	for i := range st.Hosts {
		out = append(out, hostProblems(&st.Hosts[i], v)...)
	}
	for i := range st.Ports {
		out = append(out, portProblems(&st.Ports[i])...)
	}
	return out
}

// nextOfMember is what to do about a member of etcd that does not serve: where its host is well and there is no majority, it
// lacks the others.
func (v *view) nextOfMember(name string, canLose int) string {
	if _, reports := v.statuses[fabric.HostID(name)]; reports && canLose < 0 {
		return "start the other members: a majority must run"
	}
	return onHost(fabric.HostID(name), "systemctl status weft")
}

// hostProblems are the problems of one host.
func hostProblems(h *fabric.Host, v *view) []api.Problem {
	var out []api.Problem
	id := fabric.HostID(h.Metadata.Name)
	object := "host/" + h.Metadata.Name
	for _, p := range h.Status.Problems {
		message, next, found := strings.Cut(p, "; ")
		if !found {
			next = onHost(id, "weft doctor")
		}
		out = append(out, api.Problem{Object: object, Message: message, Next: next})
	}
	_, reports := v.statuses[id]
	if reports && !h.Status.Ready && len(h.Status.Problems) == 0 {
		out = append(out, api.Problem{Object: object, Message: fmt.Sprintf("not everything wanted is in force yet (generation %d)", h.Status.Generation), Next: "wait: weft status --wait; if it stays: " + onHost(id, "weft doctor")})
	}
	if reports && v.alive != nil && !h.Status.Alive {
		out = append(out, api.Problem{Object: object, Message: "reports to etcd, but gossip does not reach it", Next: "check the underlay for UDP and TCP on the gossip port"})
	}
	return out
}

// portProblems are the problems of one port: one that a host holds but that is not active there.
func portProblems(p *fabric.Port) []api.Problem {
	switch p.Status.State {
	case fabric.PortActive, fabric.PortStaged, fabric.PortRelayed:
		return nil
	case fabric.PortAbsent:
		if p.Status.Host == "" {
			return nil // plugged in nowhere is not a fault
		}
	}
	reason := p.Status.Reason
	if reason == "" {
		reason = "no reason reported"
	}
	return []api.Problem{{
		Object: "port/" + p.Metadata.Name, Message: fmt.Sprintf("%s on %s: %s", p.Status.State, p.Status.Host, reason),
		Next: "weft describe port " + p.Metadata.Name,
	}}
}
