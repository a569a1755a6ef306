package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// enough is the share of faults that must be caught, and fewest how many there must be.
const (
	enough = 0.95
	fewest = 60
)

// report is a run over faults.
type report struct {
	Began   time.Time
	Took    time.Duration
	Limit   time.Duration
	Seed    uint64
	Control string
	Results []result
}

// of lists the faults that ended so.
func (r report) of(v verdict) []result {
	var some []result
	for _, one := range r.Results {
		if one.Verdict == v {
			some = append(some, one)
		}
	}
	return some
}

// share is the part of the usable faults that was caught.
func (r report) share() float64 {
	hit, missed := len(r.of(caught)), len(r.of(survived))
	if hit+missed == 0 {
		return 0
	}
	return float64(hit) / float64(hit+missed)
}

func (r report) summary() string {
	text := fmt.Sprintf("%d faults: %d caught, %d survived (%.1f %% of these caught)", len(r.Results), len(r.of(caught)), len(r.of(survived)), 100*r.share())
	for _, v := range []verdict{unusable, failed, untried} {
		if n := len(r.of(v)); n > 0 {
			text += fmt.Sprintf(", %d %s", n, v)
		}
	}
	return text
}

// complaint is what is wrong with the faults or the test, or nil.
func (r report) complaint() error {
	if n := len(r.of(failed)) + len(r.of(unusable)); n > 0 {
		return fmt.Errorf("%d faults say nothing: replace them", n)
	}
	if n := len(r.of(untried)); n > 0 {
		return fmt.Errorf("%d faults were not tried", n)
	}
	for _, one := range r.of(survived) {
		if one.survives == "" {
			return fmt.Errorf("fault %s survives, and nothing says why", one.name)
		}
	}
	if r.share() < enough {
		return fmt.Errorf("only %.1f %% of the faults are caught", 100*r.share())
	}
	return nil
}

// markdown is the document.
func (r report) markdown() string {
	var b strings.Builder
	b.WriteString("<!-- Written by `make mutants`; DO NOT EDIT. -->\n# Faults that the differential test must notice\n\n")
	b.WriteString("`make test` compares the core with `policy.Model`, packet by packet. What would that comparison notice? `make mutants` puts one\n" +
		"mistake after another into the C code that enforces policies, builds the core with it, and runs the comparison on it. A\n" +
		"mistake is caught when core and model differ; the figure is the packet that showed it.\n\n")
	fmt.Fprintf(&b, "**%s.**\n\n", r.summary())
	fmt.Fprintf(&b, "%s, Linux %s, %.0f minutes; seed %d, at most %v for a fault. The core as it is: %s.\n\n",
		r.Began.UTC().Format("2006-01-02"), release(), r.Took.Minutes(), r.Seed, r.Limit, r.Control)
	b.WriteString("## Survivors\n\n")
	if len(r.of(survived)) == 0 {
		b.WriteString("None.\n")
	}
	for _, one := range r.of(survived) {
		why := one.survives
		if why == "" {
			why = "Nobody has said why yet."
		}
		fmt.Fprintf(&b, "* **%s** (`%s`): %s. %s\n", one.name, one.file, one.means, why)
	}
	b.WriteString("\n## All faults\n")
	file := ""
	for _, one := range r.Results {
		if one.file != file {
			file = one.file
			fmt.Fprintf(&b, "\n### %s\n\n| fault | what it would mean | | packet |\n|---|---|---|--:|\n", file)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", one.name, one.means, one.Verdict, one.packets())
	}
	return b.String()
}

// release is the running kernel's.
func release() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}
