package lab

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// TestMigration has the tests of live migration by their numbers in the plan; docs/migration.md says what each is, where those are that
// are elsewhere, and what was measured. WEFT_MOVES, a duration, asks for the long form, with random moves for so long (make soak);
// WEFT_MOVES_DOCUMENT names a document that the figures are written into.
func TestMigration(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name string
		run  func(*rig, *testing.T)
	}{
		{"01-loss", (*rig).loss},
		{"02-blackout", (*rig).blackout},
		{"03-loss-at-load", (*rig).load},
		{"04-tcp", (*rig).tcp},
		{"05-established-flows", (*rig).established},
		{"06-new-connections", (*rig).newConnections},
		{"07-duplicates-and-reorder", (*rig).order},
		{"09-storm", (*rig).storm},
		{"10-policy-race", (*rig).policyRace},
		{"11-rollback", (*rig).rollback},
		{"12-post-copy", (*rig).postCopy},
		{"14-partition", (*rig).partition},
		{"16-limits-and-mirrors", (*rig).limits},
		{"17-mtu", (*rig).mtu},
		{"18-ipv6-and-multicast", (*rig).multicast},
		{"19-random", (*rig).random},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(r, t) })
	}
	r.figures.write(t)
}

// rig is a lab of three hosts with a prober "a" on h1 that most tests share, and what they measure.
type rig struct {
	*Lab
	t *testing.T
	// long is how long random moves are made in the long form; 0 in the short one.
	long    time.Duration
	figures *figures
}

// guestPause is how long a guest of the rig stands still in a move, besides what the move itself takes.
const guestPause = 30 * time.Millisecond

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, figures: &figures{document: os.Getenv("WEFT_MOVES_DOCUMENT")}}
	if s := os.Getenv("WEFT_MOVES"); s != "" {
		var err error
		if r.long, err = time.ParseDuration(s); err != nil {
			t.Fatalf("WEFT_MOVES is %q: %v", s, err)
		}
	}
	r.Lab = live(t, Options{Name: "rig", Hosts: 3, Underlay: Underlay{MTU: 9000}})
	network(t, r.Lab, "blue", 1500, netip.MustParsePrefix("10.10.0.0/16"), netip.MustParsePrefix("fd10:10::/64"))
	r.plug(t, GuestOptions{Name: "a", Host: "h1"})
	return r
}

// wholeLength is a long form in which everything is done as often as the plan asks for; of a shorter one it is a part.
const wholeLength = 10 * time.Minute

// times is how often something is done: so often in the short form, so often in the long one.
func (r *rig) times(short, long int) int {
	return max(short, int(float64(long)*min(1, float64(r.long)/float64(wholeLength))))
}

// machine is a guest under QEMU that the tests share, as it is now; on h2 at first.
func (r *rig) machine(t *testing.T) *Guest {
	t.Helper()
	g, err := r.Guest("vm")
	if errors.Is(err, fabric.ErrNotFound) {
		return r.plug(r.t, GuestOptions{Name: "vm", Host: "h2", Kind: QEMU})
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// plug adds a guest to blue that goes with the test.
func (r *rig) plug(t *testing.T, o GuestOptions) *Guest {
	t.Helper()
	if o.Switch == "" {
		o.Switch = "blue"
	}
	g, err := r.AddGuest(t.Context(), o, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if o.Name != "a" { // it may have the address of a guest that "a" has talked to a moment ago
		run(t, r.Lab, "a", "ip", "neigh", "flush", "all")
	}
	t.Cleanup(func() {
		if err := r.RemoveGuest(withoutCancel(t), o.Name); err != nil {
			t.Error(err)
		}
	})
	return g
}

// network makes a private switch and waits until it is in force everywhere.
func network(t *testing.T, l *Lab, name string, mtu int, subnets ...netip.Prefix) {
	t.Helper()
	sw := &fabric.Switch{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: name},
		Spec: fabric.SwitchSpec{Type: fabric.Private, MTU: mtu, Subnets: subnets},
	}
	apply(t, l, sw)
}

// apply makes a change and waits until it is in force on every host.
func apply(t *testing.T, l *Lab, objects ...fabric.Object) {
	t.Helper()
	if err := l.Apply(t.Context(), objects...); err != nil {
		t.Fatal(err)
	}
}

// amend changes a port's settings and waits until they are in force.
func amend(t *testing.T, l *Lab, guest string, change func(*fabric.PortSpec), more ...fabric.Object) {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port, err := c.Port(t.Context(), fabric.PortID(guest))
	if err != nil {
		t.Fatal(err)
	}
	port.Status = fabric.PortStatus{}
	change(&port.Spec)
	apply(t, l, append(more, port)...)
}

// next is a host that a guest may move to: each in turn.
func (r *rig) next(t *testing.T, guest string) fabric.HostID {
	t.Helper()
	at := holder(t, r.Lab, guest).Host
	hosts := HostNames(r.Hosts)
	for i, h := range hosts {
		if h == at {
			return hosts[(i+1)%len(hosts)]
		}
	}
	t.Fatalf("nobody holds %s", guest)
	return ""
}

// address is a guest's address of IPv4, address6 that of IPv6.
func address(g *Guest) netip.Addr { return g.NIC.Addresses[0].Addr() }

func addressOf6(g *Guest) netip.Addr { return g.NIC.Addresses[1].Addr() }
