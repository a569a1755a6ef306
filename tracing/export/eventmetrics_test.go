package export

import (
	"context"
	"testing"
	"time"
)

func TestACollectorThatRefusesEventsIsCounted(t *testing.T) {
	a, dir := newArchive(), t.TempDir()
	a.refuses = true
	log, err := OpenEventLog(dir, EventLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s, err := NewEventSender(log, Options{Host: "h1", Endpoint: collects(t, a)})
	if err != nil {
		t.Fatal(err)
	}
	m := NewMetrics(&source{}, "0.1.0", nil)
	m.Sends(s)
	tell(t, log, 1, 3)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the sender ended: %v", err)
		}
	}()
	const waiting, failures = "weft_events_waiting{}", "weft_events_send_failures_total{}"
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		if got := scrape(t, m); got[waiting] == 3 && got[failures] > 0 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the collector refuses three events, and the metrics say %v wait after %v failures", scrape(t, m)[waiting], scrape(t, m)[failures])
		}
	}
	a.mu.Lock()
	a.refuses = false
	a.mu.Unlock()
	noted(t, dir, "3\n")
	if got := scrape(t, m); got[waiting] != 0 || got[failures] == 0 {
		t.Errorf("all were taken, and %v wait; %v failures", got[waiting], got[failures])
	}
}
