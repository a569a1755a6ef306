package lab

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// joinGroup has the receiver's socket join a group on eth0.
func joinGroup(d *datagrams, group netip.Addr) error {
	device, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	raw, err := d.to.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(device.Index)})
	})
	if err != nil {
		return err
	}
	return failed
}

// gate is a policy of one rule, which lets everything in or nothing.
func gate(action fabric.Action) *fabric.Policy {
	return &fabric.Policy{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: "gate"},
		Spec: fabric.PolicySpec{Rules: []fabric.Rule{{Name: "gate", Weight: 1, Direction: fabric.In, Action: action}}},
	}
}

// span is a time for which a rule was in force everywhere.
type span struct {
	action   fabric.Action
	from, to time.Time
}

// inFlight is how long a datagram may be on its way on a busy machine.
const inFlight = 100 * time.Millisecond

// judge counts what was sent while the rule was in force: what has come although denied, what is missing although allowed. What was sent
// just before the next change may meet that one.
func (s span) judge(sent, came []time.Time) (leaked, missing, judged int) {
	for n, at := range sent {
		if at.Before(s.from) || at.After(s.to) {
			continue
		}
		sure := at.Add(inFlight).Before(s.to)
		there := !came[n].IsZero()
		switch {
		case s.action == fabric.Deny && there && (sure || came[n].Before(s.to)):
			leaked++
		case s.action == fabric.Allow && !there && sure:
			missing++
		case !sure && !there:
			continue
		}
		judged++
	}
	return leaked, missing, judged
}

// policyRace is test 10: a guest's policy changes all the time while it moves. What was sent while it was denied never comes; what was sent
// while it was allowed does.
func (r *rig) policyRace(t *testing.T) {
	g := r.plug(t, GuestOptions{Name: "pol", Host: "h2", Pause: guestPause, Copy: 200 * time.Millisecond})
	amend(t, r.Lab, "pol", func(s *fabric.PortSpec) { s.Policies = []string{"gate"} }, gate(fabric.Allow))
	for range r.times(2, 50) {
		d := openDatagrams(t, r.Lab, "a", "pol", netip.AddrPortFrom(address(g), 9))
		d.keepSending(time.Millisecond)
		ctx, stop := context.WithCancel(t.Context())
		spans, ended := make(chan span, 10_000), make(chan error, 1)
		go func() { ended <- r.toggle(ctx, spans) }()
		m := migrate(t, r.Lab, "pol", r.next(t, "pol"))
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		seen := d.end(t)
		close(spans)
		changes, leaked, missing, judged := 0, 0, 0, 0
		for s := range spans {
			changes++
			l, m, n := s.judge(d.sent, seen.came)
			leaked, missing, judged = leaked+l, missing+m, judged+n
		}
		t.Logf("%d changes during a move with a pause of %.1f ms: %d datagrams were sent under a policy that was in force, %d of them came although denied, %d are missing although allowed; the move counts %d lost",
			changes, m.Status.Result.GuestPauseMs, judged, leaked, missing, m.Status.Result.Lost)
		if leaked > 0 || missing > int(m.Status.Result.Lost) || judged == 0 {
			t.Errorf("%d of %d came although denied, %d are missing although allowed", leaked, judged, missing)
		}
		r.figures.add("10", "datagrams that came although a deny was in force", "", float64(leaked)).ask(0, 0)
		r.figures.add("10", "changes of the policy during a move", "", float64(changes))
		settled(t, r.Lab, "pol", m.Spec.To)
	}
}

// toggle changes the policy until ctx ends, and says for which times which rule was in force.
func (r *rig) toggle(ctx context.Context, spans chan<- span) error {
	c, err := r.Client("h1")
	if err != nil {
		return err
	}
	defer c.Close()
	since, was := time.Time{}, fabric.Allow
	action := fabric.Deny
	for n := 0; ; n++ {
		begun := time.Now()
		if !since.IsZero() {
			spans <- span{was, since, begun}
		}
		if ctx.Err() != nil && was == fabric.Allow {
			return nil
		}
		result, err := c.Apply(context.WithoutCancel(ctx), []fabric.Object{gate(action)}, false)
		if err != nil {
			return err
		}
		if _, err := c.WaitInForce(context.WithoutCancel(ctx), result.Revision); err != nil {
			return err
		}
		since, was = time.Now(), action
		if action = fabric.Deny; was == fabric.Deny {
			action = fabric.Allow
		}
		pauseFor(ctx, []time.Duration{2 * inFlight, 5 * time.Millisecond, 5 * time.Millisecond}[n%3]) // for which what is in force is tried
	}
}

