package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// lintCommand checks policies for what is probably not meant.
func (a *app) lintCommand() *cobra.Command {
	var paths []string
	var fix bool
	cmd := &cobra.Command{
		Use: "lint [-f PATH]", Short: "Find rules that never decide, contradict one another, or let everybody in", Args: exactly(),
		Long: "Check all policies and groups, private VLANs and mirrors, and with -f what documents would make of them. The exit status is 5 when there are\n" +
			"warnings, 0 otherwise. With --fix, rules that are certain to decide nothing are taken out of the fabric's policies.",
		Example: "  weft lint\n  weft lint -f web.yaml -o json\n  weft lint --fix",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			if fix && len(paths) > 0 {
				return usage(cmd, "%s: --fix changes the fabric's policies, not documents: leave one of --fix and -f out", cmd.CommandPath())
			}
			if fix {
				return a.traced(cmd, a.lintFix)
			}
			return a.lint(cmd.Context(), paths)
		},
	}
	cmd.Flags().StringArrayVarP(&paths, "file", "f", nil, "YAML or JSON file, directory of such files, or - for standard input")
	cmd.Flags().BoolVar(&fix, "fix", false, "take rules that are certain to decide nothing out of the fabric's policies")
	return a.waitFlags(cmd)
}

func (a *app) lint(ctx context.Context, paths []string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	var s *fabric.Snapshot
	if len(paths) == 0 {
		s, err = c.Judged(ctx)
	} else {
		var d *documents
		if d, err = a.read(paths); err == nil {
			s, err = c.JudgedWith(ctx, d.objects)
			err = d.placed(err)
		}
	}
	if err != nil {
		return err
	}
	return a.findings(policy.Lint(s))
}

// lintFix takes rules that decide nothing out of the fabric's policies.
func (a *app) lintFix(ctx context.Context) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	s, err := c.Judged(ctx)
	if err != nil {
		return err
	}
	var objects []fabric.Object
	for _, p := range policy.Fix(s, policy.Lint(s)) {
		objects = append(objects, p) // with the revision it was read at: a change made meanwhile is a conflict
	}
	if len(objects) == 0 {
		a.progress("There is nothing to fix.")
		return nil
	}
	return a.apply(ctx, objects, false)
}

// findings prints what lint found; warnings make the exit status.
func (a *app) findings(found []policy.Finding) error {
	warned := slices.ContainsFunc(found, func(f policy.Finding) bool { return f.Severity == policy.Warning })
	switch {
	case a.structured():
		if err := a.document(api.List[policy.Finding]{Items: append([]policy.Finding{}, found...)}); err != nil {
			return err
		}
	case len(found) == 0:
		a.progress("Nothing was found.")
	}
	for _, f := range found {
		if a.structured() {
			break
		}
		where, colour := f.Object, dim
		if f.Rule != "" {
			where += " rule " + f.Rule
		}
		if f.Severity == policy.Warning {
			colour = yellow
		}
		fmt.Fprintf(a.out, "%s %s: %s [%s]\n  next: %s\n", a.paint(a.out, colour, string(f.Severity)), where, f.Message, f.ID, f.Next)
	}
	if warned {
		return &statusError{status: exitUnhealthy}
	}
	return nil
}

// shownDecisions bounds what a diff prints for people; -o json has all.
const shownDecisions = 50

// decisions prints what a change would do to packets.
func (a *app) decisions(changes policy.Changes) {
	if len(changes.Items) == 0 && changes.Left == "" {
		return
	}
	fmt.Fprintln(a.out, "Decisions:")
	for i, c := range changes.Items {
		if i == shownDecisions {
			fmt.Fprintf(a.out, "  … %d more, see -o json\n", len(changes.Items)-i)
			break
		}
		sign, colour := "~", yellow
		switch {
		case c.Opens():
			sign, colour = "+", green
		case c.Closes():
			sign, colour = "-", red
		}
		line := fmt.Sprintf("%s %s → %s %s: %s → %s", sign, few(c.From), few(c.To), c.Service, c.Before, c.After)
		if c.Rule != (policy.RuleRef{}) {
			line += " (" + c.Rule.String() + ")"
		}
		fmt.Fprintln(a.out, "  "+a.paint(a.out, colour, line))
	}
	if changes.Left != "" {
		fmt.Fprintln(a.out, "  … "+changes.Left)
	}
}

// few lists up to three names.
func few(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}
