package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// migrateCommand moves a VM to another host while it runs.
func (a *app) migrateCommand() *cobra.Command {
	var r api.MoveRequest
	var to string
	var relay time.Duration
	var settled bool
	cmd := &cobra.Command{
		Use: "migrate VM --to HOST", Short: "Move a VM to another host while it runs", Args: exactly("VM"),
		Long: "Move a VM to another host while it runs. The command returns when the guest runs there and every live host sends\n" +
			"its packets there; the old host sends late packets on for a while longer, which --settled waits for.",
		Example:           "  weft migrate web-1 --to h3\n  weft migrate web-1 --to h3 --plan\n  weft migrate web-1 --plan",
		ValidArgsFunction: a.completeNames("port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if relay < 0 || relay > time.Hour {
				return usage(cmd, "--relay %s: a host sends late packets on for up to 1h", relay)
			}
			if to == "" {
				return a.candidates(cmd.Context(), args[0])
			}
			r.VM, r.To, r.RelaySeconds = args[0], fabric.HostID(to), relay.Seconds()
			return a.traced(cmd, func(ctx context.Context) error { return a.migrate(ctx, r, settled) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "host to move it to")
	f.BoolVar(&r.DryRun, "plan", false, "check that it can be moved and say how, and move nothing; without --to, of each host whether it could run there")
	f.DurationVar(&relay, "relay", 0, fmt.Sprintf("how long the old host sends late packets on; 0 is the fabric's default, %s", fabric.DefaultRelay))
	f.BoolVar(&a.wait, "wait", true, "wait until the guest runs at its new host and every live host knows")
	f.BoolVar(&a.wait, "watch", true, "the same as --wait: show each phase")
	f.BoolVar(&settled, "settled", false, "wait until late packets are no longer sent on, for the final figures")
	a.timeoutFlag(cmd, 10*time.Minute)
	needOne(cmd, "to", "plan", "h3")
	_ = cmd.RegisterFlagCompletionFunc("to", a.completeNames("host"))
	return cmd
}

func (a *app) migrate(ctx context.Context, r api.MoveRequest, settled bool) error {
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
	var reach *api.InForce
	if a.wait || settled {
		if m, reach, err = a.arrive(ctx, m, settled); err != nil {
			return leftAlone(m, err)
		}
	}
	return a.moved(m, reach)
}

// leftAlone is the error of a wait that ended before the move did.
func leftAlone(m *fabric.Move, err error) error {
	status, why, _ := explain(err)
	next := "see how far it is: weft get move " + m.Metadata.Name
	if m.Status.Phase != fabric.MoveActive {
		next += "; give it up: weft delete move " + m.Metadata.Name
	}
	return &statusError{status: status, cause: err, next: next,
		message: fmt.Sprintf("%s; the move of %s from %s to %s, now %s, goes on without this command", why, m.Spec.VM, m.Spec.From, m.Spec.To, m.Status.Phase)}
}

// moved says how a move went.
func (a *app) moved(m *fabric.Move, reach *api.InForce) error {
	switch {
	case a.structured():
		if err := a.document(api.MigrationOf(m)); err != nil {
			return err
		}
	case a.output == "name":
		fmt.Fprintln(a.out, fabric.Ref(m))
	default:
		fmt.Fprintln(a.out, outcome(m))
		if reach != nil && reach.Done {
			a.progress("In force on %s as revision %d.", reached(*reach), reach.Revision)
		}
	}
	if m.Status.Phase == fabric.MoveFailed || m.Status.Phase == fabric.MoveAborted {
		return &statusError{status: exitError, message: fmt.Sprintf("%s did not move: it runs on %s. %s", m.Spec.VM, m.Spec.From, m.Status.Reason), next: "weft describe move " + m.Metadata.Name}
	}
	return late(reach)
}

// measuredWithin is how long the figures of a move that has arrived may take: a guest that sends nothing has no first frame.
const measuredWithin = time.Second

// arrive waits until a move is over; or, unless it is to be settled, until the guest runs at its new host and every live
// host has that in force. It returns the record as far as it is known, also with an error.
func (a *app) arrive(ctx context.Context, m *fabric.Move, settled bool) (*fabric.Move, *api.InForce, error) {
	m, err := a.follow(ctx, m, func(m *fabric.Move) bool { return !settled && m.Status.Phase == fabric.MoveActive })
	if err != nil || api.Over(m.Status.Phase) {
		return m, nil, err
	}
	var reach api.InForce
	err = a.patiently(ctx, func(c *client.Client) (err error) {
		reach, err = c.WaitInForce(ctx, m.Metadata.Revision)
		return err
	})
	if err != nil && len(reach.Hosts) == 0 {
		return m, nil, err
	}
	soon, cancel := context.WithTimeout(ctx, measuredWithin)
	defer cancel()
	if m, err = a.follow(soon, m, measured); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return m, &reach, err
	}
	var counted fabric.Object
	err = a.patiently(ctx, func(c *client.Client) (err error) {
		counted, err = c.Get(ctx, fabric.KindMove, m.Metadata.Name)
		return err
	})
	if err != nil {
		return m, &reach, err
	}
	return counted.(*fabric.Move), &reach, nil
}

// measured reports whether both hosts have said when the guest stopped, ran and sent.
func measured(m *fabric.Move) bool {
	_, stopped := m.Status.At[fabric.MoveSwitched]
	return stopped && m.Status.Result.FabricGapMs > 0
}

// errOver ends the watch of a move.
var errOver = errors.New("over")

// follow shows each phase of a move until enough says so, or it is over.
func (a *app) follow(ctx context.Context, m *fabric.Move, enough func(*fabric.Move) bool) (*fabric.Move, error) {
	see := func(w api.WatchedChange) error {
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
		if api.Over(m.Status.Phase) || enough(m) {
			return errOver
		}
		return nil
	}
	err := a.patiently(ctx, func(c *client.Client) error { return c.Watch(ctx, []fabric.Kind{fabric.KindMove}, see) })
	if errors.Is(err, errOver) {
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
	switch m.Status.Phase {
	case fabric.MoveActive, fabric.MoveSettled:
		return figures(m)
	case fabric.MoveFailed, fabric.MoveAborted:
		return fmt.Sprintf("%s stayed on %s: %s", m.Spec.VM, m.Spec.From, m.Status.Reason)
	default:
		return fmt.Sprintf("move/%s is %s; see: weft get moves", m.Metadata.Name, m.Status.Phase)
	}
}

// figures says what a move that succeeded has cost, so far or in all.
func figures(m *fabric.Move) string {
	r := m.Status.Result
	s := fmt.Sprintf("%s is on %s. Guest pause %s · the network added %s", m.Spec.VM, m.Spec.To, dash(millis(r.GuestPauseMs)), dash(millis(r.FabricGapMs)))
	if until, relays := m.RelayUntil(); relays {
		s += fmt.Sprintf("\nUntil %s %s sends late packets on: %d relayed, %d lost so far; then: weft get move %s", until.Local().Format(time.TimeOnly), m.Spec.From, r.Relayed, r.Lost, m.Metadata.Name)
	} else {
		s += fmt.Sprintf(" · %d relayed, %d lost, %d duplicated", r.Relayed, r.Lost, r.Duplicated)
	}
	if id := api.TraceID(m.Metadata.Trace); id != "" {
		s += "\nTrace " + id
	}
	return s
}
