package lab

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

// load is test 3: frames for a guest that stands still. As many as its device has room for are all kept; of more, those that are not
// are counted, to the last one.
func (r *rig) load(t *testing.T) {
	r.plug(t, GuestOptions{Name: "src", Host: "h1", Kind: Veth})
	g := r.plug(t, GuestOptions{Name: "load", Host: "h2", Pause: time.Second})
	for _, c := range []struct {
		frames int
		every  time.Duration
	}{
		{500, 100 * time.Microsecond},
		{5000, 10 * time.Microsecond},
		{arrivalQueue + 4000, 0},
	} {
		d := openDatagrams(t, r.Lab, "src", "load", netip.AddrPortFrom(address(g), 9))
		at, err := r.Guest("load")
		if err != nil {
			t.Fatal(err)
		}
		m := startMove(t, r.Lab, at, []fabric.HostID{"h3", "h2"}[b2i(at.Host() == "h3")])
		reach(t, r.Lab, m, fabric.MoveSwitched)
		begun := time.Now()
		if err := d.burst(c.frames, c.every); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begun)
		m = reach(t, r.Lab, m, fabric.MoveSettled)
		seen := d.end(t)
		t.Logf("%d frames in %v to a guest that stood still for %.0f ms: %d came, %d are missing, the move counts %d relayed and %d lost",
			c.frames, took.Round(time.Millisecond), m.Status.Result.GuestPauseMs, seen.Received, seen.Lost, m.Status.Result.Relayed, m.Status.Result.Lost)
		if took > time.Duration(m.Status.Result.GuestPauseMs*float64(time.Millisecond)) {
			t.Errorf("the frames were sent in %v, longer than the guest stood still: the test shows nothing", took)
		}
		if seen.Lost != int(m.Status.Result.Lost) || seen.Duplicated != 0 {
			t.Errorf("%s, but the move admits to %d", seen, m.Status.Result.Lost)
		}
		if more := c.frames > arrivalQueue; more != (seen.Lost > 0) {
			t.Errorf("%d frames of %d are lost, with room for %d", seen.Lost, c.frames, arrivalQueue)
		}
		r.figures.add("03", fmt.Sprintf("frames lost of %d during the pause", c.frames), "", float64(seen.Lost))
		r.figures.add("03", fmt.Sprintf("frames of %d that were lost and not counted", c.frames), "", float64(seen.Lost-int(m.Status.Result.Lost))).ask(0, 0)
		settled(t, r.Lab, "load", m.Spec.To)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// onlyAnswersPolicy lets a guest ask and get answers, and nobody else in.
func onlyAnswersPolicy() *fabric.Policy {
	return &fabric.Policy{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: "answers"},
		Spec: fabric.PolicySpec{Rules: []fabric.Rule{
			{Name: "ask", Weight: 2, Direction: fabric.Out, Action: fabric.Allow, Stateful: true},
			{Name: "none", Weight: 1, Direction: fabric.In, Action: fabric.Deny},
		}},
	}
}

// established is test 5: 100,000 connections that a guest has opened, whose answers are all that it is let receive, each touched after a
// move.
func (r *rig) established(t *testing.T) {
	const here, there = 250, 400 // sockets of the guest, and of the other
	r.plug(t, GuestOptions{Name: "peer", Host: "h1", Kind: Veth})
	g := r.plug(t, GuestOptions{Name: "many", Host: "h2", Pause: guestPause, Copy: 500 * time.Millisecond})
	amend(t, r.Lab, "many", func(s *fabric.PortSpec) { s.Policies, s.Connections = []string{"answers"}, 128*1024 }, onlyAnswersPolicy())
	peer, err := r.Guest("peer")
	if err != nil {
		t.Fatal(err)
	}
	f := newFlowField(t, r.Lab, g, peer, here, there)
	for range r.times(1, 5) {
		f.ask(t)
		m := migrate(t, r.Lab, "many", r.next(t, "many"))
		answered := f.answer(t)
		t.Logf("%d of %d connections are answered after a move with a pause of %.1f ms", answered, here*there, m.Status.Result.GuestPauseMs)
		if answered != here*there {
			t.Errorf("%d of %d connections survive; drops at the port: %v", answered, here*there, holder(t, r.Lab, "many").Drops)
		}
		broken := r.figures.add("05", "connections of 100,000 that a move breaks", "", float64(here*there-answered))
		broken.ask(0, 0)
		r.figures.add("05", "guest's pause with 100,000 connections", "ms", m.Status.Result.GuestPauseMs)
		settled(t, r.Lab, "many", m.Spec.To)
	}
	if err := f.denied(t); err != nil {
		t.Error(err)
	}
}

