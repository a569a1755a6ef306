package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// getCommand lists objects, or prints one.
func (a *app) getCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "get KIND [NAME]", Short: "List objects, or print one", Args: between(1, "KIND", "NAME"),
		Long:              "List the objects of a kind, or print one. The kinds are " + strings.Join(plurals(), ", ") + ".",
		Example:           "  weft get ports -o wide\n  weft get switch blue -o yaml\n  weft get ports --watch",
		ValidArgsFunction: a.completeObject,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			r, err := resource(cmd, args[0])
			if err != nil {
				return err
			}
			if watch {
				return a.watchObjects(cmd.Context(), r, args[1:])
			}
			if len(args) == 2 {
				return a.getOne(cmd.Context(), r, args[1])
			}
			return a.getAll(cmd.Context(), r)
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on with every change of what is shown")
	return cmd
}

// resource reads a KIND argument.
func resource(cmd *cobra.Command, word string) (api.Resource, error) {
	r, err := api.ResourceOf(word)
	if err != nil {
		return r, &usageError{message: strings.TrimSuffix(err.Error(), ": "+fabric.ErrInvalid.Error()), next: "see: " + cmd.CommandPath() + " --help"}
	}
	return r, nil
}

func plurals() []string {
	var words []string
	for _, r := range api.Resources() {
		words = append(words, r.Plural)
	}
	return words
}

func (a *app) getOne(ctx context.Context, r api.Resource, name string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	o, err := c.Get(ctx, r.Kind, name)
	if err != nil {
		return err
	}
	if a.structured() {
		return a.document(o)
	}
	a.objects(r, []fabric.Object{o})
	return nil
}

func (a *app) getAll(ctx context.Context, r api.Resource) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	list, err := a.list(ctx, c, r)
	if err != nil {
		return err
	}
	if list.Stale != "" {
		a.progress("%s.", list.Stale)
	}
	if a.structured() {
		return a.document(list)
	}
	if len(list.Items) == 0 && a.output != "name" {
		a.progress("There are no %s.", r.Plural)
		return nil
	}
	a.objects(r, list.Items)
	return nil
}

// list reads all objects of a kind, with the counters of ports where they are shown.
func (a *app) list(ctx context.Context, c *client.Client, r api.Resource) (api.List[fabric.Object], error) {
	if r.Kind == fabric.KindPort && (a.structured() || a.output == "wide") {
		return c.Counted(ctx)
	}
	return c.List(ctx, r.Kind)
}

// objects prints objects of one kind as a table or as names.
func (a *app) objects(r api.Resource, items []fabric.Object) {
	if a.output == "name" {
		for _, o := range items {
			fmt.Fprintln(a.out, fabric.Ref(o))
		}
		return
	}
	rows := make([][]string, len(items))
	for i, o := range items {
		rows[i] = row(o, a.output == "wide")
	}
	a.table(columns(r.Kind, a.output == "wide"), rows)
}

// watchObjects prints a line for every object, then for every change of it or of its status, until it is interrupted.
func (a *app) watchObjects(ctx context.Context, r api.Resource, names []string) error {
	wide := a.output == "wide"
	g := grid{app: a, head: columns(r.Kind, wide), headed: a.output == "name"}
	var first [][]string // those that are there, so that their columns are as wide as needed
	synced := false
	told := map[string]string{}
	err := a.patiently(ctx, func(c *client.Client) error {
		return c.Watch(ctx, []fabric.Kind{r.Kind}, func(w api.WatchedChange) error {
			if w.Type == api.Synced && !synced {
				if synced = true; len(first) > 0 {
					g.print(first)
				}
				return nil
			}
			if w.Type == api.Synced || len(names) > 0 && !slices.Contains(names, w.Name) {
				return nil
			}
			if a.structured() {
				return a.line(w)
			}
			if w.Type == api.Delete {
				delete(told, w.Name)
				fmt.Fprintf(a.out, "%s/%s deleted\n", r.Singular, w.Name)
				return nil
			}
			cells, err := a.watched(r, w)
			line := strings.Join(cells, "\t")
			if err != nil || told[w.Name] == line {
				return err // what has changed is not shown, or another agent tells it again
			}
			if told[w.Name] = line; !synced {
				first = append(first, cells)
				return nil
			}
			g.print([][]string{cells})
			return nil
		})
	})
	if errors.Is(err, context.Canceled) {
		return nil // the user has seen enough
	}
	return err
}

// watched is the line of an object that has changed.
func (a *app) watched(r api.Resource, w api.WatchedChange) ([]string, error) {
	o, err := fabric.New(r.Kind)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(w.Object, o); err != nil {
		return nil, fmt.Errorf("read a change of %s/%s: %w", r.Singular, w.Name, err)
	}
	if a.output == "name" {
		return []string{fabric.Ref(o)}, nil
	}
	return row(o, a.output == "wide"), nil
}
