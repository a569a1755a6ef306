package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// own are the namespaces this process's benchmarks have made.
func own(tb testing.TB) []nic.Namespace {
	tb.Helper()
	all, err := nic.Namespaces(strings.TrimSuffix(newSite("", 0).prefix, "0-"))
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// needRoot fails where namespaces cannot be made.
func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("these tests make network namespaces: run them as root (make test)")
	}
}

// nothingLeft fails when a namespace, device or file of a benchmark is still there.
func nothingLeft(tb testing.TB, links []string) {
	tb.Helper()
	if left := own(tb); len(left) > 0 {
		tb.Errorf("left behind: %v", left)
	}
	if dirs, err := filepath.Glob(filepath.Join(pinRoot, fmt.Sprintf("%s%d-*", prefix, os.Getpid()))); err != nil || len(dirs) > 0 {
		tb.Errorf("left behind: %v, %v", dirs, err)
	}
	if now := rootLinks(tb); !slices.Equal(now, links) {
		tb.Errorf("devices of the machine before %v, after %v", links, now)
	}
}

func rootLinks(tb testing.TB) []string {
	tb.Helper()
	links, err := nic.Links()
	if err != nil {
		tb.Fatal(err)
	}
	return links
}

func TestEveryMeasureDeliversAndLeavesNothing(t *testing.T) {
	needRoot(t)
	links := rootLinks(t)
	results, programs, err := takeAll(t.Context(), options{Rounds: 1, Slice: 60 * time.Millisecond}, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(measures) {
		t.Fatalf("%d results of %d measures", len(results), len(measures))
	}
	for _, r := range results {
		for _, peer := range []string{raw, bridge, weft} {
			if peer == raw && r.lane == tap {
				continue
			}
			if v := r.Values[peer]; len(v) != 1 || v[0] <= 0 {
				t.Errorf("%s on %s: %v", r.Name, peer, v)
			}
		}
	}
	timed := map[string]bool{}
	for _, p := range programs {
		if p.Nanoseconds <= 0 || p.Nanoseconds > 1e6 {
			t.Errorf("%+v", p)
		}
		timed[p.Program] = true
	}
	if !timed["vp_in"] || !timed["ul_in"] {
		t.Errorf("programs timed: %v", programs)
	}
	nothingLeft(t, links)
}

func TestInterruptRemovesEverything(t *testing.T) {
	needRoot(t)
	links := rootLinks(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := takeAll(ctx, options{Rounds: 3, Slice: time.Minute}, func(string) {
		if len(own(t)) == 0 {
			t.Error("the sites do not stand while a measure is taken")
		}
		time.AfterFunc(50*time.Millisecond, cancel) // in the midst of the first slice
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error of an interrupted run is %v", err)
	}
	nothingLeft(t, links)
}

func TestWhatAKilledRunLeftIsSweptAway(t *testing.T) {
	needRoot(t)
	dead := exec.Command("true") // a process id that is nobody's any more
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s%d-2-h0", prefix, dead.Process.Pid)
	space, err := nic.CreateNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(pinRoot, name)
	if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mount("bpf", dir, "bpf", 0, "")); err != nil {
		t.Fatal(err)
	}
	standing := newSite(raw, 8)
	defer standing.Close()
	if _, err := standing.space("a"); err != nil {
		t.Fatal(err)
	}
	if err := sweep(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); space.Exists() || err == nil {
		t.Errorf("still there: namespace %v, directory %v", space.Exists(), err == nil)
	}
	if len(own(t)) != 1 {
		t.Error("the sweep took what a living run has made")
	}
}

func TestDeadPathIsAnErrorNotAFigure(t *testing.T) {
	needRoot(t)
	s, err := buildRaw(9)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	e := s.lanes[cross]
	if err := e.to.Do(func() error { return nic.SetDown("eth0") }); err != nil {
		t.Fatal(err)
	}
	for name, measure := range map[string]func(context.Context, ends, time.Duration) (float64, error){"udp64": packetRate, "tcp": bulk} {
		if v, err := measure(t.Context(), e, 60*time.Millisecond); err == nil {
			t.Errorf("%s over a dead cable gives %v", name, v)
		}
	}
}

func TestOtherProcessesDisturbASlice(t *testing.T) {
	begin, err := now()
	if err != nil {
		t.Fatal(err)
	}
	spin := exec.Command("sh", "-c", "while :; do :; done")
	if err := spin.Start(); err != nil {
		t.Fatal(err)
	}
	defer spin.Wait()
	defer spin.Process.Kill()
	for deadline := time.Now().Add(30 * time.Second); ; {
		disturbed, err := begin.disturbed()
		if err != nil {
			t.Fatal(err)
		}
		if disturbed {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a process that computes is not noticed")
		}
	}
}

func TestPatienceEnds(t *testing.T) {
	q := &quiet{budget: 250 * time.Millisecond}
	for spent := 0; q.Spend(100 * time.Millisecond); spent++ {
		if spent == 3 {
			t.Fatal("the budget has no end")
		}
	}
	if err := q.Await(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&quiet{budget: time.Minute}).Await(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for quiet after the interrupt: %v", err)
	}
}

func TestSpreadIsMedianAndEdges(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{7}, spread{7, 7, 7}},
		{[]float64{9, 1, 4}, spread{4, 1, 9}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%v: %v, want %v", c.values, got, c.want)
		}
	}
}

