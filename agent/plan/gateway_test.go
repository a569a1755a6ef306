package plan_test

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// inner is fleet with switch blue internal, and with the hosts' own ports on it.
func inner() *fabric.Snapshot {
	s := fleet()
	s.Switches["blue"].Spec.Type = fabric.Internal
	for i, host := range []fabric.HostID{"h1", "h2"} {
		name := fabric.HostPort(host, "blue")
		s.Ports[name] = &fabric.Port{Metadata: fabric.Metadata{Name: string(name), Revision: 14}, Spec: fabric.PortSpec{
			Role: fabric.RoleHost, Switch: "blue", Host: host, MAC: fabric.MAC{2, 0, 0, 0, 1, byte(i)},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 10, 0, byte(254 - i)})}}}
		s.Locations[name] = fabric.Location{Port: name, Switch: "blue", Host: host, Epoch: 3}
	}
	return s
}

// onBlue is what a host knows that has joined switch blue.
func onBlue(host fabric.HostID) plan.Local {
	return plan.Local{VTEP: vtep[host], Attachments: map[fabric.PortID]plan.Attachment{
		fabric.HostPort(host, "blue"): {Device: "wp-blue", Kind: datapath.HostEnd}}}
}

func TestTheGatewayIsTheOwnPortOfEveryHost(t *testing.T) {
	gateway := datapath.FDBKey{VNI: 7, MAC: fabric.GatewayMAC(7)}
	for _, host := range []fabric.HostID{"h1", "h2"} {
		got := plan.Wanted(inner(), host, onBlue(host))
		if e := got.FDB[gateway]; e != (datapath.FDB{Device: "wp-blue", Epoch: 3}) {
			t.Errorf("on %s the gateway is %+v", host, e)
		}
		for _, a := range []netip.Addr{netip.MustParseAddr("10.10.0.1"), fabric.GatewayLinkLocal(7)} {
			if mac := got.Neighbors[datapath.NeighborKey{VNI: 7, Addr: a}]; mac != fabric.GatewayMAC(7) {
				t.Errorf("on %s, %s has MAC %s", host, a, mac)
			}
		}
		if !got.Switches[7].Services {
			t.Errorf("on %s, guests' calls for services go to all", host)
		}
		p := got.Ports["wp-blue"]
		if p.Gate != datapath.Open || p.Kind != datapath.HostEnd || p.Guards&(datapath.GuardIP|datapath.GuardRA|datapath.GuardDHCPServer) != 0 ||
			p.Guards&datapath.GuardMAC == 0 || p.Guards&datapath.GuardARP == 0 {
			t.Errorf("on %s the host's port is %+v", host, p)
		}
	}
}

func TestWithoutAPortOfItsOwnAHostIsNoGateway(t *testing.T) {
	held := inner()
	held.Locations["host-h1-blue"] = fabric.Location{Port: "host-h1-blue", Switch: "blue", Host: "h2", Epoch: 4}
	private := inner()
	private.Switches["blue"].Spec.Type = fabric.Private
	for claim, s := range map[string]*fabric.Snapshot{"another holds it": held, "the switch is private": private} {
		t.Run(claim, func(t *testing.T) {
			got := plan.Wanted(s, "h1", onBlue("h1"))
			if e, there := got.FDB[datapath.FDBKey{VNI: 7, MAC: fabric.GatewayMAC(7)}]; there {
				t.Errorf("the gateway is %+v", e)
			}
		})
	}
	if got := plan.Wanted(private, "h1", onBlue("h1")); got.Switches[7].Services || got.Neighbors[datapath.NeighborKey{VNI: 7, Addr: netip.MustParseAddr("10.10.0.1")}] != (fabric.MAC{}) {
		t.Errorf("a private switch has a gateway or services: %+v", got)
	}
}

func TestAHostsGuardsAreItsOwnToSet(t *testing.T) {
	s, on := inner(), true
	s.Ports["host-h1-blue"].Spec.Guards.IP = &on
	if p := plan.Wanted(s, "h1", onBlue("h1")).Ports["wp-blue"]; p.Guards&datapath.GuardIP == 0 {
		t.Errorf("the guard that the port asks for is off: %+v", p)
	}
}
