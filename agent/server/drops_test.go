package server_test

import (
	"slices"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// twoHosts are h1, which holds a and answers, and h2, which holds b and does not.
func twoHosts(generation fabric.Revision) *memory {
	m := newMemory()
	m.change(func(s *fabric.Snapshot) {
		s.Revision = 9
		s.Hosts["h1"] = &fabric.Host{Metadata: fabric.Metadata{Name: "h1"}}
		s.Hosts["h2"] = &fabric.Host{Metadata: fabric.Metadata{Name: "h2"}, Spec: fabric.HostSpec{API: "127.0.0.1:1"}}
		s.Switches["blue"] = &fabric.Switch{Metadata: fabric.Metadata{Name: "blue", Revision: 3}}
		for port, host := range map[fabric.PortID]fabric.HostID{"a": "h1", "b": "h2"} {
			s.Ports[port] = &fabric.Port{Metadata: fabric.Metadata{Name: string(port), Revision: 9}, Spec: fabric.PortSpec{Switch: "blue"}}
			s.Locations[port] = fabric.Location{Port: port, Host: host, Epoch: 1, Revision: 4}
			m.statuses[host] = fabric.HostStatus{Generation: generation, Ready: true, Ports: []fabric.PortStatus{{Name: port, State: fabric.PortActive}}}
		}
	})
	return m
}

func TestDropsOfAllHostsNameTheSilentOnes(t *testing.T) {
	c := dial(t, client.Options{Socket: serve(t, twoHosts(9), nil).Socket})
	d, err := c.Drops(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Items) != 1 || d.Items[0] != (tracing.Drop{Host: "h1", Port: "a", Reason: tracing.ReasonGuardSrcMAC, Packets: 3}) {
		t.Errorf("%+v", d.Items)
	}
	if len(d.Silent) != 1 || d.Silent[0].Host != "h2" || d.Silent[0].Error == "" {
		t.Errorf("silent: %+v", d.Silent)
	}
}

func TestStationsAreThoseOfPortsAndOfTheWire(t *testing.T) {
	m := twoHosts(9)
	m.change(func(s *fabric.Snapshot) {
		s.Ports["a"].Spec.MAC, s.Ports["b"].Spec.MAC = fabric.MAC{2, 10}, fabric.MAC{2, 1}
		s.Ports["b"].Spec.MACs = &fabric.MACs{Allowed: []fabric.MAC{{2, 2}}}
	})
	s, err := dial(t, client.Options{Socket: serve(t, m, nil).Socket}).Stations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Station{
		{Switch: "blue", MAC: fabric.MAC{2, 1}, Host: "h2", Port: "b"}, {Switch: "blue", MAC: fabric.MAC{2, 2}, Host: "h2", Port: "b"},
		{Switch: "blue", VNI: 7, MAC: fabric.MAC{2, 9}, Host: "h1", NIC: "eth1", AgoSeconds: 3}, {Switch: "blue", MAC: fabric.MAC{2, 10}, Host: "h1", Port: "a"},
	}
	if !slices.Equal(s.Items, want) {
		t.Errorf("%+v, want %+v", s.Items, want)
	}
	if len(s.Silent) != 1 || s.Silent[0].Host != "h2" {
		t.Errorf("silent: %+v", s.Silent)
	}
}

func TestWhyAddsHowFarTheHostsAre(t *testing.T) {
	for _, c := range []struct {
		claim      string
		generation fabric.Revision
		behind     bool
	}{{"all in force", 9, false}, {"one record short", 8, true}} {
		t.Run(c.claim, func(t *testing.T) {
			x, err := dial(t, client.Options{Socket: serve(t, twoHosts(c.generation), nil).Socket}).Why(t.Context(), api.TraceRequest{Source: "a", Destination: "b", Protocol: "tcp", Port: 22})
			if err != nil {
				t.Fatal(err)
			}
			if len(x.Reach) == 0 || x.Reach[0].Wanted != 9 || x.Reach[0].Behind() != c.behind {
				t.Fatalf("reach %+v", x.Reach)
			}
			found := false
			for _, cause := range x.Causes {
				found = found || cause.Fault == tracing.FaultBehind && cause.Host == "h1" && cause.Change != nil && cause.Change.Revision == 9
			}
			if found != c.behind {
				t.Errorf("causes %+v", x.Causes)
			}
		})
	}
}
