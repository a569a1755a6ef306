package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// watch arms a live session on every host.
func (w *world) watch(s tracing.LiveSession) {
	w.tb.Helper()
	for _, h := range w.hosts {
		if err := h.Watch(context.Background(), s); err != nil {
			w.tb.Fatal(err)
		}
	}
}

// runs waits until the host has recorded n runs for the session, and returns them and what was counted.
func (h *host) runs(tb testing.TB, id uint32, n int) (all []tracing.Run, count tracing.LiveCount) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		b, err := h.Watched(context.Background(), id)
		if err != nil {
			tb.Fatal(err)
		}
		if all = append(all, b.Runs...); len(all) >= n {
			return all, b.Count
		}
		if time.Now().After(end) {
			tb.Fatalf("%d runs after ten seconds, want %d: %+v", len(all), n, b.Count)
		}
	}
}

// marks writes a run as stage:result, for comparison.
func marks(r tracing.Run) string {
	var b []string
	for _, m := range r.Marks {
		b = append(b, m.Stage.String()+":"+m.Result.String())
	}
	return strings.Join(b, " ")
}

func live(id uint32, picks ...tracing.Pick) tracing.LiveSession {
	return tracing.LiveSession{ID: id, Picks: picks, MaxRate: 1000, TTL: time.Minute, What: "a test"}
}

func TestALiveSessionRecordsWhatGuestsSend(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	h0, h1 := w.hosts[0], w.hosts[1]
	a, b, c := w.tap(h0, 1, 0), w.tap(h0, 2, 0), w.tap(h1, 3, 0)
	udpOnly, port := uint8(protoUDP), fabric.PortRange{First: 5, Last: 5}
	w.watch(live(7, tracing.Pick{From: "g1", FromMAC: mac(1), Protocol: &udpOnly, DestinationPorts: port}))
	w.watch(live(8, tracing.Pick{Destination: netip.PrefixFrom(address4(3), 32)}))
	const into = "port.in:pass guard:pass "

	t.Run("to a neighbour in one run, with both ports", func(t *testing.T) {
		a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data)))
		b.receive()
		runs, count := h0.runs(t, 7, 1)
		r := runs[0]
		if marks(r) != into+"fdb:hit port.out:deliver" || r.Sides[0].Port != "g1" || r.Sides[1].Port != "g2" || r.Sides[1].Generation != b.port.Generation {
			t.Errorf("the run is %s, %+v", marks(r), r.Sides)
		}
		if count.Sent != 1 || count.Met != 1 || count.Lost+count.Denied != 0 {
			t.Errorf("counted %+v", count)
		}
	})
	t.Run("on both hosts with one label, for two sessions", func(t *testing.T) {
		frame := ip{protocol: protoUDP}.frame(1, 3, false, udp(4, 5, data))
		a.send(frame)
		c.receive()
		for _, id := range []uint32{7, 8} {
			here, _ := h0.runs(t, id, 1)
			there, _ := h1.runs(t, id, 1)
			last := there[len(there)-1]
			if marks(here[0]) != into+"fdb:hit encap:pass underlay.out:pass" || !strings.HasSuffix(marks(last), "fdb.local:hit port.out:deliver") {
				t.Errorf("session %d: %s, then %s", id, marks(here[0]), marks(last))
			}
			if here[0].Label == 0 || here[0].Label != last.Label || last.Peer != h0.vtep || here[0].Length != uint32(len(frame)) || here[0].SourcePort != 4 {
				t.Errorf("session %d: %+v, then %+v", id, here[0], last)
			}
		}
	})
	t.Run("not what another asks for", func(t *testing.T) {
		a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 6, data)))
		b.receive()
		if got, err := h0.Watched(t.Context(), 7); err != nil || len(got.Runs) != 0 || got.Count.Met != 2 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("with a foreign MAC, by the port", func(t *testing.T) {
		a.send(ip{protocol: protoUDP}.frame(9, 2, false, udp(4, 5, data)))
		runs, _ := h0.runs(t, 7, 1)
		if got := marks(runs[0]); got != "port.in:pass guard:drop" || runs[0].Reason != tracing.ReasonGuardSrcMAC {
			t.Errorf("the run is %s, %s", got, runs[0].Reason)
		}
	})
}

