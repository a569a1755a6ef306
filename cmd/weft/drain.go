package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// drain is what 'weft drain' was asked for.
type drain struct {
	from     fabric.HostID
	to       []string
	parallel int
	plan     bool
	relay    time.Duration
}

// drainCommand moves every VM off a host.
func (a *app) drainCommand() *cobra.Command {
	var d drain
	cmd := &cobra.Command{
		Use: "drain HOST", Short: "Move every VM off a host, a few at a time", Args: exactly("HOST"),
		Long: "Move every VM off a host, a few at a time, each to the host that then has the fewest ports. VMs that can go nowhere\n" +
			"stay where they are and are listed with the reason. Run again, it moves those that are left.",
		Example:           "  weft drain h2 --plan\n  weft drain h2 --to h3,h4 --parallel 4",
		ValidArgsFunction: a.completeNames("host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if d.parallel < 1 || d.parallel > 64 {
				return usage(cmd, "--parallel %d: 1 to 64 VMs move at once", d.parallel)
			}
			if d.relay < 0 || d.relay > time.Hour {
				return usage(cmd, "--relay %s: a host sends late packets on for up to 1h", d.relay)
			}
			d.from = fabric.HostID(args[0])
			return a.traced(cmd, func(ctx context.Context) error { return a.drain(ctx, d) })
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&d.to, "to", nil, "only to these hosts")
	f.IntVar(&d.parallel, "parallel", 2, "how many VMs move at once")
	f.BoolVar(&d.plan, "plan", false, "say where each VM would go, and move nothing")
	f.DurationVar(&d.relay, "relay", 0, fmt.Sprintf("how long the old host sends late packets on; 0 is the fabric's default, %s", fabric.DefaultRelay))
	a.timeoutFlag(cmd, time.Hour)
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeNames("host"))
	return cmd
}

// drained is what became of one VM.
type drained struct {
	api.Placement
	// Move is absent where the VM was not moved.
	Move *api.Migration `json:"move,omitempty"`
	// Error says why it stayed, or what is not known of it.
	Error string `json:"error,omitempty"`
}

func (a *app) drain(ctx context.Context, d drain) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := a.limited(ctx)
	defer cancel()
	to := make([]fabric.HostID, len(d.to))
	for i, host := range d.to {
		to[i] = fabric.HostID(host)
	}
	places, err := c.Evacuate(ctx, d.from, to)
	if err != nil {
		return err
	}
	results := make([]drained, len(places))
	for i, p := range places {
		results[i].Placement = p
		if p.To == "" {
			results[i].Error = against(p)
		}
	}
	if !d.plan {
		a.drainAll(ctx, d, results)
	}
	return a.drainedAll(d, results)
}

// drainAll moves those that can go, a few at a time. One that fails does not stop the others; an interrupt begins no more.
func (a *app) drainAll(ctx context.Context, d drain, results []drained) {
	var mu sync.Mutex // over the standard error, which one line at a time is written to
	var group errgroup.Group
	group.SetLimit(d.parallel)
	for i := range results {
		r := &results[i]
		if r.To == "" {
			continue
		}
		group.Go(func() error {
			m, err := a.drainOne(ctx, d, r.Placement)
			if err != nil {
				_, r.Error, _ = explain(err)
			}
			if m != nil {
				move := api.MigrationOf(m)
				r.Move = &move
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				a.progress("  %s: %s", r.VM, r.Error)
			default:
				a.progress("  %s is on %s", r.VM, r.To)
			}
			return nil
		})
	}
	_ = group.Wait() // each keeps its own error
}

