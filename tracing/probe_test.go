package tracing

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/fabric"
)

// fleet is a Fabric in memory: each hop becomes visible on its host after its delay.
type fleet struct {
	hops  map[fabric.HostID][]timed
	armed map[fabric.HostID]error // what Arm answers
	hang  map[fabric.HostID]bool  // Hops of these hosts never answers
	fails map[fabric.HostID]int   // how many calls of Hops fail before one succeeds

	mu       sync.Mutex
	sessions map[fabric.HostID]int // armed minus disarmed
	injected time.Time
	asked    int
}

type timed struct {
	after time.Duration
	hop   Hop
}

func (f *fleet) Arm(ctx context.Context, host fabric.HostID, _ Session) error {
	if errors.Is(f.armed[host], errHangs) {
		<-ctx.Done()
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions == nil {
		f.sessions = map[fabric.HostID]int{}
	}
	if f.armed[host] == nil {
		f.sessions[host]++
	}
	return f.armed[host]
}

func (f *fleet) Inject(context.Context, fabric.HostID, fabric.PortID, []byte, int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.injected = time.Now()
	return nil
}

func (f *fleet) Hops(ctx context.Context, host fabric.HostID, _ Session) ([]Hop, error) {
	if f.hang[host] {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.fails[host] > 0 {
		f.fails[host]--
		return nil, errors.New("connection reset")
	}
	var hops []Hop
	for _, t := range f.hops[host] {
		if time.Since(f.injected) >= t.after {
			hops = append(hops, t.hop)
		}
	}
	return hops, nil
}

func (f *fleet) Disarm(_ context.Context, host fabric.HostID, _ Session) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sessions, host)
	return nil
}

var (
	_        Fabric = (*fleet)(nil)
	errHangs        = errors.New("never answers")
)

// recorded makes a fleet whose hosts show these hops, each host after its own delay.
func recorded(hops []Hop, delay map[fabric.HostID]time.Duration) *fleet {
	f := &fleet{hops: map[fabric.HostID][]timed{}}
	for _, h := range hops {
		f.hops[h.Host] = append(f.hops[h.Host], timed{delay[h.Host], h})
	}
	return f
}

func options() ProbeOptions {
	return ProbeOptions{
		Session: Session{ID: 7, Label: 0x1234}, From: "h1", Port: "a", To: "h2", Hosts: []fabric.HostID{"h3", "h2", "h1"},
		Frame: []byte{1}, VTEPs: vteps,
	}
}

// outcome is what is expected of a probe in a fleet.
type outcome struct {
	fleet   *fleet
	verdict Verdict
	missing string // host:asked, …
	within  time.Duration
}

func outcomes() map[string]outcome {
	return map[string]outcome{
		"a delivered frame is reported as soon as its end is seen": {
			recorded(unicast(), map[fabric.HostID]time.Duration{"h2": 5 * time.Millisecond}), Delivered, "", 10 * time.Millisecond},
		"a beginning that is recorded after the end is waited for": {
			recorded(unicast(), map[fabric.HostID]time.Duration{"h1": 5 * time.Millisecond}), Delivered, "", 10 * time.Millisecond},
		"a flood is waited for until nothing new comes": {
			recorded(flooded(), map[fabric.HostID]time.Duration{"h3": 300 * time.Millisecond}), Delivered, "", 500 * time.Millisecond},
		"a frame that vanishes is unknown after the time-out": {
			recorded(unicast()[:5], nil), Unknown, "", 3 * time.Second},
		"a host beside the way that cannot be armed is named": {
			func() *fleet {
				f := recorded(unicast(), nil)
				f.armed = map[fabric.HostID]error{"h3": errors.New("connection refused")}
				return f
			}(), Delivered, "h3:arm", 10 * time.Millisecond},
		"a host that is asked in vain to arm costs two seconds": {
			func() *fleet {
				f := recorded(unicast(), nil)
				f.armed = map[fabric.HostID]error{"h3": errHangs}
				return f
			}(), Delivered, "h3:arm", 2010 * time.Millisecond},
		"a host that hangs while others know the answer is named": {
			func() *fleet {
				f := recorded(unicast(), nil)
				f.hang = map[fabric.HostID]bool{"h3": true}
				return f
			}(), Delivered, "h3:collect", 300 * time.Millisecond},
		"a host that answers the second time is not missing": {
			func() *fleet {
				f := recorded(unicast(), nil)
				f.fails = map[fabric.HostID]int{"h2": 3}
				return f
			}(), Delivered, "", 100 * time.Millisecond},
	}
}

func TestProbe(t *testing.T) {
	for claim, test := range outcomes() {
		t.Run(claim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p, err := Probe(t.Context(), test.fleet, options())
				if err != nil {
					t.Fatal(err)
				}
				var missing []string
				for _, m := range p.Missing {
					missing = append(missing, string(m.Host)+":"+m.Asked)
				}
				if p.Verdict != test.verdict || strings.Join(missing, " ") != test.missing {
					t.Errorf("%s, missing %v", p.Sentence(), missing)
				}
				if len(p.Hops) == 0 || p.Hops[0].Host != "h1" {
					t.Errorf("the path does not begin where the frame was sent: %+v", p.Hops)
				}
				if took := time.Since(began); took > test.within {
					t.Errorf("took %v, more than %v", took, test.within)
				}
				if len(test.fleet.sessions) != 0 {
					t.Errorf("still armed: %v", test.fleet.sessions)
				}
			})
		})
	}
}

func TestProbeSendsNothingUnlessBothEndsAreArmed(t *testing.T) {
	for _, end := range []fabric.HostID{"h1", "h2"} {
		synctest.Test(t, func(t *testing.T) {
			f := recorded(unicast(), nil)
			refused := errors.New("connection refused")
			f.armed = map[fabric.HostID]error{end: refused}
			_, err := Probe(t.Context(), f, options())
			if !errors.Is(err, ErrNotArmed) || !errors.Is(err, refused) || !strings.Contains(err.Error(), string(end)) {
				t.Errorf("error %v", err)
			}
			if !f.injected.IsZero() || len(f.sessions) != 0 {
				t.Errorf("injected at %v, still armed %v", f.injected, f.sessions)
			}
		})
	}
}

func TestProbeDisarmsWhenTheCallerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := recorded(unicast()[:5], nil)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		p, err := Probe(ctx, f, options())
		if err != nil || p.Verdict != Unknown || len(f.sessions) != 0 {
			t.Fatalf("%v, %v, still armed %v", p, err, f.sessions)
		}
	})
}

func TestProbeNeedsALabel(t *testing.T) {
	for _, spoil := range []func(*ProbeOptions){
		func(o *ProbeOptions) { o.Session.Label = 0 },
		func(o *ProbeOptions) { o.Session.ID = 0 },
		func(o *ProbeOptions) { o.Frame = nil },
	} {
		o := options()
		spoil(&o)
		if _, err := Probe(t.Context(), &fleet{}, o); !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("error %v", err)
		}
	}
}

func TestProbeAsksEveryHostOnce(t *testing.T) {
	o := options()
	o.Hosts = append(o.Hosts, "h2", "h4", "h1")
	o.fill()
	if want := []fabric.HostID{"h1", "h2", "h3", "h4"}; !slices.Equal(o.Hosts, want) {
		t.Fatalf("hosts %v, want %v", o.Hosts, want)
	}
}
