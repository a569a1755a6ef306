package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/export"
)

// liveEvery is how often a live trace is asked whether it is over.
const liveEvery = 250 * time.Millisecond

// keptWays is how many ways -o otlp writes unless told.
const keptWays = 1000

// liveFlags are what a live trace is asked for.
type liveFlags struct {
	request api.LiveRequest
	from    string
	to      string
	sw      string
	lasts   time.Duration
	end     uint32
	list    bool
}

// liveCommand follows the frames of guests.
func (a *app) liveCommand() *cobra.Command {
	var l liveFlags
	cmd := &cobra.Command{
		Use: "live", Short: "Follow the packets that guests send, across hosts: ways, times, drops and losses", Args: exactly(),
		Long: "Record frames as they pass on every host and put their ways together, with the time that each took, where frames are dropped, by\n" +
			"which rule, and where they are lost. No packet is changed: hosts recognise a frame by a keyed hash of its content. What is\n" +
			"asked for is what all given flags say; without any it is every frame. A host makes --max-rate records a second at most: beyond\n" +
			"that it asks for fewer frames, the same ones everywhere, unless --every is given. Records that are missing are counted and\n" +
			"said. A session ends by itself, on each host by the kernel's clock. With -o otlp each way is an OpenTelemetry trace, a line that a\n" +
			"collector's otlpjsonfile receiver reads, with links to the changes and moves that decided it.",
		Example: "  weft trace live --from web-1 --to db-1 --for 30s\n  weft trace live --to db-1 --protocol tcp/5432 --both --sample 100\n  weft trace live --drops --for 1m\n  weft trace live --list\n  weft trace live --end 4711",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.output == outputOTLP {
				l.request.Keep = cmp.Or(l.request.Keep, keptWays)
			} else if err := a.checkOutput(); err != nil {
				return err
			}
			l.request.From, l.request.To, l.request.Switch, l.request.Seconds = fabric.PortID(l.from), fabric.PortID(l.to), fabric.SwitchID(l.sw), l.lasts.Seconds()
			if l.lasts <= 0 || l.lasts > tracing.MaxSessionTime {
				return usage(cmd, "--for %v: give at most %v", l.lasts, tracing.MaxSessionTime)
			}
			if l.request.Both && l.request == (api.LiveRequest{Both: true, Seconds: l.request.Seconds, Keep: l.request.Keep}) {
				return usage(cmd, "--both: all frames are asked for both ways already; say of what with --from, --to, --source, --destination or --protocol")
			}
			return a.traced(cmd, func(ctx context.Context) error { return a.live(ctx, l) })
		},
	}
	f, r := cmd.Flags(), &l.request
	f.StringVar(&l.from, "from", "", "the port that sends")
	f.StringVar(&l.to, "to", "", "the port that receives")
	f.BoolVar(&r.Both, "both", false, "the other direction, too")
	f.StringVar(&l.sw, "switch", "", "the switch")
	f.StringVar(&r.Protocol, "protocol", "", "tcp, udp, icmp, icmpv6 or a number; tcp/443 and udp/53 with the destination's port")
	f.StringVar(&r.Source, "source", "", "address or prefix of the sender")
	f.StringVar(&r.Destination, "destination", "", "address or prefix of the receiver")
	f.BoolVar(&r.Drops, "drops", false, "only frames that are dropped, on the host that drops them")
	f.Uint32Var(&r.Sample, "sample", 0, "one of so many frames, up to 1000000")
	f.BoolVar(&r.Every, "every", false, "each frame, even if there are gaps where a host has more than --max-rate")
	f.Uint32Var(&r.MaxRate, "max-rate", tracing.DefaultRecords, "records a second that a host makes at most, up to 50000")
	f.DurationVar(&l.lasts, "for", api.DefaultLiveSeconds*time.Second, "how long, at most 1h")
	f.IntVar(&r.Keep, "keep", 0, "keep so many ways in full, up to 2000, for -o otlp (1000 unless told), for -o json and for the agent's collector")
	f.BoolVar(&l.list, "list", false, "list the sessions that were begun at the agent")
	f.Uint32Var(&l.end, "end", 0, "end the session with this number, and show what it has found")
	for flag, kind := range map[string]string{"from": "port", "to": "port", "switch": "switch"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, a.completeNames(kind))
	}
	return cmd
}

// live does what the flags ask for.
func (a *app) live(ctx context.Context, l liveFlags) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	switch {
	case l.list:
		return a.listLive(ctx, c)
	case l.end != 0:
		r, err := c.LiveReport(ctx, l.end, true)
		if err != nil {
			return err
		}
		return a.showLive(r)
	}
	r, err := c.StartLive(ctx, l.request)
	if err != nil {
		return err
	}
	if !a.structured() && a.output != outputOTLP {
		fmt.Fprintf(a.out, "Live session %d: %s. Armed on %d hosts, for %v.\n", r.ID, l.request.Text(), len(r.Hosts), l.lasts)
		a.missing(r.Missing)
	}
	if r, err = followLive(ctx, c, r); err != nil {
		return err
	}
	return a.showLive(r)
}

