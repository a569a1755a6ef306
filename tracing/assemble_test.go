package tracing

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/fabric"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var (
	vtep1 = netip.MustParseAddr("10.240.0.1")
	vtep2 = netip.MustParseAddr("10.240.0.2")
	vtep3 = netip.MustParseAddr("fd00:240::3")
	vteps = map[netip.Addr]fabric.HostID{vtep1: "h1", vtep2: "h2", vtep3: "h3"}
	start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
)

// at is a hop of host at so many µs after start; the hosts' kernel clocks differ by minutes.
func at(host fabric.HostID, us int, stage Stage, result Result, more ...any) Hop {
	boot := map[fabric.HostID]uint64{"h1": 1e9, "h2": 600e9, "h3": 30e9}[host]
	h := Hop{Host: host, Stage: stage, Result: result, Time: start.Add(time.Duration(us) * time.Microsecond), Ktime: boot + uint64(us)*1000}
	for _, m := range more {
		switch m := m.(type) {
		case netip.Addr:
			h.Peer = m
		case Reason:
			h.Reason = m
		case fabric.PortID:
			h.Port = m
		case fabric.Revision:
			h.Generation = m
		}
	}
	return h
}

func unicast() []Hop {
	return []Hop{
		at("h1", 0, StagePortIn, ResultPass, fabric.PortID("a")),
		at("h1", 1, StageGuard, ResultPass),
		at("h1", 2, StageFDB, ResultHit, vtep2),
		at("h1", 3, StageEncap, ResultPass, vtep2),
		at("h1", 4, StageUnderlayOut, ResultPass, vtep2),
		at("h2", 40, StageUnderlayIn, ResultPass, vtep1),
		at("h2", 41, StageDecap, ResultPass, vtep1),
		at("h2", 42, StageFDBLocal, ResultHit),
		at("h2", 43, StagePortOut, ResultCaught, ReasonProbeCaught, fabric.PortID("b"), fabric.Revision(118)),
	}
}

func relayed() []Hop {
	hops := unicast()[:7]
	return append(hops,
		at("h2", 42, StageRelay, ResultRelay, vtep3),
		at("h2", 43, StageEncap, ResultPass, vtep3),
		at("h2", 44, StageUnderlayOut, ResultPass, vtep3),
		at("h3", 80, StageUnderlayIn, ResultPass, vtep2),
		at("h3", 81, StageDecap, ResultPass, vtep2),
		at("h3", 82, StagePortOut, ResultDeliver, fabric.PortID("b")))
}

func flooded() []Hop {
	return []Hop{
		at("h1", 0, StagePortIn, ResultPass),
		at("h1", 1, StageFDB, ResultFlood),
		at("h1", 2, StagePortOut, ResultDeliver, fabric.PortID("local")),
		at("h1", 3, StageEncap, ResultPass, vtep2),
		at("h1", 4, StageUnderlayOut, ResultPass, vtep2),
		at("h1", 5, StageEncap, ResultPass, vtep3),
		at("h1", 6, StageUnderlayOut, ResultPass, vtep3),
		at("h2", 40, StageUnderlayIn, ResultPass, vtep1),
		at("h2", 41, StagePortOut, ResultDeliver, fabric.PortID("b")),
		at("h3", 50, StageUnderlayIn, ResultPass, vtep1),
		at("h3", 51, StageDecap, ResultDrop, ReasonVNIUnknown),
	}
}

// assembly is what is expected of some hops.
type assembly struct {
	hops     []Hop
	verdict  Verdict
	reason   Reason
	complete bool
	shape    string // host:stage in the order of the path, with one > for each host before
	sentence string
}

