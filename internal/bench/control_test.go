package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/internal/lab"
)

// TestMain lets the test's program be the one that fills a fabric.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == fillCommand {
		if err := fillLab(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestTheControlPlaneIsTimedAndItsLabsGo(t *testing.T) {
	needRoot(t)
	links := rootLinks(t)
	figures, err := takeControl(t.Context(), effort{Labs: 1, Attaches: 2, Changes: 3, Commands: 2, Memberships: 2, Ports: 600, Settle: 1}, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"lab-up": 1, "attach": 2, "change": 3, "change-cli": 2, "membership": 2, "rss-few": 1, "rss": 1, "rss-peak": 1, "change-many": 3}
	for _, f := range figures {
		if len(f.Values) != want[f.Name] || slices.Min(f.Values) <= 0 {
			t.Errorf("%s: %v, want %d figures above 0", f.Name, f.Values, want[f.Name])
		}
		delete(want, f.Name)
		t.Log(strings.Join(f.row(), " | "))
	}
	if len(want) > 0 {
		t.Errorf("not measured: %v", want)
	}
	if _, err := lab.Open(labName()); err == nil {
		t.Error("the lab is still there")
	}
	nothingLeft(t, links)
}

func TestAFigureSaysWhetherItIsWhatWasAskedFor(t *testing.T) {
	slow := figure{Text: "x", Unit: "ms", Most: 100, P99: true}
	for i := range 100 {
		slow.Values = append(slow.Values, float64(i))
	}
	fast := slow
	fast.Values = append([]float64{500}, slow.Values[:99]...)
	slow.Values = append([]float64{500, 400}, slow.Values[:98]...)
	for _, c := range []struct {
		figure
		want string
	}{
		{fast, "x | 49.0 ms | 98.0 ms | 500.0 ms | 100 | p99 ≤ 100 ms | reached"},
		{slow, "x | 49.0 ms | 400.0 ms | 500.0 ms | 100 | p99 ≤ 100 ms | **missed**"},
		{figure{Text: "y", Unit: "s", Values: []float64{2, 9, 4}, Most: 4}, "y | 4.0 s | – | 9.0 s | 3 | ≤ 4 s | reached"},
		{figure{Text: "z", Unit: "MB", Values: []float64{7}}, "z | 7.0 MB | – | 7.0 MB | 1 | – | "},
	} {
		if have := strings.Join(c.row(), " | "); have != c.want {
			t.Errorf("have %q\nwant %q", have, c.want)
		}
	}
}

func TestFiguresOfOneKindLeaveThoseOfTheOtherAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	old := documentBegin + "figures\n" + documentEnd + "by hand\n" + controlBegin + "old\n" + controlEnd
	if err := os.WriteFile(path, []byte(old), 0o644); err != nil {
		t.Fatal(err)
	}
	r := report{Control: []figure{{Text: "lab up", Unit: "s", Values: []float64{4}}}}
	if wrote, err := r.Document(path); !wrote || err != nil {
		t.Fatal(wrote, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	have := string(b)
	if !strings.HasPrefix(have, documentBegin+"figures\n"+documentEnd+"by hand\n") || !strings.Contains(have, "| lab up | 4.0 s |") || strings.Contains(have, "old") {
		t.Errorf("the document is\n%s", have)
	}
}
