package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab/impair"
)

// together moves guests at once while each probes, and says how that went.
func (r *rig) together(t *testing.T, names []string, to func(int, string) fabric.HostID, prober func(string) *prober) {
	t.Helper()
	var all sync.WaitGroup
	for i, name := range names {
		host := to(i, name)
		p := prober(name)
		all.Go(func() {
			m, err := tryMove(t.Context(), r.Lab, name, host)
			if err == nil {
				m, err = awaitPhase(t.Context(), r.Lab, m, fabric.MoveSettled)
			}
			seen, failed := p.finish(t.Context())
			if err = errors.Join(err, failed); err != nil {
				t.Error(err)
				return
			}
			result := m.Status.Result
			t.Logf("%s to %s: paused %.1f ms, fabric added %.2f ms, %d relayed; %s", name, host, result.GuestPauseMs, result.FabricGapMs, result.Relayed, seen)
			if seen.Lost > int(result.Lost) || seen.Duplicated > 0 {
				t.Errorf("%s to %s: %s; the fabric admits to %d; sent these ms after the stop: %v, and after it ran %v; drops at the port there: %v", name, host, seen, result.Lost,
					seen.around(m.Status.At[fabric.MoveSwitched]), seen.around(m.Status.At[fabric.MoveActive]), holder(t, r.Lab, name).Drops)
			}
		})
	}
	all.Wait()
	for i, name := range names {
		settled(t, r.Lab, name, to(i, name))
		active(t, r.Lab, name, to(i, name))
	}
}

// storm is test 9: many guests at once, and one guest again and again; afterwards every host knows where each is.
func (r *rig) storm(t *testing.T) {
	names, hosts := make([]string, r.times(6, 200)), HostNames(r.Hosts)
	for i := range names {
		names[i] = "s" + strconv.Itoa(i)
		r.plug(t, GuestOptions{Name: names[i], Host: hosts[i%3]})
	}
	a, err := r.Guest("a")
	if err != nil {
		t.Fatal(err)
	}
	r.together(t, names, func(i int, _ string) fabric.HostID { return hosts[(i+1)%3] }, func(name string) *prober {
		return startProbe(t, r.Lab, name, probing{to: address(a), every: 50 * time.Millisecond})
	})
	one := names[0]
	p := startProbe(t, r.Lab, one, probing{to: address(a), every: 10 * time.Millisecond})
	lost := 0
	for range r.times(4, 1000) {
		m := migrate(t, r.Lab, one, r.next(t, one))
		lost += int(m.Status.Result.Lost)
	}
	seen := p.end(t)
	t.Logf("the same guest %d times: %s", r.times(4, 1000), seen)
	if seen.Lost > lost {
		t.Errorf("%s; the moves admit to %d", seen, lost)
	}
	r.figures.add("09", fmt.Sprintf("probes lost of one guest in %d moves", r.times(4, 1000)), "", float64(seen.Lost)).ask(0, 0)
	r.located(t, map[string]fabric.HostID{one: holder(t, r.Lab, one).Host})
}

// located waits until every host says, by its own view, that guests are where they are, and reaches them there.
func (r *rig) located(t *testing.T, want map[string]fabric.HostID) {
	t.Helper()
	for guest, host := range want {
		active(t, r.Lab, guest, host)
		g, err := r.Guest(guest)
		if err != nil {
			t.Fatal(err)
		}
		run(t, r.Lab, "a", "ping", "-c", "1", "-W", "5", first(g))
	}
}

