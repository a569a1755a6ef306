package tracing

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

var (
	vtepA = netip.MustParseAddr("192.0.2.1")
	vtepB = netip.MustParseAddr("192.0.2.2")
	begin = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
)

// liveRun is a run that ends at a moment after begin, having taken 10 µs.
func liveRun(label uint64, after time.Duration, marks ...Mark) Run {
	r := Run{Label: label, Time: begin.Add(after), Ktime: uint64(after) + 1e12, Took: 10 * time.Microsecond, Marks: marks}
	r.Sides[0], r.Sides[1] = Side{Port: "a"}, Side{Port: "b"}
	return r
}

func sent(label uint64, after time.Duration) Run {
	r := liveRun(label, after, Mark{StagePortIn, ResultPass}, Mark{StageGuard, ResultPass}, Mark{StageFDB, ResultHit}, Mark{StageEncap, ResultPass}, Mark{StageUnderlayOut, ResultPass})
	r.Peer = vtepB
	return r
}

func received(label uint64, after time.Duration, end Mark) Run {
	r := liveRun(label, after, Mark{StageUnderlayIn, ResultPass}, Mark{StageDecap, ResultPass}, Mark{StageFDBLocal, ResultHit}, end)
	r.Peer = vtepA
	return r
}

var delivered = Mark{StagePortOut, ResultDeliver}

// gather gives two hosts' runs to a gatherer and settles them; the second host counts missing records that it could not send.
func gather(s LiveSession, a, b []Run, missing uint64) LiveReport {
	g := NewGatherer(s, map[netip.Addr]fabric.HostID{vtepA: "h1", vtepB: "h2"}, begin)
	g.Arm("h1", nil)
	g.Arm("h2", nil)
	g.Arm("h3", errors.New("no route to host"))
	at := begin.Add(2 * time.Second)
	add := func(host fabric.HostID, runs []Run, c LiveCount) {
		c.Threshold = s.Threshold()
		g.Add(host, at, at.Add(time.Millisecond), LiveBatch{Runs: runs, Count: c, Now: at.Add(time.Millisecond / 2)})
	}
	add("h1", a, LiveCount{})
	add("h2", b, LiveCount{Lost: missing})
	at = at.Add(time.Second)
	add("h1", nil, LiveCount{})
	add("h2", nil, LiveCount{Lost: missing})
	g.Settle(at.Add(settled))
	return g.Report(at, true)
}

func TestWaysAreKeptWhole(t *testing.T) {
	g := NewGatherer(LiveSession{ID: 9}, map[netip.Addr]fabric.HostID{vtepA: "h1", vtepB: "h2"}, begin)
	g.Keep(3, func(p *Path) []Change { return []Change{{Object: "location/" + string(p.Hops[0].Port)}} })
	g.Arm("h1", nil)
	at := begin.Add(2 * time.Second)
	const ms = time.Millisecond
	g.Add("h1", at, at, LiveBatch{Runs: []Run{sent(4, 40*ms), sent(4, 50*ms)}, Now: at}) // content that repeats
	g.Settle(at.Add(settled))
	at = at.Add(time.Minute)
	g.Add("h1", at, at, LiveBatch{Runs: []Run{sent(4, time.Minute), sent(5, time.Minute+ms)}, Now: at})
	if r := g.Report(at, false); len(r.Kept) != 0 {
		t.Errorf("%d ways are in the report of a session that goes on", len(r.Kept))
	}
	g.Settle(at.Add(settled))
	r := g.Report(at, true)
	if len(r.Kept) != 3 || r.Unkept != 1 || r.Packets != 4 {
		t.Fatalf("%d ways kept, %d not, of %d packets", len(r.Kept), r.Unkept, r.Packets)
	}
	seen := map[TraceID]bool{}
	for _, p := range r.Kept {
		if p.TraceID.IsZero() || seen[p.TraceID] || p.Mode != ModeLive || len(p.Changes) != 1 || p.Changes[0].Object != "location/a" {
			t.Errorf("way %s: %+v", p.TraceID, p)
		}
		seen[p.TraceID] = true
	}
	if !seen[PacketTrace(9, 4)] {
		t.Error("the first frame's trace is not that of its session and label")
	}
}

