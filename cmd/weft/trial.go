package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// testCommand tries the network with guests of its own.
func (a *app) testCommand() *cobra.Command {
	var sw string
	var only []string
	cmd := &cobra.Command{
		Use: "test", Short: "Try the network between all hosts with throw-away guests: ping, full-size packets, TCP, a rule that denies, DHCP", Args: exactly(),
		Long: "Start a throw-away guest on every host, a network namespace that is plugged into a port as any guest is, and let each try all others:\n" +
			"ping, a packet as long as the MTU, TCP, a connection that a policy denies, and, where the hosts\n" +
			"serve the switch, a lease by DHCP. Guests, ports, policy and switch are taken away again.",
		Example: "  weft test\n  weft test --switch blue --on h1 --on h3",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return a.traced(cmd, func(ctx context.Context) error { return a.test(ctx, fabric.SwitchID(sw), only) })
		},
	}
	cmd.Flags().StringVar(&sw, "switch", "", "switch to try; an internal one of its own, which no host can be reached by, when empty")
	cmd.Flags().StringArrayVar(&only, "on", nil, "host that takes part; all that are ready when absent")
	_ = cmd.RegisterFlagCompletionFunc("switch", a.completeNames("switch"))
	_ = cmd.RegisterFlagCompletionFunc("on", a.completeNames("host"))
	return cmd
}

func (a *app) test(ctx context.Context, sw fabric.SwitchID, only []string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	o := client.Trial{Switch: sw, Progress: func(s string) { a.progress("%s", s) }}
	for _, name := range only {
		if _, err := c.Get(ctx, fabric.KindHost, name); err != nil {
			return err
		}
		o.Hosts = append(o.Hosts, fabric.HostID(name))
	}
	if len(only) == 0 {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		for _, h := range s.Hosts {
			if h.Status.Alive && h.Status.Ready {
				o.Hosts = append(o.Hosts, fabric.HostID(h.Metadata.Name))
				continue
			}
			a.progress("%s is left out: it is not ready; see: weft status", h.Metadata.Name)
		}
	}
	if len(o.Hosts) == 0 {
		return &statusError{status: exitPartial, message: "no host is ready", next: "see why: weft status"}
	}
	report, err := c.RunTrial(ctx, o)
	if err != nil {
		return err
	}
	return a.printTrial(report)
}

// printTrial is a line for each pair, and what went wrong in words.
func (a *app) printTrial(report client.TrialReport) error {
	if a.structured() {
		if err := a.document(report); err != nil {
			return err
		}
	} else {
		a.printPairs(report)
	}
	if !report.OK {
		return &statusError{status: exitPartial}
	}
	return nil
}

func (a *app) printPairs(report client.TrialReport) {
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	failed := 0
	var words []string
	for i, p := range report.Pairs {
		if i == 0 {
			head := []string{"FROM", "TO", "ADDRESS"}
			for _, c := range p.Checks {
				head = append(head, strings.ToUpper(c.Name))
			}
			fmt.Fprintln(w, strings.Join(head, "\t"))
		}
		row := []string{string(p.From), string(p.To), p.Address.String()}
		for _, c := range p.Checks {
			if c.OK {
				row = append(row, "ok")
				continue
			}
			failed++
			row = append(row, "FAILED")
			words = append(words, fmt.Sprintf("%s from %s to %s (%s): %s", c.Name, p.From, p.To, p.Address, c.Detail))
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
	for _, h := range report.Absent {
		words = append(words, fmt.Sprintf("no guest on %s: %s", h.Host, h.Error))
	}
	for _, s := range words {
		fmt.Fprintln(a.out, s)
	}
	if report.OK {
		fmt.Fprintln(a.out, a.paint(a.out, green, "Everything that was tried works."))
		return
	}
	fmt.Fprintln(a.out, a.paint(a.out, red, fmt.Sprintf("%d checks failed, %d hosts took no part. Next: weft status, weft doctor on these hosts, weft trace between their ports.", failed, len(report.Absent))))
}
