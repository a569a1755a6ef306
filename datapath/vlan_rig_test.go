package datapath_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// estate is a fabric of one switch whose ports are taps on the hosts of a world; what the hosts hold is planned from it.
type estate struct {
	*world
	snap   *fabric.Snapshot
	locals []plan.Local
	guests map[string]*tapGuest
}

// newEstate has two hosts, and a switch that lists these VLANs; the VNI of VLAN n is 1000+n.
func newEstate(t testing.TB, vlans ...fabric.SwitchVLAN) *estate {
	t.Helper()
	e := &estate{world: newWorld(t, 2, false), guests: map[string]*tapGuest{}}
	e.load()
	for i := range vlans {
		vlans[i].VNI = 1000 + fabric.VNI(vlans[i].ID)
	}
	e.snap = &fabric.Snapshot{
		Revision: 1, Hosts: map[fabric.HostID]*fabric.Host{}, Ports: map[fabric.PortID]*fabric.Port{}, Profiles: map[string]*fabric.Profile{},
		Switches:  map[fabric.SwitchID]*fabric.Switch{"sw": {Metadata: fabric.Metadata{Name: "sw"}, Spec: fabric.SwitchSpec{VNI: vni, MTU: 1500, VLANs: vlans}}},
		Locations: map[fabric.PortID]fabric.Location{}, Policies: map[string]*fabric.Policy{},
	}
	for i, h := range e.hosts {
		name := fabric.HostID(fmt.Sprintf("h%d", i))
		e.snap.Hosts[name] = &fabric.Host{Metadata: fabric.Metadata{Name: string(name)}, Spec: fabric.HostSpec{VTEP: h.vtep, UnderlayMTU: 1600}}
		e.locals = append(e.locals, plan.Local{VTEP: h.vtep, Attachments: map[fabric.PortID]plan.Attachment{}})
	}
	return e
}

// port plugs a guest into a host, with a VLAN setting as the command line takes it.
func (e *estate) port(host int, name, vlan string) *tapGuest {
	e.tb.Helper()
	n := len(e.guests) + 1
	g := e.bareTap(e.hosts[host], n, 0)
	g.port.Name = fabric.PortID(name)
	p := &fabric.Port{Metadata: fabric.Metadata{Name: name}, Spec: fabric.PortSpec{Switch: "sw", MAC: mac(n), Addresses: []netip.Addr{address4(n), address6(n)}}}
	e.snap.Ports[g.port.Name] = p
	e.snap.Locations[g.port.Name] = fabric.Location{Port: g.port.Name, Switch: "sw", Host: fabric.HostID(fmt.Sprintf("h%d", host)), Epoch: 1}
	e.locals[host].Attachments[g.port.Name] = plan.Attachment{Device: g.device, Kind: datapath.Tap}
	e.guests[name] = g
	e.set(name, vlan)
	return g
}

// set changes a port's VLAN setting.
func (e *estate) set(name, vlan string) {
	e.tb.Helper()
	v, err := fabric.ParseVLAN(vlan)
	if err != nil {
		e.tb.Fatal(err)
	}
	e.snap.Ports[fabric.PortID(name)].Spec.VLAN = v
}

// plan brings every host to what the fabric says, as its agent does, and fails unless the kernel then holds just that.
func (e *estate) plan() {
	e.tb.Helper()
	e.snap.Revision++
	for _, p := range e.snap.Ports {
		p.Metadata.Revision = e.snap.Revision
	}
	for i, h := range e.hosts {
		want := plan.Wanted(e.snap, fabric.HostID(fmt.Sprintf("h%d", i)), e.locals[i])
		for round := range 2 {
			have, err := h.Read(context.Background())
			if err != nil {
				e.tb.Fatal(err)
			}
			steps := plan.Changes(want, have)
			if round > 0 && len(steps) > 0 {
				e.tb.Fatalf("host %d does not hold what it was told; left to do: %+v", i, steps)
			}
			for _, step := range steps {
				h.apply(step)
			}
		}
	}
}

// tagged is a frame with 802.1Q tags, the outer one first.
func tagged(frame []byte, tags ...uint16) []byte {
	out := bytes.Clone(frame[:12])
	for _, tag := range tags {
		out = binary.BigEndian.AppendUint16(out, 0x8100)
		out = binary.BigEndian.AppendUint16(out, tag)
	}
	return append(out, frame[12:]...)
}

// gets fails unless the frame comes next.
func (g *tapGuest) gets(t testing.TB, frame []byte) {
	t.Helper()
	if got := g.receive(); !bytes.Equal(got, frame) {
		t.Errorf("%s got % x, want % x", g.port.Name, got[:min(len(got), 60)], frame[:min(len(frame), 60)])
	}
}

// quiet fails when a frame waits for any guest; it is asked when all frames have ended.
func (e *estate) quiet() {
	e.tb.Helper()
	e.conserved()
	for _, g := range e.guests {
		g.silent()
	}
}
