package location_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// act is one call on the ledger.
type act struct {
	do    string // claim, release, grant, commit, rollback, read
	host  fabric.HostID
	epoch fabric.Epoch
}

// answer is what came back. Unsure means that nobody knows whether it was carried out.
type answer struct {
	ok, unsure bool
	host       fabric.HostID
	epoch      fabric.Epoch
}

// held is the sequential specification's state: who holds the port, and whom it is granted to.
type held struct {
	host  fabric.HostID
	epoch fabric.Epoch
	to    fabric.HostID
}

// apply is the specification: the state after an act, whether it is carried out, and the epoch that is then in force.
func (s held) apply(a act) (held, bool) {
	moving := s.to != ""
	switch a.do {
	case "claim":
		if s.host == "" {
			return held{host: a.host, epoch: s.epoch + 1}, true
		}
		return s, s.host == a.host
	case "release":
		if s.host == "" && s.epoch == a.epoch {
			return s, true
		}
		if s.host != a.host || s.epoch != a.epoch || moving {
			return s, false
		}
		return held{epoch: s.epoch}, true
	case "grant":
		if s.host == "" || moving || s.host == a.host {
			return s, false
		}
		return held{host: s.host, epoch: s.epoch, to: a.host}, true
	case "commit":
		if moving && s.to == a.host && a.epoch == s.epoch+1 {
			return held{host: s.to, epoch: a.epoch}, true
		}
	case "rollback":
		if moving && s.host == a.host && a.epoch == s.epoch+2 {
			return held{host: s.host, epoch: a.epoch}, true
		}
	case "read":
		return s, true
	}
	return s, !moving && s.host == a.host && s.epoch == a.epoch
}

