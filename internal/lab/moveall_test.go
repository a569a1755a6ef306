package lab

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// onlyAnswers lets a guest ask and get answers, and nobody else in.
func onlyAnswers(t *testing.T, l *Lab, guests ...string) {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	objects := []fabric.Object{&fabric.Policy{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: "answers"},
		Spec: fabric.PolicySpec{Rules: []fabric.Rule{
			{Name: "ask", Weight: 2, Direction: fabric.Out, Action: fabric.Allow, Stateful: true},
			{Name: "none", Weight: 1, Direction: fabric.In, Action: fabric.Deny},
		}},
	}}
	for _, guest := range guests {
		port, err := c.Port(t.Context(), fabric.PortID(guest))
		if err != nil {
			t.Fatal(err)
		}
		port.Spec.Policies, port.Status = []string{"answers"}, fabric.PortStatus{}
		objects = append(objects, port)
	}
	result, err := c.Apply(t.Context(), objects, false)
	if err != nil {
		t.Fatal(err)
	}
	if reach, err := c.InForce(t.Context(), result.Revision); err != nil || !reach.Done {
		t.Fatalf("in force: %+v, %v", reach, err)
	}
}

// TestMovesAtOnceKeepEveryConnection moves four guests at once, round and round, each of which is allowed nothing but answers and
// opens a connection with every probe: the answer to one that was sent just before the stop comes while its guest stands still.
func TestMovesAtOnceKeepEveryConnection(t *testing.T) {
	l := live(t, Options{Name: "moveall", Hosts: 3})
	blue(t, l)
	a := plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	names, hosts := []string{"b", "c", "d", "e"}, []fabric.HostID{"h1", "h2", "h3"}
	guests := make([]*Guest, len(names))
	for i, name := range names {
		guests[i] = plug(t, l, GuestOptions{Name: name, Host: hosts[i%3], Pause: 30 * time.Millisecond})
	}
	onlyAnswers(t, l, names...)
	if err := l.Exec(t.Context(), "a", []string{"ping", "-c", "1", "-W", "1", first(guests[0])}, Streams{}); err == nil {
		t.Fatal("a guest that lets nobody in answers")
	}
	for round := 1; round <= 3; round++ {
		var all sync.WaitGroup
		for i, name := range names {
			all.Go(func() {
				to := hosts[(i+round)%3]
				p := probeAfresh(t, l, name, netip.MustParseAddr(first(a)), 4*time.Millisecond)
				m := migrate(t, l, name, to)
				seen, r := p.end(t), m.Status.Result
				t.Logf("round %d, %s to %s: paused %.1f ms, fabric added %.2f ms, %d relayed; %s", round, name, to, r.GuestPauseMs, r.FabricGapMs, r.Relayed, seen)
				if seen.Lost > int(r.Lost) || seen.Duplicated > 0 {
					t.Errorf("round %d, %s to %s: %s; the fabric admits to %d; sent these ms after the stop: %v, and after it ran %v; drops at the port there: %v", round, name, to, seen, r.Lost,
						seen.around(m.Status.At[fabric.MoveSwitched]), seen.around(m.Status.At[fabric.MoveActive]), holder(t, l, name).Drops)
				}
			})
		}
		all.Wait()
		for i, name := range names {
			settled(t, l, name, hosts[(i+round)%3])
			if at := holder(t, l, name); at.Host != hosts[(i+round)%3] {
				t.Errorf("round %d: %s is held by %s", round, name, at.Host)
			}
		}
	}
}
