package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// fileFlag is -f of commands that read documents.
func fileFlag(cmd *cobra.Command) *[]string {
	paths := cmd.Flags().StringArrayP("file", "f", nil, "YAML or JSON file, directory of such files, or - for standard input")
	need(cmd, "file", "web.yaml")
	return paths
}

// applyCommand makes the fabric be as documents say.
func (a *app) applyCommand() *cobra.Command {
	var dryRun bool
	var paths *[]string
	cmd := &cobra.Command{
		Use: "apply -f PATH", Short: "Make objects be as documents say, all of them or none", Args: exactly(),
		Example: "  weft apply -f web.yaml\n  weft export | weft apply -f -",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			d, err := a.read(*paths)
			if err != nil {
				return err
			}
			return a.traced(cmd, func(ctx context.Context) error { return d.placed(a.apply(ctx, d.objects, dryRun)) })
		},
	}
	paths = fileFlag(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check everything and write nothing")
	return a.waitFlags(a.confirmFlag(cmd))
}

// read reads documents from files, directories and standard input.
func (a *app) read(paths []string) (*documents, error) {
	d := &documents{}
	for _, p := range paths {
		if err := d.read(p, a.in); err != nil {
			return nil, err
		}
	}
	if len(d.objects) == 0 {
		return nil, &usageError{message: fmt.Sprintf("there are no documents in %s", many(paths)), next: "write one with: weft export, or see docs/guide"}
	}
	return d, nil
}

// diffCommand compares documents with what is stored.
func (a *app) diffCommand() *cobra.Command {
	var paths *[]string
	cmd := &cobra.Command{
		Use: "diff -f PATH", Short: "Say which fields and which decisions an apply would change", Args: exactly(),
		Long: "Say which fields an apply would change, and for which packets the rules would decide otherwise: between which ports and\n" +
			"addresses, for which services. The packets are compared by classes that no rule tells apart, so that nothing is missed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			d, err := a.read(*paths)
			if err != nil {
				return err
			}
			return d.placed(a.diff(cmd.Context(), d.objects))
		},
	}
	paths = fileFlag(cmd)
	return cmd
}

// difference is one object of a diff.
type difference struct {
	Kind    fabric.Kind       `json:"kind"`
	Name    string            `json:"name"`
	Outcome api.Outcome       `json:"outcome"`
	Fields  []api.FieldChange `json:"fields"`
}

// diffed is what a diff prints for programs.
type diffed struct {
	Items     []difference   `json:"items"`
	Decisions policy.Changes `json:"decisions"`
}

func (a *app) diff(ctx context.Context, objects []fabric.Object) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	changes, err := c.Diff(ctx, objects)
	if err != nil {
		return err
	}
	decisions, err := c.Decisions(ctx, objects)
	if err != nil {
		return err
	}
	if a.structured() {
		out := diffed{Items: []difference{}, Decisions: decisions}
		for _, d := range changes {
			out.Items = append(out.Items, difference{d.Kind, d.Name, d.Outcome, d.Fields})
		}
		return a.document(out)
	}
	for _, d := range changes {
		ref := fmt.Sprintf("%s %s", d.Kind, d.Name)
		fmt.Fprintf(a.out, "%s: %s\n", ref, d.Outcome)
		for _, f := range d.Fields {
			colour := yellow
			switch {
			case f.Old == nil:
				colour = green
			case f.New == nil:
				colour = red
			}
			fmt.Fprintln(a.out, "  "+a.paint(a.out, colour, f.String()))
		}
	}
	a.decisions(decisions)
	return nil
}

// exportCommand prints everything users wrote as documents that apply takes.
func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Print everything as documents that apply takes", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			objects, err := c.Export(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.document(api.List[fabric.Object]{Items: objects})
			}
			return fabric.Encode(a.out, objects...)
		},
	}
}
