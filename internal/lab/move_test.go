package lab

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// moving is one guest that is moved under traffic.
type moving struct {
	guest string
	// every is the time between probes. A machine in software emulation on a busy computer does not keep up with a thousand
	// in a second, and its kernel then drops its own answers.
	every time.Duration
	// purged is how many frames a move may lose that the hypervisor had taken in at its stop: QEMU's virtio without vhost reads one ahead,
	// which ends with it (ADR 27), a pump does not.
	purged int
}

// loss is test 1: probes at a fixed rate, and a TCP connection, through moves from host to host, to the prober's own and away from it;
// and the same of a guest on hosts that are joined by a bridge, which learn where it is, or are told when it runs.
func (r *rig) loss(t *testing.T) {
	r.plug(t, GuestOptions{Name: "b", Host: "h2", Pause: guestPause})
	echoServer(t, r.Lab, "b", ":7")
	for range r.times(3, 100) {
		seen := r.pass(t, moving{guest: "b", every: time.Millisecond}, r.next(t, "b"))
		r.lost("weft, namespace guest", seen).ask(0, 0)
	}
	r.baseline(t, learns, r.times(2, 30))
	r.baseline(t, told, r.times(2, 30))
	c := r.machine(t).Name
	for range r.times(3, 50) {
		seen := r.pass(t, moving{guest: c, every: 20 * time.Millisecond, purged: 1}, r.next(t, c))
		r.lost("weft, QEMU guest, probes every 20 ms", seen).ask(0, 2)
	}
}

// lost notes what a move has cost.
func (r *rig) lost(who string, p passage) *figure {
	r.figures.add("01", who+": guest's pause", "ms", p.paused)
	return r.figures.add("01", who+": probes lost", "", float64(p.seen.Lost))
}

// blackout is test 2: how long after the guest runs its first frame leaves, and when the first answer to a probe comes.
func (r *rig) blackout(t *testing.T) {
	r.plug(t, GuestOptions{Name: "gap", Host: "h2", Pause: guestPause})
	echoServer(t, r.Lab, "gap", ":7")
	timed := 0
	for range r.times(3, 100) {
		p := r.pass(t, moving{guest: "gap", every: time.Millisecond}, r.next(t, "gap"))
		r.figures.add("02", "from RESUME to the first answer", "ms", milli(p.seen.silence(p.move.Status.At[fabric.MoveActive])))
		if p.added <= 0 { // the record had opened the port before the guest, who got no turn, sent anything
			continue
		}
		timed++
		gap := r.figures.add("02", "from RESUME to the guest's first frame", "ms", p.added)
		gap.asked, gap.met = "median ≤ 0.3, p99 ≤ 1", func(f *figure) bool { return f.quantile(0.5) <= 0.3 && f.quantile(0.99) <= 1 }
	}
	if timed == 0 {
		t.Error("no move's first frame was timed")
	}
}

// passage is a move as it was seen by packets.
type passage struct {
	move          *fabric.Move
	seen          probes
	paused, added float64 // milliseconds
}

