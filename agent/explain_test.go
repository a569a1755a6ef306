package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/packet"
)

// explained is a fabric of two hosts: a and b on h1, c on h2, d nowhere, e on another switch.
func explained() *fabric.Snapshot {
	s := &fabric.Snapshot{
		Revision: 9, Hosts: map[fabric.HostID]*fabric.Host{}, Switches: map[fabric.SwitchID]*fabric.Switch{}, Ports: map[fabric.PortID]*fabric.Port{},
		Locations: map[fabric.PortID]fabric.Location{}, Policies: map[string]*fabric.Policy{}, Profiles: map[string]*fabric.Profile{}, Groups: map[string]*fabric.Group{},
	}
	for i, h := range []fabric.HostID{"h1", "h2"} {
		s.Hosts[h] = &fabric.Host{Metadata: fabric.Metadata{Name: string(h)}, Spec: fabric.HostSpec{VTEP: netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)})}}
	}
	for i, sw := range []fabric.SwitchID{"blue", "red"} {
		s.Switches[sw] = &fabric.Switch{Metadata: fabric.Metadata{Name: string(sw)}, Spec: fabric.SwitchSpec{VNI: fabric.VNI(100 + i)}}
	}
	for i, p := range []struct {
		name fabric.PortID
		sw   fabric.SwitchID
		host fabric.HostID
	}{{"a", "blue", "h1"}, {"b", "blue", "h1"}, {"c", "blue", "h2"}, {"d", "blue", ""}, {"e", "red", "h1"}} {
		s.Ports[p.name] = &fabric.Port{Metadata: fabric.Metadata{Name: string(p.name)}, Spec: fabric.PortSpec{
			Switch: p.sw, MAC: fabric.MAC{2, 0, 0, 0, 0, byte(i + 1)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})},
		}}
		if p.host != "" {
			s.Locations[p.name] = fabric.Location{Port: p.name, Switch: p.sw, Host: p.host, Epoch: 1}
		}
	}
	rule := fabric.Rule{Name: "no-dns", Weight: 1, Direction: fabric.Out, Action: fabric.Reject, Protocol: "udp", Remote: &fabric.End{Ports: []fabric.PortRange{{First: 53, Last: 53}}}}
	s.Policies["p"] = &fabric.Policy{Metadata: fabric.Metadata{Name: "p"}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{rule}}}
	s.Ports["a"].Spec.Policies = []string{"p"}
	s.Ports["b"].Spec.Policies = []string{"gone"}
	s.Ports["c"].Spec.Profile = "shut"
	s.Profiles["shut"] = &fabric.Profile{Metadata: fabric.Metadata{Name: "shut"}, Spec: fabric.ProfileSpec{DefaultAction: fabric.Deny}}
	return s
}

// vlans puts a and c on VLANs of their switch.
func vlans(s *fabric.Snapshot, a, c string) {
	s.Switches["blue"].Spec.VLANs = []fabric.SwitchVLAN{{ID: 10, VNI: 210}, {ID: 20, VNI: 220}, {ID: 100, VNI: 300}, {ID: 101, VNI: 301, Primary: 100, Mode: fabric.Isolated}}
	s.Ports["a"].Spec.VLAN, _ = fabric.ParseVLAN(a)
	s.Ports["c"].Spec.VLAN, _ = fabric.ParseVLAN(c)
}

// The gateway is the host itself, whichever it is; what is for other networks goes there, too.
func TestExplainKnowsTheGateway(t *testing.T) {
	s := explained()
	blue := s.Switches["blue"]
	blue.Spec.Type, blue.Spec.Subnets = fabric.Internal, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
	port := fabric.HostPort("h1", "blue")
	s.Ports[port] = &fabric.Port{Metadata: fabric.Metadata{Name: string(port)}, Spec: fabric.PortSpec{Switch: "blue", MAC: fabric.MAC{2, 0, 0, 0, 0, 9}, Role: fabric.RoleHost}}
	s.Locations[port] = fabric.Location{Port: port, Switch: "blue", Host: "h1", Epoch: 1}
	s.Ports["a"].Spec.Policies = nil
	for destination, want := range map[string]string{
		"8.8.8.8": "It would be delivered to host-h1-blue on h1.", "10.0.0.3": "It would be dropped on h2 at policy.in by default-in: policy_denied",
	} {
		r := api.TraceRequest{Source: "a", Destination: destination, Protocol: "udp", Port: 54, Explain: true}
		p, err := (&prober{}).Explain(s, r)
		if err != nil || !strings.HasPrefix(p.Sentence(), want) {
			t.Errorf("to %s: %v (%v), want %s", destination, p, err, want)
		}
	}
}

