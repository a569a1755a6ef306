package store_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// with changes a port.
func with(p *fabric.Port, change func(*fabric.PortSpec)) *fabric.Port {
	change(&p.Spec)
	return p
}

func addresses(list ...string) []netip.Addr {
	out := []netip.Addr{}
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestWhatCannotBeAppliedSaysWhy(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	mac := fabric.MAC{0x52, 0x54, 0, 0, 0, 1}
	internal := newSwitch("inner", "10.30.0.0/24")
	internal.Spec.Type = fabric.Internal
	apply(t, s, newHost("h1", "10.240.0.1"), newSwitch("blue", "10.10.0.0/24"), newSwitch("tiny", "10.20.0.0/30"), internal, newSwitch("free"),
		with(newPort("web-1", "blue"), func(p *fabric.PortSpec) { p.MAC, p.Addresses = mac, addresses("10.10.0.5") }), newPort("only", "tiny"))
	for name, c := range map[string]struct {
		object fabric.Object
		want   string
		is     error
	}{
		"a MAC that has an owner":            {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.MAC = mac }), "spec.mac: 52:54:00:00:00:01 belongs to web-1", fabric.ErrConflict},
		"a MAC allowed to another port":      {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.MACs = &fabric.MACs{Allowed: []fabric.MAC{mac}} }), "spec.macs.allowed[0]: 52:54:00:00:00:01 belongs to web-1", fabric.ErrConflict},
		"a MAC on another switch":            {with(newPort("x", "free"), func(p *fabric.PortSpec) { p.MAC = mac }), "belongs to web-1", fabric.ErrConflict},
		"an address that has an owner":       {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.10.0.5") }), "spec.addresses[0]: 10.10.0.5 belongs to web-1", fabric.ErrConflict},
		"an address outside":                 {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.11.0.5") }), "10.11.0.5 is outside 10.10.0.0/24 of switch blue", fabric.ErrInvalid},
		"the network address":                {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.10.0.0") }), "is the network address", fabric.ErrInvalid},
		"the broadcast address":              {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.10.0.255") }), "is the broadcast address", fabric.ErrInvalid},
		"the gateway of an internal switch":  {with(newPort("x", "inner"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.30.0.1") }), "is the gateway", fabric.ErrInvalid},
		"a full subnet":                      {newPort("x", "tiny"), "the pool of subnet 10.20.0.0/30 is exhausted", fabric.ErrConflict},
		"a switch that does not exist":       {newPort("x", "bleu"), `there is no switch "bleu": did you mean "blue"?`, fabric.ErrInvalid},
		"a host that does not exist":         {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.Host = "nowhere" }), `spec.host: there is no host "nowhere": create it first`, fabric.ErrInvalid},
		"a profile that does not exist":      {with(newPort("x", "blue"), func(p *fabric.PortSpec) { p.Profile = "gold" }), `spec.profile: there is no profile "gold"`, fabric.ErrInvalid},
		"a port on two switches":             {newPort("web-1", "free"), "the port is on switch blue", fabric.ErrConflict},
		"an overlapping subnet":              {newSwitch("x", "10.10.0.128/25"), "10.10.0.128/25 overlaps 10.10.0.0/24 of switch blue", fabric.ErrConflict},
		"a VNI that has an owner":            {change(newSwitch("x"), func(s *fabric.SwitchSpec) { s.VNI = 10001 }), "spec.vni: 10001 belongs to ", fabric.ErrConflict},
		"another VNI for a switch in use":    {change(newSwitch("blue", "10.10.0.0/24"), func(s *fabric.SwitchSpec) { s.VNI = 99 }), "the switch has 1 ports, which would lose one another", fabric.ErrConflict},
		"a subnet that leaves a port behind": {newSwitch("blue", "10.12.0.0/24"), "port web-1 has 10.10.0.5, which would be outside", fabric.ErrConflict},
		"an MTU that fits no host":           {change(newSwitch("x"), func(s *fabric.SwitchSpec) { s.MTU = 1500 }), "1500 does not fit host h1, whose underlay of 1500 bytes has room for 1450", fabric.ErrInvalid},
		"a tunnel end point twice":           {newHost("h2", "10.240.0.1"), "spec.vtep: 10.240.0.1 belongs to h1", fabric.ErrConflict},
		"a move":                             {&fabric.Move{TypeMeta: head(fabric.KindMove), Metadata: meta("m"), Spec: fabric.MoveSpec{VM: "a", Ports: []fabric.PortID{"a"}, From: "h1", To: "h2"}}, "made by migrating", fabric.ErrInvalid},
		"an old revision":                    {at(newPort("web-1", "blue"), 1), "it was changed since you read it (revision 1, now ", fabric.ErrConflict},
		"a revision of nothing":              {at(newPort("new", "blue"), 7), "it was deleted since you read it at revision 7", fabric.ErrConflict},
		"a bad name":                         {newPort("WEB", "blue"), "metadata.name", fabric.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Apply(t.Context(), []fabric.Object{c.object}, store.ApplyOptions{})
			if err == nil {
				t.Fatal("it was applied")
			}
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error\n  %v\nis not %v that says\n  %s", err, c.is, c.want)
			}
		})
	}
	if snap, err := s.Snapshot(t.Context()); err != nil || len(snap.Ports) != 2 || len(snap.Switches) != 4 || len(snap.Hosts) != 1 {
		t.Errorf("something was left behind: %+v (%v)", snap, err)
	}
}

func change(s *fabric.Switch, fn func(*fabric.SwitchSpec)) *fabric.Switch {
	fn(&s.Spec)
	return s
}

func at(o fabric.Object, rev fabric.Revision) fabric.Object {
	o.Meta().Revision = rev
	return o
}

func TestAnApplyIsWrittenWhollyOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	_, err := s.Apply(t.Context(), []fabric.Object{
		newSwitch("blue", "10.10.0.0/24"), newPort("a", "blue"), newPort("b", "red"), newPort("c", "green"), newPort("a", "blue"),
	}, store.ApplyOptions{})
	if !errors.Is(err, fabric.ErrInvalid) || !strings.Contains(err.Error(), "port/a is given twice") {
		t.Errorf("error %v does not name the port that is given twice", err)
	}
	_, err = s.Apply(t.Context(), []fabric.Object{newSwitch("blue", "10.10.0.0/24"), newPort("a", "blue"), newPort("b", "red"), newPort("c", "green")}, store.ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), "port/b") || !strings.Contains(err.Error(), "port/c") {
		t.Errorf("error %v does not name both ports", err)
	}
	if snap, err := s.Snapshot(t.Context()); err != nil || len(snap.Switches) != 0 {
		t.Errorf("something was written: %+v (%v)", snap, err)
	}
}

