package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// statusCommand shows the fabric on one screen.
func (a *app) statusCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: "status", Short: "The whole fabric on one screen, with every problem and its next step", Args: exactly(),
		Long: "Show hosts, etcd, tunnels, switches, ports, moves and problems. The exit status is 5 while there are problems.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			return a.status(cmd.Context(), wait)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until there are no problems")
	a.timeoutFlag(cmd, 30*time.Second)
	return cmd
}

func (a *app) status(ctx context.Context, wait bool) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	var st api.Status
	if wait {
		limited, cancel := a.limited(ctx)
		defer cancel()
		if st, err = c.WaitHealthy(limited); err != nil && ctx.Err() == nil && errors.Is(context.Cause(limited), err) {
			st, err = c.Status(ctx) // time is over: show how it is
		}
	} else {
		st, err = c.Status(ctx)
	}
	if err != nil {
		return err
	}
	if a.structured() {
		err = a.document(st)
	} else {
		a.printStatus(&st)
	}
	if err == nil && !st.Healthy {
		return &statusError{status: exitUnhealthy}
	}
	return err
}

func (a *app) printStatus(st *api.Status) {
	verdict := a.paint(a.out, green, "healthy")
	if !st.Healthy {
		verdict = a.paint(a.out, red, count(len(st.Problems), "problem"))
	}
	fmt.Fprintf(a.out, "%s · %s · tunnels %d/%d · %s · revision %d\n", verdict, count(len(st.Hosts), "host"), st.Tunnels.Up, st.Tunnels.Total, etcdText(st.Etcd), st.Revision)
	section(a, "Hosts", fabric.KindHost, st.Hosts)
	section(a, "Switches", fabric.KindSwitch, st.Switches)
	section(a, "Ports", fabric.KindPort, st.Ports)
	section(a, "Moves", fabric.KindMove, st.Moves)
	if p := st.Pending; p != nil {
		fmt.Fprintf(a.out, "\nRevision %d (%s) is undone at %s unless you keep it with: weft confirm\n", p.Revision, strings.Join(p.Objects, ", "), p.UndoneAt.Local().Format(time.TimeOnly))
	}
	if len(st.Problems) == 0 {
		return
	}
	fmt.Fprintln(a.out, "\n"+a.paint(a.out, bold, "Problems"))
	for _, p := range st.Problems {
		fmt.Fprintf(a.out, "%s  %s\n    Next: %s\n", a.paint(a.out, red, p.Object), p.Message, a.here(p.Next))
	}
}

// section is one table of the screen.
func section[T any, P interface {
	*T
	fabric.Object
}](a *app, title string, k fabric.Kind, items []T) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintln(a.out, "\n"+a.paint(a.out, bold, title))
	wide := a.output == "wide"
	rows := make([][]string, len(items))
	for i := range items {
		rows[i] = row(P(&items[i]), wide)
	}
	a.table(columns(k, wide), rows)
}

// etcdText is "etcd 3/3 (can lose 1)".
func etcdText(e api.Etcd) string {
	if len(e.Members) == 0 {
		return "etcd unknown"
	}
	healthy := 0
	for _, m := range e.Members {
		if m.Healthy {
			healthy++
		}
	}
	s := fmt.Sprintf("etcd %d/%d", healthy, len(e.Members))
	if e.CanLose < 0 {
		return s + " (no majority)"
	}
	return s + fmt.Sprintf(" (can lose %d)", e.CanLose)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// printFindings prints what the doctor found; the status is 5 when a check failed.
func (a *app) printFindings(findings []api.Finding) error {
	failed := false
	for _, f := range findings {
		failed = failed || f.Severity == api.Failed
	}
	if a.structured() {
		if err := a.document(api.List[api.Finding]{Items: findings}); err != nil {
			return err
		}
	} else {
		marks := map[api.Severity]string{api.OK: a.paint(a.out, green, "✓"), api.Warning: a.paint(a.out, yellow, "!"), api.Failed: a.paint(a.out, red, "✗")}
		for _, f := range findings {
			fmt.Fprintf(a.out, "%s %-20s %s\n", marks[f.Severity], f.Check, f.Message)
			if f.Remedy != "" {
				fmt.Fprintf(a.out, "  %-20s %s\n", "", "→ "+strings.ReplaceAll(f.Remedy, "\n", "\n"+strings.Repeat(" ", 25)))
			}
		}
	}
	if failed {
		return &statusError{status: exitUnhealthy}
	}
	return nil
}