func assembled() map[string]assembly {
	slow := unicast() // h2's wall clock is 10 ms behind
	for i := range slow[5:] {
		slow[5+i].Time = slow[5+i].Time.Add(-10 * time.Millisecond)
	}
	return map[string]assembly{
		"a frame to another host is delivered": {
			unicast(), Delivered, 0, true,
			"h1:port.in h1:guard h1:fdb h1:encap h1:underlay.out >h2:underlay.in >h2:decap >h2:fdb.local >h2:port.out",
			"Delivered to b on h2 after 43 µs."},
		"a host whose clock is behind comes after its sender all the same": {
			slow, Delivered, 0, true,
			"h1:port.in h1:guard h1:fdb h1:encap h1:underlay.out >h2:underlay.in >h2:decap >h2:fdb.local >h2:port.out",
			"Delivered to b on h2 after 7 µs."},
		"a guard's drop ends the way": {
			[]Hop{at("h1", 0, StagePortIn, ResultPass), at("h1", 1, StageGuard, ResultDrop, ReasonGuardSrcIP)}, Dropped, ReasonGuardSrcIP, true,
			"h1:port.in h1:guard",
			"Dropped on h1 at guard: guard_src_ip (source address is not one of the port's). Next: add the address to the port (an IPv6 link-local address too, where the guest does not make it from its MAC), or turn guard ip off."},
		"a relayed frame is delivered over three hosts": {
			relayed(), Delivered, 0, true,
			"h1:port.in h1:guard h1:fdb h1:encap h1:underlay.out >h2:underlay.in >h2:decap >h2:relay >h2:encap >h2:underlay.out >>h3:underlay.in >>h3:decap >>h3:port.out",
			"Delivered to b on h3 after 82 µs."},
		"a flood has many ends and arrives at some": {
			flooded(), Delivered, 0, true,
			"h1:port.in h1:fdb h1:port.out h1:encap h1:underlay.out h1:encap h1:underlay.out >h2:underlay.in >h2:port.out >h3:underlay.in >h3:decap",
			"Delivered to local on h1 after 2 µs."},
		"a flood that one host dropped may still arrive elsewhere": {
			append([]Hop{flooded()[0], flooded()[1]}, flooded()[3:]...)[:6], Unknown, 0, false,
			"h1:port.in h1:fdb h1:encap h1:underlay.out h1:encap h1:underlay.out",
			"Unknown: last seen on h1 at underlay.out on its way to h3."},
		"a frame that left and was not seen again is unknown": {
			unicast()[:5], Unknown, 0, false,
			"h1:port.in h1:guard h1:fdb h1:encap h1:underlay.out",
			"Unknown: last seen on h1 at underlay.out on its way to h2."},
		"a record without its sender is kept": {
			unicast()[5:], Delivered, 0, true, "h2:underlay.in h2:decap h2:fdb.local h2:port.out", "Delivered to b on h2 after 3 µs."},
		"an end without an entry still belongs to its sender": {
			append(unicast()[:5], unicast()[8]), Delivered, 0, true,
			"h1:port.in h1:guard h1:fdb h1:encap h1:underlay.out >h2:port.out", "Delivered to b on h2 after 43 µs."},
		"an answer in the guest's place counts as delivery": {
			[]Hop{at("h1", 0, StagePortIn, ResultPass), at("h1", 1, StageFDB, ResultAnswered)}, Delivered, 0, true,
			"h1:port.in h1:fdb", "Answered by the fabric on h1 after 1 µs."},
		"nothing seen is unknown": {nil, Unknown, 0, false, "", "Unknown: no host saw the frame."},
	}
}

func TestAssemble(t *testing.T) {
	for claim, test := range assembled() {
		t.Run(claim, func(t *testing.T) {
			p := Assemble(7, 0x1234, shuffled(test.hops), vteps)
			if p.Verdict != test.verdict || p.Reason != test.reason || p.Complete() != test.complete {
				t.Errorf("verdict %s, reason %q, complete %v", p.Verdict, p.Reason, p.Complete())
			}
			if got := shape(p); got != test.shape {
				t.Errorf("shape\n%s\nwant\n%s", got, test.shape)
			}
			if got := p.Sentence(); got != test.sentence {
				t.Errorf("sentence %q\nwant     %q", got, test.sentence)
			}
			checkTree(t, p)
		})
	}
}

func shuffled(hops []Hop) []Hop {
	r := rand.New(rand.NewPCG(1, uint64(len(hops))))
	r.Shuffle(len(hops), func(i, j int) { hops[i], hops[j] = hops[j], hops[i] })
	return hops
}

func shape(p *Path) string {
	var words []string
	for _, s := range p.Hops {
		words = append(words, fmt.Sprintf("%s%s:%s", strings.Repeat(">", s.Depth), s.Host, s.Stage))
	}
	return strings.Join(words, " ")
}

// checkTree checks what holds for every path: ids are unique, parents come first, no time runs backwards.
func checkTree(t *testing.T, p *Path) {
	t.Helper()
	seen := map[SpanID]Step{}
	for _, s := range p.Hops {
		if _, twice := seen[s.SpanID]; twice {
			t.Errorf("span %s appears twice", s.SpanID)
		}
		seen[s.SpanID] = s
		if s.ParentID.IsZero() {
			continue
		}
		parent, ok := seen[s.ParentID]
		if !ok {
			t.Errorf("%s on %s comes before its parent", s.Stage, s.Host)
		}
		if parent.AfterUs > s.AfterUs {
			t.Errorf("%s on %s at %v µs is before its parent at %v µs", s.Stage, s.Host, s.AfterUs, parent.AfterUs)
		}
	}
}

func TestFloodedWaysBeginAtTheFlood(t *testing.T) {
	p := Assemble(7, 0x1234, flooded(), vteps)
	at := map[string]Step{}
	for _, s := range p.Hops {
		at[fmt.Sprintf("%s:%s:%s", s.Host, s.Stage, s.Peer)] = s
	}
	flood, out := at["h1:fdb:invalid IP"], at["h1:underlay.out:"+vtep3.String()]
	for _, name := range []string{"h1:port.out:invalid IP", "h1:encap:" + vtep2.String(), "h1:encap:" + vtep3.String()} {
		if at[name].ParentID != flood.SpanID {
			t.Errorf("%s does not come from the flood", name)
		}
	}
	if at["h3:underlay.in:"+vtep1.String()].ParentID != out.SpanID {
		t.Error("h3's way does not come from the hop that was sent to h3")
	}
}

