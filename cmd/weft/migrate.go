package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// migrateCommand moves a VM to another host while it runs.
func (a *app) migrateCommand() *cobra.Command {
	var r api.MoveRequest
	var to string
	cmd := &cobra.Command{
		Use: "migrate VM --to HOST", Short: "Move a VM to another host while it runs", Args: exactly("VM"),
		Example:           "  weft migrate web-1 --to h3\n  weft migrate web-1 --to h3 --plan",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			r.VM, r.To = args[0], fabric.HostID(to)
			return a.traced(cmd, func(ctx context.Context) error { return a.migrate(ctx, r) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "host to move it to")
	f.BoolVar(&r.DryRun, "plan", false, "check that it can be moved and say how, and move nothing")
	f.Float64Var(&r.RelaySeconds, "relay", 0, "seconds for which the old host sends late packets on; 0 is the fabric's default")
	f.BoolVar(&a.wait, "wait", true, "wait until the move is over")
	f.BoolVar(&a.wait, "watch", true, "the same as --wait: show each phase")
	a.timeoutFlag(cmd, 10*time.Minute)
	need(cmd, "to", "h3")
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeNames("host"))
	return cmd
}

func (a *app) migrate(ctx context.Context, r api.MoveRequest) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := a.limited(ctx)
	defer cancel()
	m, err := c.Move(ctx, r)
	if err != nil {
		return err
	}
	if r.DryRun {
		if a.structured() {
			return a.document(api.MigrationOf(m))
		}
		fmt.Fprintf(a.out, "%s would move from %s to %s with its ports %v.\n", m.Spec.VM, m.Spec.From, m.Spec.To, m.Spec.Ports)
		return nil
	}
	a.phase(m)
	if a.wait {
		if m, err = a.follow(ctx, m); err != nil {
			return fmt.Errorf("wait for move %s: %w", m.Metadata.Name, err)
		}
	}
	if a.structured() {
		if err := a.document(api.MigrationOf(m)); err != nil {
			return err
		}
	} else if a.output == "name" {
		fmt.Fprintln(a.out, fabric.Ref(m))
	} else {
		fmt.Fprintln(a.out, outcome(m))
	}
	if m.Status.Phase == fabric.MoveFailed || m.Status.Phase == fabric.MoveAborted {
		return &statusError{status: exitError, message: fmt.Sprintf("%s did not move: it runs on %s. %s", m.Spec.VM, m.Spec.From, m.Status.Reason), next: "weft describe move " + m.Metadata.Name}
	}
	return nil
}

// errOver ends the watch of a move that is over.
var errOver = &statusError{message: "over"}

// follow shows each phase of a move until it is over.
func (a *app) follow(ctx context.Context, m *fabric.Move) (*fabric.Move, error) {
	c, err := a.connect()
	if err != nil {
		return m, err
	}
	err = c.Watch(ctx, []fabric.Kind{fabric.KindMove}, func(w api.WatchedChange) error {
		if w.Name != m.Metadata.Name {
			return nil
		}
		if w.Type == api.Delete {
			return errOver
		}
		var next fabric.Move
		if err := json.Unmarshal(w.Object, &next); err != nil {
			return fmt.Errorf("read the move: %w", err)
		}
		if next.Status.Phase != m.Status.Phase {
			a.phase(&next)
		}
		m = &next
		if api.Over(m.Status.Phase) {
			return errOver
		}
		return nil
	})
	if err == errOver {
		err = nil
	}
	return m, err
}

// phase tells what a move does now.
func (a *app) phase(m *fabric.Move) {
	sentences := map[fabric.Phase]string{
		fabric.MoveGranted:  "granted   %[2]s may take over as epoch %[3]d",
		fabric.MoveStaged:   "staged    %[2]s has the port's settings in force, closed until the guest speaks",
		fabric.MoveCopying:  "copying   the guest's memory goes from %[1]s to %[2]s",
		fabric.MoveSwitched: "switched  the guest has stopped on %[1]s, which sends late packets on",
		fabric.MoveActive:   "active    the guest's first frame left from %[2]s",
		fabric.MoveSettled:  "settled   %[2]s holds the port, the relay is over",
	}
	if s, ok := sentences[m.Status.Phase]; ok && !a.structured() {
		a.progress("  "+s+"%[4]s", m.Spec.From, m.Spec.To, m.Status.Epoch, "")
	}
}

// outcome is the sentence about a move that is over, or on its way.
func outcome(m *fabric.Move) string {
	r := m.Status.Result
	switch m.Status.Phase {
	case fabric.MoveSettled:
		s := fmt.Sprintf("%s is on %s. Guest pause %.1f ms · the network added %.1f ms · %d relayed, %d lost, %d duplicated", m.Spec.VM, m.Spec.To, r.GuestPauseMs, r.FabricGapMs, r.Relayed, r.Lost, r.Duplicated)
		if id := api.TraceID(m.Metadata.Trace); id != "" {
			s += " · trace " + id
		}
		return s
	case fabric.MoveFailed, fabric.MoveAborted:
		return fmt.Sprintf("%s stayed on %s: %s", m.Spec.VM, m.Spec.From, m.Status.Reason)
	default:
		return fmt.Sprintf("move/%s is %s; see: weft get moves", m.Metadata.Name, m.Status.Phase)
	}
}
