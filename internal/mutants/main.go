// Command mutants shows what the differential test of package datapath notices: it puts one fault after another into the C
// code that enforces policies, builds the core with it and runs the test, which must fail. What was caught, after how many
// packets, and what was not, goes to docs/reference/mutants.md. It needs root, and clang as `go generate ./datapath` does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// document is what a full run writes, below the root of the module.
const document = "docs/reference/mutants.md"

// options are the flags.
type options struct {
	only  string
	limit time.Duration
	seed  uint64
	write bool
	keep  bool
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "try the faults alone whose \"file: name\" matches this regular expression, and write no document")
	flag.DurationVar(&o.limit, "limit", time.Minute, "for how long the test may look for one fault")
	flag.Uint64Var(&o.seed, "seed", 20261122, "that the test draws policies and packets from")
	flag.BoolVar(&o.write, "write", true, "write "+document)
	flag.BoolVar(&o.keep, "v", false, "show what the test says of each fault")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// run tries all faults, or those that were named; an error names what keeps the figures from being right.
func run(ctx context.Context, o options) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	faults, err := chosen(o.only)
	if err != nil {
		return err
	}
	workshop, err := newWorkshop(ctx, root)
	if err != nil {
		return err
	}
	defer workshop.Close()
	r := report{Began: time.Now(), Limit: o.limit, Seed: o.seed}
	if r.Control, err = workshop.control(ctx, o); err != nil {
		return err
	}
	fmt.Printf("the core as it is: %s\n", r.Control)
	for m := range workshop.builds(ctx, faults) {
		result := workshop.try(m, o)
		r.Results = append(r.Results, result)
		fmt.Println(result)
		if o.keep {
			fmt.Println(result.Said)
		}
	}
	for _, f := range faults[len(r.Results):] { // after an interrupt
		r.Results = append(r.Results, result{fault: f, Verdict: untried})
	}
	r.Took = time.Since(r.Began)
	fmt.Println(r.summary())
	if o.write && o.only == "" {
		if err := os.WriteFile(filepath.Join(root, document), []byte(r.markdown()), 0o644); err != nil {
			return fmt.Errorf("write the list of faults: %w", err)
		}
	}
	return r.complaint()
}

// chosen is the faults that match an expression.
func chosen(names string) ([]fault, error) {
	match, err := regexp.Compile(names)
	if err != nil {
		return nil, err
	}
	some := slices.DeleteFunc(faults(), func(f fault) bool { return !match.MatchString(f.file + ": " + f.name) })
	if len(some) == 0 {
		return nil, fmt.Errorf("no fault matches %q", names)
	}
	return some, nil
}

// moduleRoot is the directory of go.mod, in which or below which the command runs.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this within the source tree")
		}
	}
}
