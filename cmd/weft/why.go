package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/export"
)

// whyCommand answers the question that everybody has first.
func (a *app) whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "why A B PROTO[/PORT]", Short: "Say why A does not reach B: model, probes, drops and hosts that are behind, in one answer", Args: exactly("A", "B", "PROTO/PORT"),
		Long: "Find out what becomes of the first packet of such a connection from port A to port or address B: what the records and the\n" +
			"rules make of it, what the real datapath does with a probe, with the answer to it, with one as long as the MTU and with many\n" +
			"at once, what the two ports drop meanwhile, and whether a host judges by older records. What is wrong is named with its host,\n" +
			"stage, reason, rule and the change behind it. Probes are caught before they reach a guest. With -o otlp the ways of the probes\n" +
			"are OpenTelemetry traces, a line each, that link to the changes that decided them.",
		Example:           "  weft why web-1 db-1 tcp/5432\n  weft why web-1 10.10.0.12 icmp\n  weft why web-1 db-1 tcp/5432 -o json",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != outputOTLP {
				if err := a.checkOutput(); err != nil {
					return err
				}
			}
			r := api.TraceRequest{Source: fabric.PortID(args[0]), Destination: args[1]}
			if err := r.ParseTarget(args[2]); err != nil {
				return usage(cmd, "%s", strings.TrimSuffix(err.Error(), ": "+fabric.ErrInvalid.Error()))
			}
			return a.traced(cmd, func(ctx context.Context) error { return a.why(ctx, r) })
		},
	}
	return cmd
}

func (a *app) why(ctx context.Context, r api.TraceRequest) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	x, err := c.Why(ctx, r)
	if err != nil {
		return err
	}
	switch {
	case a.output == outputOTLP:
		err = export.WritePaths(ctx, a.out, version, x.Probe, x.Reply, x.Full)
	case a.structured():
		err = a.document(x)
	default:
		a.printExamination(r, x)
	}
	if err == nil && len(x.Causes) > 0 {
		return &statusError{status: exitPartial}
	}
	return err
}

// printExamination says the answer first, then what it rests on.
func (a *app) printExamination(r api.TraceRequest, x *tracing.Examination) {
	fmt.Fprintf(a.out, "%s → %s  %s\n", x.Source, x.Destination, targetOf(r))
	if len(x.Causes) == 0 {
		text := "Nothing between the two keeps it: a probe arrives, and so does the answer. If there is none, look at the guest: does it listen there?"
		if x.Reply == nil {
			text = "Nothing in the fabric keeps it: a probe arrives where the fabric ends. What is behind that, and the way back, was not tried."
		}
		fmt.Fprintln(a.out, a.paint(a.out, green, text))
	}
	for i, c := range x.Causes {
		a.printCause(i, c)
	}
	if x.Explain != nil {
		a.fact("model", fmt.Sprintf("%s At revision %d.", x.Explain.Sentence(), x.Explain.Generation))
	}
	for _, p := range []struct {
		name string
		path *tracing.Path
	}{{"probe", x.Probe}, {"answer", x.Reply}, {"full size", x.Full}} {
		if p.path != nil {
			a.fact(p.name, p.path.Sentence())
		}
	}
	for _, v := range x.Volleys {
		a.fact("many "+v.Way, volleyText(v))
	}
	for _, reach := range x.Reach {
		a.fact("host "+string(reach.Host), reachText(reach))
	}
	for _, d := range x.Drops {
		if d.Reason != tracing.ReasonProbeCaught {
			a.fact("dropped", dropText(d))
		}
	}
	if x.Explain != nil {
		a.flips(x.Explain.Flips)
	}
}

// flips prints what would turn the model's verdict over.
func (a *app) flips(all []tracing.Flip) {
	for _, f := range all {
		a.fact("flip", fmt.Sprintf("%s: %s → %s (checked with the model)", f.Object, f.Change, f.Verdict))
	}
}

// fact prints a line of evidence.
func (a *app) fact(name, text string) { fmt.Fprintf(a.out, "  %-10s %s\n", name, text) }

// printCause is the answer, or a further one.
func (a *app) printCause(i int, c tracing.Cause) {
	head, colour := "Because", red
	if i > 0 {
		head, colour = "Also", yellow
	}
	way := ""
	if c.Way == tracing.Back {
		way = " (the way back)"
	}
	fmt.Fprintln(a.out, a.paint(a.out, colour, fmt.Sprintf("%s: %s%s. %s", head, c.Fault, way, c.Message)))
	if c.Change != nil {
		text := fmt.Sprintf("%s of revision %d", c.Change.Object, c.Change.Revision)
		if id := api.TraceID(c.Change.Trace); id != "" {
			text += ", written by trace " + id
		}
		a.fact("change", text)
	}
	if c.Next != "" {
		a.fact("next", c.Next)
	}
}

// targetOf is what was asked for, as the command line writes it.
func targetOf(r api.TraceRequest) string {
	if r.Port == 0 {
		return r.Protocol
	}
	return fmt.Sprintf("%s/%d", r.Protocol, r.Port)
}

func volleyText(v tracing.Volley) string {
	text := fmt.Sprintf("%d of %d arrived", v.Arrived, v.Sent)
	for _, part := range []struct {
		n    int
		what string
	}{{v.Lost, "lost between " + string(v.From) + " and " + string(v.To)}, {v.Dropped, "dropped"}, {v.Unseen, "without records: nothing is said of them"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return text
}

func reachText(r tracing.Reach) string {
	switch {
	case !r.Reports:
		return "reports nothing"
	case r.Behind():
		return fmt.Sprintf("is behind: generation %d, wanted is %d", r.Generation, r.Wanted)
	}
	return fmt.Sprintf("has all in force (generation %d)", r.Generation)
}

func dropText(d tracing.Drop) string {
	where := string(d.Host)
	if d.Port != "" {
		where += ", port " + string(d.Port)
	}
	text := fmt.Sprintf("%s: %d %s", where, d.Packets, d.Name())
	if d.Now > 0 {
		text += fmt.Sprintf(" (%d of them now)", d.Now)
	}
	return text
}