// drainOne moves one VM and waits until it is there.
func (a *app) drainOne(ctx context.Context, d drain, p api.Placement) (*fabric.Move, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	m, err := c.Move(ctx, api.MoveRequest{VM: p.VM, To: p.To, RelaySeconds: d.relay.Seconds()})
	if err != nil {
		return nil, err
	}
	quiet := *a
	quiet.quiet = true
	if m, _, err = quiet.arrive(ctx, m, false); err != nil {
		return m, err
	}
	if m.Status.Phase == fabric.MoveFailed || m.Status.Phase == fabric.MoveAborted {
		return m, errors.New("it stayed: " + m.Status.Reason)
	}
	return m, nil
}

// drainedAll prints what became of all.
func (a *app) drainedAll(d drain, results []drained) error {
	stayed := slices.DeleteFunc(slices.Clone(results), func(r drained) bool { return r.Error == "" })
	switch {
	case a.structured():
		if err := a.document(api.List[drained]{Items: results}); err != nil {
			return err
		}
	case len(results) == 0:
		fmt.Fprintf(a.out, "No VM runs on %s.\n", d.from)
	default:
		rows := make([][]string, len(results))
		for i, r := range results {
			rows[i] = []string{r.VM, string(r.To), "", "", "", r.Error}
			if m := r.Move; m != nil {
				rows[i] = []string{r.VM, string(r.To), string(m.Phase), dash(millis(m.GuestPauseMs)), strconv.FormatUint(m.Lost, 10), r.Error}
			}
		}
		a.table([]string{"VM", "TO", "PHASE", "PAUSE", "LOST", "WHY NOT"}, rows)
	}
	if len(stayed) == 0 {
		return nil
	}
	return &statusError{status: exitError, message: fmt.Sprintf("%d of %d VMs stay on %s", len(stayed), len(results), d.from), next: "put right what stands against it, and drain again"}
}

// against is what stands against a placement, in one line.
func against(p api.Placement) string {
	if len(p.Against) == 0 {
		return "there is no other host that it may go to"
	}
	texts := make([]string, len(p.Against))
	for i, o := range p.Against {
		texts[i] = fmt.Sprintf("%s: %s (%s). %s", o.Object, o.What, o.Code, o.Fix)
	}
	return strings.Join(texts, " ")
}

// candidates says of each host whether a VM can move there.
func (a *app) candidates(ctx context.Context, vm string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	places, err := c.Candidates(ctx, vm)
	if err != nil {
		return err
	}
	if a.structured() {
		return a.document(api.List[api.Placement]{Items: places})
	}
	rows := make([][]string, len(places))
	for i, p := range places {
		rows[i] = []string{string(p.To), yes(len(p.Against) == 0), strconv.Itoa(p.Ports), ""}
		if len(p.Against) > 0 {
			rows[i][3] = against(p)
		}
	}
	a.table([]string{"HOST", "CAN RUN IT", "PORTS", "WHY NOT"}, rows)
	return nil
}

// abortCommand gives a move up.
func (a *app) abortCommand() *cobra.Command {
	return &cobra.Command{
		Use: "abort VM", Short: "Give the move of a VM up, before its guest has stopped", Args: exactly("VM"),
		Long:              "Give the move of a VM up. The VM goes on where it is. Once its guest has stopped for the switchover that is refused.\nThe name of the move will do as well.",
		Example:           "  weft abort web-1",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.traced(cmd, func(ctx context.Context) error { return a.giveUp(ctx, args[0]) })
		},
	}
}

func (a *app) giveUp(ctx context.Context, name string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	moves, err := c.List(ctx, fabric.KindMove)
	if err != nil {
		return err
	}
	for _, o := range moves.Items {
		m, is := o.(*fabric.Move)
		if !is || api.Over(m.Status.Phase) || m.Metadata.Name != name && m.Spec.VM != name {
			continue
		}
		if m, err = c.AbortMove(ctx, fabric.MoveID(m.Metadata.Name)); err != nil {
			return err
		}
		fmt.Fprintln(a.out, aborted(m))
		return nil
	}
	return &statusError{status: exitNotFound, message: fmt.Sprintf("abort the move of %s: no move of that name or VM is under way", name), next: "weft get moves"}
}
