package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// describeCommand tells all about one object.
func (a *app) describeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "describe KIND NAME", Short: "Tell all about one object: what is wanted, what is so, and why", Args: exactly("KIND", "NAME"),
		ValidArgsFunction: a.completeObject,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			r, err := resource(cmd, args[0])
			if err != nil {
				return err
			}
			if a.structured() {
				return a.getOne(cmd.Context(), r, args[1])
			}
			return a.describe(cmd.Context(), r, args[1])
		},
	}
}

func (a *app) describe(ctx context.Context, r api.Resource, name string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	o, err := c.Get(ctx, r.Kind, name)
	if err != nil {
		return err
	}
	for i, cell := range row(o, true) {
		fmt.Fprintf(a.out, "%-12s %s\n", capital(columns(r.Kind, true)[i]), dash(cell))
	}
	fmt.Fprintf(a.out, "%-12s %d\n", "Revision", o.Meta().Revision)
	if id := api.TraceID(o.Meta().Trace); id != "" {
		fmt.Fprintf(a.out, "%-12s %s\n", "Written by", "trace "+id)
	}
	switch o := o.(type) {
	case *fabric.Policy:
		ports, err := c.Counted(ctx)
		if err != nil {
			return err
		}
		a.describeRules(o, hitsOf(o.Metadata.Name, ports.Items))
	case *fabric.Port:
		if err := a.describeVLAN(ctx, c, o); err != nil {
			return err
		}
		a.describeDrops(o.Status)
		a.describeHits(o.Status.Rules)
	case *fabric.Host:
		for i := range o.Status.NICs {
			fmt.Fprintf(a.out, "%-12s %s\n", "NIC", nicLine(&o.Status.NICs[i]))
		}
		for _, p := range o.Status.Problems {
			fmt.Fprintf(a.out, "%-12s %s\n", "Problem", p)
		}
	case *fabric.Mirror:
		a.describeMirror(o)
	case *fabric.Move:
		a.describePhases(o)
	}
	written, err := api.Written(o)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	return fabric.Encode(a.out, written)
}

// describeDrops says what was dropped at a port, why, and what to do about it.
func (a *app) describeDrops(s fabric.PortStatus) {
	if s.Reason != "" {
		fmt.Fprintf(a.out, "%-12s %s\n", "Reason", s.Reason)
	}
	fmt.Fprintf(a.out, "%-12s %d packets from the guest, %d to it\n", "Packets", s.RxPackets, s.TxPackets)
	if s.MarkedOut+s.MarkedIn > 0 {
		fmt.Fprintf(a.out, "%-12s %d packets from the guest, %d to it: near its rate, their senders were told to slow down (ECN)\n", "Marked", s.MarkedOut, s.MarkedIn)
	}
	if s.Waiting > 0 {
		fmt.Fprintf(a.out, "%-12s %d frames from the guest wait for its rate\n", "Waiting", s.Waiting)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Drops)) {
		if s.Drops[name] == 0 {
			continue
		}
		line := strconv.FormatUint(s.Drops[name], 10) + " " + name
		if d, known := (tracing.Drop{}).Named(name); known && d.Doc() != "" {
			line += ": " + d.Doc()
			if fix := d.Fix(); fix != "" {
				line += "; " + fix
			}
		}
		head := "Dropped"
		if ofProbes(name) {
			head = "Probes"
		}
		fmt.Fprintf(a.out, "%-12s %s\n", head, line)
	}
}

// describePhases says when a move entered each phase.
func (a *app) describePhases(m *fabric.Move) {
	if m.Status.Reason != "" {
		fmt.Fprintf(a.out, "%-12s %s\n", "Reason", m.Status.Reason)
	}
	phases := slices.SortedFunc(maps.Keys(m.Status.At), func(x, y fabric.Phase) int { return m.Status.At[x].Compare(m.Status.At[y]) })
	for _, p := range phases {
		fmt.Fprintf(a.out, "%-12s %s\n", capital(string(p)), m.Status.At[p].Format("15:04:05.000"))
	}
}

// capital writes a column's head as a word: IN FORCE as In force.
func capital(s string) string {
	switch s {
	case "VTEP", "API", "MTU", "VNI", "MAC", "VM", "RX", "TX", "CIDRS":
		return s
	}
	return strings.ToUpper(s[:1]) + strings.ToLower(s[1:])
}
