package datapath

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAProgramThatIsTakenAwayAgainAndAgainIsLeftOffForAWhile(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var f fight
	var repair bool
	for n := range repairsAtOnce {
		if f, repair = f.step(false, now); !repair || f.truces != 0 {
			t.Fatalf("removal %d: repaired %v, %+v", n+1, repair, f)
		}
		f, _ = f.step(true, now.Add(500*time.Millisecond))
		now = now.Add(time.Second)
	}
	for _, truce := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute} {
		if f, repair = f.step(false, now); repair || f.until.Sub(now) != truce {
			t.Fatalf("repaired %v, left off for %v, want %v", repair, f.until.Sub(now), truce)
		}
		if f, repair = f.step(false, now.Add(truce-time.Nanosecond)); repair {
			t.Fatalf("repaired before %v were over", truce)
		}
		now = now.Add(truce)
		if f, repair = f.step(false, now); !repair || !f.until.IsZero() {
			t.Fatalf("not repaired after %v: %+v", truce, f)
		}
		now = now.Add(time.Second)
	}
	if f, _ = f.step(true, now.Add(fightWindow+time.Second)); f.truces != 0 || len(f.lost) != 0 {
		t.Fatalf("not forgotten: %+v", f)
	}
}

func TestAProgramThatIsMissingNowAndThenIsAlwaysRepaired(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	var f fight
	for range 100 {
		var repair bool
		if f, repair = f.step(false, now); !repair {
			t.Fatalf("not repaired: %+v", f)
		}
		now = now.Add(fightWindow/repairsAtOnce + time.Second)
	}
	if len(f.lost) > repairsAtOnce {
		t.Fatalf("%d removals are remembered", len(f.lost))
	}
}

// TestAFightIsBounded holds every history to: a missing program is put back within maxTruce, and never more often than four
// times in any ten seconds.
func TestAFightIsBounded(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		var f fight
		var repairs []time.Time
		var since time.Time // when it was first seen missing
		present := true
		for range rapid.IntRange(1, 300).Draw(rt, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(rt, "ms")) * time.Millisecond)
			if present && rapid.Bool().Draw(rt, "removed") {
				present, since = false, now
			}
			var repair bool
			if f, repair = f.step(present, now); !repair {
				if !present && now.Sub(since) > maxTruce {
					rt.Fatalf("missing since %v", now.Sub(since))
				}
				continue
			}
			if present {
				rt.Fatal("repaired what was there")
			}
			present = true
			if repairs = append(repairs, now); len(repairs) > 4 && now.Sub(repairs[len(repairs)-5]) <= minTruce {
				rt.Fatalf("repaired at %v", repairs[len(repairs)-5:])
			}
		}
	})
}
