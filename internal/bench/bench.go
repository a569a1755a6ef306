// Command bench measures weft's datapath against a raw veth and a Linux bridge with kernel VXLAN and nftables, in one run and
// alternating, in network namespaces of its own, and prints ratios with their spread. It never judges a time: what the
// figures mean is written in docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// options are the command's flags.
type options struct {
	// Quick takes fewer and shorter slices: the whole run ends within a few minutes.
	Quick bool
	// Output is table or json.
	Output string
	// Document is the file whose figures are replaced; empty writes none.
	Document string
	// Only names the measures to take; empty means all.
	Only []string
	// Rounds is how often every peer gets its slice of a measure; Slice is the length of one.
	Rounds int
	Slice  time.Duration
	// Patience is how long, in all, the run waits for moments in which nobody else computes, and repeats slices.
	Patience time.Duration
}

func main() {
	if err := bench(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench runs the command; an interrupt ends it early, with everything removed.
func bench(args []string) error {
	if len(args) > 0 && args[0] == fillCommand {
		return fillLab(context.Background(), args[1:])
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("the benchmark makes network namespaces: run it as root")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer cancel()
	r := report{Command: "go run ./internal/bench " + strings.Join(args, " "), Date: time.Now(), Options: o}
	r.Command = strings.TrimSpace(r.Command)
	if r.Machine, err = thisMachine(); err != nil {
		return err
	}
	progress := func(what string) { fmt.Fprintln(os.Stderr, "measuring", what) }
	if o.takesCore() {
		if r.Results, r.Programs, err = takeAll(ctx, o, progress); err != nil {
			return err
		}
	}
	for _, g := range groups() {
		if !o.takesAny(g.members) {
			continue
		}
		taken, err := g.take(ctx, o, progress)
		if taken.group = g; err == nil || len(taken.Results)+len(taken.Figures) > 0 {
			r.Groups = append(r.Groups, taken)
		}
		if err != nil {
			return errors.Join(err, r.Table(os.Stdout)) // what was taken took minutes
		}
	}
	if o.takes(controlName) {
		if r.Control, err = takeControl(ctx, o.effort(), progress); err != nil {
			return err
		}
	}
	return r.write(o)
}

// write prints the report and puts it into the document.
func (r report) write(o options) error {
	print := r.Table
	if o.Output == "json" {
		print = r.JSON
	}
	if err := print(os.Stdout); err != nil || o.Document == "" {
		return err
	}
	wrote, err := r.Document(o.Document)
	if wrote {
		fmt.Fprintln(os.Stderr, "written to", o.Document)
	}
	return err
}

// parse reads the flags.
func parse(args []string) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&o.Quick, "quick", false, "fewer and shorter slices, a few minutes in all")
	flags.StringVar(&o.Output, "o", "table", "output: table or json")
	flags.StringVar(&only, "only", "", "take only these measures, separated by commas")
	flags.StringVar(&o.Document, "document", "", "replace the figures in this file (default docs/benchmarks.md for a whole run)")
	flags.IntVar(&o.Rounds, "rounds", 0, "slices of each measure for each peer (default 7, quick 3)")
	flags.DurationVar(&o.Slice, "slice", 0, "length of one slice (default 1s, quick 300ms)")
	flags.DurationVar(&o.Patience, "patience", 30*time.Second, "how long in all to wait for a machine that nobody else uses")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.Output != "table" && o.Output != "json" {
		return o, fmt.Errorf("-o %s: choose table or json", o.Output)
	}
	for name := range strings.SplitSeq(only, ",") {
		if name == "" {
			continue
		}
		if !slices.Contains(names(), name) {
			return o, fmt.Errorf("-only %s: there is no such measure; there are %s", name, strings.Join(names(), ", "))
		}
		o.Only = append(o.Only, name)
	}
	o.complete()
	return o, nil
}

// complete gives the settings that were left out their values.
func (o *options) complete() {
	rounds, slice := 7, time.Second
	if o.Quick {
		rounds, slice = 3, 300*time.Millisecond
		o.Patience = min(o.Patience, 10*time.Second)
	}
	if o.Document == "" && !o.Quick && len(o.Only) == 0 {
		o.Document = "docs/benchmarks.md"
	}
	if o.Rounds <= 0 {
		o.Rounds = rounds
	}
	if o.Slice <= 0 {
		o.Slice = slice
	}
}

// takes reports whether the measure of that name is to be taken: its group's name, which stands before a hyphen, takes it too.
func (o options) takes(name string) bool {
	if len(o.Only) == 0 || slices.Contains(o.Only, name) {
		return true
	}
	of, _, _ := strings.Cut(name, "-")
	return slices.Contains(groupNames, of) && slices.Contains(o.Only, of)
}

// takesAny reports whether any of these measures is to be taken.
func (o options) takesAny(names []string) bool { return slices.ContainsFunc(names, o.takes) }

// takesCore reports whether anything is to be taken of the core without rules.
func (o options) takesCore() bool {
	return o.takes(programsName) || slices.ContainsFunc(measures, func(m measure) bool { return o.takes(m.Name) })
}

// names lists all measures.
func names() []string {
	all := []string{programsName, controlName}
	for _, m := range measures {
		all = append(all, m.Name)
	}
	for _, g := range groups() {
		all = append(append(all, g.name), g.members...)
	}
	return all
}