// random is test 19: random moves with random faults. No connection breaks, and in the end nothing is left of any of them.
func (r *rig) random(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("WEFT_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("WEFT_SEED=%d repeats this run", seed)
	chance := rand.New(rand.NewPCG(seed, 19))
	hosts, homes := HostNames(r.Hosts), map[string]fabric.HostID{}
	var talks []*conversation
	for i := range r.times(2, 12) {
		name := "r" + strconv.Itoa(i)
		homes[name] = hosts[i%3]
		g := r.plug(t, GuestOptions{Name: name, Host: hosts[i%3], Pause: 20 * time.Millisecond, Copy: 100 * time.Millisecond})
		echoServer(t, r.Lab, name, ":7")
		talks = append(talks, r.converse(t, name, address(g)))
	}
	before := r.residue(t)
	until, made, ends := time.Now().Add(r.long), 0, map[fabric.Phase]int{}
	for made < map[bool]int{false: 8, true: 10_000}[r.long > 0] && (r.long == 0 || time.Now().Before(until)) {
		name := "r" + strconv.Itoa(chance.IntN(len(talks)))
		ends[r.mishap(t, chance, name)]++
		made++
	}
	t.Logf("%d moves: %v", made, ends)
	for name, home := range homes {
		if at := holder(t, r.Lab, name).Host; at != home {
			settled(t, r.Lab, name, at)
			migrate(t, r.Lab, name, home)
			settled(t, r.Lab, name, home)
		}
	}
	for _, talk := range talks {
		if n, err := talk.end(); err != nil {
			t.Errorf("the connection to %s broke after %d exchanges: %v", talk.guest, n, err)
		}
	}
	r.located(t, homes)
	r.compareResidue(t, before)
	r.figures.add("19", "random moves with random faults, no connection broken", "", float64(made))
}

// mishap moves a guest, and does to the move what chance will have. The guest is at one of the two hosts afterwards.
func (r *rig) mishap(t *testing.T, chance *rand.Rand, name string) fabric.Phase {
	t.Helper()
	ctx := t.Context()
	to := r.next(t, name)
	if at := holder(t, r.Lab, name).Host; chance.IntN(2) == 0 {
		for _, h := range HostNames(r.Hosts) {
			if h != at {
				to = h
			}
		}
	}
	m, err := tryMove(ctx, r.Lab, name, to)
	if err != nil {
		t.Fatal(err)
	}
	at := []fabric.Phase{fabric.MoveGranted, fabric.MoveStaged, fabric.MoveCopying, fabric.MoveSwitched}[chance.IntN(4)]
	what := "nothing"
	if m, err = awaitPhase(ctx, r.Lab, m, at); err == nil {
		what = r.spoil(t, chance, m)
	}
	m, err = awaitOver(ctx, r.Lab, m)
	if err != nil {
		t.Fatalf("%s of %s when it was %s: %v", what, name, at, err)
	}
	t.Logf("%s of %s to %s when it was %s: it is %s %s", what, name, to, at, m.Status.Phase, m.Status.Reason)
	if m.Status.Phase == fabric.MoveSettled {
		settled(t, r.Lab, name, m.Spec.To)
	} else {
		settled(t, r.Lab, name, m.Spec.From)
	}
	return m.Status.Phase
}

// spoil does something to a move, and says what.
func (r *rig) spoil(t *testing.T, chance *rand.Rand, m *fabric.Move) string {
	t.Helper()
	victim := []fabric.HostID{m.Spec.From, m.Spec.To}[chance.IntN(2)]
	var err error
	what := []string{"abort", "kill the destination", "kill an agent", "freeze an agent", "cut a host off", "lose frames", "nothing"}[chance.IntN(7)]
	switch what {
	case "abort":
		if c, failed := r.Client("h1"); failed == nil {
			_, _ = c.AbortMove(t.Context(), fabric.MoveID(m.Metadata.Name)) // it may be too late
			c.Close()
		}
	case "kill the destination":
		_, stopped := m.Status.At[fabric.MoveSwitched] // then the guest may be in it at any moment, and would die with it
		if g, failed := r.Guest(m.Spec.VM); failed == nil && !stopped && len(g.Instances) == 2 && g.Instances[1].Host == m.Spec.To {
			err = g.Instances[1].Process.Kill()
		}
	case "kill an agent":
		err = errors.Join(r.KillAgent(victim), r.StartAgent(victim))
	case "freeze an agent":
		err = r.FreezeAgent(victim)
		pauseFor(t.Context(), time.Duration(chance.IntN(300))*time.Millisecond)
		err = errors.Join(err, r.ThawAgent(victim))
	case "cut a host off":
		err = r.Cut(victim)
		pauseFor(t.Context(), time.Duration(chance.IntN(300))*time.Millisecond)
		err = errors.Join(err, r.Heal(victim))
	case "lose frames":
		err = r.Impair(victim, impair.Rates{Loss: 0.1, Duplicate: 0.05})
		pauseFor(t.Context(), time.Duration(chance.IntN(300))*time.Millisecond)
		err = errors.Join(err, r.Impair(victim, impair.Rates{}))
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return what + " at " + string(victim)
}

// pauseFor is how long a fault lasts.
func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// awaitOver waits for the end of a move, whatever it is.
func awaitOver(ctx context.Context, l *Lab, m *fabric.Move) (*fabric.Move, error) {
	last, err := awaitPhase(ctx, l, m, fabric.MoveSettled)
	switch last.Status.Phase {
	case fabric.MoveSettled, fabric.MoveFailed, fabric.MoveAborted:
		return last, nil
	}
	return last, err
}

// conversation is a slow TCP connection to a guest, which lasts as long as the test.
type conversation struct {
	guest string
	conn  net.Conn
	stop  context.CancelFunc
	done  chan error
	n     int
}

func (r *rig) converse(t *testing.T, guest string, to netip.Addr) *conversation {
	t.Helper()
	c := &conversation{guest: guest, conn: dial(t, r.Lab, "a", netip.AddrPortFrom(to, echoPort).String()), done: make(chan error, 1)}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	t.Cleanup(stop)
	go func() { c.done <- c.run(ctx) }()
	return c
}

func (c *conversation) run(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		text := fmt.Sprintf("%08d", c.n)
		answer := make([]byte, len(text))
		if err := c.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if _, err := io.WriteString(c.conn, text); err != nil {
			return err
		}
		if _, err := io.ReadFull(c.conn, answer); err != nil {
			return err
		}
		if string(answer) != text {
			return fmt.Errorf("sent %s, got %s", text, answer)
		}
		c.n++
	}
}

// end returns how many exchanges there were, and how the connection broke.
func (c *conversation) end() (int, error) {
	c.stop()
	err := <-c.done
	return c.n, err
}
