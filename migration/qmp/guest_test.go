package qmp

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

// expect reads the next events and compares their kinds.
func expect(t *testing.T, g *Guest, kinds ...Kind) []Event {
	t.Helper()
	var got []Event
	for _, want := range kinds {
		select {
		case e, open := <-g.Events():
			if !open || e.Kind != want {
				t.Fatalf("after %v came %q (open %v), want %q", got, e.Kind, open, want)
			}
			got = append(got, e)
		case <-limited(t).Done():
			t.Fatalf("after %v nothing came, want %q", got, want)
		}
	}
	return got
}

func TestGuestTellsHowThingsStandAndWhatHappens(t *testing.T) {
	f := newFake(t, func(c string) []string {
		switch c {
		case "query-migrate":
			return []string{`{"return": {"status": "failed", "error-desc": "earlier"}, "id": %d}`}
		case "query-status":
			// A STOP that comes before the answer stays before it.
			return []string{`{"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 1}}`, `{"return": {"running": false, "status": "paused"}, "id": %d}`}
		}
		return nil
	})
	g := Watch(f.path, Options{})
	defer g.Close()
	expect(t, g, Failed, Stops, Stops)
	if g.Process() != os.Getpid() {
		t.Errorf("process %d, but this one, %d, serves the socket", g.Process(), os.Getpid())
	}
	f.say(`{"event": "MIGRATION_PASS", "data": {"pass": 1}, "timestamp": {"seconds": 5, "microseconds": 1}}`)
	f.say(`{"event": "MIGRATION", "data": {"status": "pre-switchover"}, "timestamp": {"seconds": 6, "microseconds": 1}}`)
	f.say(`{"event": "RESUME", "timestamp": {"seconds": 7, "microseconds": 250000}}`)
	got := expect(t, g, Waiting, Runs)
	if !got[1].Time.Equal(time.Unix(7, 250e6)) {
		t.Errorf("RESUME at %v", got[1].Time)
	}
}

func TestGuestConnectsAnewAndTellsAgain(t *testing.T) {
	f := newFake(t, func(c string) []string {
		if c == "query-status" {
			return []string{`{"return": {"running": true, "status": "running"}, "id": %d}`}
		}
		return nil
	})
	g := Watch(f.path, Options{Retry: time.Millisecond})
	defer g.Close()
	expect(t, g, Idle, Runs)
	f.hangUp()
	expect(t, g, Idle, Runs)
	if err := g.Cancel(limited(t)); err != nil {
		t.Error(err)
	}
	f.die()
	expect(t, g, Gone)
	if _, open := <-g.Events(); open {
		t.Error("something came after Gone")
	}
	if err := g.Resume(limited(t)); !errors.Is(err, ErrGone) {
		t.Errorf("resume: %v", err)
	}
	if err := g.Quit(limited(t)); err != nil {
		t.Errorf("quitting what is gone: %v", err)
	}
}

func TestGuestMigratesWithAMonitorThatHasNoCapabilities(t *testing.T) {
	f := newFake(t, func(c string) []string {
		if c == "migrate-set-capabilities" || c == "announce-self" {
			return []string{`{"error": {"class": "CommandNotFound", "desc": "what?"}, "id": %d}`}
		}
		if c == "query-status" {
			return []string{`{"return": {"running": true, "status": "running"}, "id": %d}`}
		}
		return nil
	})
	g := Watch(f.path, Options{})
	defer g.Close()
	expect(t, g, Idle, Runs)
	if err := g.Migrate(limited(t), "tcp:127.0.0.1:1"); err != nil {
		t.Error(err)
	}
	if err := g.Announce(limited(t)); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.commands, "migrate") {
		t.Errorf("commands %v", f.commands)
	}
}

func TestAMonitorThatNeverAppearsIsGone(t *testing.T) {
	g := Watch(t.TempDir()+"/none", Options{Appear: time.Nanosecond, Retry: time.Millisecond})
	defer g.Close()
	if e := expect(t, g, Gone); e[0].Desc == "" {
		t.Error("no reason given")
	}
}
