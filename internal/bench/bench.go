// Command bench measures weft's datapath against a raw veth and against a Linux bridge with kernel VXLAN, in one run and
// alternating, in network namespaces of its own, and prints ratios with their spread. It never judges a time: what the
// figures mean is written in docs/benchmarks.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

// options are the command's flags.
type options struct {
	// Quick takes fewer and shorter slices: the whole run ends within a minute.
	Quick bool
	// Output is table or json.
	Output string
	// Rounds is how often every peer gets its slice of a measure; Slice is the length of one.
	Rounds int
	Slice  time.Duration
}

func main() {
	if _, err := parse(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

// parse reads the flags.
func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&o.Quick, "quick", false, "fewer and shorter slices, under a minute in all")
	flags.StringVar(&o.Output, "o", "table", "output: table or json")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.Output != "table" && o.Output != "json" {
		return o, fmt.Errorf("-o %s: choose table or json", o.Output)
	}
	if o.Rounds, o.Slice = 5, time.Second; o.Quick {
		o.Rounds, o.Slice = 3, 300*time.Millisecond
	}
	return o, nil
}