func TestRatioIsTakenRoundByRound(t *testing.T) {
	r := result{Values: map[string][]float64{weft: {10, 40, 90}, bridge: {10, 20, 30}}}
	if got, ok := r.Over(bridge); !ok || got != (spread{2, 1, 3}) {
		t.Errorf("ratio %v", got)
	}
	if _, ok := r.Over(raw); ok {
		t.Error("a ratio over a peer without figures")
	}
}

func TestCounterIsReadByName(t *testing.T) {
	const text = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors\nUdp: 11 12 13\n"
	if n, err := counter(text, "Udp:", "InErrors"); err != nil || n != 13 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := counter(text, "Udp:", "Nothing"); err == nil {
		t.Error("a counter that is not there was read")
	}
}

func TestDocumentKeepsWhatIsWrittenByHand(t *testing.T) {
	r := report{Results: []result{{
		measure: measures[0],
		Values:  map[string][]float64{raw: {500e3}, bridge: {200e3}, weft: {340e3}},
	}}}
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	if wrote, err := r.Document(path); wrote || err != nil {
		t.Errorf("a document that is not there: %v, %v", wrote, err)
	}
	for range 2 { // the second time replaces what the first wrote
		if _, err := os.Stat(path); err != nil {
			err = os.WriteFile(path, []byte("by hand\n"+documentBegin+"old\n"+documentEnd+"below\n"), 0o644)
			if err != nil {
				t.Fatal(err)
			}
		}
		if wrote, err := r.Document(path); !wrote || err != nil {
			t.Fatalf("%v, %v", wrote, err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"by hand\n<!--", "340.0 kpps", "| 1.60 | 1.70 (1.70–1.70) | reached |", "| 0.72 | 0.68 (0.68–0.68) | **missed** |", "-->\nbelow\n"} {
		if strings.Count(string(text), want) != 1 {
			t.Errorf("%q is not there once in:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") {
		t.Error("the old figures are still there")
	}
	if err := os.WriteFile(path, []byte("no marks"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Document(path); err == nil || !strings.Contains(err.Error(), "figures: begin") {
		t.Errorf("a document without marks: %v", err)
	}
}

func TestJSONHasRatiosAndEveryValue(t *testing.T) {
	r := report{Results: []result{{measure: measures[0], Values: map[string][]float64{bridge: {2, 4}, weft: {3, 8}}}}}
	var text strings.Builder
	if err := r.JSON(&text); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Items []struct {
			Name   string
			Values map[string][]float64
			Ratios map[string]struct{ Median, Min, Max float64 }
		}
	}
	if err := json.Unmarshal([]byte(text.String()), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Items) != 1 || got.Items[0].Name != "udp64" || got.Items[0].Ratios[bridge].Median != 1.75 || len(got.Items[0].Values[weft]) != 2 {
		t.Errorf("%+v", got)
	}
}

func TestGoalsNameMeasures(t *testing.T) {
	for _, g := range goals {
		if !slices.Contains(names(), g.measure) {
			t.Errorf("a goal for %s, which is not measured", g.measure)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for name, args := range map[string][]string{
		"unknown output":  {"-o", "xml"},
		"unknown measure": {"-only", "udp64,speed"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	o, err := parse([]string{"-quick", "-only", "rr"})
	if err != nil || o.Rounds != 3 || !o.takes("rr") || o.takes("crr") || o.Document != "" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = parse(nil); err != nil || o.Document == "" || !o.takes("crr") {
		t.Errorf("%+v, %v", o, err)
	}
}
