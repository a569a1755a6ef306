package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// limited puts limits in force on a guest's port.
func (g *tapGuest) limited(l datapath.Limits) {
	g.tb.Helper()
	g.port.Limits = l
	g.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: g.port}}})
}

// gcra is what is known of a bucket by who sees only when he sent: it is empty at a time from lo to hi.
type gcra struct {
	limit  datapath.Limit
	lo, hi time.Duration
}

// verdicts of a gcra.
const (
	mustPass = "passes"
	mustDrop = "is dropped"
	mayBoth  = "may do both"
)

// meets is what must become of n units that were met between a and b.
func (g *gcra) meets(n uint64, a, b time.Duration) string {
	cost, burst := g.time(n), g.time(g.limit.Burst)
	const rounding = 100 // ns
	switch {
	case max(g.hi, a)+cost-a+rounding <= burst:
		return mustPass
	case max(g.lo, b)+cost-b-rounding > burst:
		return mustDrop
	}
	return mayBoth
}

// passed takes n units that have passed.
func (g *gcra) passed(n uint64, a, b time.Duration) {
	g.lo, g.hi = max(g.lo, a)+g.time(n), max(g.hi, b)+g.time(n)
}

// narrow takes what the core says of the bucket between a and b.
func (g *gcra) narrow(left, a, b time.Duration) {
	if left > 0 {
		g.lo, g.hi = max(g.lo, a+left-100), min(g.hi, b+left+100)
	}
}

func (g *gcra) time(n uint64) time.Duration {
	return time.Duration(float64(n) / float64(g.limit.Rate) * float64(time.Second))
}

// clock is the core's clock.
func clock(tb testing.TB) time.Duration {
	tb.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// dropped are the frames that the rate of a direction has kept back.
func (g *tapGuest) dropped(out bool) uint64 {
	ports, _ := g.host.counters()
	if c := ports[g.port.Name]; out {
		return c.DropsIn[tracing.ReasonRateLimited]
	} else {
		return c.DropsOut[tracing.ReasonRateLimited]
	}
}

// TestARateIsHeldFrameByFrame asks of each frame whether its verdict is that of the rate, the burst and the time, whatever time
// the machine took between them.
func TestARateIsHeldFrameByFrame(t *testing.T) {
	for _, direction := range []string{"what a guest sends", "what a guest receives"} {
		t.Run(direction, func(t *testing.T) {
			w := newWorld(t, 1, false)
			w.load()
			a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
			limit := datapath.Limit{Rate: 2e6, Burst: 40 * 8 * 1042} // a frame in 4 ms, 40 at once
			g, out, way := a, direction == "what a guest sends", 0
			if out {
				g.limited(datapath.Limits{Out: limit})
			} else {
				g, way = b, 1
				g.limited(datapath.Limits{In: limit})
			}
			frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, make([]byte, 1000)))
			model, sure, drops := gcra{limit: limit}, map[string]int{}, uint64(0)
			for i := range 600 {
				before := clock(t)
				a.send(frame)
				after := clock(t)
				verdict := model.meets(8*uint64(len(frame)), before, after)
				now := g.dropped(out)
				switch passed := now == drops; {
				case passed && verdict == mustDrop, !passed && verdict == mustPass:
					t.Fatalf("frame %d: passed is %t, but it %s", i, passed, verdict)
				case passed:
					model.passed(8*uint64(len(frame)), before, after)
				}
				drops = now
				sure[verdict]++
				before = clock(t)
				left, err := g.host.ExportBacklog(context.Background(), g.port.Name)
				if err != nil {
					t.Fatal(err)
				}
				model.narrow(left[way], before, clock(t))
			}
			if sure[mustPass] < 20 || sure[mustDrop] < 20 {
				t.Errorf("of 600 frames this many were sure: %v", sure)
			}
			if now, _ := w.hosts[0].counters(); now[a.port.Name].Rx.Frames != 600 {
				t.Errorf("%d frames were met, want 600", now[a.port.Name].Rx.Frames)
			}
		})
	}
}

