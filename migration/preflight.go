package migration

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
)

// Finding is a reason why a move would not go well.
type Finding struct {
	// Code is fixed: "host-unknown", "mtu-small".
	Code string `json:"code"`
	// Object is what it is about, as kind/name.
	Object string `json:"object"`
	// What is the finding, Fix the next step, as sentences.
	What string `json:"what"`
	Fix  string `json:"fix"`
}

// String is the finding as one line.
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s (%s). %s", f.Object, f.What, f.Code, f.Fix)
}

// Preflight says what stands against moving a VM to a host, before anything is written or started; nothing means go.
// Statuses are those that the hosts report themselves; a host without one is not heard of.
func Preflight(snap *fabric.Snapshot, statuses map[fabric.HostID]fabric.HostStatus, vm string, to fabric.HostID) []Finding {
	p := &preflight{snap: snap, statuses: statuses, vm: vm, to: to, ports: location.MovingPorts(snap, vm)}
	if own := snap.Ports[fabric.PortID(vm)]; len(p.ports) == 0 && own != nil && own.IsHost() {
		p.find("host-port", "port/"+vm, fmt.Sprintf("it is the port of host %s itself, which does not move", own.Spec.Host), "Name a VM.")
	} else if len(p.ports) == 0 {
		p.find("vm-unknown", "vm/"+vm, "no port belongs to this VM", "See 'weft get ports' for the VMs there are.")
	}
	p.destination()
	from := p.source()
	if from != "" && p.snap.Hosts[to] != nil {
		p.between(from)
	}
	return p.found
}

// Driven says what keeps the agents from migrating the VM themselves, beside what Preflight finds: its manager may still migrate it.
// Of hosts that are not heard of, and of ports that are not there yet, it says nothing.
func Driven(snap *fabric.Snapshot, statuses map[fabric.HostID]fabric.HostStatus, vm string, to fabric.HostID) []Finding {
	p := &preflight{snap: snap, vm: vm}
	attached, driven, from := false, false, fabric.HostID("")
	for _, port := range location.MovingPorts(snap, vm) {
		from = cmp.Or(snap.Locations[port].Host, from)
		for _, at := range statuses[from].Ports {
			attached, driven = attached || at.Name == port, driven || at.Name == port && at.Monitor
		}
	}
	if attached && !driven {
		p.find("guest-not-driven", "vm/"+vm, fmt.Sprintf("the agent of host %s has no QMP socket of it", from),
			"Have its manager migrate it (libvirt: virsh migrate), or plug its port in with its socket (qmp).")
	}
	if st, heard := statuses[to]; heard && attached && driven && !st.Receives {
		p.find("host-receives-nothing", "host/"+string(to), "it has no hook that starts a machine for the guest", "Set hooks.incoming in the agent.yaml of that host.")
	}
	return p.found
}

// preflight collects findings.
type preflight struct {
	snap     *fabric.Snapshot
	statuses map[fabric.HostID]fabric.HostStatus
	vm       string
	to       fabric.HostID
	ports    []fabric.PortID
	found    []Finding
}

func (p *preflight) find(code, object, what, fix string) {
	p.found = append(p.found, Finding{code, object, what, fix})
}

// destination looks at the host that the VM is to come to.
func (p *preflight) destination() {
	if p.snap.Hosts[p.to] == nil {
		var names []string
		for id := range p.snap.Hosts {
			names = append(names, string(id))
		}
		slices.Sort(names)
		p.find("host-unknown", "host/"+string(p.to), "there is no such host", "The hosts are: "+strings.Join(names, ", ")+".")
		return
	}
	p.host(p.to)
	status, heard := p.statuses[p.to]
	for _, port := range p.ports {
		if lacks := p.snap.Lacking(p.snap.Ports[port], status.Capabilities); heard && len(lacks) > 0 {
			p.find("feature-missing", "port/"+string(port), fmt.Sprintf("it needs %s, which host %s does not have", strings.Join(lacks, ", "), p.to),
				"Bring the host to a release and kernel that has it, or take it out of the port's settings.")
		}
	}
	p.budget()
}

// budget looks whether the destination's way out has room for what the ports are to have of it for certain.
func (p *preflight) budget() {
	if !slices.ContainsFunc(p.ports, func(id fabric.PortID) bool { return p.snap.Settings(p.snap.Ports[id]).Least != (fabric.Least{}) }) {
		return
	}
	if err := p.snap.Budget(p.to, p.ports...).Err(); err != nil {
		what, fix, _ := strings.Cut(strings.TrimSuffix(err.Error(), ": "+fabric.ErrConflict.Error()), ": ")
		p.find("minimum-exceeds", "host/"+string(p.to), what, "Now "+fix+".")
	}
}