// model lets porcupine look for an order of the calls in which each one does what the specification says.
var model = porcupine.Model{
	Init: func() any { return held{host: "h1", epoch: 1} },
	Step: func(state, input, output any) (bool, any) {
		s, a, got := state.(held), input.(act), output.(answer)
		next, ok := s.apply(a)
		switch {
		case got.unsure:
			return true, next // it returns at the end of time: there its effect is seen by nobody
		case ok != got.ok:
			return false, s
		case a.do == "read" && (got.host != s.host || got.epoch != s.epoch), a.do == "claim" && ok && got.epoch != next.epoch:
			return false, s
		}
		return true, next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
}

// cluster is an etcd member with hosts h1 to h3, a switch and ports p, q-0 and q-1, all held by h1.
func cluster(t *testing.T) (*storetest.Etcd, *store.Store) {
	t.Helper()
	c := storetest.Start(t)
	s := c.Open(t)
	head := func(k fabric.Kind, name string) (fabric.TypeMeta, fabric.Metadata) {
		return fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: k}, fabric.Metadata{Name: name}
	}
	var objects []fabric.Object
	for i, name := range []string{"h1", "h2", "h3"} {
		h := &fabric.Host{Spec: fabric.HostSpec{VTEP: netip.AddrFrom4([4]byte{10, 240, 0, byte(i + 1)}), UnderlayMTU: 1500}}
		h.TypeMeta, h.Metadata = head(fabric.KindHost, name)
		objects = append(objects, h)
	}
	sw := &fabric.Switch{Spec: fabric.SwitchSpec{Type: fabric.Private}}
	sw.TypeMeta, sw.Metadata = head(fabric.KindSwitch, "blue")
	objects = append(objects, sw)
	for name, vm := range map[string]string{"p": "p", "q-0": "q", "q-1": "q"} {
		p := &fabric.Port{Spec: fabric.PortSpec{VM: vm, Switch: "blue"}}
		p.TypeMeta, p.Metadata = head(fabric.KindPort, name)
		objects = append(objects, p)
	}
	if _, err := s.Apply(t.Context(), objects, store.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []fabric.PortID{"p", "q-0", "q-1"} {
		if _, err := location.New(s).Claim(t.Context(), p, "h1"); err != nil {
			t.Fatal(err)
		}
	}
	return c, s
}

// client calls the ledger and keeps what came back.
type client struct {
	store  *store.Store
	ledger *location.Ledger
	random *rand.Rand
	id     int
	begun  time.Time
	moves  int
}

// call carries an act out.
func (c *client) call(ctx context.Context, a act) porcupine.Operation {
	op := porcupine.Operation{ClientId: c.id, Input: a, Call: int64(time.Since(c.begun))}
	var got answer
	var err error
	switch a.do {
	case "claim":
		var loc fabric.Location
		loc, err = c.ledger.Claim(ctx, "p", a.host)
		got.epoch = loc.Epoch
	case "release":
		err = c.ledger.Release(ctx, "p", a.host, a.epoch)
	case "grant":
		c.moves++
		_, err = c.ledger.Grant(ctx, &fabric.Move{Metadata: fabric.Metadata{Name: fmt.Sprintf("m-%d-%d", c.id, c.moves)}, Spec: fabric.MoveSpec{VM: "p", To: a.host}})
	case "commit":
		err = c.ledger.Commit(ctx, "p", a.host, a.epoch)
	case "rollback":
		err = c.ledger.Rollback(ctx, "p", a.host, a.epoch)
	case "read":
		var loc fabric.Location
		loc, err = c.store.GetLocation(ctx, "p")
		got.host, got.epoch = loc.Host, loc.Epoch
	}
	got.ok, got.unsure = err == nil, errors.Is(err, store.ErrUnavailable)
	op.Output, op.Return = got, int64(time.Since(c.begun))
	if got.unsure {
		op.Return = math.MaxInt64
	}
	return op
}

// pick chooses the next act: mostly one that fits what was read last, as an agent's would, else any.
func (c *client) pick(seen answer) act {
	hosts := []fabric.HostID{"h1", "h2", "h3"}
	a := act{do: []string{"claim", "release", "grant", "grant", "commit", "commit", "rollback", "read"}[c.random.IntN(8)], host: hosts[c.random.IntN(3)]}
	switch a.do {
	case "commit":
		a.epoch = seen.epoch + 1
	case "rollback":
		a.host, a.epoch = seen.host, seen.epoch+2
	case "release":
		a.host, a.epoch = seen.host, seen.epoch
	}
	if c.random.IntN(8) == 0 {
		a.epoch += fabric.Epoch(c.random.IntN(3))
	}
	return a
}

func TestLocationIsLinearizable(t *testing.T) {
	const clients, calls, most = 4, 60, 600 // by chance a kind of call may be refused each time: then there are more of them
	kinds := []string{"claim", "release", "grant", "commit", "rollback"}
	cl, _ := cluster(t)
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		done    = map[string]int{}
		wg      sync.WaitGroup
	)
	enough := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return n >= most || n >= calls && !slices.ContainsFunc(kinds, func(do string) bool { return done[do] == 0 })
	}
	begun := time.Now()
	for id := range clients {
		s := cl.Open(t)
		c := &client{store: s, ledger: location.New(s), random: rand.New(rand.NewPCG(7, uint64(id))), id: id, begun: begun}
		wg.Go(func() {
			for n := 0; !enough(n); n++ {
				read := c.call(t.Context(), act{do: "read"})
				then := c.call(t.Context(), c.pick(read.Output.(answer)))
				mu.Lock()
				history = append(history, read, then)
				if then.Output.(answer).ok {
					done[then.Input.(act).do]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	owners := map[fabric.Epoch]fabric.HostID{}
	for _, op := range history {
		a, got := op.Input.(act), op.Output.(answer)
		if a.do == "read" && got.ok && got.host != "" {
			if other, known := owners[got.epoch]; known && other != got.host {
				t.Errorf("epoch %d had two owners: %s and %s", got.epoch, other, got.host)
			}
			owners[got.epoch] = got.host
		}
	}
	for _, do := range kinds {
		if done[do] == 0 {
			t.Errorf("no %s was ever carried out: the test does not test it (%v)", do, done)
		}
	}
	if result := porcupine.CheckOperationsTimeout(model, history, time.Minute); result != porcupine.Ok {
		t.Errorf("%d calls are not linearizable: %s", len(history), result)
	}
	t.Logf("%d calls, carried out: %v, %d epochs", len(history), done, len(owners))
}

func TestTheModelCanFail(t *testing.T) {
	two := []porcupine.Operation{
		{ClientId: 0, Input: act{do: "grant", host: "h2"}, Output: answer{ok: true}, Call: 0, Return: 1},
		{ClientId: 0, Input: act{do: "commit", host: "h2", epoch: 2}, Output: answer{ok: true}, Call: 2, Return: 5},
		{ClientId: 1, Input: act{do: "rollback", host: "h1", epoch: 3}, Output: answer{ok: true}, Call: 3, Return: 4},
	}
	if porcupine.CheckOperations(model, two) {
		t.Error("a commit and a rollback of one move were both accepted")
	}
}

// TestPortsOfOneMachineNeverPart races commits and rollbacks of a VM with two ports.
func TestPortsOfOneMachineNeverPart(t *testing.T) {
	cl, s := cluster(t)
	other := location.New(cl.Open(t))
	ledger := location.New(s)
	for i := range 10 {
		loc, err := s.GetLocation(t.Context(), "q-0")
		if err != nil {
			t.Fatal(err)
		}
		to := fabric.HostID("h2")
		if loc.Host == to {
			to = "h3"
		}
		move, err := ledger.Grant(t.Context(), &fabric.Move{Metadata: fabric.Metadata{Name: fmt.Sprintf("m%d", i)}, Spec: fabric.MoveSpec{VM: "q", To: to}})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var committed, rolled error
		wg.Go(func() { committed = ledger.Commit(t.Context(), "q-0", to, move.Status.Epoch) })
		wg.Go(func() { rolled = other.Rollback(t.Context(), "q-1", loc.Host, move.Status.Epoch+1) })
		wg.Wait()
		if (committed == nil) == (rolled == nil) {
			t.Fatalf("commit: %v, rollback: %v; exactly one must win", committed, rolled)
		}
		a, errA := s.GetLocation(t.Context(), "q-0")
		b, errB := s.GetLocation(t.Context(), "q-1")
		if errA != nil || errB != nil || a.Host != b.Host || a.Epoch != b.Epoch || a.Epoch <= loc.Epoch {
			t.Fatalf("the ports parted: %+v %+v (%v, %v)", a, b, errA, errB)
		}
	}
}
