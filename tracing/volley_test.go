package tracing

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/fabric"
)

// lossy is a way between two hosts on which things happen to some of the frames, counted from 1.
type lossy struct {
	fleet
	lose, drop, forget int // every n-th; 0 for none
	sent               int
	late               time.Duration // how long h2 says nothing after the first frame
	begun              time.Time
	seen               map[fabric.HostID][]Hop
}

func (l *lossy) Arm(ctx context.Context, host fabric.HostID, s Session) error {
	l.mu.Lock()
	l.seen[host] = nil // a session that is armed again begins anew
	l.mu.Unlock()
	return l.fleet.Arm(ctx, host, s)
}

func (l *lossy) Inject(_ context.Context, host fabric.HostID, _ fabric.PortID, _ []byte, times int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range times {
		l.one(host)
	}
	return nil
}

func (l *lossy) one(host fabric.HostID) {
	if l.sent++; l.sent == 1 {
		l.begun = time.Now()
	}
	every := func(n int) bool { return n > 0 && l.sent%n == 0 }
	add := func(host fabric.HostID, stage Stage, result Result, reason Reason) {
		l.seen[host] = append(l.seen[host], Hop{Host: host, Stage: stage, Result: result, Reason: reason})
	}
	if every(l.forget) {
		return
	}
	add(host, StageUnderlayOut, ResultPass, 0)
	if every(l.lose) {
		return
	}
	add("h2", StageUnderlayIn, ResultPass, 0)
	if every(l.drop) {
		add("h2", StagePolicyIn, ResultDrop, ReasonRateLimited)
		return
	}
	add("h2", StagePortOut, ResultCaught, ReasonProbeCaught)
}

func (l *lossy) Hops(_ context.Context, host fabric.HostID, _ Session) ([]Hop, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if host == "h2" && time.Since(l.begun) < l.late {
		return nil, nil
	}
	return l.seen[host], nil
}

func TestAVolleyCountsWhatBecameOfEachProbe(t *testing.T) {
	for claim, c := range map[string]struct {
		way                           *lossy
		arrived, dropped, lost, hides int
	}{
		"all arrive": {&lossy{}, 120, 0, 0, 0},
		// One more is sent at the end, to see that the others are not just late.
		"one in ten is lost":    {&lossy{lose: 10}, 109, 0, 12, 0},
		"one in ten is dropped": {&lossy{drop: 10}, 108, 12, 0, 0},
		// A record that is missing says nothing of the wire.
		"records are missing": {&lossy{forget: 10}, 109, 0, 0, 12},
		"a host tells late":   {&lossy{late: 300 * time.Millisecond}, 120, 0, 0, 0},
	} {
		t.Run(claim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.way.seen = map[fabric.HostID][]Hop{}
				v, err := Fire(t.Context(), c.way, options(), 120)
				if err != nil || v.Sent != c.arrived+c.dropped+c.lost+c.hides || v.Arrived != c.arrived || v.Dropped != c.dropped || v.Lost != c.lost || v.Unseen != c.hides {
					t.Errorf("%+v, %v", v, err)
				}
				if len(c.way.sessions) != 0 {
					t.Errorf("armed still: %v", c.way.sessions)
				}
			})
		})
	}
}

func TestAVolleyIsSentOnlyWhereItIsCaught(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lossy{fleet: fleet{armed: map[fabric.HostID]error{"h2": errHangs}}, seen: map[fabric.HostID][]Hop{}}
		if _, err := Fire(t.Context(), l, options(), 10); !errors.Is(err, ErrNotArmed) || l.sent != 0 {
			t.Errorf("%d sent, %v", l.sent, err)
		}
		o := options()
		o.To = ""
		if _, err := Fire(t.Context(), l, o, 10); !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("without a destination: %v", err)
		}
	})
}