// host looks at either end.
func (p *preflight) host(id fabric.HostID) {
	status, heard := p.statuses[id]
	switch {
	case !heard:
		p.find("host-silent", "host/"+string(id), "its agent does not report", "Start weft-agent there, or bring its network back.")
	case !status.Ready:
		what := "it is not ready"
		if len(status.Problems) > 0 {
			what += ": " + strings.Join(status.Problems, "; ")
		}
		p.find("host-not-ready", "host/"+string(id), what, "See 'weft status'; the move can start when the host is ready.")
	}
}

// source looks at where the VM is, and returns it; empty when that is not one host.
func (p *preflight) source() fabric.HostID {
	var from fabric.HostID
	for _, port := range p.ports {
		object := "port/" + string(port)
		loc := p.snap.Locations[port]
		if g := loc.Grant; g != nil {
			p.find("move-running", object, fmt.Sprintf("move %s is taking it to host %s", g.Move, g.To), "Wait for it ('weft get moves'), or abort it.")
		}
		switch {
		case loc.Host == "":
			p.find("port-not-held", object, "no host holds it: the VM does not run", "Start the VM first; a VM that is off needs no migration.")
		case from != "" && loc.Host != from:
			p.find("ports-apart", object, fmt.Sprintf("it is on host %s while others of the VM are on %s", loc.Host, from), "Detach the port that is left over.")
		default:
			from = loc.Host
		}
	}
	switch from {
	case "":
		return ""
	case p.to:
		p.find("same-host", "vm/"+p.vm, "it runs on host "+string(p.to)+" already", "Name another host.")
		return ""
	}
	p.host(from)
	return from
}

// releases looks whether the agents of both hosts understand each other.
func (p *preflight) releases(from fabric.HostID) {
	source, heard := p.statuses[from]
	destination, too := p.statuses[p.to]
	if !heard || !too || source.Moves.Share(destination.Moves) {
		return
	}
	release := func(s fabric.HostStatus) string {
		return fmt.Sprintf("%s (moves in %s)", cmp.Or(s.Version, "an unnamed release"), s.Moves)
	}
	p.find("release-other", "host/"+string(p.to), fmt.Sprintf("its agent is of %s, which has no form of a move in common with that of host %s, %s",
		release(destination), from, release(source)), "Bring both hosts to one release: 'weft get hosts' shows what each has.")
}

// between looks at what the two hosts must have in common.
func (p *preflight) between(from fabric.HostID) {
	p.releases(from)
	source, destination := p.snap.Hosts[from], p.snap.Hosts[p.to]
	if source != nil && source.Spec.VTEP.Is4() != destination.Spec.VTEP.Is4() {
		p.find("underlay-family", "host/"+string(p.to), fmt.Sprintf("its tunnel end point %s and that of host %s, %s, are of different families", destination.Spec.VTEP, from, source.Spec.VTEP),
			"Give both hosts an underlay address of one family.")
	}
	seen := map[fabric.SwitchID]bool{}
	for _, port := range p.ports {
		name := p.snap.Ports[port].Spec.Switch
		if seen[name] {
			continue
		}
		seen[name] = true
		sw := p.snap.Switches[name]
		if sw == nil || sw.Spec.VNI == 0 {
			p.find("switch-missing", "switch/"+string(name), "port "+string(port)+" is on it, but it is not in force", "Create the switch, or repair it: 'weft describe switch "+string(name)+"'.")
			continue
		}
		if !sw.Covers(p.to) {
			p.find("switch-scope", "switch/"+string(name), fmt.Sprintf("port %s is on it, and it is not on host %s", port, p.to),
				fmt.Sprintf("Add the host: 'weft set switch %s hosts=[…]', or name one of %v.", name, sw.Spec.Hosts))
			continue
		}
		mtu, room := p.snap.SwitchMTU(sw), destination.Spec.UnderlayMTU-fabric.Overhead(destination.Spec.VTEP)
		if mtu > room {
			p.find("mtu-small", "host/"+string(p.to), fmt.Sprintf("packets of %d bytes on switch %s do not fit into its underlay of %d bytes, which leaves %d", mtu, name, destination.Spec.UnderlayMTU, room),
				fmt.Sprintf("Raise the underlay's MTU there to %d, or lower the switch's MTU.", mtu+fabric.Overhead(destination.Spec.VTEP)))
		}
	}
}