func TestLiveFramesArePutTogether(t *testing.T) {
	const ms = time.Millisecond
	denied := received(3, 30*ms, Mark{StagePolicyIn, ResultDrop})
	denied.Reason, denied.Sides[1].Policy, denied.Sides[1].Rule = ReasonPolicyDenied, "web", "rest"
	r := gather(LiveSession{ID: 9}, []Run{
		sent(1, 10*ms), sent(2, 20*ms), sent(3, 30*ms-50*time.Microsecond),
		sent(4, 40*ms), sent(4, 50*ms), // content that repeats
		sent(5, 60*ms), sent(6, -ms), // the last one was under way before the session was armed everywhere
	}, []Run{
		received(1, 10*ms+100*time.Microsecond, delivered), denied,
		received(4, 40*ms+100*time.Microsecond, delivered), received(4, 50*ms+100*time.Microsecond, delivered),
		received(5, 60*ms+100*time.Microsecond, delivered), received(5, 60*ms+150*time.Microsecond, delivered), // twice
		received(6, ms, delivered), received(7, 1500*ms, delivered), // nobody has sent the last one
	}, 0)
	if r.Packets != 7 || r.Delivered != 4 || r.Dropped != 1 || r.Lost != 1 || r.Duplicates != 1 || r.Orphans != 1 || r.Unknown != 0 {
		t.Errorf("counted %+v", r)
	}
	if len(r.Ways) != 1 || r.Ways[0].Way != "a@h1 > b@h2" || r.Ways[0].Packets != 4 {
		t.Fatalf("ways %+v", r.Ways)
	}
	if w := r.Ways[0]; w.P50Us < 100 || w.P50Us > 120 || len(w.Segments) != 3 || w.Segments[1].Name != "h1 → h2" || w.Segments[1].P50Us < 85 || w.Segments[1].P50Us > 95 {
		t.Errorf("times %+v", w)
	}
	if len(r.Drops) != 1 || r.Drops[0] != (LiveDrop{Packets: 1, Reason: ReasonPolicyDenied, Host: "h2", Stage: StagePolicyIn, Port: "b", Policy: "web", Rule: "rest"}) {
		t.Errorf("drops %+v", r.Drops)
	}
	if len(r.Losses) != 1 || r.Losses[0] != (LiveLoss{From: "h1", To: "h2", Packets: 1}) {
		t.Errorf("losses %+v", r.Losses)
	}
	if len(r.Missing) != 1 || r.Missing[0].Host != "h3" || r.Missing[0].Asked != "arm" {
		t.Errorf("missing %+v", r.Missing)
	}
}

func TestAFrameIsNotLostWhereRecordsAre(t *testing.T) {
	r := gather(LiveSession{ID: 9}, []Run{sent(1, time.Second+500*time.Millisecond)}, nil, 3)
	if r.Lost != 0 || r.Unknown != 1 || len(r.Losses) != 0 {
		t.Errorf("counted %+v", r)
	}
}

func TestOnlyWhatAllHostsAskForCounts(t *testing.T) {
	s := LiveSession{ID: 9, OneIn: 4}
	r := gather(s, []Run{sent(s.Threshold(), time.Millisecond), sent(s.Threshold()+1, time.Millisecond)}, nil, 0)
	if r.Packets != 1 || r.Thinned != 1 || r.Fraction < 0.249 || r.Fraction > 0.251 {
		t.Errorf("counted %+v", r)
	}
}

func TestClocksThatDifferAreBroughtTogether(t *testing.T) {
	g := NewGatherer(LiveSession{ID: 9}, map[netip.Addr]fabric.HostID{vtepA: "h1", vtepB: "h2"}, begin)
	g.Arm("h1", nil)
	g.Arm("h2", nil)
	at := begin.Add(time.Second)
	ahead := received(1, time.Minute+200*time.Microsecond, delivered) // its host's clock is a minute ahead
	g.Add("h1", at, at.Add(time.Millisecond), LiveBatch{Runs: []Run{sent(1, 0+100*time.Microsecond)}, Now: at.Add(time.Millisecond / 2)})
	g.Add("h2", at, at.Add(time.Millisecond), LiveBatch{Runs: []Run{ahead}, Now: at.Add(time.Minute + time.Millisecond/2)})
	g.Settle(at.Add(time.Minute))
	r := g.Report(at, true)
	if r.Delivered != 1 || r.Ways[0].P50Us < 100 || r.Ways[0].P50Us > 115 {
		t.Errorf("%+v", r)
	}
	if h := r.Hosts[1]; h.OffsetUs != 6e7 || h.WithinUs < 500 || h.WithinUs > 501 {
		t.Errorf("clock of h2: %+v", h)
	}
}

func TestADropNeedsNoBeginning(t *testing.T) {
	denied := received(3, time.Millisecond, Mark{StagePolicyIn, ResultDrop})
	denied.Reason = ReasonPolicyDenied
	r := gather(LiveSession{ID: 9, Drops: true}, nil, []Run{denied}, 0)
	if r.Packets != 1 || r.Dropped != 1 || r.Orphans != 0 || len(r.Drops) != 1 {
		t.Errorf("counted %+v", r)
	}
}

// TestTCPIsNotLostWhereItIsCut: what hosts and NICs make one frame of, or several, has another label on each side.
func TestTCPIsNotLostWhereItIsCut(t *testing.T) {
	a, b := sent(1, 1500*time.Millisecond), received(2, 1500*time.Millisecond+100*time.Microsecond, delivered)
	a.Protocol, a.Length, b.Protocol, b.Length = protoTCP, 64000, protoTCP, 1514
	r := gather(LiveSession{ID: 9}, []Run{a}, []Run{b}, 0)
	if r.Lost != 0 || len(r.Losses) != 0 || r.Recut != 2 || r.Orphans != 0 || r.Unknown != 0 {
		t.Errorf("counted %+v", r)
	}
	a.Length = 66 // an acknowledgement is never cut
	if r := gather(LiveSession{ID: 9}, []Run{a}, nil, 0); r.Lost != 1 || r.Recut != 0 {
		t.Errorf("counted %+v", r)
	}
}
