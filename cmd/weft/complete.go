package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/api"
)

// names asks the API for the names of a kind, quickly: a shell waits for the answer.
func (a *app) names(ctx context.Context, r api.Resource, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := a.connect()
	if err != nil {
		return nil
	}
	list, err := c.List(ctx, r.Kind)
	if err != nil {
		return nil
	}
	var out []string
	for _, o := range list.Items {
		if strings.HasPrefix(o.Meta().Name, prefix) {
			out = append(out, o.Meta().Name)
		}
	}
	return out
}

// completion is what cobra asks for the words that may come next.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeNames completes names of one kind in every argument.
func (a *app) completeNames(kind string) completion {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		r, err := api.ResourceOf(kind)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.names(cmd.Context(), r, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeObject completes KIND, then NAME.
func (a *app) completeObject(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return plurals(), cobra.ShellCompDirectiveNoFileComp
	case 1:
		return a.completeNames(args[0])(cmd, nil, prefix)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