func TestValuesAreFreeAgainAfterAChangeOrDelete(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newSwitch("blue", "10.10.0.0/24"), with(newPort("a", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.10.0.9") }))
	before, err := s.Get(t.Context(), fabric.KindPort, "a")
	if err != nil {
		t.Fatal(err)
	}
	mac := before.(*fabric.Port).Spec.MAC
	apply(t, s, with(newPort("a", "blue"), func(p *fabric.PortSpec) {
		p.Addresses, p.MAC = addresses(), fabric.MAC{0x52, 0x54, 0, 9, 9, 9}
	}))
	apply(t, s, with(newPort("b", "blue"), func(p *fabric.PortSpec) { p.Addresses, p.MAC = addresses("10.10.0.9"), mac }))
	for _, what := range []struct {
		kind fabric.Kind
		name string
	}{{fabric.KindPort, "a"}, {fabric.KindPort, "b"}, {fabric.KindSwitch, "blue"}} {
		if _, err := s.Delete(t.Context(), what.kind, what.name); err != nil {
			t.Fatal(err)
		}
	}
	left, err := store.Raw(s).Get(t.Context(), "/weft/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range left.Kvs {
		if k := string(kv.Key); k != "/weft/v1/incarnation" && !(k == "/weft/v1/index/subnets" && string(kv.Value) == "{}") {
			t.Errorf("%s = %s was left behind", kv.Key, kv.Value)
		}
	}
	r := apply(t, s, newSwitch("red", "10.10.0.0/16"))
	if vni := r.Objects[0].Object.(*fabric.Switch).Spec.VNI; vni != 10001 {
		t.Errorf("VNI %d, want the lowest, 10001, again", vni)
	}
}

func TestWhatIsInUseIsKept(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	gold := &fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("gold")}
	objects := []fabric.Object{newHost("h1", "10.240.0.1"), newHost("h2", "10.240.0.2"), gold, newSwitch("blue")}
	for i := range 12 {
		objects = append(objects, with(newPort(fmt.Sprintf("p%02d", i), "blue"), func(p *fabric.PortSpec) { p.Host, p.Profile = "h1", "gold" }))
	}
	apply(t, s, objects...)
	loc := fabric.Location{Port: "p00", Switch: "blue", Host: "h2", Epoch: 1, Grant: &fabric.Grant{Move: "m1", To: "h1", Epoch: 2, Rollback: 3}}
	move := &fabric.Move{TypeMeta: head(fabric.KindMove), Metadata: meta("m1"), Spec: fabric.MoveSpec{VM: "p00", Ports: []fabric.PortID{"p00"}, From: "h2", To: "h1"}, Status: fabric.MoveStatus{Phase: fabric.MoveGranted}}
	if err := s.UpdateLocations(t.Context(), move, loc); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind fabric.Kind
		name string
		want string
		is   error
	}{
		"a switch with ports":            {fabric.KindSwitch, "blue", "it has 12 ports (p00, p01, p02, p03, p04, p05, p06, p07, p08, p09 and 2 more): delete them first", fabric.ErrConflict},
		"a host that ports want":         {fabric.KindHost, "h1", "12 ports (p00", fabric.ErrConflict},
		"a host that holds a port":       {fabric.KindHost, "h2", "it is wanted by, or holds, port p00", fabric.ErrConflict},
		"a profile that ports use":       {fabric.KindProfile, "gold", "it is used by 12 ports", fabric.ErrConflict},
		"a port that moves":              {fabric.KindPort, "p00", "move m1 is taking it to host h1", fabric.ErrConflict},
		"a move that runs":               {fabric.KindMove, "m1", "it is granted", fabric.ErrConflict},
		"something that was never there": {fabric.KindPort, "nope", "there is none", fabric.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Delete(t.Context(), c.kind, c.name)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error\n  %v\nis not %v that says\n  %s", err, c.is, c.want)
			}
		})
	}
}