func TestExplainSaysWhatTheRulesMakeOfAPacket(t *testing.T) {
	const into = "port.in:pass guard:pass policy.out:pass "
	for _, c := range []struct {
		claim, to string
		port      uint16
		change    func(*fabric.Snapshot)
		way, end  string
	}{
		{"its own rules end it", "c", 53, nil, "port.in:pass guard:pass policy.out:drop", "dropped on h1 at policy.out by p/no-dns: policy_rejected"},
		{"the receiver's default ends it", "c", 54, nil, into + "fdb:hit encap:pass underlay.out:pass underlay.in:pass decap:pass fdb.local:hit policy.in:drop", "dropped on h2 at policy.in by default-in: policy_denied"},
		{"a policy is not known", "b", 54, nil, into + "fdb:hit policy.in:drop", "dropped on h1 at policy.in: policy_missing"},
		{"nobody has it", "d", 54, nil, into + "fdb:drop", "dropped on h1 at fdb: dst_unknown"},
		{"it is in another VLAN", "c", 54, func(s *fabric.Snapshot) { vlans(s, "10", "20") }, into + "fdb:drop", "dropped on h1 at fdb: dst_unknown"},
		{"a private VLAN keeps them apart", "c", 54, func(s *fabric.Snapshot) {
			vlans(s, "isolated:primary=100,secondary=101", "isolated:primary=100,secondary=101")
		}, into + "fdb:drop", "dropped on h1 at fdb: pvlan"},
		{"the other is promiscuous", "c", 53, func(s *fabric.Snapshot) {
			vlans(s, "isolated:primary=100,secondary=101", "promiscuous:primary=100,secondary=101")
			s.Ports["a"].Spec.Policies, s.Ports["c"].Spec.Profile = nil, ""
		}, into + "fdb:hit encap:pass underlay.out:pass underlay.in:pass decap:pass fdb.local:hit policy.in:pass port.out:deliver", "delivered to c on h2"},
		{"a trunk's rules about its VLAN end it", "c", 54, func(s *fabric.Snapshot) {
			vlans(s, "10", "trunk:native=20,allowed=10")
			s.Ports["c"].Spec.Profile, s.Ports["c"].Spec.Policies = "", []string{"ten"}
			s.Policies["ten"] = &fabric.Policy{Metadata: fabric.Metadata{Name: "ten"}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{
				{Name: "twenty", Weight: 2, Direction: fabric.In, Action: fabric.Allow, VLAN: 20}, {Name: "ten", Weight: 1, Direction: fabric.In, Action: fabric.Deny, VLAN: 10}}}}
		}, into + "fdb:hit encap:pass underlay.out:pass underlay.in:pass decap:pass fdb.local:hit policy.in:drop", "dropped on h2 at policy.in by ten/ten: policy_denied"},
		{"it is on another switch", "e", 54, nil, into + "fdb:drop", "dropped on h1 at fdb: dst_unknown"},
		{"delivered", "c", 54, func(s *fabric.Snapshot) { s.Ports["c"].Spec.Profile = "" }, into + "fdb:hit encap:pass underlay.out:pass underlay.in:pass decap:pass fdb.local:hit policy.in:pass port.out:deliver", "delivered to c on h2"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			s := explained()
			if c.change != nil {
				c.change(s)
			}
			from, to := s.Ports["a"].Spec, s.Ports[fabric.PortID(c.to)].Spec
			frame, err := packet.Craft(packet.Probe{Protocol: "udp", SourceMAC: from.MAC, DestinationMAC: to.MAC, Source: from.Addresses[0], Destination: to.Addresses[0], DestinationPort: c.port, Nonce: packet.NewNonce()})
			if err != nil {
				t.Fatal(err)
			}
			p, err := explain(s, api.TraceRequest{Source: "a", Destination: c.to, Protocol: "udp", Port: c.port, Explain: true}, frame)
			if err != nil {
				t.Fatal(err)
			}
			var way []string
			for _, h := range p.Hops {
				way = append(way, h.Stage.String()+":"+h.Result.String())
			}
			if got := strings.Join(way, " "); got != c.way {
				t.Errorf("way %s, want %s", got, c.way)
			}
			if p.Mode != tracing.ModeExplain || !strings.HasPrefix(p.Sentence(), "It would be "+c.end) {
				t.Errorf("%s, want %s", p.Sentence(), c.end)
			}
		})
	}
}