// limits is test 16: what a guest may send in a second, what its rules have counted, and the copies that a mirror makes, are the same with a
// move as without.
func (r *rig) limits(t *testing.T) {
	const rate, burst, size = 10_000_000, 128_000, 1200
	r.plug(t, GuestOptions{Name: "lim", Host: "h2", Pause: guestPause, Copy: 300 * time.Millisecond})
	r.plug(t, GuestOptions{Name: "sink", Host: "h1", Kind: Veth})
	a, err := r.Guest("a")
	if err != nil {
		t.Fatal(err)
	}
	amend(t, r.Lab, "lim", func(s *fabric.PortSpec) {
		s.Policies, s.Rate = []string{"answers"}, &fabric.Rates{Out: &fabric.Rate{Max: rate, Burst: burst}}
	}, onlyAnswersPolicy())
	apply(t, r.Lab, &fabric.Mirror{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindMirror}, Metadata: fabric.Metadata{Name: "copies"},
		Spec: fabric.MirrorSpec{Sources: []fabric.MirrorSource{{Port: "lim"}}, Filter: []fabric.MirrorClause{{Protocol: "udp"}}, Sink: fabric.MirrorSink{Port: "sink"}},
	})
	t.Cleanup(func() { deleteMirror(t, r.Lab, "copies") })
	copied := copies(t, r, "sink", 9)
	for range r.times(1, 20) {
		had, hits := copied(), hitsOf(t, r, "lim", "ask")
		d := openDatagrams(t, r.Lab, "lim", "a", netip.AddrPortFrom(address(a), 9))
		d.size = size
		totals := watchHits(t, r, "lim", "ask")
		d.keepSending(time.Second / 3000) // three times its rate
		m := migrate(t, r.Lab, "lim", r.next(t, "lim"))
		seen := d.end(t)
		totals()
		took := slices.MaxFunc(d.when, time.Time.Compare).Sub(d.sent[0])
		bytes, most := float64(seen.Received*(size+8+20+14)), rate/8*took.Seconds()+burst
		t.Logf("%d of %d datagrams of a guest with a rate passed in %v, %.0f bytes of %.0f; the move counts %d lost", seen.Received, seen.Sent, took.Round(time.Millisecond), bytes, most, m.Status.Result.Lost)
		if bytes > most+size {
			t.Errorf("%.0f bytes passed in %v: more than the %.0f that the rate and one burst allow", bytes, took, most)
		}
		settled(t, r.Lab, "lim", m.Spec.To)
		awaitCount(t, "copies of the mirror", uint64(seen.Received), func() uint64 { return copied() - had })
		if n := hitsOf(t, r, "lim", "ask") - hits; n < uint64(seen.Received) {
			t.Errorf("the rule has counted %d of %d datagrams", n, seen.Received)
		}
		r.figures.add("16", "bytes that passed, of what rate and burst allow", "", bytes/most).ask(1, 1)
	}
}

// awaitCount waits until there are so many, and one more is an error too.
func awaitCount(t *testing.T, of string, want uint64, have func() uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_ = poll(ctx, 10*time.Millisecond, func() (bool, error) { return have() >= want, nil })
	if n := have(); n != want {
		t.Errorf("there are %d %s, want %d", n, of, want)
	}
}

func deleteMirror(t *testing.T, l *Lab, name string) {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if _, err := c.Delete(withoutCancel(t), fabric.KindMirror, name); err != nil {
		t.Error(err)
	}
}

// copies counts what a guest that is a namespace hears of UDP to a port, whoever it is for; the function it returns says how many so far.
func copies(t *testing.T, r *rig, guest string, port uint16) func() uint64 {
	t.Helper()
	var heard *nic.Listener
	within(t, r.GuestNamespace(guest), func() (err error) {
		heard, err = nic.Listen("eth0")
		return err
	})
	var n atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			frame, _, err := heard.Next(time.Time{})
			if err != nil {
				return
			}
			// Ethernet, IPv4 without options, UDP: the protocol is at 23, the port at 36 (RFC 791, RFC 768).
			if len(frame) > 38 && frame[12] == 8 && frame[13] == 0 && frame[23] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(frame[36:]) == port {
				n.Add(1)
			}
		}
	}()
	t.Cleanup(func() { heard.Close(); <-done })
	return n.Load
}

// hitsOf is what a rule has counted at a port, as its host says.
func hitsOf(t *testing.T, r *rig, port, rule string) uint64 {
	t.Helper()
	for _, h := range holder(t, r.Lab, port).Rules {
		if h.Rule == rule {
			return h.Packets
		}
	}
	return 0
}

// watchHits reads what a rule has counted all the time; the function that it returns ends that. A total that goes back is an error.
func watchHits(t *testing.T, r *rig, port, rule string) func() {
	t.Helper()
	c, err := r.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.Close()
		watchTotal(ctx, t, c, fabric.PortID(port), rule)
	}()
	return func() { cancel(); <-done }
}

func watchTotal(ctx context.Context, t *testing.T, c *client.Client, port fabric.PortID, rule string) {
	var most uint64
	_ = poll(ctx, 5*time.Millisecond, func() (bool, error) {
		p, err := c.Port(ctx, port)
		if err != nil || p.Status.State != fabric.PortActive {
			return false, nil
		}
		for _, h := range p.Status.Rules {
			if h.Rule == rule {
				if h.Packets < most {
					t.Errorf("rule %s counted %d packets, and had counted %d, at %s in epoch %d", rule, h.Packets, most, p.Status.Host, p.Status.Epoch)
				}
				most = h.Packets
			}
		}
		return false, nil
	})
}
