package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func TestOnlyWhatIsMissingIsUnexplained(t *testing.T) {
	at := time.Now()
	for _, c := range []struct {
		name  string
		looks []sums // the first begins the round
		want  int64
	}{
		{"all went somewhere", []sums{{100, 0}, {100, 0}}, 0},
		{"a frame is gone and nothing moves", []sums{{100, 1}, {100, 1}, {100, 1}}, 1},
		{"one was under way", []sums{{100, 1}, {101, 1}, {102, 0}}, 0},
		{"a busy port always has some under way", []sums{{1000, 7}, {2000, 3}, {3000, 9}}, 0},
		{"a busy port loses more than can be under way", []sums{{1000, 5000}, {2000, 5003}, {3000, 4996}}, 4996},
		{"one look is short, another long", []sums{{1000, -1}, {1000, 1}}, 0},
		{"more went than came", []sums{{100, -2}, {100, -2}}, -2},
		{"it is plugged in anew meanwhile", []sums{{100, 3}, {2, 3}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b balance
			suspects := b.begin(map[string]sums{"port/a": c.looks[0]})
			for _, s := range c.looks[1:] {
				look(suspects, map[string]sums{"port/a": s})
			}
			if got := b.end(suspects, at)["port/a"]; got != c.want {
				t.Errorf("unexplained are %d, want %d", got, c.want)
			}
		})
	}
}

func TestWhatIsKnownToBeMissingIsToldOnce(t *testing.T) {
	var b balance
	round := func(s sums) int64 {
		now := map[string]sums{"port/a": s}
		suspects := b.begin(now)
		look(suspects, now)
		return b.end(suspects, time.Now())["port/a"]
	}
	for i, step := range []struct {
		sums
		want int64
	}{{sums{10, 1}, 1}, {sums{20, 1}, 0}, {sums{30, 4}, 3}, {sums{3, 0}, 0}, {sums{5, 2}, 2}} {
		if got := round(step.sums); got != step.want {
			t.Errorf("round %d: %d more, want %d", i, got, step.want)
		}
	}
	if n, _ := b.missing("port/a"); n != 2 {
		t.Errorf("%d are missing since it was plugged in anew", n)
	}
}

func TestFramesThatVanishAreAnAlarm(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	lose := func(lost uint64) {
		h.ground.count(map[fabric.PortID]datapath.Counters{"a": {Rx: datapath.Traffic{Frames: 10 + lost}, Local: 9, DropsIn: map[tracing.Reason]uint64{tracing.ReasonGuardSrcMAC: 1}}})
	}
	lose(0)
	drops := func() (found []tracing.Drop) {
		t.Helper()
		all, err := n.Agent.Drops(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			if d.Reason == tracing.ReasonUnexplained {
				found = append(found, d)
			}
		}
		return found
	}
	check := func() {
		t.Helper()
		if err := n.Agent.balanced(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check()
	if d := drops(); len(d) != 0 || told(t, n, "counters.unexplained") != 0 {
		t.Fatalf("nothing is missing, and it is said that %+v", d)
	}
	lose(3)
	check()
	check()
	if d := drops(); len(d) != 1 || d[0].Port != "a" || d[0].Packets != 3 {
		t.Errorf("3 are missing, and drops are %+v", d)
	}
	if got := told(t, n, "counters.unexplained"); got != 1 {
		t.Errorf("told %d times", got)
	}
	if s := n.Agent.Status(); !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "3 frames at port/a are unexplained") }) {
		t.Errorf("the status says %q", s.Problems)
	}
}
