package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// on is the switch on these hosts alone.
func on(sw *fabric.Switch, hosts ...fabric.HostID) *fabric.Switch {
	sw.Spec.Hosts = hosts
	return sw
}

// conflict checks that objects are refused with these words.
func conflict(t *testing.T, s *store.Store, o fabric.Object, says string) {
	t.Helper()
	_, err := s.Apply(t.Context(), []fabric.Object{o}, store.ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), says) || !errors.Is(err, fabric.ErrConflict) && !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("%s: %v, want %q", fabric.Ref(o), err, says)
	}
}

func TestASwitchOfSomeHostsHasItsPortsThere(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	l := location.New(s)
	apply(t, s, newHost("h1", "192.0.2.1"), newHost("h2", "192.0.2.2"), on(newSwitch("blue", "10.10.0.0/24"), "h1"), newPort("a", "blue"))
	conflict(t, s, on(newSwitch("red"), "h9"), `there is no host "h9"`)
	conflict(t, s, on(newSwitch("red"), []fabric.HostID{}...), "names no host")
	elsewhere := func(p *fabric.PortSpec) { p.Host = "h2" }
	conflict(t, s, with(newPort("b", "blue"), elsewhere), "switch blue is not on host h2, but on host h1")
	if _, err := l.Claim(t.Context(), "a", "h2"); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "switch blue is not on host h2") {
		t.Errorf("the other host claims a port: %v", err)
	}
	if _, err := l.Claim(t.Context(), "a", "h1"); err != nil {
		t.Fatal(err)
	}
	move := &fabric.Move{Metadata: meta("m"), Spec: fabric.MoveSpec{VM: "a", To: "h2"}}
	if _, err := l.Grant(t.Context(), move); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "switch blue is not on host h2") {
		t.Errorf("a move leads off the switch: %v", err)
	}
	// It grows at once, and shrinks when nobody is left behind.
	apply(t, s, on(newSwitch("blue", "10.10.0.0/24"), "h1", "h2"), with(newPort("b", "blue"), elsewhere))
	if _, err := l.Grant(t.Context(), move); err != nil {
		t.Fatal(err)
	}
	conflict(t, s, on(newSwitch("blue", "10.10.0.0/24"), "h1"), "it would leave 2 ports (a on h2, b on h2)")
	conflict(t, s, on(newSwitch("blue", "10.10.0.0/24"), "h2"), "a on h1")
}

func TestAClaimDecidedBeforeTheSwitchLeftTheHostFails(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newHost("h1", "192.0.2.1"), newHost("h2", "192.0.2.2"), newSwitch("blue"), newPort("a", "blue"))
	claim := fabric.Location{Port: "a", Switch: "blue", Host: "h2", Epoch: 1}
	apply(t, s, on(newSwitch("blue"), "h1"))
	if err := s.UpdateLocations(t.Context(), nil, claim); !errors.Is(err, fabric.ErrConflict) {
		t.Errorf("the claim is written: %v", err)
	}
}

func TestHostsLeaveASwitchThatLeavesThem(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	green := func(hosts ...fabric.HostID) *fabric.Switch { return on(hosted("green", "10.20.0.0/24"), hosts...) }
	apply(t, s, newHost("h1", "192.0.2.1"), newHost("h2", "192.0.2.2"), green("h1", "h2"), hostPort("h1", "green"), hostPort("h2", "green"))
	apply(t, s, green("h1"))
	snap, err := s.Snapshot(t.Context())
	if err != nil || snap.Ports["host-h1-green"] == nil || snap.Ports["host-h2-green"] != nil {
		t.Errorf("h2's own port goes with its switch: %v %v", snap.Ports, err)
	}
	conflict(t, s, hostPort("h2", "green"), "switch green is not on host h2")
	if _, err := s.Delete(t.Context(), fabric.KindHost, "h1"); !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "among the hosts or uplinks of switch green") {
		t.Errorf("a host that a switch names is deleted: %v", err)
	}
	apply(t, s, hosted("green", "10.20.0.0/24"))
	if _, err := s.Delete(t.Context(), fabric.KindHost, "h1"); err != nil {
		t.Error(err)
	}
}

func TestLabelsChooseASwitchThatIsOnTheWantedHost(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	labelled := func(name string, hosts ...fabric.HostID) *fabric.Switch {
		sw := on(newSwitch(name), hosts...)
		sw.Metadata.Labels = map[string]string{"net": "prod"}
		return sw
	}
	p := with(newPort("a", ""), func(p *fabric.PortSpec) { p.Host, p.SwitchLabels = "h2", map[string]string{"net": "prod"} })
	result := apply(t, s, newHost("h1", "192.0.2.1"), newHost("h2", "192.0.2.2"), labelled("blue", "h1"), labelled("red", "h2"), p)
	i := slices.IndexFunc(result.Objects, func(a store.Applied) bool { return a.Object.Type().Kind == fabric.KindPort })
	if sw := result.Objects[i].Object.(*fabric.Port).Spec.Switch; sw != "red" {
		t.Errorf("the port is on %s", sw)
	}
}