func milli(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// pass moves a guest while it is probed all the time and talks over TCP.
func (r *rig) pass(t *testing.T, m moving, to fabric.HostID) passage {
	t.Helper()
	g, err := r.Guest(m.guest)
	if err != nil {
		t.Fatal(err)
	}
	stream := talk(t, r.Lab, address(g))
	before := holder(t, r.Lab, m.guest)
	owners := watchOwners(t, r.Lab, m.guest)
	p := probe(t, r.Lab, "a", address(g), m.every)
	done := migrate(t, r.Lab, m.guest, to)
	seen := p.end(t)
	said, broken := stream.Stop()
	result := done.Status.Result
	t.Logf("%s from %s to %s: guest paused %.1f ms, fabric added %.2f ms, %d relayed, %d lost; first answer %v after it ran; %s; TCP: %d exchanges, longest wait %v",
		m.guest, done.Spec.From, to, result.GuestPauseMs, result.FabricGapMs, result.Relayed, result.Lost,
		seen.silence(done.Status.At[fabric.MoveActive]).Round(100*time.Microsecond), seen, said.Exchanges, said.LongestWait.Round(time.Millisecond))
	if broken != nil {
		t.Errorf("the TCP connection broke: %v", broken)
	}
	if seen.Duplicated != 0 {
		t.Errorf("%d probes were answered twice", seen.Duplicated)
	}
	if allowed := int(result.Lost) + m.purged; seen.Lost > allowed {
		t.Errorf("%d probes were lost; the fabric admits to %d, and the hypervisor may have thrown away %d; they were sent these milliseconds after the stop: %v",
			seen.Lost, result.Lost, m.purged, seen.around(done.Status.At[fabric.MoveSwitched]))
	}
	if result.GuestPauseMs <= 0 {
		t.Errorf("the pause was not measured: %+v", result)
	}
	// The prober may have had no turn on a busy machine: what counts is what it has sent into the pause, less its edges.
	paused := p.between(done.Status.At[fabric.MoveSwitched], done.Status.At[fabric.MoveActive])
	if done.Spec.From != "h1" && result.Relayed == 0 && paused > 4 {
		t.Errorf("nothing was relayed, and %d probes were sent while the guest stood still", paused)
	}
	owners(before, done, to)
	settled(t, r.Lab, m.guest, to)
	if result.GuestPauseMs > 0 {
		wait := r.figures.add("04", kindOf(g)+" guest: longest wait of a TCP exchange, less the guest's pause", "ms", milli(said.LongestWait)-result.GuestPauseMs)
		wait.asked, wait.met = "median ≤ 5", func(f *figure) bool { return f.quantile(0.5) <= 5 }
	}
	return passage{done, seen, result.GuestPauseMs, result.FabricGapMs}
}

// talk opens a stream from guest a; a machine that has just booted may not listen yet.
func talk(t *testing.T, l *Lab, to netip.Addr) (s *Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var last error
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		s, last = l.OpenStream(ctx, "a", to)
		return last == nil, nil
	})
	if err != nil {
		t.Fatal(last)
	}
	return s
}

// holder is the record of who holds a guest's port.
func holder(t *testing.T, l *Lab, guest string) fabric.PortStatus {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := c.Port(t.Context(), fabric.PortID(guest))
	if err != nil {
		t.Fatal(err)
	}
	return p.Status
}

// watchOwners asks every host, all the time, who holds the port. The function it returns ends that and checks that each
// epoch had one owner, that no host's answer ever went back, and that the epoch rose by one.
func watchOwners(t *testing.T, l *Lab, guest string) func(before fabric.PortStatus, m *fabric.Move, to fabric.HostID) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var mu sync.Mutex
	owners := map[fabric.Epoch]map[fabric.HostID]bool{}
	for _, host := range HostNames(l.Hosts) {
		c, err := l.Client(host)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer c.Close()
			var newest fabric.Epoch
			_ = poll(ctx, 5*time.Millisecond, func() (bool, error) {
				p, err := c.Port(ctx, fabric.PortID(guest))
				if err != nil || p.Status.State != fabric.PortActive {
					return false, nil
				}
				mu.Lock()
				defer mu.Unlock()
				if p.Status.Epoch < newest {
					t.Errorf("host %s spoke of epoch %d after epoch %d", host, p.Status.Epoch, newest)
				}
				newest = p.Status.Epoch
				if owners[newest] == nil {
					owners[newest] = map[fabric.HostID]bool{}
				}
				owners[newest][p.Status.Host] = true
				return false, nil
			})
		})
	}
	return func(before fabric.PortStatus, m *fabric.Move, to fabric.HostID) {
		cancel()
		all.Wait()
		for epoch, hosts := range owners {
			if len(hosts) != 1 {
				t.Errorf("epoch %d had the owners %v", epoch, hosts)
			}
		}
		after := holder(t, l, guest)
		if after.Host != to || after.Epoch != before.Epoch+1 || m.Status.Epoch != after.Epoch {
			t.Errorf("after the move the port is at %s in epoch %d (the move was granted %d), want %s in epoch %d", after.Host, after.Epoch, m.Status.Epoch, to, before.Epoch+1)
		}
	}
}

// kindOf is what a guest is, as figures name it.
func kindOf(g *Guest) string {
	if g.Kind == QEMU {
		return "QEMU"
	}
	return "namespace"
}