func TestLocationsAreComparedAndSwapped(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	apply(t, s, newSwitch("blue"), newPort("a", "blue"), newPort("b", "blue"))
	never, err := s.GetLocation(t.Context(), "a")
	if err != nil || never.Revision != 0 || never.Switch != "blue" {
		t.Fatalf("location %+v (%v)", never, err)
	}
	if err := s.UpdateLocations(t.Context(), nil, fabric.Location{Port: "a", Switch: "blue", Host: "h1", Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	held, err := s.GetLocation(t.Context(), "a")
	if err != nil || held.Host != "h1" || held.Revision == 0 {
		t.Fatalf("location %+v (%v)", held, err)
	}
	stale := held
	stale.Revision--
	b := fabric.Location{Port: "b", Switch: "blue", Host: "h1", Epoch: 1}
	err = s.UpdateLocations(t.Context(), nil, b, stale)
	if !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "location/blue/a is at revision") {
		t.Errorf("error %v does not name the record that differs", err)
	}
	if all, err := s.ListLocations(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("locations %+v (%v): half of a refused change was written", all, err)
	}
	if err := s.UpdateLocations(t.Context(), nil, b, held); err != nil {
		t.Error(err)
	}
	if _, err := s.GetLocation(t.Context(), "nope"); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("error %v is not ErrNotFound", err)
	}
	if err := s.UpdateLocations(t.Context(), nil, b, b); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("one record twice: %v", err)
	}
}

func TestManyObjectsAreOneChange(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	objects := []fabric.Object{newSwitch("blue", "10.0.0.0/16", "fd00::/64")}
	for i := range 1000 {
		objects = append(objects, newPort(fmt.Sprintf("p%d", i), "blue"))
	}
	r := apply(t, s, objects...)
	for _, o := range r.Objects {
		if o.Object.Meta().Revision != r.Revision {
			t.Fatalf("%s is at revision %d, the change at %d", fabric.Ref(o.Object), o.Object.Meta().Revision, r.Revision)
		}
	}
	if again := apply(t, s, objects...); outcomes(again) != strings.Repeat("unchanged ", 1000)+"unchanged" || again.Revision != r.Revision {
		t.Error("the second apply changed something")
	}
	last := r.Objects[1000].Object.(*fabric.Port)
	if want := addresses("10.0.3.233", "fd00::3e9"); last.Spec.Addresses[0] != want[0] || last.Spec.Addresses[1] != want[1] {
		t.Errorf("the last port has %v, want %v", last.Spec.Addresses, want)
	}
}

func TestALinkLocalAddressLiesInEverySubnet(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	port := with(newPort("a", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("10.10.0.5", "fe80::1234") })
	apply(t, s, newSwitch("blue", "10.10.0.0/24"), port)
	apply(t, s, newSwitch("blue", "10.10.0.0/16"))
	other := with(newPort("b", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("fe80::1234") })
	if _, err := s.Apply(t.Context(), []fabric.Object{other}, store.ApplyOptions{}); !errors.Is(err, fabric.ErrConflict) {
		t.Errorf("two ports of a switch have one link-local address: %v", err)
	}
	if _, err := s.Apply(t.Context(), []fabric.Object{with(newPort("b", "blue"), func(p *fabric.PortSpec) { p.Addresses = addresses("169.254.0.5") })}, store.ApplyOptions{}); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("an IPv4 address outside is accepted: %v", err)
	}
}

func TestAllowedMACsBelongToThePortAsLongAsItListsThem(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	one, two := fabric.MAC{2, 0, 0, 0, 0, 1}, fabric.MAC{2, 0, 0, 0, 0, 2}
	listing := func(macs ...fabric.MAC) *fabric.Port {
		return with(newPort("web-1", "blue"), func(p *fabric.PortSpec) { p.MACs = &fabric.MACs{Allowed: macs} })
	}
	taking := func(mac fabric.MAC) *fabric.Port {
		return with(newPort("thief", "blue"), func(p *fabric.PortSpec) { p.MAC = mac })
	}
	apply(t, s, newSwitch("blue", "10.10.0.0/24"), listing(one, two))
	for _, mac := range []fabric.MAC{one, two} {
		if _, err := s.Apply(t.Context(), []fabric.Object{taking(mac)}, store.ApplyOptions{}); !errors.Is(err, fabric.ErrConflict) {
			t.Fatalf("%s of web-1 is taken: %v", mac, err)
		}
	}
	apply(t, s, listing(two))
	apply(t, s, taking(one))
	if _, err := s.Delete(t.Context(), fabric.KindPort, "web-1"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, with(newPort("next", "blue"), func(p *fabric.PortSpec) { p.MAC = two }))
}