// followLive waits for the session's end; it ends it when the command is interrupted.
func followLive(ctx context.Context, c *client.Client, r tracing.LiveReport) (tracing.LiveReport, error) {
	for !r.Ended {
		select {
		case <-ctx.Done():
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return c.LiveReport(late, r.ID, true)
		case <-time.After(liveEvery):
		}
		next, err := c.LiveReport(ctx, r.ID, false)
		if err != nil && ctx.Err() == nil {
			return r, err
		}
		if err == nil {
			r = next
		}
	}
	return r, nil
}

// listLive lists the sessions.
func (a *app) listLive(ctx context.Context, c *client.Client) error {
	all, err := c.LiveReports(ctx)
	if err != nil {
		return err
	}
	if a.structured() {
		return a.document(api.List[tracing.LiveReport]{Items: all})
	}
	var rows [][]string
	for _, r := range all {
		state := "running"
		if r.Ended {
			state = "ended"
		}
		rows = append(rows, []string{strconv.FormatUint(uint64(r.ID), 10), state, strconv.FormatUint(r.Packets, 10), r.What})
	}
	a.table([]string{"SESSION", "STATE", "PACKETS", "WHAT"}, rows)
	return nil
}

// showLive prints a report; the exit status is partial where it does not say all.
func (a *app) showLive(r tracing.LiveReport) error {
	var err error
	switch {
	case a.output == outputOTLP:
		err = export.WritePaths(context.Background(), a.out, version, r.Kept...)
		if r.Unkept > 0 {
			fmt.Fprintf(a.err, "%d ways are written, %d more were seen: ask for more with --keep, or for fewer packets.\n", len(r.Kept), r.Unkept)
		}
	case a.structured():
		err = a.document(r)
	default:
		a.printLive(r)
	}
	if err != nil {
		return err
	}
	if len(r.Missing) > 0 {
		return &statusError{status: exitPartial}
	}
	return nil
}

// printLive shows ways, drops, losses and how complete that is.
func (a *app) printLive(r tracing.LiveReport) {
	var rows [][]string
	for _, w := range r.Ways {
		rows = append(rows, []string{strconv.FormatUint(w.Packets, 10), micros(w.P50Us), micros(w.P99Us), w.Way})
		if len(w.Segments) < 2 {
			continue
		}
		for _, s := range w.Segments {
			rows = append(rows, []string{"", micros(s.P50Us), micros(s.P99Us), "  " + s.Name})
		}
	}
	if len(rows) > 0 {
		a.table([]string{"PACKETS", "P50", "P99", "WAY"}, rows)
	}
	for _, d := range r.Drops {
		text := fmt.Sprintf("%d dropped on %s at %s", d.Packets, d.Host, d.Stage)
		if d.Port != "" {
			text += " of port " + string(d.Port)
		}
		if name := tracing.RuleName(d.Policy, d.Rule); name != "" {
			text += " by " + name
		}
		fmt.Fprintln(a.out, a.paint(a.out, red, fmt.Sprintf("%s: %s (%s).", text, d.Reason, d.Reason.Doc())))
	}
	for _, l := range r.Losses {
		where := fmt.Sprintf("between %s and %s", l.From, l.To)
		if l.From == l.To {
			where = "on " + string(l.From)
		}
		fmt.Fprintln(a.out, a.paint(a.out, red, fmt.Sprintf("%d lost %s.", l.Packets, where)))
	}
	fmt.Fprintln(a.out, liveSentence(r))
	a.missing(r.Missing)
}

// liveSentence sums a report up, and says how complete it is.
func liveSentence(r tracing.LiveReport) string {
	var sent, missing, met uint64
	var within float64
	for _, h := range r.Hosts {
		sent, missing, met, within = sent+h.Sent, missing+h.Lost+h.Denied, met+h.Met, max(within, h.WithinUs)
	}
	words := []string{fmt.Sprintf("%d packets in %.1f s: %d delivered, %d dropped, %d lost", r.Packets, r.Seconds, r.Delivered, r.Dropped, r.Lost)}
	for _, n := range []struct {
		n    uint64
		what string
	}{{r.Unknown, "unknown"}, {r.Duplicates, "twice"}, {r.Orphans, "without a beginning"}, {r.Recut, "of TCP data that was cut anew on the way"}} {
		if n.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	text := strings.Join(words, ", ") + fmt.Sprintf(". Records: %d, missing %d.", sent, missing)
	if len(r.Hosts) > 1 {
		text += fmt.Sprintf(" Clocks agree within %.0f µs.", within)
	}
	if r.Fraction > 0 && r.Fraction*float64(r.OneIn) < 0.99 {
		text += fmt.Sprintf(" A host had more than --max-rate: this is 1 in %.0f of all.", 1/r.Fraction)
	}
	if met == 0 {
		text += " Nothing that passes is asked for: weft top shows which ports send."
	}
	return text
}

// missing names the hosts that took no part.
func (a *app) missing(all []tracing.Missing) {
	for _, m := range all {
		fmt.Fprintln(a.out, a.paint(a.out, yellow, fmt.Sprintf("No answer from %s (%s): %s", m.Host, m.Asked, m.Error)))
	}
}

func micros(us float64) string { return fmt.Sprintf("%.0f µs", us) }