func TestALiveSessionIsBounded(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	s := live(1)
	s.MaxRate = 10 // and one more at once
	w.watch(s)
	every := s
	every.ID, every.Every = 2, true
	w.watch(every)
	const frames = 200
	for i := range frames {
		a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, []byte(fmt.Sprint("frame ", i)))))
		b.receive()
	}
	for _, id := range []uint32{1, 2} {
		got, err := h.Watched(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		c := got.Count
		if c.Met != frames || uint64(len(got.Runs)) != c.Sent || c.Denied == 0 || c.Sent == 0 || c.Sent+c.Denied > frames {
			t.Errorf("session %d: %d runs, %+v", id, len(got.Runs), c)
		}
		if full := id == 2; (c.Sent+c.Denied == frames) != full || (c.Threshold == s.Threshold()) != full {
			t.Errorf("session %d has asked for %d of %d frames, threshold %x", id, c.Sent+c.Denied, frames, c.Threshold)
		}
	}
	for id := uint32(3); id <= tracing.MaxSessions; id++ {
		w.watch(live(id))
	}
	err := h.Watch(t.Context(), live(99))
	if !errors.Is(err, fabric.ErrConflict) || !strings.Contains(err.Error(), "16 (a test)") {
		t.Errorf("one session too many: %v", err)
	}
	if err := errors.Join(h.Unwatch(t.Context(), 5), h.Unwatch(t.Context(), 5), h.Watch(t.Context(), live(99))); err != nil {
		t.Error(err)
	}
}

func TestALiveSessionEndsInTheKernel(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	s := live(1)
	s.TTL = time.Nanosecond
	w.watch(s)
	send := func() {
		a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data)))
		b.receive()
	}
	for end := time.Now().Add(10 * time.Second); h.Tracing() != 0; send() { // the clock that ends it goes by the scheduler's tick
		if time.Now().After(end) {
			t.Fatalf("the programs still look for sessions: %x", h.Tracing())
		}
	}
	before, err := h.Watched(t.Context(), 1)
	if err != nil || !before.Ended {
		t.Errorf("a session that is over: %+v, %v", before, err)
	}
	send()
	if got, err := h.Watched(t.Context(), 1); err != nil || len(got.Runs) != 0 || got.Count.Met != before.Count.Met {
		t.Errorf("after its end: %+v, %v", got, err)
	}
	drops := live(2)
	drops.Drops = true
	w.watch(drops)
	send()
	a.send(ip{protocol: protoUDP}.frame(1, 99, false, udp(4, 5, data)))
	runs, count := h.runs(t, 2, 1)
	if len(runs) != 1 || marks(runs[0]) != "port.in:pass guard:pass fdb:drop" || count.Met != 2 {
		t.Errorf("of two frames, one of them dropped: %+v, %+v", runs, count)
	}
	if err := h.Unwatch(t.Context(), 2); err != nil || h.Tracing() != 0 {
		t.Errorf("after the end: %v, %x", err, h.Tracing())
	}
}

// TestASessionAsksByWhatComesBeforeTheLabel checks that what is looked at before a label is made lets nothing pass by that the whole
// filter asks for, and nothing in that it does not.
func TestASessionAsksByWhatComesBeforeTheLabel(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	udpOnly := uint8(protoUDP)
	picks := []tracing.Pick{
		{}, {VNI: vni}, {VNI: vni + 1}, {FromMAC: mac(1)}, {FromMAC: mac(2)}, {From: "g1", FromMAC: mac(7)}, {From: "g2", FromMAC: mac(7)}, {ToMAC: mac(2)}, {ToMAC: mac(3)},
		{Family: 4}, {Family: 6}, {Protocol: &udpOnly}, {Family: 6, Protocol: &udpOnly},
	}
	for i, p := range picks {
		w.watch(live(uint32(i+1), p))
	}
	w.watch(live(uint32(len(picks)+1), picks[2], picks[8], picks[9])) // the last of three asks for it
	send := func(frame []byte) {
		a.send(frame)
		b.receive()
	}
	send(ip{protocol: protoUDP}.frame(1, 2, false, udp(4, 5, data)))
	send(ip{protocol: protoUDP}.frame(1, 2, true, udp(4, 5, data)))
	send(ip{protocol: protoICMP}.frame(1, 2, false, append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, data...)))
	both := []uint64{3, 3, 0, 3, 0, 3, 0, 3, 0, 2, 1, 2, 1, 2}
	for i, want := range both {
		got, err := h.Watched(t.Context(), uint32(i+1))
		if err != nil || got.Count.Met != want {
			t.Errorf("session %d has met %d frames, want %d (%v)", i+1, got.Count.Met, want, err)
		}
	}
}