// newConnections is test 6: a guest that is let receive nothing but answers opens a thousand connections a second, while it is copied and
// up to its stop, and all get their answer. Four of them move at once, and round again.
func (r *rig) newConnections(t *testing.T) {
	a, err := r.Guest("a")
	if err != nil {
		t.Fatal(err)
	}
	names, hosts := []string{"n1", "n2", "n3", "n4"}, HostNames(r.Hosts)
	for i, name := range names {
		r.plug(t, GuestOptions{Name: name, Host: hosts[i%3], Pause: guestPause, Copy: time.Duration(r.times(500, 10_000)) * time.Millisecond})
		amend(t, r.Lab, name, func(s *fabric.PortSpec) { s.Policies = []string{"answers"} }, onlyAnswersPolicy())
	}
	if err := r.Exec(t.Context(), "a", []string{"ping", "-c", "1", "-W", "1", first(r.guest("n1"))}, Streams{}); err == nil {
		t.Fatal("a guest that lets nobody in answers")
	}
	for round := 1; round <= r.times(2, 10); round++ {
		r.together(t, names, func(i int, name string) fabric.HostID { return hosts[(i+round)%3] }, func(name string) *prober {
			return probeAfresh(t, r.Lab, name, address(a), 4*time.Millisecond)
		})
	}
	p := probeAfresh(t, r.Lab, "n1", address(a), time.Millisecond)
	m := migrate(t, r.Lab, "n1", r.next(t, "n1"))
	seen := p.end(t)
	t.Logf("a connection each millisecond: paused %.1f ms, %d relayed; %s", m.Status.Result.GuestPauseMs, m.Status.Result.Relayed, seen)
	if seen.Lost > int(m.Status.Result.Lost) {
		t.Errorf("%s; the fabric admits to %d; sent these ms after the stop: %v; drops at the port: %v", seen, m.Status.Result.Lost, seen.around(m.Status.At[fabric.MoveSwitched]), holder(t, r.Lab, "n1").Drops)
	}
	r.figures.add("06", "new connections without an answer, one a millisecond", "", float64(seen.Lost)).ask(0, 0)
	settled(t, r.Lab, "n1", m.Spec.To)
}

// order is test 7: numbered datagrams both ways through a move; none comes twice, and none overtakes many.
func (r *rig) order(t *testing.T) {
	g := r.plug(t, GuestOptions{Name: "seq", Host: "h2", Pause: guestPause})
	a, err := r.Guest("a")
	if err != nil {
		t.Fatal(err)
	}
	for range r.times(2, 50) {
		ways := map[string]*datagrams{
			"to the guest":   openDatagrams(t, r.Lab, "a", "seq", netip.AddrPortFrom(address(g), 9)),
			"from the guest": openDatagrams(t, r.Lab, "seq", "a", netip.AddrPortFrom(address(a), 9)),
		}
		for _, d := range ways {
			d.keepSending(time.Millisecond)
		}
		m := migrate(t, r.Lab, "seq", r.next(t, "seq"))
		for way, d := range ways {
			seen := d.end(t)
			t.Logf("%s: %s; the move counts %d lost", way, seen, m.Status.Result.Lost)
			if seen.Duplicated > 0 || seen.Lost > int(m.Status.Result.Lost) {
				t.Errorf("%s: %s; the move admits to %d", way, seen, m.Status.Result.Lost)
			}
			r.figures.add("07", "datagrams that came twice, "+way, "", float64(seen.Duplicated)).ask(0, 0)
			r.figures.add("07", "datagrams overtaken by, "+way, "", float64(seen.Extent)).ask(3, 3)
		}
		settled(t, r.Lab, "seq", m.Spec.To)
	}
}

