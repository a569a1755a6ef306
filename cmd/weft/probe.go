package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// maxProbes bounds how many times one command probes.
const maxProbes = 1000

// probeCommand measures the way between two ports without their guests.
func (a *app) probeCommand() *cobra.Command {
	var count, size int
	cmd := &cobra.Command{
		Use: "probe A B", Short: "Measure the way between two ports and back, without their guests", Args: exactly("A", "B"),
		Long: "Send ICMP probes from the port A to the port B and back through the real datapath. Each enters as if the guest had sent it and is\n" +
			"caught before the other guest, so neither need run an IP stack. The round trip is the sum of both ways, in which differences\n" +
			"between the hosts' clocks cancel out.",
		Example:           "  weft probe web-1 web-2\n  weft probe web-1 web-2 --count 10 --size 1450",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if count < 1 || count > maxProbes {
				return usage(cmd, "--count %d: give 1 to %d", count, maxProbes)
			}
			if size < 0 {
				return usage(cmd, "--size %d: give the length of the IP packet in bytes", size)
			}
			if _, err := netip.ParseAddr(args[1]); err == nil || args[0] == args[1] {
				return usage(cmd, "%s and %s: give two ports; weft trace takes addresses", args[0], args[1])
			}
			there := api.TraceRequest{Source: fabric.PortID(args[0]), Destination: args[1], Protocol: "icmp", Size: size}
			return a.traced(cmd, func(ctx context.Context) error { return a.probe(ctx, there, count) })
		},
	}
	cmd.Flags().IntVar(&count, "count", 3, "how many times to go there and back")
	cmd.Flags().IntVar(&size, "size", 0, "length of the IP packet in bytes; the shortest when 0")
	return cmd
}

// probed is what became of one probe there and the one back.
type probed struct {
	There *tracing.Path `json:"there"`
	Back  *tracing.Path `json:"back"`
	// RoundTripUs is the sum of both ways in µs; absent unless both arrived.
	RoundTripUs *float64 `json:"roundTripUs,omitempty"`
}

// probe goes there and back count times. A way that is not delivered is the answer, and makes the exit status partial.
func (a *app) probe(ctx context.Context, there api.TraceRequest, count int) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	back := there
	back.Source, back.Destination = fabric.PortID(there.Destination), string(there.Source)
	all := struct {
		Items []probed `json:"items"`
	}{}
	for range count {
		var p probed
		if p.There, err = c.Trace(ctx, there); err != nil {
			return err
		}
		if p.Back, err = c.Trace(ctx, back); err != nil {
			return err
		}
		p.measure()
		all.Items = append(all.Items, p)
		if !a.structured() {
			a.printProbed(there, p)
		}
	}
	if a.structured() {
		if err := a.document(all); err != nil {
			return err
		}
	} else {
		a.printRoundTrips(all.Items)
	}
	for _, p := range all.Items {
		if p.RoundTripUs == nil {
			return &statusError{status: exitPartial}
		}
	}
	return nil
}

// measure adds up both ways.
func (p *probed) measure() {
	there, arrived := p.There.Elapsed()
	back, returned := p.Back.Elapsed()
	if !arrived || !returned {
		return
	}
	us := float64(there+back) / float64(time.Microsecond)
	p.RoundTripUs = &us
}

// printProbed is a line for both ways that arrived, or one that says what became of each.
func (a *app) printProbed(there api.TraceRequest, p probed) {
	if p.RoundTripUs != nil {
		fmt.Fprintf(a.out, "%s ⇄ %s  %.0f µs\n", there.Source, there.Destination, *p.RoundTripUs)
		return
	}
	for _, way := range []struct {
		from, to string
		path     *tracing.Path
	}{{string(there.Source), there.Destination, p.There}, {there.Destination, string(there.Source), p.Back}} {
		fmt.Fprintf(a.out, "%s → %s  %s\n", way.from, way.to, way.path.Sentence())
	}
}

// printRoundTrips is the sum of it.
func (a *app) printRoundTrips(all []probed) {
	var least, most, sum float64
	arrived := 0
	for _, p := range all {
		if p.RoundTripUs == nil {
			continue
		}
		if us := *p.RoundTripUs; arrived == 0 {
			least, most = us, us
		} else {
			least, most = min(least, us), max(most, us)
		}
		sum += *p.RoundTripUs
		arrived++
	}
	line, colour := fmt.Sprintf("%d of %d arrived both ways", arrived, len(all)), red
	if arrived > 0 {
		line += fmt.Sprintf(": least %.0f µs, mean %.0f µs, most %.0f µs.", least, sum/float64(arrived), most)
	} else {
		line += "; see where they end: weft trace."
	}
	if arrived == len(all) {
		colour = green
	}
	fmt.Fprintln(a.out, a.paint(a.out, colour, line))
}
