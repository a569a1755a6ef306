package store_test

import (
	"testing"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// TestAHostsWayOutIsGivenAwayOnce writes minima of ports that a host holds, by their own settings and by a profile's.
func TestAHostsWayOutIsGivenAwayOnce(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	l := location.New(s)
	host := newHost("h1", "192.0.2.1")
	host.Spec.Capacity = 1e9
	gold := &fabric.Profile{TypeMeta: head(fabric.KindProfile), Metadata: meta("gold")}
	least := func(r fabric.Rate) func(*fabric.PortSpec) {
		return func(p *fabric.PortSpec) { p.Rate = &fabric.Rates{Out: &r} }
	}
	golden := func(p *fabric.PortSpec) { p.Profile = "gold" }
	apply(t, s, host, newSwitch("blue"), gold, newPort("a", "blue"), with(newPort("b", "blue"), golden))
	for _, port := range []fabric.PortID{"a", "b"} {
		if _, err := l.Claim(t.Context(), port, "h1"); err != nil {
			t.Fatal(err)
		}
	}
	conflict(t, s, with(newPort("a", "blue"), least(fabric.Rate{Min: 900e6})), "900M for port a make 1050M, 50M too much")
	apply(t, s, with(newPort("a", "blue"), least(fabric.Rate{Min: 500e6})))
	gold.Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Min: 400e6}}
	conflict(t, s, gold, "500M for port a + 400M for port b make 1050M")
	gold.Spec.Rate.Out = &fabric.Rate{Weight: 5}
	conflict(t, s, gold, "port a has a minimum in bits a second and port b a weight")
	gold.Spec.Rate.Out = &fabric.Rate{Min: 350e6}
	apply(t, s, gold)
	less := newSwitch("blue")
	less.Spec.QoS = &fabric.QoS{DefaultFlow: &fabric.Least{Min: 101e6}}
	conflict(t, s, less, "101M for ports without a minimum")
	apply(t, s, with(newPort("elsewhere", "blue"), least(fabric.Rate{Min: 900e6})))
}