// longProbeEvery is the time between probes of test 17. The guest's kernel answers out of a buffer of 256 KiB, which holds 16 jumbo
// frames: what waited for a guest that gets no processor for a while would be lost there, and not in the network.
const longProbeEvery = 10 * time.Millisecond

// mtu is test 17: frames as long as the switch carries, of 1500 bytes and jumbo ones, through the detour of a move.
func (r *rig) mtu(t *testing.T) {
	network(t, r.Lab, "jumbo", 8950, netip.MustParsePrefix("10.20.0.0/24"))
	r.plug(t, GuestOptions{Name: "ja", Host: "h1", Switch: "jumbo"})
	for name, c := range map[string]struct {
		prober, sw string
		size       int
	}{"m1500": {"a", "blue", 1500 - 20}, "m8950": {"ja", "jumbo", 8950 - 20}} {
		g := r.plug(t, GuestOptions{Name: name, Host: "h2", Switch: fabric.SwitchID(c.sw), Pause: guestPause})
		p := startProbe(t, r.Lab, c.prober, probing{to: address(g), every: longProbeEvery, size: c.size})
		m := migrate(t, r.Lab, name, "h3")
		seen := p.end(t)
		t.Logf("packets of %d bytes: paused %.1f ms, %d relayed; %s", c.size+20, m.Status.Result.GuestPauseMs, m.Status.Result.Relayed, seen)
		if seen.Lost > int(m.Status.Result.Lost) || seen.Duplicated > 0 || m.Status.Result.Relayed == 0 {
			t.Errorf("packets of %d bytes: %s; the move counts %+v", c.size+20, seen, m.Status.Result)
		}
		r.figures.add("17", fmt.Sprintf("probes of %d bytes lost", c.size+20), "", float64(seen.Lost)).ask(0, 0)
		settled(t, r.Lab, name, "h3")
	}
}

// edge is how exactly the times of a move and of a datagram can be compared.
const edge = 50 * time.Millisecond

// multicast is test 18: the probes of test 1 over IPv6, and a group that the guest has joined. What a guest leases again after a move is
// TestServicesSurviveMovesAndAgents.
func (r *rig) multicast(t *testing.T) {
	g := r.plug(t, GuestOptions{Name: "mc", Host: "h2", Pause: guestPause})
	a, err := r.Guest("a")
	if err != nil {
		t.Fatal(err)
	}
	group := netip.MustParseAddrPort("239.1.1.1:99")
	for _, guest := range []*Guest{a, g} {
		run(t, r.Lab, guest.Name, "ip", "route", "replace", "239.0.0.0/8", "dev", "eth0")
	}
	for range r.times(2, 50) {
		p := startProbe(t, r.Lab, "a", probing{to: addressOf6(g), every: time.Millisecond})
		d := openDatagrams(t, r.Lab, "a", "mc", group)
		within(t, r.GuestNamespace("mc"), func() error { return joinGroup(d, group.Addr()) })
		d.keepSending(2 * time.Millisecond)
		m := migrate(t, r.Lab, "mc", r.next(t, "mc"))
		seen, heard := p.end(t), d.end(t)
		result := m.Status.Result
		t.Logf("paused %.1f ms, %d relayed, %d lost; by IPv6: %s; of the group: %s", result.GuestPauseMs, result.Relayed, result.Lost, seen, heard)
		if seen.Lost > int(result.Lost) || seen.Duplicated > 0 {
			t.Errorf("by IPv6: %s; the move admits to %d", seen, result.Lost)
		}
		// What is sent to a group is for whoever listens now: it is not kept for a guest that stands still.
		pause := 0
		for _, at := range d.sent {
			if at.After(m.Status.At[fabric.MoveSwitched].Add(-edge)) && at.Before(m.Status.At[fabric.MoveActive].Add(edge)) {
				pause++
			}
		}
		if heard.Received == 0 || heard.Duplicated > 0 || heard.Lost > pause {
			t.Errorf("of the group: %s; %d were sent while the guest stood still", heard, pause)
		}
		r.figures.add("18", "probes by IPv6 lost", "", float64(seen.Lost)).ask(0, 0)
		r.figures.add("18", "datagrams to a group lost beyond those sent during the pause", "", float64(max(0, heard.Lost-pause))).ask(0, 0)
		settled(t, r.Lab, "mc", m.Spec.To)
	}
}
