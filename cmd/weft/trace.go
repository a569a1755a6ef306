package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/export"
	"github.com/weftnet/weft/tracing/packet"
)

// outputPackets is the output that is a packet file.
const outputPackets = "pcapng"

// outputOTLP is the output that is a trace in OTLP's JSON encoding.
const outputOTLP = "otlp"

// traceCommand follows one packet through the fabric.
func (a *app) traceCommand() *cobra.Command {
	var timeout time.Duration
	var explain, both bool
	var revision int64
	var paths []string
	cmd := &cobra.Command{
		Use: "trace SRC DST PROTO[/PORT]", Short: "Follow one packet from a port, across hosts, with what decided about it", Args: exactly("SRC", "DST", "PROTO/PORT"),
		Long: "Send one probe from the port SRC through the real datapath to the port or address DST, and show every stage it passed on\n" +
			"every host. The probe is caught before it reaches a guest. With --explain nothing is sent: the answer is what the records and\n" +
			"the reference model of policies say of the first packet of such a connection, now, at a past revision or with a change that is\n" +
			"only proposed, and which single change would turn the verdict over. With -o pcapng the way is a packet file: the probe once\n" +
			"for every stage, with what the stage made of it as the packet's comment; with -o otlp it is an OpenTelemetry trace, a line that a\n" +
			"collector's otlpjsonfile receiver reads. With --both-ways the answer is followed, too, once the probe was delivered.",
		Example:           "  weft trace web-1 web-2 tcp/443\n  weft trace web-1 10.10.0.12 icmp\n  weft trace web-1 web-2 tcp/443 --both-ways\n  weft trace web-1 web-2 tcp/443 --explain\n  weft trace web-1 web-2 tcp/443 --explain -f change.yaml\n  weft trace web-1 web-2 tcp/443 -o pcapng > way.pcapng",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != outputPackets && a.output != outputOTLP {
				if err := a.checkOutput(); err != nil {
					return err
				}
			}
			r := api.TraceRequest{Source: fabric.PortID(args[0]), Destination: args[1], TimeoutSeconds: timeout.Seconds(), Explain: explain, BothWays: both, Revision: fabric.Revision(revision)}
			if (revision != 0 || len(paths) > 0) && !explain {
				return usage(cmd, "a probe meets what is in force: --revision and --file need --explain")
			}
			if explain && (both || a.output == outputOTLP) {
				return usage(cmd, "the model says what becomes of one packet, and sends none: --both-ways and -o otlp are for probes")
			}
			if err := a.proposed(&r, paths); err != nil {
				return err
			}
			if err := r.ParseTarget(args[2]); err != nil {
				return usage(cmd, "%s", strings.TrimSuffix(err.Error(), ": "+fabric.ErrInvalid.Error()))
			}
			return a.traced(cmd, func(ctx context.Context) error { return a.trace(ctx, r) })
		},
	}
	cmd.AddCommand(a.liveCommand())
	cmd.Flags().BoolVar(&explain, "explain", false, "send nothing: say what the records and the rules make of it")
	cmd.Flags().BoolVar(&both, "both-ways", false, "follow the answer, too, once the probe was delivered")
	cmd.Flags().Int64Var(&revision, "revision", 0, "with --explain: judge by the records as they were at this revision; a change prints its own, and a record has that of its last (metadata.revision)")
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "with --explain: judge as if these documents were applied: YAML or JSON file, directory of such files, or - for standard input")
	cmd.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long to wait for the hosts' records")
	return cmd
}

// proposed puts the documents of files into a request.
func (a *app) proposed(r *api.TraceRequest, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	d, err := a.read(paths)
	if err != nil {
		return err
	}
	for _, o := range d.objects {
		b, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("write %s as JSON: %w", fabric.Ref(o), err)
		}
		r.With = append(r.With, b)
	}
	return nil
}