func TestDuplicateIsASecondVisit(t *testing.T) {
	hops := unicast()
	for _, h := range hops[5:] {
		h.Ktime += 5000
		h.Time = h.Time.Add(5 * time.Microsecond)
		hops = append(hops, h)
	}
	p := Assemble(7, 0x1234, hops, vteps)
	checkTree(t, p)
	attempts := map[int]int{}
	for _, s := range p.Hops {
		if s.Host == "h2" {
			attempts[s.Attempt]++
			if s.Depth != 1 {
				t.Errorf("%s attempt %d has depth %d", s.Stage, s.Attempt, s.Depth)
			}
		}
	}
	if attempts[0] != 4 || attempts[1] != 4 {
		t.Fatalf("hops by attempt: %v", attempts)
	}
}

func TestRecordsInACircleAreAllPlaced(t *testing.T) {
	hops := []Hop{
		at("h1", 0, StageUnderlayIn, ResultPass, vtep2), at("h1", 1, StageUnderlayOut, ResultPass, vtep2),
		at("h2", 0, StageUnderlayIn, ResultPass, vtep1), at("h2", 1, StageUnderlayOut, ResultPass, vtep1),
	}
	if p := Assemble(7, 1, hops, vteps); len(p.Hops) != 4 || p.Verdict != Unknown {
		t.Fatalf("%d hops, %s", len(p.Hops), p.Verdict)
	}
}

func TestAllHostsComputeTheSameIDs(t *testing.T) {
	// The bytes are part of the contract: hosts of two releases must agree on them.
	trace := PacketTrace(7, 0x1234)
	visit := VisitSpan(trace, "h1", StagePortIn, 0)
	got := []string{trace.String(), RootSpan(trace).String(), visit.String(), StageSpan(visit, StageFDB, 2).String()}
	want := []string{"987b0e3b09664c8c7b2d1afcdf7e2b02", "2982d506aff02102", "2469018e42d46b68", "2211226039f3f3e5"}
	if !slices.Equal(got, want) {
		t.Errorf("ids are %v, want %v", got, want)
	}
	if trace == PacketTrace(8, 0x1234) || trace == PacketTrace(7, 0x1235) {
		t.Error("another session or label has the same trace")
	}
	if visit == VisitSpan(trace, "h1", StagePortIn, 1) || visit == VisitSpan(trace, "h2", StagePortIn, 0) || visit == VisitSpan(trace, "h1", StageUnderlayIn, 0) {
		t.Error("another visit has the same span")
	}
}

func TestPathJSON(t *testing.T) {
	want := Assemble(7, 1<<63, unicast(), vteps)
	want.Missing = []Missing{{Host: "h9", Asked: "arm", Error: "no route"}}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"verdict":"delivered"`, `"mode":"probe"`, `"label":"9223372036854775808"`, `"stage":"port.in","result":"pass"`,
		`"peerHost":"h2"`, `"generation":118`, `"missing":[{"host":"h9"`, `"traceID":"` + want.TraceID.String()} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("%s lacks %s", raw, part)
		}
	}
	var got Path
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(&got)
	if err != nil || string(again) != string(raw) {
		t.Fatalf("%v:\n%s\nbecame\n%s", err, raw, again)
	}
	if raw, _ := json.Marshal(Assemble(7, 1, nil, vteps)); !strings.Contains(string(raw), `"hops":[]`) {
		t.Errorf("no hops must be an empty list: %s", raw)
	}
}

// FuzzAssemble checks that no mixture of records, as broken hosts might send them, is lost, repeated or looped over.
func FuzzAssemble(f *testing.F) {
	f.Add([]byte{1, 0, 1, 9, 1, 1, 10, 1, 2, 11, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		stages := []Stage{StagePortIn, StageGuard, StageFDB, StageEncap, StageUnderlayOut, StageUnderlayIn, StageDecap, StageFDBLocal, StageRelay, StagePortOut, 77}
		peers := []netip.Addr{vtep1, vtep2, vtep3, {}}
		hosts := []fabric.HostID{"h1", "h2", "h3"}
		var hops []Hop
		for ; len(b) >= 3 && len(hops) < 200; b = b[3:] {
			h := at(hosts[int(b[0])%3], int(b[2]), stages[int(b[1])%len(stages)], Result(b[2]%12), peers[int(b[0])/3%4])
			if b[1]&128 != 0 {
				h.Ktime = 0
			}
			hops = append(hops, h)
		}
		p := Assemble(1, 2, hops, vteps)
		if len(p.Hops) != len(hops) {
			t.Fatalf("%d hops became %d", len(hops), len(p.Hops))
		}
		_ = p.Sentence()
		_ = p.Complete()
	})
}

func BenchmarkAssemble(b *testing.B) {
	hops := relayed()
	b.ReportAllocs()
	for b.Loop() {
		Assemble(7, 0x1234, hops, vteps)
	}
	b.ReportMetric(float64(len(hops)*b.N)/b.Elapsed().Seconds(), "hops/s")
}

func BenchmarkLabel(b *testing.B) {
	frame := make([]byte, 98)
	frame[12], frame[13], frame[14], frame[23] = 0x08, 0x00, 0x45, 17
	for b.Loop() {
		Label(1, 2, 4711, frame)
	}
}