func TestARateCountsTheHeadersOfEverySegment(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a := w.tap(w.hosts[0], 1, nic.FullOffload)
	w.tap(w.hosts[0], 2, nic.FullOffload)
	limit := datapath.Limit{Rate: 1e6, Burst: 8 << 20}
	a.limited(datapath.Limits{Out: limit})
	const segment, segments = 1000, 20
	a.send(ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, make([]byte, 10000-42)))[:1442])
	left := func() time.Duration {
		b, err := a.host.ExportBacklog(context.Background(), a.port.Name)
		if err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	big := ether(mac(2), mac(1), typeIPv4, ip{protocol: protoTCP, df: true}.packet(address4(1), address4(2), tcp(address4(1), address4(2), 0x10, nil, make([]byte, segment*segments))))
	before := clock(t)
	full := left()
	a.sendVnet(vnet{Flags: needsCsum, Type: gsoTCP4, HeaderLen: 54, Size: segment, CsumStart: 34, CsumAt: 16}, big)
	took := left() - full
	passed := clock(t) - before // what has run out meanwhile
	want := time.Duration(segments*(segment+54)*8) * time.Second / 1e6
	if took > want || took < want-passed {
		t.Errorf("%d segments of %d bytes took %v, want %v less up to %v", segments, segment+54, took, want, passed)
	}
}

func TestSendersWithECNAreToldBeforeTheyLose(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			w := newWorld(t, 1, false)
			w.load()
			a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
			frame := func(ecn uint8) []byte {
				return ip{protocol: protoUDP, ecn: ecn}.frame(1, 2, v6, udp(1, 2, make([]byte, 1000)))
			}
			size := uint64(len(frame(0))) * 8
			a.limited(datapath.Limits{Out: datapath.Limit{Rate: 1000, Burst: 10 * size}}) // a frame in eight seconds
			ecnOf := func(f []byte) byte {
				if v6 {
					return f[15] >> 4 & 3
				}
				return f[15] & 3
			}
			var got []byte
			for _, sent := range []uint8{2, 1, 2, 2, 2, 2, 1, 0, 2, 3} {
				a.send(frame(sent))
				f := b.receive()
				if f == nil {
					t.Fatalf("a frame within the burst is lost after %v", got)
				}
				if !v6 && checksum(f[14:34], 0) != 0xffff {
					t.Errorf("the header of a frame with ECN %d has a bad checksum", sent)
				}
				got = append(got, ecnOf(f))
			}
			if want := []byte{2, 1, 2, 2, 2, 3, 3, 0, 3, 3}; string(got) != string(want) {
				t.Errorf("they arrive with %v, want %v", got, want)
			}
			a.expectDrop(tracing.ReasonRateLimited, frame(2))
			ports, _ := w.hosts[0].counters()
			if n := ports[a.port.Name].MarkedOut; n != 4 {
				t.Errorf("%d packets are marked, want 4", n)
			}
		})
	}
}

func TestWhatIsUsedUpOutlivesTheAgentAndTravels(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, _ := w.tap(h, 1, 0), w.tap(h, 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	limits := datapath.Limits{Out: datapath.Limit{Rate: 100, Burst: 8 * uint64(len(frame))}}
	a.limited(limits)
	a.send(frame)
	a.expectDrop(tracing.ReasonRateLimited, frame)
	h.Close()
	h.load()
	a.expectDrop(tracing.ReasonRateLimited, frame)
	used, err := h.ExportBacklog(context.Background(), a.port.Name)
	if err != nil || used[0] <= 0 {
		t.Fatalf("%v is used up: %v", used, err)
	}
	again := func() { // as on a host where the port was never before
		h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{a.device: {}}}})
		w.plug(&a.station)
	}
	again()
	if err := h.ImportBacklog(context.Background(), a.port.Name, used, 0); err != nil {
		t.Fatal(err)
	}
	a.expectDrop(tracing.ReasonRateLimited, frame)
	for claim, carried := range map[string]datapath.Backlog{"what is old": used, "what is impossible": {-1 << 62}, "nothing": {}} {
		again()
		if err := h.ImportBacklog(context.Background(), a.port.Name, carried, time.Hour); err != nil {
			t.Fatal(err)
		}
		before := a.dropped(true)
		a.send(frame)
		if a.dropped(true) != before {
			t.Errorf("%s keeps a frame back", claim)
		}
	}
	if err := h.ImportBacklog(context.Background(), "nobody", used, 0); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("a port that is not here: %v", err)
	}
}

func TestALimitThatIsTakenAwayLimitsNothing(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1, 2, data))
	a.limited(datapath.Limits{Out: datapath.Limit{Rate: 1e9, Burst: 1e6}})
	a.send(frame)
	if b.receive() == nil {
		t.Fatal("what is within the rate does not pass")
	}
	a.limited(datapath.Limits{})
	for range 3 {
		a.send(frame)
		if b.receive() == nil {
			t.Fatal("what is not limited does not pass")
		}
	}
	state, err := w.hosts[0].Read(context.Background())
	if err != nil || state.Ports[a.device].Limits != (datapath.Limits{}) {
		t.Fatalf("limits that were taken away are %+v: %v", state.Ports[a.device].Limits, err)
	}
}
