package agent

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// transitions tells what became of each port since the last round.
func (k *keeper) transitions() {
	now := map[fabric.PortID]fabric.PortState{}
	for _, p := range k.ports() {
		now[p.Name] = p.State
		if k.states[p.Name] != p.State {
			k.tell("port."+string(p.State), "port/"+string(p.Name), portSentence(p, k.host))
		}
	}
	for name := range k.states {
		if _, still := now[name]; !still {
			k.tell("port.detached", "port/"+string(name), fmt.Sprintf("Port %s was taken off host %s.", name, k.host))
		}
	}
	k.states = now
}

// ports is every attached port as it is here, in the order of names.
func (k *keeper) ports() []fabric.PortStatus {
	var all []fabric.PortStatus
	for _, name := range slices.Sorted(maps.Keys(k.local.Attachments)) {
		all = append(all, k.port(name))
	}
	return all
}

// port is one attached port as it is here.
func (k *keeper) port(name fabric.PortID) fabric.PortStatus {
	a := k.local.Attachments[name]
	s := fabric.PortStatus{Name: name, Host: k.host, Device: a.Device, State: fabric.PortAbsent, Monitor: a.QMP != ""}
	if k.snap != nil {
		s.Epoch = k.snap.Locations[name].Epoch
	}
	p, there := k.have.Ports[a.Device]
	switch {
	case k.present[a.Device] == 0:
		s.Reason = fmt.Sprintf("device %s is gone: start the guest again, or detach the port", a.Device)
		return s
	case !there || p.Name != name:
		s.State, s.Reason = fabric.PortClosed, "its settings are not in force yet"
		return s
	}
	s.Epoch = p.Epoch
	switch p.Gate {
	case datapath.Open:
		s.State = fabric.PortActive
		if k.failure != nil && k.want != nil && k.want.Ports[a.Device].Policy != p.Policy {
			s.Reason = "it is still judged by the rules it had before: its new ones are not in force; see the problem of host " + string(k.host)
		}
	case datapath.Staged:
		s.State, s.Reason = fabric.PortStaged, "it opens with the guest's first frame"
	case datapath.Relay:
		s.State, s.Reason = fabric.PortRelayed, "the guest has left; late frames are sent on"
	default:
		s.State, s.Reason = fabric.PortClosed, k.closedBecause(name)
	}
	return s
}

// closedBecause says why nothing passes a port whose device is here.
func (k *keeper) closedBecause(name fabric.PortID) string {
	if k.snap == nil {
		return "the fabric's wanted state is not known yet"
	}
	port := k.snap.Ports[name]
	if port == nil {
		return "the port was deleted: detach its device"
	}
	if sw := k.snap.Switches[port.Spec.Switch]; sw == nil || sw.Spec.VNI == 0 {
		return fmt.Sprintf("switch %s is not there", port.Spec.Switch)
	}
	if !k.snap.Segments(port).Known {
		return fmt.Sprintf("switch %s does not list VLAN %s: apply the port again", port.Spec.Switch, k.snap.VLAN(port))
	}
	loc, held := k.snap.Locations[name]
	switch {
	case !held || loc.Host == "":
		return "no host holds the port yet"
	case loc.Host != k.host:
		return fmt.Sprintf("host %s holds the port at epoch %d", loc.Host, loc.Epoch)
	}
	return "its settings are not in force yet"
}

// portSentence says in words what a port has become.
func portSentence(p fabric.PortStatus, host fabric.HostID) string {
	text := fmt.Sprintf("Port %s on host %s (device %s) is %s", p.Name, host, p.Device, p.State)
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text + "."
}