func (a *app) trace(ctx context.Context, r api.TraceRequest) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	p, err := c.Trace(ctx, r)
	if err != nil {
		return err
	}
	switch {
	case a.output == outputPackets:
		if err = packet.WritePath(a.out, p); err == nil && p.Reply != nil {
			err = packet.WritePath(a.out, p.Reply) // a section of its own
		}
	case a.output == outputOTLP:
		err = export.WritePaths(ctx, a.out, version, p, p.Reply)
	case a.structured():
		err = a.document(p)
	default:
		a.printPath(r, p)
		a.printReply(r, p)
	}
	if err != nil {
		return err
	}
	if p.Verdict == tracing.Unknown || p.Reply != nil && p.Reply.Verdict == tracing.Unknown {
		return &statusError{status: exitPartial}
	}
	return nil
}

// printReply shows the answer's way, or says why there is none.
func (a *app) printReply(r api.TraceRequest, p *tracing.Path) {
	switch {
	case p.Reply != nil:
		r.Source, r.Destination = fabric.PortID(r.Destination), string(r.Source)
		fmt.Fprintln(a.out, "\nThe answer:")
		a.printPath(r, p.Reply)
	case r.BothWays && p.Verdict != tracing.Delivered:
		fmt.Fprintln(a.out, "There is no answer to follow.")
	case r.BothWays:
		fmt.Fprintln(a.out, "The answer was not followed: what answers there is no port.")
	}
}

// printPath shows a packet's way, a line a stage.
func (a *app) printPath(r api.TraceRequest, p *tracing.Path) {
	target := targetOf(r)
	if p.Mode == tracing.ModeExplain {
		fmt.Fprintf(a.out, "explain  %s → %s  %s  at revision %d\n", r.Source, r.Destination, target, p.Generation)
	} else {
		fmt.Fprintf(a.out, "trace %s  %s → %s  %s\n", p.TraceID, r.Source, r.Destination, target)
	}
	host := fabric.HostID("")
	rows := make([][3]string, len(p.Hops))
	width := [2]int{}
	for i, h := range p.Hops {
		name := string(h.Host)
		if h.Host == host {
			name = ""
		}
		host = h.Host
		rows[i] = [3]string{name, h.Stage.String(), hopText(h)}
		width[0], width[1] = max(width[0], len(name)), max(width[1], len(rows[i][1]))
	}
	for i, row := range rows {
		after := ""
		if p.Mode != tracing.ModeExplain {
			after = fmt.Sprintf(" %+.0f µs", p.Hops[i].AfterUs)
		}
		line := fmt.Sprintf("  %-*s  %-*s  %-50s%s", width[0], row[0], width[1], row[1], row[2], after)
		fmt.Fprintln(a.out, strings.TrimRight(line, " "))
	}
	colour := map[tracing.Verdict]string{tracing.Delivered: green, tracing.Dropped: red, tracing.Unknown: yellow}[p.Verdict]
	fmt.Fprintln(a.out, a.paint(a.out, colour, p.Sentence()))
	a.flips(p.Flips)
}

// hopText is what happened at one stage.
func hopText(h tracing.Step) string {
	words := []string{h.Result.String()}
	if h.Reason != 0 {
		words = append(words, h.Reason.String())
	}
	if name := tracing.RuleName(h.Policy, h.Rule); name != "" {
		words = append(words, name)
	}
	if h.Port != "" {
		words = append(words, "port "+string(h.Port))
	} else if h.Device != "" {
		words = append(words, h.Device)
	}
	if h.VNI != 0 {
		words = append(words, fmt.Sprintf("vni %d", h.VNI))
	}
	switch {
	case h.PeerHost != "":
		words = append(words, fmt.Sprintf("peer %s (%s)", h.PeerHost, h.Peer))
	case h.Peer != netip.Addr{}:
		words = append(words, "peer "+h.Peer.String())
	}
	return strings.Join(words, " · ")
}
