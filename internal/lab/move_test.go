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
	to    []fabric.HostID
	// every is the time between probes. A machine in software emulation on a busy computer does not keep up with a thousand
	// in a second, and its kernel then drops its own answers.
	every time.Duration
	// purged is how many frames a move may lose that the hypervisor had already taken in and threw away at its stop: QEMU's
	// virtio without vhost does (net/net.c, qemu_net_queue_purge), a pump does not.
	purged int
}

func TestMovesUnderTraffic(t *testing.T) {
	l := live(t, Options{Name: "move", Hosts: 3})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	plug(t, l, GuestOptions{Name: "b", Host: "h2", Pause: 30 * time.Millisecond})
	plug(t, l, GuestOptions{Name: "c", Host: "h2", Kind: QEMU})
	echoServer(t, l, "b", ":7")
	for _, m := range []moving{
		{"b", []fabric.HostID{"h3", "h1", "h2"}, time.Millisecond, 0}, // away, to the prober's own host, and from there
		{"c", []fabric.HostID{"h3", "h1", "h2"}, 20 * time.Millisecond, 2},
	} {
		t.Run(m.guest, func(t *testing.T) {
			for _, to := range m.to {
				moveUnderTraffic(t, l, m, to)
			}
		})
	}
}

// moveUnderTraffic moves a guest while it is probed all the time and talks over TCP.
func moveUnderTraffic(t *testing.T, l *Lab, m moving, to fabric.HostID) {
	t.Helper()
	g, err := l.Guest(m.guest)
	if err != nil {
		t.Fatal(err)
	}
	address := g.NIC.Addresses[0].Addr()
	stream := talk(t, l, address)
	before := holder(t, l, m.guest)
	owners := watchOwners(t, l, m.guest)
	p := probe(t, l, "a", address, m.every)
	done := migrate(t, l, m.guest, to)
	seen := p.end(t)
	said, broken := stream.Stop()
	r := done.Status.Result
	t.Logf("%s from %s to %s: guest paused %.1f ms, fabric added %.2f ms, %d relayed, %d lost; first answer %v after it ran; %s; TCP: %d exchanges, longest wait %v",
		m.guest, done.Spec.From, to, r.GuestPauseMs, r.FabricGapMs, r.Relayed, r.Lost,
		seen.silence(done.Status.At[fabric.MoveActive]).Round(100*time.Microsecond), seen, said.Exchanges, said.LongestWait.Round(time.Millisecond))
	if broken != nil {
		t.Errorf("the TCP connection broke: %v", broken)
	}
	if seen.Duplicated != 0 {
		t.Errorf("%d probes were answered twice", seen.Duplicated)
	}
	if allowed := int(r.Lost) + m.purged; seen.Lost > allowed {
		t.Errorf("%d probes were lost; the fabric admits to %d, and the hypervisor may have thrown away %d; they were sent these milliseconds after the stop: %v",
			seen.Lost, r.Lost, m.purged, seen.around(done.Status.At[fabric.MoveSwitched]))
	}
	if r.GuestPauseMs <= 0 {
		t.Errorf("the pause was not measured: %+v", r)
	}
	// The prober may have had no turn on a busy machine: what counts is what it has sent into the pause, less its edges.
	paused := p.between(done.Status.At[fabric.MoveSwitched], done.Status.At[fabric.MoveActive])
	if done.Spec.From != "h1" && r.Relayed == 0 && paused > 4 {
		t.Errorf("nothing was relayed, and %d probes were sent while the guest stood still", paused)
	}
	owners(before, done, to)
	settled(t, l, m.guest, to)
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
