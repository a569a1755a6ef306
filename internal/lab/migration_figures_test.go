package lab

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// figures are what the tests of moves measure. A time decides no test: what is asked for stands beside what was seen.
type figures struct {
	document string

	mu  sync.Mutex
	all []*figure
}

// figure is one quantity, measured many times.
type figure struct {
	test, what, unit string
	// asked is what is wanted of it, in words; met says whether the values are that.
	asked  string
	met    func(*figure) bool
	values []float64
}

// figure finds or begins one.
func (f *figures) figure(test, what, unit string) *figure {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, have := range f.all {
		if have.test == test && have.what == what {
			return have
		}
	}
	added := &figure{test: test, what: what, unit: unit}
	f.all = append(f.all, added)
	return added
}

// add notes a value.
func (f *figures) add(test, what, unit string, value float64) *figure {
	one := f.figure(test, what, unit)
	f.mu.Lock()
	defer f.mu.Unlock()
	one.values = append(one.values, value)
	return one
}

// ask says what is wanted of a figure: that its median and its largest value are not above these.
func (f *figure) ask(median, largest float64) {
	f.asked = fmt.Sprintf("median ≤ %g, max ≤ %g", median, largest)
	if median == largest {
		f.asked = fmt.Sprintf("max ≤ %g", largest)
	}
	f.met = func(f *figure) bool { return f.quantile(0.5) <= median && f.quantile(1) <= largest }
}

// quantile is the smallest value that so large a part of the values is not above.
func (f *figure) quantile(part float64) float64 {
	sorted := slices.Sorted(slices.Values(f.values))
	return sorted[max(int(math.Ceil(part*float64(len(sorted))))-1, 0)]
}

// row is a figure as a row of a table.
func (f *figure) row() string {
	n := func(part float64) string { return fmt.Sprintf("%.4g", f.quantile(part)) }
	p99, met := "–", ""
	if len(f.values) >= 100 { // fewer have no hundredth
		p99 = n(0.99)
	}
	if f.met != nil {
		met = "reached"
		if !f.met(f) {
			met = "**missed**"
		}
	}
	what := f.what
	if f.unit != "" {
		what += ", " + f.unit
	}
	return fmt.Sprintf("| %s | %s | %d | %s | %s | %s | %s | %s | %s |\n", f.test, what, len(f.values), n(0), n(0.5), p99, n(1), f.asked, met)
}

// The figures stand between these in the document.
const (
	figuresBegin = "<!-- figures: begin; written by `make soak` -->"
	figuresEnd   = "<!-- figures: end -->"
)

const tableHead = "| test | what | of | min | median | p99 | max | asked for | |\n|---|---|---|---|---|---|---|---|---|\n"

// rows are the figures, and what an earlier table has of tests that were not made now, by number.
func (f *figures) rows(earlier string) (rows []string) {
	made := map[string]bool{}
	for _, one := range f.all {
		rows = append(rows, one.row())
		made[rows[len(rows)-1][:5]] = true // "| 01 "
	}
	for line := range strings.Lines(earlier) {
		if len(line) > 5 && strings.HasPrefix(line, "| ") && line[2] <= '9' && !made[line[:5]] {
			rows = append(rows, line)
		}
	}
	slices.SortStableFunc(rows, func(a, b string) int { return strings.Compare(a[:5], b[:5]) })
	return rows
}

// write shows the figures, and puts them into the document that was asked for.
func (f *figures) write(t *testing.T) {
	t.Helper()
	t.Logf("figures:\n%s%s", tableHead, strings.Join(f.rows(""), ""))
	if f.document == "" {
		return
	}
	text, err := os.ReadFile(f.document)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begun := bytes.Cut(text, []byte(figuresBegin))
	before, tail, ended := bytes.Cut(rest, []byte(figuresEnd))
	if !begun || !ended {
		t.Fatalf("%s has no place for figures: put %q and %q into it", f.document, figuresBegin, figuresEnd)
	}
	when := fmt.Sprintf("\n\nWritten %s; rows of tests that did not run then are of an earlier run.\n\n", time.Now().UTC().Format(time.DateOnly))
	text = slices.Concat(head, []byte(figuresBegin+when+tableHead+strings.Join(f.rows(string(before)), "")+"\n"+figuresEnd), tail)
	if err := os.WriteFile(f.document, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// withoutCancel is a context for what is done when a test has ended.
func withoutCancel(t *testing.T) context.Context { return context.WithoutCancel(t.Context()) }
