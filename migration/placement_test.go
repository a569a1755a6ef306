package migration

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// crowd is fleet with a third host, VMs b and c on h1 and d on h2.
func crowd() (*fabric.Snapshot, map[fabric.HostID]fabric.HostStatus) {
	s, st := fleet()
	third := *s.Hosts["h2"]
	s.Hosts["h3"], st["h3"] = &third, fabric.HostStatus{Ready: true, Moves: Forms()}
	for vm, host := range map[string]fabric.HostID{"b": "h1", "c": "h1", "d": "h2"} {
		id := fabric.PortID(vm)
		s.Ports[id] = &fabric.Port{Metadata: fabric.Metadata{Name: vm}, Spec: fabric.PortSpec{Switch: "blue"}}
		s.Locations[id] = fabric.Location{Port: id, Host: host, Epoch: 1}
	}
	return s, st
}

// brief is a list of placements as text.
func brief(all []Placement) (out []string) {
	for _, p := range all {
		text := fmt.Sprintf("%s:%s", p.VM, p.To)
		for _, f := range p.Against {
			text += " " + f.Code
		}
		out = append(out, text)
	}
	return out
}

func TestCandidates(t *testing.T) {
	s, st := crowd()
	if got, want := brief(Candidates(s, st, "a")), []string{"a:h3", "a:h2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q: the emptiest host first, and not where it is", got, want)
	}
	delete(st, "h3")
	if got, want := brief(Candidates(s, st, "a")), []string{"a:h2", "a:h3 host-silent"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q: a host where it cannot go comes last, and says why", got, want)
	}
	if got, want := brief(Candidates(s, st, "x")), []string{"x:h2 vm-unknown", "x:h1 vm-unknown", "x:h3 vm-unknown host-silent"}; !slices.Equal(got, want) {
		t.Errorf("of a VM that is not: %q, want %q", got, want)
	}
}

func TestEvacuate(t *testing.T) {
	for _, c := range []struct {
		name    string
		spoil   func(*fabric.Snapshot, map[fabric.HostID]fabric.HostStatus)
		from    fabric.HostID
		allowed []fabric.HostID
		want    []string
	}{
		{"VMs go where there are fewest, counting those that go there before them", nil, "h1", nil, []string{"a:h3", "b:h2", "c:h2"}},
		{"a guest that no agent can speak to stays", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			here := st["h1"]
			here.Ports = []fabric.PortStatus{{Name: "b"}, {Name: "c", Monitor: true}}
			st["h1"] = here
			there := st["h3"]
			there.Receives = true
			st["h3"] = there
		}, "h1", []fabric.HostID{"h3"}, []string{"a:h3", "b: guest-not-driven", "c:h3"}},
		{"a guest stays where the only other host starts no machines", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) {
			here := st["h1"]
			here.Ports = []fabric.PortStatus{{Name: "c", Monitor: true}}
			st["h1"] = here
		}, "h1", []fabric.HostID{"h3"}, []string{"a:h3", "b:h3", "c: host-receives-nothing"}},
		{"only to allowed hosts", nil, "h1", []fabric.HostID{"h2"}, []string{"a:h2", "b:h2", "c:h2"}},
		{"a VM that cannot go stays, and says why", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Locations["b"] = fabric.Location{Host: "h1", Grant: &fabric.Grant{Move: "m", To: "h2"}}
		}, "h1", nil, []string{"a:h3", "b: move-running", "c:h2"}},
		{"nowhere to go", func(_ *fabric.Snapshot, st map[fabric.HostID]fabric.HostStatus) { delete(st, "h2"); delete(st, "h3") }, "h1", nil,
			[]string{"a: host-silent", "b: host-silent", "c: host-silent"}},
		{"no host is allowed that there is", nil, "h1", []fabric.HostID{"h9"}, []string{"a:", "b:", "c:"}},
		{"an empty host", nil, "h3", nil, nil},
		{"a host's own port stays", func(s *fabric.Snapshot, _ map[fabric.HostID]fabric.HostStatus) {
			s.Ports["host-h3-blue"] = &fabric.Port{Metadata: fabric.Metadata{Name: "host-h3-blue"}, Spec: fabric.PortSpec{Role: fabric.RoleHost, Switch: "blue", Host: "h3"}}
			s.Locations["host-h3-blue"] = fabric.Location{Host: "h3"}
		}, "h3", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, st := crowd()
			if c.spoil != nil {
				c.spoil(s, st)
			}
			if got := brief(Evacuate(s, st, c.from, c.allowed)); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
